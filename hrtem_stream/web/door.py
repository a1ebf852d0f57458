"""The door of the page: who comes in, and as whom.

On loopback everybody on this host comes in, but no other web site: a request must name this host,
and one from a script must come from this very page. Elsewhere a token is needed; it stands once in
the link, and then in a cookie. A guest's token only looks.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from hrtem_stream.addresses import is_loopback
from hrtem_stream.runtime.access import is_token

COOKIE = "hrtem_page"
ROLE = "hrtem_role"
Role = Literal["owner", "guest"]


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of a page off loopback: the owner's may change things, the guest's looks only."""

    owner: str
    guest: str

    @classmethod
    def of_owner(cls, owner: str) -> Tokens:
        """Derive the guest's token, from which the owner's cannot be told."""
        return cls(owner, hmac.digest(owner.encode(), b"guest", "sha256").hex())

    def role(self, token: str) -> Role | None:
        """Say what the holder of a token may do; None for a wrong one."""
        is_owner, is_guest = is_token(token, self.owner), is_token(token, self.guest)
        return "owner" if is_owner else "guest" if is_guest else None


class Door:
    """ASGI middleware before the page.

    Parameters
    ----------
    inside
        The page.
    tokens
        None where nobody is asked for one.
    is_local
        Whether the page listens on loopback alone.
    """

    def __init__(self, inside: ASGIApp, *, tokens: Tokens | None, is_local: bool) -> None:
        self._inside = inside
        self._tokens = tokens
        self._is_local = is_local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it here."""
        if scope["type"] not in ("http", "websocket"):
            await self._inside(scope, receive, send)
            return
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        if not self._is_from_here(headers):
            await _refuse(scope, receive, send, "this page does not answer to other sites")
            return
        role: Role | None = "owner"
        if self._tokens is not None:
            query = parse_qsl(scope.get("query_string", b"").decode("latin-1"))
            token = dict(query).get("token", "")
            if scope["type"] == "http" and self._tokens.role(token):
                rest = urlencode([(k, v) for k, v in query if k != "token"])
                # A relative place: one that begins with two strokes would name another host.
                place = "/" + scope["path"].lstrip("/") + (f"?{rest}" if rest else "")
                answer = RedirectResponse(place, status_code=303)
                answer.set_cookie(COOKIE, token, httponly=True, samesite="strict")
                await answer(scope, receive, send)
                return
            role = self._tokens.role(_cookie(headers.get("cookie", "")))
        if role is None:
            await _refuse(scope, receive, send, "open the link with its token, as it was printed")
            return
        await self._inside({**scope, ROLE: role}, receive, send)

    def _is_from_here(self, headers: dict[str, str]) -> bool:
        host = headers.get("host", "")
        if self._is_local and not is_loopback(urlsplit(f"//{host}").hostname or ""):
            return False
        origin = headers.get("origin")
        return origin is None or urlsplit(origin).netloc == host


def role_of(scope: Any) -> Role:
    """Say as whom a request came in."""
    role: Role = scope.get(ROLE, "guest")
    return role


def _cookie(header: str) -> str:
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


async def _refuse(scope: Scope, receive: Receive, send: Send, why: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    await PlainTextResponse(f"hrtem-stream: {why}\n", status_code=403)(scope, receive, send)
