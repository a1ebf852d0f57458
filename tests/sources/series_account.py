"""The account of what a source gave, as `ingest` would keep it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hrtem_stream.messages import (
    FeedFrame,
    FeedGap,
    FeedItem,
    FeedReject,
    SeriesEnd,
    SeriesStart,
)
from hrtem_stream.stages.account import SeriesAccount


def account_for(items: Sequence[FeedItem]) -> list[tuple[int, int, int, str]]:
    """Give for each series that ended: received, archived, lost, and why it ended."""
    account = SeriesAccount(default_series="x", feed="test", late_frames=16)
    entries: list[Any] = []
    for item in items:
        match item:
            case SeriesStart():
                entries += account.begin(item, 1)
            case FeedFrame():
                entries += account.take(item, 1)
            case FeedGap():
                entries += account.miss(item, 1)
            case FeedReject():
                account.reject(item)
            case SeriesEnd():
                entries += account.end(item)
    ends = [entry.record for entry in entries if isinstance(entry.record, SeriesEnd)]
    return [(e.n_received, e.n_archived, e.n_received - e.n_archived, e.reason) for e in ends]
