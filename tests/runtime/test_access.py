"""The token of metrics and pages."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from hrtem_stream.errors import SettingsError
from hrtem_stream.runtime.access import is_token, make_token, shown_token, token_for
from hrtem_stream.runtime.meter import Meter


def test_loopback_needs_no_token(tmp_path: Path) -> None:
    assert token_for("127.0.0.1", tmp_path / "none", what="metrics.host") is None


def test_another_interface_needs_a_token_that_is_private_and_long(tmp_path: Path) -> None:
    path = tmp_path / "token"
    with pytest.raises(SettingsError, match=r"metrics\.host = '0.0.0.0' leaves this host"):
        token_for("0.0.0.0", path, what="metrics.host")
    token = make_token(path)
    assert token_for("0.0.0.0", path, what="metrics.host") == token
    assert path.stat().st_mode & 0o777 == 0o600
    assert make_token(path) != token
    path.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        token_for("0.0.0.0", path, what="metrics.host")
    path.write_text("short\n")
    path.chmod(0o600)
    with pytest.raises(SettingsError, match="at least 16"):
        token_for("0.0.0.0", path, what="metrics.host")


def test_a_token_is_shown_in_a_header_or_in_the_address() -> None:
    assert shown_token(authorization="Bearer abc", query="") == "abc"
    assert shown_token(authorization="", query="a=b&token=abc") == "abc"
    assert shown_token(authorization="Basic abc", query="") is None
    assert not is_token(None, "abc")
    assert not is_token("abcd", "abc")
    assert not is_token("\u00e9", "abc")
    assert is_token("abc", "abc")


def _status(url: str, token: str = "") -> int:
    request = urllib.request.Request(url)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_metrics_ask_for_the_token_and_health_does_not() -> None:
    port = Meter("sort").serve("127.0.0.1", 0, token="secret-of-this-test")
    address = f"http://127.0.0.1:{port}"
    assert _status(f"{address}/metrics") == 401
    assert _status(f"{address}/") == 401
    assert _status(f"{address}/metrics", "wrong") == 401
    assert _status(f"{address}/metrics?{'a=1&' * 100}token=wrong") == 401
    assert _status(f"{address}/metrics", "secret-of-this-test") == 200
    assert _status(f"{address}/metrics?token=secret-of-this-test") == 200
    assert _status(f"{address}/healthz") == 200


def test_a_visitor_who_says_nothing_keeps_nobody_waiting() -> None:
    port = Meter("sort").serve("127.0.0.1", 0)
    with socket.create_connection(("127.0.0.1", port)) as silent:
        assert _status(f"http://127.0.0.1:{port}/metrics") == 200
        silent.sendall(b"GET /metr")
        assert _status(f"http://127.0.0.1:{port}/metrics") == 200
