"""Brings what is left in a frame log into the archive, without a feed and without processes.

The very stages of a session work here one after the other: `normalise`, `segment`, and `sort`,
which knows what the archive has already. Whatever of the log cannot be read is declared lost.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hrtem_stream.errors import ArchiveError, WireError
from hrtem_stream.messages import (
    ControlRecord,
    Delivery,
    FeedGap,
    FrameHeader,
    LossRange,
    RawFrame,
    SegmentedFrame,
    SeriesEnd,
    SeriesStart,
)
from hrtem_stream.stages.account import MAX_GAP, Reach, SeriesAccount, reach_of
from hrtem_stream.stages.series import SortedSeries
from hrtem_stream.stages.solitary import BATCH_FRAMES, Analysis, batches, sort_messages
from hrtem_stream.stages.sort import ROTTEN
from hrtem_stream.transport.log_format import LoggedRecord
from hrtem_stream.transport.salvage import SalvagedLog
from hrtem_stream.transport.wire import Record, decode_record

logger = logging.getLogger(__name__)

RECOVERED = "recovered"
"""Reason of the end of a series whose own end did not come."""


@dataclass(frozen=True, slots=True)
class Rescued:
    """What was done with a frame log."""

    n_records: int
    """Whole records found."""
    n_frames: int
    """Frames that were brought into the archive from it."""
    n_damaged: int
    """Records that could not be read, or whose pixels failed their digest."""


class Rescue:
    """Empties one frame log.

    Parameters
    ----------
    log
        What can be read of it.
    series
        The archives.
    analyse
        What is done with the frames.
    wanted_from
        Ordinal from which a series is archived of which there is no archive: `log.base`, as the
        earlier ones were acknowledged; 0 where an archive cannot be read that may have held them.
    folder
        For what a stage leaves beside its work.
    n_threads
        Threads that flatten and compress.
    """

    def __init__(
        self,
        log: SalvagedLog,
        series: SortedSeries,
        *,
        analyse: Analysis,
        wanted_from: int,
        folder: Path,
        n_threads: int = 2,
    ) -> None:
        self._log = log
        self._series = series
        self._analyse = analyse
        self._wanted_from = wanted_from
        self._folder = folder
        self._n_threads = n_threads
        self._n_frames = 0
        self._n_damaged = 0

    def run(self) -> Rescued:
        """Do it.

        Raises
        ------
        ArchiveError
            The archive cannot be written; what is there stays, and the call may be repeated.
        """
        records = self._wanted()
        if records:
            self._sort(records)
        return Rescued(len(self._log.records), self._n_frames, self._n_damaged)

    def _wanted(self) -> dict[int, Record]:
        """List what the archive must hear, by ordinal, dense."""
        found = dict(self._whole())
        for first, n_missing in _ranges(self._log.missing):
            found |= self._in_place_of(first, n_missing)
        found |= dict(enumerate(self._closing(), self._log.end))
        self._find_archives(found)
        found = self._without_what_is_gone(found)
        wanted = {n: record for n, record in found.items() if self._is_wanted(n, record)}
        if not wanted:
            return {}
        return {n: wanted.get(n, _void()) for n in range(min(wanted), max(wanted) + 1)}

    def _whole(self) -> Iterator[tuple[int, Record]]:
        for ordinal, logged in self._log.records.items():
            try:
                yield ordinal, decode_record(logged.meta)
            except WireError as error:
                logger.error("record %d of the log is not understood: %s", ordinal, error)
                self._n_damaged += 1
                yield ordinal, _void()

    def _without_what_is_gone(self, found: dict[int, Record]) -> dict[int, Record]:
        """Leave out the count of a series whose beginning was acknowledged and taken away.

        Its end counts frames that are elsewhere; without a frame of its own it needs no file.
        """
        base = self._wanted_from
        begun = {
            record.series_id
            for ordinal, record in found.items()
            if ordinal >= base and isinstance(record, SeriesStart)
        }
        framed = {
            record.series_id
            for ordinal, record in found.items()
            if ordinal >= base and isinstance(record, FrameHeader)
        }
        kept: dict[int, Record] = {}
        for ordinal, record in found.items():
            is_gone = record.series_id not in begun and not self._series.is_known(record.series_id)
            if is_gone and record.series_id not in framed:
                record = _void()
            elif is_gone and isinstance(record, SeriesEnd):
                record = replace(record, n_received=0)
            kept[ordinal] = record
        return kept

    def _is_wanted(self, ordinal: int, record: Record) -> bool:
        """Tell whether the archive needs a record: it lacks it, and was not done without it.

        What was acknowledged is needed only where the archive is there and shorter than it was:
        the log may have reached the disk, and the last of the archive not.
        """
        series_id = record.series_id
        if not series_id:
            return False
        if not self._series.is_known(series_id):
            return ordinal >= self._wanted_from
        if isinstance(record, SeriesStart | SeriesEnd):
            return series_id in self._series.open_ids
        return ordinal > self._series.last_ordinal(series_id)

    def _find_archives(self, found: dict[int, Record]) -> None:
        """Take up what there is of the archives of all series in the log."""
        last = {
            record.series_id: (ordinal, record.series)
            for ordinal, record in sorted(found.items())
            if isinstance(record, FrameHeader)
        }
        names = {record.series_id: record.series for record in found.values() if record.series_id}
        for series_id, name in names.items():
            self._series.resume(name, series_id)
        for series_id, (ordinal, name) in last.items():
            is_closed = series_id not in self._series.open_ids and self._series.is_known(series_id)
            if is_closed and ordinal > self._series.last_ordinal(series_id):
                self._series.reopen(name, series_id)

    def _in_place_of(self, first: int, n_missing: int) -> dict[int, Record]:
        """Say what is lost with records that cannot be read, in their places."""
        self._n_damaged += n_missing
        before, after = self._log.records.get(first - 1), self._log.records.get(first + n_missing)
        reach = reach_of(before.account) if before else None
        lost = _lost_between(reach, after)
        places: list[Record] = []
        if after is None:  # the end of the log: what it was is not known, so it counts as frames
            return dict.fromkeys(range(first, first + n_missing), _void())
        header = decode_record(after.meta)
        if reach and reach.start.series_id != header.series_id:
            places.append(_end(reach, "its end was damaged in the frame log"))
        places += [_loss(header, a, n) for a, n in _ranges(sorted(lost))]
        if len(places) > n_missing:  # fewer places than ranges: the ranges are joined
            places = _joined(places, n_missing)
        filled = itertools.chain(places, itertools.repeat(_void()))
        return dict(zip(range(first, first + n_missing), filled, strict=False))

    def _closing(self) -> list[Record]:
        """End the series that was open when the log ends."""
        if not self._log.account:
            return []
        account = SeriesAccount(default_series="", feed="", late_frames=0)
        account.restore(self._log.account)
        position = account.position
        if position is None:
            return []
        last = max(self._log.records, default=-1)
        n_missing = sum(ordinal > last for ordinal in self._log.missing)
        if n_missing:
            gap = FeedGap(first=position.next_sequence, n_frames=n_missing, reason=ROTTEN)
            account.miss(gap, 0)
        return [entry.record for entry in account.end(SeriesEnd(reason=RECOVERED))]

    def _sort(self, records: dict[int, Record]) -> None:
        """Let `sort` archive the records."""
        n_left = sort_messages(
            self._messages(records), self._series, self._log,
            folder=self._folder, n_threads=self._n_threads,
        )  # fmt: skip
        if n_left:
            raise ArchiveError(f"{n_left} records of {self._log.path} could not be archived")

    def _messages(self, records: dict[int, Record]) -> Iterator[SegmentedFrame | ControlRecord]:
        floor = min(records)
        items = (self._raw_or_lost(n, record, floor) for n, record in records.items())
        for batch in batches(items, BATCH_FRAMES):
            raw = [item for item in batch if isinstance(item, RawFrame)]
            frames = iter(self._analyse(raw, self._log))
            for item in batch:
                yield next(frames) if isinstance(item, RawFrame) else item

    def _raw_or_lost(self, ordinal: int, record: Record, floor: int) -> RawFrame | ControlRecord:
        logged = self._log.records.get(ordinal)
        delivery = Delivery(
            log_id=self._log.log_id, ordinal=ordinal, offset=logged.offset if logged else 0,
            pub=ordinal, shard=0, floor=floor, digest=logged.digest if logged else 0,
        )  # fmt: skip
        if not isinstance(record, FrameHeader) or logged is None:
            return ControlRecord(delivery=delivery, record=record)  # type: ignore[arg-type]
        if not self._log.is_sound(logged):
            logger.error("series %s frame %d is lost: %s", record.series, record.sequence, ROTTEN)
            self._n_damaged += 1
            lost = LossRange(
                series=record.series, series_id=record.series_id, first=record.sequence,
                n_frames=1, reason=ROTTEN,
            )  # fmt: skip
            return ControlRecord(delivery=delivery, record=lost)
        self._n_frames += 1
        return RawFrame(delivery=delivery, header=replace(record, digest=logged.digest))


def _lost_between(reach: Reach | None, after: LoggedRecord | None) -> set[int]:
    """List the sequences that came between two records of the log, by the accounts beside them."""
    if after is None:
        return set()
    header = decode_record(after.meta)
    if isinstance(header, SeriesEnd):
        return _lost_before_end(reach, header)
    then = reach_of(after.account)
    if then is None or header.series_id != then.start.series_id:
        return set()
    same = reach is not None and reach.start.series_id == then.start.series_id
    begin, missing = (reach.expected, reach.missing) if same and reach else (0, frozenset[int]())
    if then.expected - begin > MAX_GAP:
        return set()
    lost = set(range(begin, then.expected)) | missing
    lost -= then.missing
    if isinstance(header, FrameHeader):
        lost.discard(header.sequence)
    elif isinstance(header, LossRange):
        lost -= set(range(header.first, header.first + header.n_frames))
    return lost


def _lost_before_end(reach: Reach | None, end: SeriesEnd) -> set[int]:
    """List the sequences between a record and the end of its series, which only counts them."""
    if reach is None or reach.start.series_id != end.series_id:
        reach = Reach(SeriesStart(series=end.series, series_id=end.series_id), 0, 0, frozenset())
    n_new = end.n_received - reach.n_accounted - len(reach.missing)
    return set(reach.missing) | set(range(reach.expected, reach.expected + min(n_new, MAX_GAP)))


def _ranges(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Give first and length of each run of numbers that follow each other."""
    for _, run in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        yield members[0], len(members)


def _void() -> LossRange:
    """Hold the place of a record that is not wanted."""
    return LossRange(series="", series_id="", first=0, n_frames=0, reason="")


def _loss(record: Record, first: int, n_frames: int) -> LossRange:
    return LossRange(
        series=record.series, series_id=record.series_id, first=first, n_frames=n_frames,
        reason=ROTTEN,
    )  # fmt: skip


def _joined(places: list[Record], n: int) -> list[Record]:
    """Join the last losses into one, from the first of them to the last, so that n are left."""
    kept, joined = places[: n - 1], [p for p in places[n - 1 :] if isinstance(p, LossRange)]
    if not joined:
        return places[:n]
    end = max(loss.first + loss.n_frames for loss in joined)
    return [*kept, replace(joined[0], n_frames=end - joined[0].first)]


def _end(reach: Reach, reason: str) -> SeriesEnd:
    return SeriesEnd(series=reach.start.series, series_id=reach.start.series_id, reason=reason)
