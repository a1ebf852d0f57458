"""Several hosts on one: network namespaces, joined by cables that can be slow, or pulled out."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager


class NoNamespacesError(Exception):
    """This machine does not let us have network namespaces."""


class Host:
    """One of them."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.prefix = ["ip", "netns", "exec", name]
        """Before a command, to run it on this host."""


class Cable:
    """Joins two hosts.

    Parameters
    ----------
    near, far
        The hosts.
    address
        Of the near one on this cable.
    """

    def __init__(self, near: Host, far: Host, *, address: str, device: str = "cable") -> None:
        self.ends = (near, far)
        self.address = address
        self.device = device

    def pull(self) -> None:
        """Take it out."""
        _run("ip", "-n", self.ends[0].name, "link", "set", self.device, "down")

    def plug(self) -> None:
        """Put it in again."""
        _run("ip", "-n", self.ends[0].name, "link", "set", self.device, "up")

    def slow_down(self, rate: str) -> None:
        """Let so much through, both ways, as `tc` writes it: 20mbit."""
        self._shape("tbf", "rate", rate, "burst", "64kb", "latency", "200ms")

    def delay(self, delay_ms: float, *, loss_percent: float = 0.0) -> None:
        """Let everything take so long, each way, and lose some packets."""
        self._shape("netem", "delay", f"{delay_ms}ms", "loss", f"{loss_percent}%", "limit", "20000")

    def _shape(self, *discipline: str) -> None:
        for host in self.ends:
            _run("tc", "-n", host.name, "qdisc", "replace", "dev", self.device, "root", *discipline)


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host, Cable]]:
    """Make two hosts and a cable; nothing of them is left behind.

    Raises
    ------
    NoNamespacesError
        It cannot be done here; the message says why.
    """
    with star_of_hosts(1) as (hub, cables):
        yield hub, cables[0].ends[1], cables[0]


@contextmanager
def star_of_hosts(n_others: int) -> Iterator[tuple[Host, list[Cable]]]:
    """Make a host and a cable to each of some others; nothing of them is left behind.

    Raises
    ------
    NoNamespacesError
        It cannot be done here; the message says why.
    """
    if shutil.which("ip") is None or shutil.which("tc") is None:
        raise NoNamespacesError("ip and tc of iproute2 are not installed")
    hub = Host(f"hrtem-hub-{os.getpid()}", "10.77.0.1")
    others = [Host(f"hrtem-{n}-{os.getpid()}", f"10.77.{n}.2") for n in range(n_others)]
    cables = [
        Cable(hub, other, address=f"10.77.{n}.1", device=f"cable{n}")
        for n, other in enumerate(others)
    ]
    try:
        try:
            for host in (hub, *others):
                _run("ip", "netns", "add", host.name)
                _run("ip", "-n", host.name, "link", "set", "lo", "up")
            for cable in cables:
                _lay(cable)
        except subprocess.CalledProcessError as error:
            raise NoNamespacesError(f"{error}: {error.stderr.strip()}") from None
        yield hub, cables
    finally:
        for host in (hub, *others):
            subprocess.run(["ip", "netns", "delete", host.name], capture_output=True, check=False)


def _lay(cable: Cable) -> None:
    near, far = cable.ends
    _run(
        "ip", "-n", near.name, "link", "add", cable.device, "type", "veth", "peer", cable.device,
        "netns", far.name,
    )  # fmt: skip
    for host, address in ((near, cable.address), (far, far.address)):
        _run("ip", "-n", host.name, "address", "add", f"{address}/24", "dev", cable.device)
        _run("ip", "-n", host.name, "link", "set", cable.device, "up")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
