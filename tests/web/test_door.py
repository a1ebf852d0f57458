"""The door: other sites, other hosts, guests."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hrtem_stream.web.door import COOKIE, Door, Tokens, role_of

OWNER = "owner-token-of-this-session"
TOKENS = Tokens.of_owner(OWNER)


def _ask(door_tokens: Tokens | None, *, is_local: bool = True, kind: str = "http", query: str = "",
         path: str = "/", **headers: str) -> tuple[str | None, list[dict[str, Any]]]:  # fmt: skip
    """Knock; give the role in which one came in, and what was answered at the door."""
    came_in: list[str] = []
    answers: list[dict[str, Any]] = []

    async def inside(scope: Any, receive: Any, send: Any) -> None:
        came_in.append(role_of(scope))

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        answers.append(message)

    known = {"host": "127.0.0.1:9300"} | headers
    scope = {
        "type": kind, "method": "GET", "path": path, "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in known.items()],
    }  # fmt: skip
    door = Door(inside, tokens=door_tokens, is_local=is_local)
    asyncio.run(door(scope, receive, send))
    return (came_in[0] if came_in else None), answers


@pytest.mark.parametrize("host", ["127.0.0.1:9300", "localhost:9300", "[::1]:9300"])
def test_on_loopback_everybody_on_this_host_comes_in(host: str) -> None:
    assert _ask(None, host=host)[0] == "owner"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9300", "", "127.0.0.1.evil.example"]
)
def test_a_name_that_was_bent_to_loopback_is_refused(host: str) -> None:
    assert _ask(None, host=host)[0] is None


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9999"])
def test_a_script_of_another_site_is_refused(kind: str, origin: str) -> None:
    role, answers = _ask(None, kind=kind, origin=origin)
    assert role is None
    assert answers[0].get("status", answers[0].get("code")) in (403, 1008)
    assert _ask(None, kind=kind, origin="http://127.0.0.1:9300")[0] == "owner"


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("cookie", ["", f"{COOKIE}=wrong", f"other={OWNER}", "a=b;;=\x7f"])
def test_off_loopback_nobody_comes_in_without_a_token(kind: str, cookie: str) -> None:
    assert _ask(TOKENS, is_local=False, kind=kind, host="lab:9300", cookie=cookie)[0] is None


@pytest.mark.parametrize(("token", "role"), [(TOKENS.owner, "owner"), (TOKENS.guest, "guest")])
def test_a_token_in_the_link_becomes_a_cookie_and_leaves_the_address(token: str, role: str) -> None:
    known = {"is_local": False, "host": "lab:9300"}
    came_in, answers = _ask(TOKENS, query=f"token={token}&a=1", path="//evil.example", **known)
    assert came_in is None
    headers = dict(answers[0]["headers"])
    assert (answers[0]["status"], headers[b"location"]) == (303, b"/evil.example?a=1")
    cookie = headers[b"set-cookie"].decode()
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert _ask(TOKENS, cookie=cookie.partition(";")[0], **known)[0] == role


def test_the_token_of_the_owner_cannot_be_told_from_that_of_guests() -> None:
    assert OWNER not in TOKENS.guest
    assert TOKENS.role(TOKENS.guest) == "guest"
    assert TOKENS.role("é") is None
