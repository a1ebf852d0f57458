"""Which addresses stay on this host, and which leave it.

Only what is certain counts as local: an ipc path, `localhost`, or a loopback address written as
such. A name that happens to resolve to loopback today is taken to leave the host.
"""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Tell whether a host name or an address of an interface is this host's loopback."""
    name = host.strip("[]")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def host_of(endpoint: str) -> str:
    """Give the host of a ZeroMQ endpoint such as `tcp://HOST:PORT`, without brackets."""
    address = endpoint.partition("://")[2]
    remote = address.rpartition(";")[2]  # before it: the interface to go out by
    return remote.rpartition(":")[0].strip("[]")


def leaves_host(endpoint: str) -> bool:
    """Tell whether a ZeroMQ endpoint can be reached from, or reaches, another host.

    One without `://` leads nowhere: ZeroMQ refuses it.
    """
    if "://" not in endpoint or endpoint.startswith(("ipc://", "inproc://")):
        return False
    return not is_loopback(host_of(endpoint))
