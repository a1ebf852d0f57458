"""Serves the page: one process beside the stages, which yields the processor to them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI
from nicegui import ui

from hrtem_stream.addresses import is_loopback
from hrtem_stream.errors import SettingsError
from hrtem_stream.runtime.access import token_for
from hrtem_stream.settings import Settings
from hrtem_stream.web.door import Door, Tokens
from hrtem_stream.web.images import Images, image_routes
from hrtem_stream.web.page import Ticker, add_page
from hrtem_stream.web.watch import Watch

logger = logging.getLogger(__name__)

NICENESS = 10
FAREWELL_S = 0.6
RECONNECT_S = 5.0
MESSAGES_KEPT = 100
"""For a browser that comes back; one that stays away must not fill the memory."""


def serve(
    settings: Settings,
    watch: Watch,
    *,
    announce: Callable[[str, str | None], None],
) -> None:
    """Serve the page until told to stop by SIGTERM or SIGINT.

    Parameters
    ----------
    settings
        Of the session; `page` says where.
    watch
        What is shown.
    announce
        Called with the address, and that for guests off loopback, when it can be opened.

    Raises
    ------
    SettingsError
        The interface cannot be used, or leaves this host and there is no token.
    """
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    host = settings.page.host
    tokens = page_tokens(settings)
    listening = _listen(host, settings.page.port)
    images = Images(watch)
    ticker = Ticker(watch, images)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        ticking = asyncio.create_task(ticker.run())
        yield
        ticking.cancel()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(image_routes(watch, images))
    add_page(watch, images, ticker)
    ui.run_with(
        app, title="hrtem_stream", dark=True, language="en-GB", reconnect_timeout=RECONNECT_S,
        message_history_length=MESSAGES_KEPT, gzip_middleware_factory=None, tailwind=False,
    )  # fmt: skip
    server = _Server(
        uvicorn.Config(
            Door(app, tokens=tokens, is_local=is_loopback(host)),
            log_level="warning",
            access_log=False,
            ws="websockets-sansio",
            timeout_graceful_shutdown=1,
        )
    )
    watch.start()
    try:
        asyncio.run(_run(server, listening, watch, lambda: announce(*_links(listening, tokens))))
    finally:
        watch.stop()
        listening.close()


def page_tokens(settings: Settings) -> Tokens | None:
    """Give the tokens that the page asks for, None where it asks for none.

    Raises
    ------
    SettingsError
        The page leaves this host, and there is no token.
    """
    if settings.security.insecure == "everything":
        return None
    owner = token_for(settings.page.host, settings.token_path, what="page.host")
    return Tokens.of_owner(owner) if owner else None


class _Server(uvicorn.Server):
    """A server that is told of a signal, and leaves when it has said goodbye."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.leaving = asyncio.Event()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note a signal."""
        self.leaving.set()


async def _run(
    server: _Server, listening: socket.socket, watch: Watch, announce: Callable[[], None]
) -> None:
    """Serve; at the end say goodbye to those who look on."""
    serving = asyncio.create_task(server.serve([listening]))
    announce()
    left = asyncio.create_task(server.leaving.wait())
    await asyncio.wait({serving, left}, return_when=asyncio.FIRST_COMPLETED)
    left.cancel()
    watch.has_ended = True
    await asyncio.sleep(FAREWELL_S)
    server.should_exit = True
    await serving


def _listen(host: str, port: int) -> socket.socket:
    """Take the port, or another free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for wished in (port, 0):
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host.strip("[]"), wished))
        except OSError as error:
            listening.close()
            if not wished or isinstance(error, socket.gaierror):
                raise SettingsError(f"page.host {host} cannot be used: {error.strerror}") from None
            logger.info("page port %s:%d: %s; a free one is taken", host, wished, error.strerror)
            continue
        listening.listen(64)
        return listening
    raise SettingsError(f"page.host {host} has no free port")


def _links(listening: socket.socket, tokens: Tokens | None) -> tuple[str, str | None]:
    address, port = listening.getsockname()[:2]
    host = f"[{address}]" if ":" in address else address
    if host in ("0.0.0.0", "[::]"):
        host = socket.gethostname()
    link = f"http://{host}:{port}/"
    if tokens is None:
        return link, None
    return f"{link}?token={tokens.owner}", f"{link}?token={tokens.guest}"
