"""Addresses that leave the host, and those that do not."""

from __future__ import annotations

import pytest

from hrtem_stream.addresses import host_of, is_loopback, leaves_host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "localhost", "::1", "[::1]"])
def test_loopback_is_known(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        "", "*", "0.0.0.0", "::", "192.168.1.7", "camera", "localhost.evil.org", "127.0.0.1.nip.io",
        "127.1", "0x7f000001", "127.0.0.1 ", "::ffff:10.0.0.1", "eth0",
    ],
)  # fmt: skip
def test_what_is_not_certainly_loopback_is_not(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("endpoint", "leaves"),
    [
        ("ipc:///tmp/x", False),
        ("tcp://127.0.0.1:5555", False),
        ("tcp://[::1]:5555", False),
        ("tcp://*:5555", True),
        ("tcp://0.0.0.0:5555", True),
        ("tcp://camera:5555", True),
        ("tcp://[fe80::1%eth0]:5555", True),
        ("tcp://127.0.0.1:0;10.0.0.1:5555", True),
        ("udp://10.0.0.1:5", True),
    ],
)
def test_an_endpoint_leaves_the_host_unless_it_is_ipc_or_loopback(
    endpoint: str, leaves: bool
) -> None:
    assert leaves_host(endpoint) is leaves


def test_the_host_of_an_endpoint_stands_without_brackets() -> None:
    assert host_of("tcp://gpu:5601") == "gpu"
    assert host_of("tcp://[fe80::1%eth0]:5601") == "fe80::1%eth0"
