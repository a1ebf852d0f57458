"""Addresses of detectors that speak plain TCP, written as those of ZeroMQ are."""

from __future__ import annotations

import re

from hrtem_stream.errors import SettingsError


def tcp_address(endpoint: str) -> tuple[str, int]:
    """Return host and port of an endpoint such as tcp://merlin:6342.

    Raises
    ------
    SettingsError
        When it is none.
    """
    found = re.fullmatch(r"tcp://\[?([^\[\]/\s]+?)\]?:([0-9]{1,5})", endpoint)
    if not found or not 0 < int(found[2]) < 65_536:
        raise SettingsError(f"feed endpoint must be tcp://HOST:PORT, got {endpoint!r}")
    return found[1], int(found[2])
