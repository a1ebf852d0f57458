"""Two hosts on one: network namespaces joined by a cable that can be slow, or pulled out."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager


class NoNamespacesError(Exception):
    """This machine does not let us have network namespaces."""


class Host:
    """One of the two."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.prefix = ["ip", "netns", "exec", name]
        """Before a command, to run it on this host."""


class Cable:
    """Joins two hosts."""

    def __init__(self, a: Host, b: Host) -> None:
        self.ends = (a, b)

    def pull(self) -> None:
        """Take it out."""
        _run("ip", "-n", self.ends[0].name, "link", "set", "cable", "down")

    def plug(self) -> None:
        """Put it in again."""
        _run("ip", "-n", self.ends[0].name, "link", "set", "cable", "up")

    def slow_down(self, rate: str) -> None:
        """Let so much through, both ways, as `tc` writes it: 20mbit."""
        for host in self.ends:
            _run(
                "tc", "-n", host.name, "qdisc", "replace", "dev", "cable", "root",
                "tbf", "rate", rate, "burst", "64kb", "latency", "200ms",
            )  # fmt: skip


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host, Cable]]:
    """Make two hosts and a cable; nothing of them is left behind.

    Raises
    ------
    NoNamespacesError
        It cannot be done here; the message says why.
    """
    if shutil.which("ip") is None or shutil.which("tc") is None:
        raise NoNamespacesError("ip and tc of iproute2 are not installed")
    hosts = [Host(f"hrtem-{end}-{os.getpid()}", f"10.77.0.{n}") for n, end in ((1, "a"), (2, "b"))]
    try:
        try:
            for host in hosts:
                _run("ip", "netns", "add", host.name)
            a, b = (host.name for host in hosts)
            _run("ip", "-n", a, "link", "add", "cable", "type", "veth", "peer", "cable", "netns", b)
            for host in hosts:
                _run("ip", "-n", host.name, "address", "add", f"{host.address}/24", "dev", "cable")
                for device in ("lo", "cable"):
                    _run("ip", "-n", host.name, "link", "set", device, "up")
        except subprocess.CalledProcessError as error:
            raise NoNamespacesError(f"{error}: {error.stderr.strip()}") from None
        yield hosts[0], hosts[1], Cable(*hosts)
    finally:
        for host in hosts:
            subprocess.run(["ip", "netns", "delete", host.name], capture_output=True, check=False)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
