"""What of a session leaves this host, and whether it may."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from hrtem_stream.runtime.access import token_for
from hrtem_stream.settings import Settings
from hrtem_stream.transport.guard import Guard

BINDS: Final = {
    "ingest": ("frames",),
    "normalise": ("normalised",),
    "segment": (),
    "sort": ("segmented", "acknowledged", "summaries"),
}
CONNECTS: Final = {
    "ingest": ("acknowledged",),
    "normalise": ("frames",),
    "segment": ("normalised", "segmented"),
    "sort": (),
}
"""Which endpoints a stage opens, and from which side."""


def make_guard(settings: Settings) -> Guard:
    """Make the guard of the sockets between stages, and of those who watch."""
    is_open = settings.security.insecure == "everything"
    return Guard(settings.security_directory, is_open=is_open)


def make_feed_guard(settings: Settings) -> Guard:
    """Make the guard of the feed's socket."""
    is_open = settings.security.insecure in ("feed", "everything")
    return Guard(settings.security_directory, is_open=is_open)


def metrics_token(settings: Settings) -> str | None:
    """Give the token that metrics ask for, None where they are open.

    Raises
    ------
    SettingsError
        They leave this host, and there is no token.
    """
    if not settings.metrics.enabled or settings.security.insecure == "everything":
        return None
    return token_for(settings.metrics.host, settings.token_path, what="metrics.host")


def check_access(settings: Settings, stages: Iterable[str]) -> None:
    """Refuse a session that would leave this host unprotected, before any socket opens.

    Raises
    ------
    SettingsError
        With the endpoint, and what to do.
    """
    guard = make_guard(settings)
    stages = set(stages)
    for stage in stages:
        for name in BINDS[stage]:
            guard.check(settings.endpoint(name), bind=True)
        for name in CONNECTS[stage]:
            guard.check(settings.endpoint(name), bind=False)
    if "ingest" in stages and settings.feed.kind == "native":
        native = settings.feed.native
        make_feed_guard(settings).check(native.endpoint, bind=native.bind)
    metrics_token(settings)
