"""The account of a series: which of its frames came, in which row, and which are lost.

Turns what a feed says into records of the frame log. Everything that can be wrong with a feed's
numbering is decided here: a series without a beginning or an end, gaps, late, repeated and
impossible sequence numbers. For each series, received = archived + lost, at every moment.
"""

from __future__ import annotations

import itertools
import math
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import msgpack
import numpy as np
import xxhash
from numpy.typing import NDArray

from hrtem_stream.messages import (
    Calibration,
    FeedFrame,
    FeedGap,
    FeedPosition,
    FeedReject,
    FrameHeader,
    LossRange,
    SeriesEnd,
    SeriesStart,
)
from hrtem_stream.series_name import series_name_fault, series_name_from
from hrtem_stream.transport.wire import DTYPES, MAX_SIDE, Record

MAX_GAP = 1_000_000
MAX_DIGESTS = 4096
MAX_DECLARED = 256
MAX_OPEN_GAPS = 64
"""Beyond so many the oldest gap is declared at once: each record carries all that are open."""
MAX_METADATA_BYTES = 4096
MAX_TEXT = 500
"""Names and faults are cut to so many characters: every record must fit its limit on the wire."""
MISSING = "missing at the feed"


@dataclass(frozen=True, slots=True)
class Entry:
    """A record to be logged and published, with its pixels if it is a frame."""

    record: Record
    account: bytes
    """State of the account when this record and all before it are logged, and none after."""
    pixels: NDArray[Any] | None = None


@dataclass(slots=True)
class _Gap:
    """Frames that have not come, while later ones have."""

    first: int
    n_frames: int
    row: int
    """Row at which the gap was seen."""
    reason: str


@dataclass(slots=True)
class _Series:
    start: SeriesStart
    row: int = 0
    expected: int = 0
    n_lost: int = 0
    n_repeated: int = 0
    n_republished_before: int = 0
    """Publications beyond the first that the log counted before the series began."""
    gaps: list[_Gap] = field(default_factory=list)
    """Gaps not declared yet."""
    declared: list[tuple[int, int]] = field(default_factory=list)
    """First and number of the frames declared lost lately, to know a very late one."""
    jumped_to: int = -1
    """Sequence number after an impossible jump; the next frame tells whether the feed meant it."""
    start_fields: dict[str, Any] = field(init=False)
    """The start without its metadata, as each record carries it."""

    def __post_init__(self) -> None:
        self.start_fields = asdict(replace(self.start, metadata={}))


