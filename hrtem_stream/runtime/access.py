"""Who may see metrics and pages: everybody on this host, elsewhere who has the token.

A token is a line of random text in a file that only its owner can read. It is shown by a request
in a header, `Authorization: Bearer TOKEN`, or in the address, `?token=TOKEN`, for a browser. The
connection is not encrypted: who can listen on the network can read the token.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from hrtem_stream.addresses import is_loopback
from hrtem_stream.errors import SettingsError

TOKEN_BYTES: Final = 24
MIN_TOKEN: Final = 16


def token_for(host: str, path: Path, *, what: str) -> str | None:
    """Give the token that a server on an interface must ask for; None on loopback.

    Parameters
    ----------
    host
        Interface that the server binds.
    path
        File of the token.
    what
        The setting that names the interface, for the message.

    Raises
    ------
    SettingsError
        The interface leaves this host, and there is no token.
    """
    if is_loopback(host):
        return None
    try:
        return read_token(path)
    except SettingsError as error:
        raise SettingsError(
            f"{what} = {host!r} leaves this host, so it must ask for a token: {error}; "
            "--insecure lets everybody on the network read"
        ) from None


def read_token(path: Path) -> str:
    """Read a token.

    Raises
    ------
    SettingsError
        There is none, it is too short, or others can read it.
    """
    try:
        mode = path.stat().st_mode
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise SettingsError(
            f"there is no token in {path}: run `hrtem-stream keys generate`"
        ) from None
    if mode & 0o077:
        raise SettingsError(f"{path} must be readable by its owner alone: run `chmod 600 {path}`")
    if len(token) < MIN_TOKEN:
        raise SettingsError(f"the token in {path} must have at least {MIN_TOKEN} characters")
    return token


def make_token(path: Path) -> str:
    """Write a new token, readable by its owner alone, in place of an old one; give it."""
    token = secrets.token_urlsafe(TOKEN_BYTES)
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(f"{token}\n")
    fresh.replace(path)
    return token


def is_token(given: str | None, token: str) -> bool:
    """Compare in a time that does not tell how much of it was right."""
    return given is not None and hmac.compare_digest(given.encode(), token.encode())


def shown_token(*, authorization: str, query: str) -> str | None:
    """Find the token that a request shows, in its header or its address."""
    scheme, _, word = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return word.strip()
    found = parse_qs(query, max_num_fields=16).get("token")
    return found[0] if found else None


def behind_token(application: WSGIApplication, token: str | None) -> WSGIApplication:
    """Let only requests with the token reach a WSGI application; all of them if it is None."""
    if token is None:
        return application

    def guarded(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if not is_token(_token_of(environ), token):
            start_response(
                "401 Unauthorized",
                [("Content-Type", "text/plain"), ("WWW-Authenticate", "Bearer")],
            )
            return [b"a token is needed: hrtem-stream keys show\n"]
        return application(environ, start_response)

    return guarded


def _token_of(environ: dict[str, Any]) -> str | None:
    try:
        return shown_token(
            authorization=str(environ.get("HTTP_AUTHORIZATION", "")),
            query=str(environ.get("QUERY_STRING", "")),
        )
    except ValueError:  # more fields than anybody needs
        return None
