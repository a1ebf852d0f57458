"""What `sort` tells watchers: a summary of each archived frame, how series and processes stand.

Nothing is made for nobody: a summary costs as much as the row of its frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from hrtem_stream.messages import Bits, FrameSummary, SegmentedFrame, SeriesStatus, Station
from hrtem_stream.science.ranking import LiveRanking
from hrtem_stream.science.working_scale import reduce_mask
from hrtem_stream.transport.summaries import (
    SUMMARY_TOPIC,
    encode_stations,
    encode_status,
    encode_summary,
)


class Outbox(Protocol):
    """Where it is told."""

    def is_heard(self, topic: bytes) -> bool:
        """Tell whether anybody listens to a topic."""

    def send(self, parts: Sequence[Any]) -> None:
        """Send one message."""


class Announcements:
    """Ranks the frames of each series under way, and tells of frames and series.

    Parameters
    ----------
    outbox
        Where it is told.
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._rankings: dict[str, LiveRanking] = {}
        self._closed: Sequence[Any] | None = None

    def follow(self, series_id: str, ranking: LiveRanking) -> None:
        """Go on with a series of which frames are archived already."""
        self._rankings[series_id] = ranking

    def tell_frames(self, frames: Iterable[SegmentedFrame], archived_ns: int) -> None:
        """Rank frames that were archived, and tell of each."""
        is_heard = self._outbox.is_heard(SUMMARY_TOPIC)
        for frame in frames:
            ranking = self._rankings.setdefault(frame.header.series_id, LiveRanking())
            ranking.insert(frame.header.row, frame.graphene_fraction)
            if is_heard:
                rank = ranking.rank(frame.header.row, frame.graphene_fraction)
                self._outbox.send(encode_summary(_summary(frame, rank, archived_ns)))

    def tell_status(self, statuses: Sequence[SeriesStatus]) -> None:
        """Tell how the series under way stand; between two, how the last one stood."""
        for status in statuses:
            self._outbox.send(encode_status(status))
        if not statuses and self._closed is not None:
            self._outbox.send(self._closed)

    def tell_stations(self, stations: Sequence[Station]) -> None:
        """Tell of the processes that marks have passed."""
        self._outbox.send(encode_stations(stations))

    def tell_closed(self, status: SeriesStatus) -> None:
        """Tell that a series is closed, which stood so just before."""
        self._closed = encode_status(replace(status, is_closed=True))
        self._outbox.send(self._closed)

    def forget(self, series_id: str) -> None:
        """Forget the ranking of a series that is over."""
        self._rankings.pop(series_id, None)


def latency_of(frame: SegmentedFrame, archived_ns: int) -> float:
    """Give the time from received to archived, in seconds."""
    return max(0.0, (archived_ns - frame.header.received_ns) / 1e9)


def _summary(frame: SegmentedFrame, rank: int, archived_ns: int) -> FrameSummary:
    header = frame.header
    return FrameSummary(
        series=header.series, series_id=header.series_id, sequence=header.sequence,
        row=header.row, name=header.name, shape=header.shape, method=frame.method,
        fault=header.fault, graphene_fraction=frame.graphene_fraction,
        amorphous_fraction=frame.amorphous_fraction, vacuum_fraction=frame.vacuum_fraction,
        beam_off_fraction=frame.beam_off_fraction, confidence=frame.confidence,
        received_ns=header.received_ns, agreement=frame.agreement, rank=rank,
        latency_s=latency_of(frame, archived_ns),
        thumbnail=frame.thumbnail, amorphous=_as_thumbnail(frame), vacuum=frame.vacuum,
    )  # fmt: skip


def _as_thumbnail(frame: SegmentedFrame) -> Bits:
    """Give the mask at the size of the thumbnail."""
    rows, columns = frame.thumbnail.shape
    return reduce_mask(frame.amorphous, shape=(rows, columns))