class SeriesAccount:
    """The account of one feed, a series at a time.

    Parameters
    ----------
    default_series
        Name of a series to which the feed gives none.
    feed
        Kind of feed, for a series whose start was missed.
    late_frames
        A gap is declared lost after so many later frames.
    count_republished
        Gives the publications beyond the first so far, of the whole log.
    new_id
        Gives the identity of a new series.
    """

    def __init__(
        self,
        *,
        default_series: str,
        feed: str,
        late_frames: int,
        count_republished: Callable[[], int] = lambda: 0,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex[:16],
    ) -> None:
        self._default_series = default_series
        self._feed = feed
        self._late_frames = late_frames
        self._count_republished = count_republished
        self._new_id = new_id
        self._series: _Series | None = None
        self._digests: dict[int, int] = {}
        self._reject_reason = ""

    @property
    def is_open(self) -> bool:
        """Tell whether a series is under way."""
        return self._series is not None

    @property
    def series_name(self) -> str:
        """Name of the present series, empty when there is none."""
        return self._series.start.series if self._series else ""

    @property
    def n_expected(self) -> int:
        """Frames announced for the present series, 0 when unknown."""
        return (self._series.start.n_expected or 0) if self._series else 0

    @property
    def position(self) -> FeedPosition | None:
        """Say where a feed that can be read again is to be taken up."""
        if self._series is None:
            return None
        return FeedPosition(
            series=self._series.start.series,
            next_sequence=self._series.expected,
            n_expected=self._series.start.n_expected,
        )

    def begin(self, start: SeriesStart, now_ns: int) -> list[Entry]:
        """Begin a series, ending the present one if the feed did not."""
        entries = self.end(SeriesEnd(reason="another series began")) if self._series else []
        name = _sound_name(start.series or self._default_series)
        start = replace(
            start,
            metadata=_bounded(start.metadata),
            series=name,
            series_id=self._new_id(),
            started_ns=start.started_ns or now_ns,
        )
        self._series = _Series(start, n_republished_before=self._count_republished())
        self.forget_digests()
        self._reject_reason = ""
        return [*entries, self._entry(start)]

    def take(self, frame: FeedFrame, now_ns: int) -> list[Entry]:
        """Take a frame: give its record, after the records of what it makes certain."""
        entries = self._belonging(frame, now_ns)
        entries += self._declare_old_gaps()
        series = self._current
        pixels, shape, fault = storable(frame.pixels, frame.fault)
        if not self._is_new(frame.sequence):
            if self._digests.get(frame.sequence) == _digest(pixels):
                series.n_repeated += 1
                return entries
            fault = fault or f"sequence number {frame.sequence} came before with other pixels"
        elif frame.sequence >= series.expected:
            jump = frame.sequence - series.expected
            if jump <= MAX_GAP:
                self._open_gap(series.expected, jump, self._gap_reason())
                series.expected = frame.sequence + 1
            elif series.row == 0 or frame.sequence == series.jumped_to + 1:
                series.expected = frame.sequence + 1  # the feed counts from here
            else:
                series.jumped_to = frame.sequence
                fault = fault or f"sequence number jumps by {jump}, more than {MAX_GAP}"
        self._reject_reason = ""
        header = FrameHeader(
            series=series.start.series, series_id=series.start.series_id,
            sequence=frame.sequence, row=series.row, shape=shape, dtype=pixels.dtype.str,
            received_ns=now_ns, acquired_ns=frame.acquired_ns, name=frame.name[:MAX_TEXT],
            fault=fault[:MAX_TEXT],
            pixel_size_nm=_known_size(series.start.calibration.pixel_size_nm),
        )  # fmt: skip
        series.row += 1
        return [*entries, self._entry(header, pixels)]

    def lose(self, frame: FeedFrame, reason: str, now_ns: int) -> list[Entry]:
        """Note a frame that came and could not be logged."""
        entries = self._belonging(frame, now_ns)
        series = self._current
        if frame.sequence >= series.expected and frame.sequence - series.expected <= MAX_GAP:
            self._open_gap(series.expected, frame.sequence - series.expected, self._gap_reason())
            self._open_gap(frame.sequence, 1, reason)
            series.expected = frame.sequence + 1
        elif frame.sequence >= series.expected:  # an impossible jump: this frame alone is lost
            self._open_gap(frame.sequence, 1, reason)
        return entries + self._declare_gaps(self._n_too_many())

    def miss(self, gap: FeedGap, now_ns: int) -> list[Entry]:
        """Note frames that the feed itself says are missing."""
        entries = (
            [] if self._series else self.begin(SeriesStart(series="", feed=self._feed), now_ns)
        )
        series = self._current
        if gap.first >= series.expected and gap.first + gap.n_frames <= series.expected + MAX_GAP:
            self._open_gap(series.expected, gap.first - series.expected, MISSING)
            self._open_gap(gap.first, gap.n_frames, gap.reason)
            series.expected = gap.first + gap.n_frames
        return entries + self._declare_gaps(self._n_too_many())

    def reject(self, reject: FeedReject) -> None:
        """Note a message that was not understood: it may explain the next gap."""
        self._reject_reason = reject.reason

    def end(self, end: SeriesEnd) -> list[Entry]:
        """End the present series: declare what is still missing, and close the account."""
        if self._series is None:
            return []
        series = self._series
        n_missing = 0 if end.n_frames is None else end.n_frames - series.expected
        if 0 < n_missing <= MAX_GAP:
            self._open_gap(series.expected, n_missing, self._gap_reason())
            series.expected = series.expected + n_missing
        elif n_missing > MAX_GAP and not end.reason:
            reason = f"the feed counts {end.n_frames} frames, too far beyond {series.expected}"
            end = replace(end, reason=reason)
        losses = self._declare_gaps(len(series.gaps))
        complete = replace(
            end, series=series.start.series, series_id=series.start.series_id,
            n_archived=series.row,
            n_received=series.row + series.n_lost, n_repeated=series.n_repeated,
            n_republished=self._count_republished() - series.n_republished_before,
        )  # fmt: skip
        self._series = None
        return [*losses, self._entry(complete)]

    def forget_digests(self) -> None:
        """Forget the logged frames: another series begins."""
        self._digests.clear()

    def note_digest(self, sequence: int, digest: int) -> None:
        """Remember a logged frame, to know it again if the feed repeats it."""
        self._digests[sequence] = digest
        if len(self._digests) > MAX_DIGESTS:
            del self._digests[next(iter(self._digests))]

    def packed(self) -> bytes:
        """Give the state that a restarted `ingest` needs, as it lies beside each record."""
        series = self._series
        content = None
        if series is not None:
            content = {
                "start": series.start_fields,
                "numbers": [
                    series.row, series.expected, series.n_lost, series.n_repeated,
                    series.n_republished_before, series.jumped_to,
                ],
                "gaps": [[gap.first, gap.n_frames, gap.row, gap.reason] for gap in series.gaps],
                "declared": series.declared,
            }  # fmt: skip
        packed: bytes = msgpack.packb(content)
        return packed

    def restore(self, packed: bytes) -> None:
        """Take up the state that `packed` gave."""
        content = msgpack.unpackb(packed)
        if content is None:
            self._series = None
            return
        start = content["start"]
        calibration = Calibration(**start.pop("calibration"))
        row, expected, n_lost, n_repeated, n_republished_before, jumped_to = content["numbers"]
        self._series = _Series(
            start=SeriesStart(**start, calibration=calibration),
            row=row, expected=expected, n_lost=n_lost, n_repeated=n_repeated,
            n_republished_before=n_republished_before, jumped_to=jumped_to,
            gaps=[_Gap(*gap) for gap in content["gaps"]],
            declared=[(first, n_frames) for first, n_frames in content["declared"]],
        )  # fmt: skip

    @property
    def _current(self) -> _Series:
        if self._series is None:
            raise RuntimeError("no series is open")
        return self._series

    def _entry(self, record: Record, pixels: NDArray[Any] | None = None) -> Entry:
        return Entry(record, self.packed(), pixels)

    def _belonging(self, frame: FeedFrame, now_ns: int) -> list[Entry]:
        """Begin the frame's series if the feed did not say so."""
        named = _sound_name(frame.series) if frame.series else self.series_name
        if self._series is not None and named == self._series.start.series:
            return []
        return self.begin(SeriesStart(series=named, feed=self._feed), now_ns)

    def _is_new(self, sequence: int) -> bool:
        """Tell whether the number has not come yet, taking it out of a gap if it lies in one."""
        series = self._current
        if sequence >= series.expected:
            return True
        for number, gap in enumerate(series.gaps):
            if gap.first <= sequence < gap.first + gap.n_frames:
                before = sequence - gap.first
                after = gap.n_frames - before - 1
                halves = [
                    _Gap(gap.first, before, gap.row, gap.reason),
                    _Gap(sequence + 1, after, gap.row, gap.reason),
                ]
                series.gaps[number : number + 1] = [half for half in halves if half.n_frames]
                return True
        for number, (first, n_frames) in enumerate(series.declared):
            if first <= sequence < first + n_frames:
                halves_declared = [
                    (first, sequence - first),
                    (sequence + 1, first + n_frames - sequence - 1),
                ]
                series.declared[number : number + 1] = [h for h in halves_declared if h[1]]
                series.n_lost -= 1
                return True
        return False

    def _gap_reason(self) -> str:
        return f"message not understood ({self._reject_reason})" if self._reject_reason else MISSING

    def _open_gap(self, first: int, n_frames: int, reason: str) -> None:
        if n_frames <= 0:
            return
        gaps = self._current.gaps
        last = gaps[-1] if gaps else None
        if last and last.first + last.n_frames == first and last.reason == reason:
            last.n_frames += n_frames
        else:
            gaps.append(_Gap(first, n_frames, self._current.row, reason))

    def _declare_old_gaps(self) -> list[Entry]:
        series = self._current
        return self._declare_gaps(sum(series.row - g.row > self._late_frames for g in series.gaps))

    def _n_too_many(self) -> int:
        """Count the gaps that are open beyond those that late frames may need."""
        return max(0, len(self._current.gaps) - max(MAX_OPEN_GAPS, self._late_frames))

    def _declare_gaps(self, n_gaps: int) -> list[Entry]:
        """Declare the oldest gaps lost; they lie in the order in which they were seen."""
        series = self._current
        entries = []
        for _ in range(n_gaps):
            gap = series.gaps.pop(0)
            series.declared.append((gap.first, gap.n_frames))
            del series.declared[:-MAX_DECLARED]
            series.n_lost += gap.n_frames
            loss = LossRange(
                series=series.start.series, series_id=series.start.series_id,
                first=gap.first, n_frames=gap.n_frames,
                reason=gap.reason,
            )  # fmt: skip
            entries.append(self._entry(loss))
        return entries


def _sound_name(name: str) -> str:
    """Give a name under which a series can be archived: the feed's own if that is sound."""
    return series_name_from(name) if series_name_fault(name) else name


@dataclass(frozen=True, slots=True)
class Reach:
    """How far an account reached that lies beside a record."""

    start: SeriesStart
    n_accounted: int
    """Frames logged or declared lost."""
    expected: int
    """The next sequence."""
    missing: frozenset[int]
    """Sequences before `expected` that had not come, and were not declared lost yet."""


def reach_of(packed: bytes) -> Reach | None:
    """Read how far an account reached; None where no series was open."""
    account = SeriesAccount(default_series="", feed="", late_frames=0)
    if packed:
        account.restore(packed)
    series = account._series
    if series is None:
        return None
    missing = (range(gap.first, gap.first + gap.n_frames) for gap in series.gaps)
    return Reach(
        series.start,
        series.row + series.n_lost,
        series.expected,
        frozenset(itertools.chain.from_iterable(missing)),
    )


def storable(pixels: NDArray[Any], fault: str) -> tuple[NDArray[Any], tuple[int, int], str]:
    """Give the pixels in a form that the log and the archive can hold, and their shape.

    What is no image of a known number format becomes its raw bytes, with shape (n, 0).
    """
    little = pixels.dtype.newbyteorder("<")
    if pixels.ndim == 2 and pixels.size and max(pixels.shape) <= MAX_SIDE and little.str in DTYPES:
        image = np.ascontiguousarray(pixels, dtype=little)
        return image, (pixels.shape[0], pixels.shape[1]), fault
    if not fault:
        fault = (
            f"a frame must be a 2-D image of {', '.join(sorted(DTYPES))}, got shape "
            f"{pixels.shape} of {pixels.dtype.str}"
        )
    raw = np.ascontiguousarray(pixels).reshape(-1).view(np.uint8)
    return raw, (raw.size, 0), fault


def _digest(pixels: NDArray[Any]) -> int:
    return int(xxhash.xxh3_64_intdigest(pixels.reshape(-1).view(np.uint8).data))


def _bounded(metadata: dict[str, str]) -> dict[str, str]:
    """Keep what fits a record of the log, and say so if that is not all."""
    kept: dict[str, str] = {}
    n_bytes = 0
    for key, text in metadata.items():
        n_bytes += len(key.encode()) + min(len(text.encode()), MAX_TEXT)
        if n_bytes > MAX_METADATA_BYTES:
            kept["cut"] = f"the metadata had {len(metadata)} entries, too many to keep"
            break
        kept[key] = text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"
    return kept


def _known_size(pixel_size_nm: float | None) -> float:
    """Give a pixel size that can be one, or 0."""
    return float(pixel_size_nm) if pixel_size_nm and 0.0 < pixel_size_nm < math.inf else 0.0
