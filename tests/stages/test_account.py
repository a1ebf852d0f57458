"""The account of a series: received = archived + lost, whatever the feed does."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from hrtem_stream.messages import (
    Calibration,
    FeedFrame,
    FeedGap,
    FeedReject,
    FrameHeader,
    LossRange,
    SeriesEnd,
    SeriesStart,
)
from hrtem_stream.stages.account import Entry, SeriesAccount
from hrtem_stream.transport.wire import encode_record


def _account(late_frames: int = 2) -> SeriesAccount:
    numbers = itertools.count(1)
    return SeriesAccount(
        default_series="unnamed", feed="native", late_frames=late_frames,
        new_id=lambda: f"id{next(numbers)}",
    )  # fmt: skip


def _frame(sequence: int, value: int | None = None, **changes: object) -> FeedFrame:
    pixels = np.full((4, 4), sequence % 65536 if value is None else value, np.uint16)
    return FeedFrame(**{"sequence": sequence, "pixels": pixels, **changes})  # type: ignore[arg-type]


def _take(account: SeriesAccount, *frames: FeedFrame) -> list[Entry]:
    entries = []
    for frame in frames:
        taken = account.take(frame, 1)
        for entry in taken:
            if isinstance(entry.record, FrameHeader) and entry.pixels is not None:
                digest = xxhash.xxh3_64_intdigest(entry.pixels.tobytes())
                account.note_digest(entry.record.sequence, digest)
        entries += taken
    return entries


def _losses(entries: list[Entry]) -> list[tuple[int, int]]:
    records = [entry.record for entry in entries]
    return [(r.first, r.n_frames) for r in records if isinstance(r, LossRange)]


def _headers(entries: list[Entry]) -> list[FrameHeader]:
    return [entry.record for entry in entries if isinstance(entry.record, FrameHeader)]


def _end(entries: list[Entry]) -> SeriesEnd:
    (end,) = [entry.record for entry in entries if isinstance(entry.record, SeriesEnd)]
    return end


def test_rows_are_dense_in_the_order_of_arrival() -> None:
    account = _account()
    account.begin(SeriesStart(series="a"), 1)
    headers = _headers(_take(account, _frame(0), _frame(2), _frame(1), _frame(3)))
    assert [(h.row, h.sequence) for h in headers] == [(0, 0), (1, 2), (2, 1), (3, 3)]
    end = _end(account.end(SeriesEnd(n_frames=4)))
    assert (end.n_received, end.n_archived) == (4, 4)


def test_a_gap_is_declared_lost_after_some_later_frames() -> None:
    account = _account(late_frames=2)
    account.begin(SeriesStart(series="a"), 1)
    assert _losses(_take(account, _frame(0), _frame(5), _frame(6))) == []
    assert _losses(_take(account, _frame(7), _frame(8))) == [(1, 4)]
    end = _end(account.end(SeriesEnd(n_frames=9)))
    assert (end.n_received, end.n_archived) == (9, 5)


def test_a_frame_that_comes_after_its_loss_was_declared_is_archived_and_not_lost() -> None:
    account = _account(late_frames=0)
    account.begin(SeriesStart(series="a"), 1)
    entries = _take(account, _frame(0), _frame(3), _frame(4), _frame(1))
    assert _losses(entries) == [(1, 2)]
    end = _end(account.end(SeriesEnd(n_frames=5)))
    assert (end.n_received, end.n_archived) == (5, 4)


@pytest.mark.parametrize("n_frames", [2**20, 2**40, 2**62])
def test_a_count_far_beyond_what_came_is_told_where_it_cannot_be_declared(n_frames: int) -> None:
    account = _account()
    account.begin(SeriesStart(series="a"), 1)
    _take(account, _frame(0))
    entries = account.end(SeriesEnd(n_frames=n_frames))
    assert _losses(entries) == []
    assert _end(entries).reason == f"the feed counts {n_frames} frames, too far beyond 1"


@pytest.mark.parametrize("from_feed", [True, False])
def test_losses_and_gaps_that_alternate_keep_the_account_small(from_feed: bool) -> None:
    """Saving is paused, say, while every second frame does not come at all."""
    n_lost = 2000
    account = _account(late_frames=2)
    entries = account.begin(SeriesStart(series="a"), 1)
    for number in range(n_lost):
        if from_feed:
            entries += account.miss(FeedGap(first=2 * number + 1, n_frames=1, reason="full"), 1)
        else:
            entries += account.lose(_frame(2 * number + 1), "paused", 1)
    entries += _take(account, _frame(2 * n_lost - 2))
    entries += account.end(SeriesEnd(n_frames=2 * n_lost))
    assert max(len(entry.account) for entry in entries) < 10_000
    end = _end(entries)
    assert (end.n_received, end.n_archived) == (2 * n_lost, 1)
    lost = [first + i for first, n_frames in _losses(entries) for i in range(n_frames)]
    assert sorted(lost) == [i for i in range(2 * n_lost) if i != 2 * n_lost - 2]


def test_frames_missing_at_the_end_are_declared() -> None:
    account = _account()
    account.begin(SeriesStart(series="a"), 1)
    _take(account, _frame(0))
    entries = account.end(SeriesEnd(n_frames=3))
    assert _losses(entries) == [(1, 2)]
    assert _end(entries).n_received == 3


def test_the_same_frame_twice_is_dropped_and_counted() -> None:
    account = _account()
    account.begin(SeriesStart(series="a"), 1)
    assert len(_headers(_take(account, _frame(0), _frame(0)))) == 1
    assert _end(account.end(SeriesEnd())).n_repeated == 1


def test_a_repeated_number_with_other_pixels_is_archived_raw() -> None:
    account = _account()
    account.begin(SeriesStart(series="a"), 1)
    headers = _headers(_take(account, _frame(0), _frame(0, value=9)))
    assert "came before with other pixels" in headers[1].fault
    assert _end(account.end(SeriesEnd(n_frames=1))).n_received == 2


def test_an_impossible_jump_does_not_declare_a_million_losses() -> None:
    account = _account()
    account.begin(SeriesStart(series="a"), 1)
    headers = _headers(_take(account, _frame(0), _frame(10**12), _frame(1)))
    assert "jumps" in headers[1].fault
    assert headers[2].fault == ""
    assert _end(account.end(SeriesEnd(n_frames=2))).n_received == 3


def test_a_series_that_begins_before_the_last_ended_ends_it() -> None:
    account = _account()
    account.begin(SeriesStart(series="a"), 1)
    _take(account, _frame(0))
    entries = account.begin(SeriesStart(series="b"), 2)
    assert _end(entries).reason == "another series began"
    assert isinstance(entries[-1].record, SeriesStart)
    assert entries[-1].record.series_id == "id2"


def test_a_frame_without_a_start_begins_its_series() -> None:
    account = _account()
    entries = _take(account, _frame(0, series="x"), _frame(1, series="x"), _frame(0, series="y"))
    starts = [e.record.series for e in entries if isinstance(e.record, SeriesStart)]
    assert starts == ["x", "y"]
    assert _headers(entries)[2].row == 0


def test_a_message_that_was_not_understood_explains_the_gap() -> None:
    account = _account(late_frames=0)
    account.begin(SeriesStart(series="a"), 1)
    _take(account, _frame(0))
    account.reject(FeedReject(reason="version", message="version 9"))
    entries = _take(account, _frame(2), _frame(3))
    (loss,) = [e.record for e in entries if isinstance(e.record, LossRange)]
    assert loss.reason == "message not understood (version)"


def test_what_the_feed_says_is_missing_is_declared_with_its_reason() -> None:
    account = _account()
    account.begin(SeriesStart(series="a"), 1)
    account.miss(FeedGap(first=0, n_frames=3, reason="truncated"), 1)
    entries = account.end(SeriesEnd(n_frames=3))
    assert _losses(entries) == [(0, 3)]


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((2, 3, 4), np.uint16),
        np.zeros((0, 4), np.uint16),
        np.zeros((4, 4), np.complex64),
        np.zeros((4, 4), np.int64),
        np.zeros(7, np.uint8),
    ],
)
def test_what_is_no_image_is_kept_as_raw_bytes_with_a_fault(pixels: np.ndarray) -> None:
    account = _account()
    (header,) = _headers(_take(account, FeedFrame(sequence=0, pixels=pixels)))
    assert header.shape == (pixels.nbytes, 0)
    assert header.dtype == "|u1"
    assert "2-D image" in header.fault


def test_big_endian_pixels_become_little_endian() -> None:
    account = _account()
    entries = _take(account, FeedFrame(sequence=0, pixels=np.arange(6, dtype=">u2").reshape(2, 3)))
    assert _headers(entries)[0].dtype == "<u2"
    assert np.array_equal(entries[-1].pixels, np.arange(6).reshape(2, 3))  # type: ignore[arg-type]


@settings(max_examples=150, deadline=None)
@given(
    sequences=st.lists(st.integers(0, 30), max_size=40),
    late_frames=st.integers(0, 5),
    n_frames=st.none() | st.integers(0, 40),
    cut=st.integers(0, 60),
)
def test_the_ledger_balances_and_a_restart_anywhere_changes_nothing(
    sequences: list[int], late_frames: int, n_frames: int | None, cut: int
) -> None:
    """After a kill, the account that lies beside the last logged record must be the right one."""
    account = _account(late_frames)
    logged = account.begin(SeriesStart(series="a"), 1)
    for number, sequence in enumerate(sequences):
        if number == cut:
            account = _account(late_frames)
            account.restore(logged[-1].account)
            for entry in logged:
                if isinstance(entry.record, FrameHeader) and entry.pixels is not None:
                    digest = xxhash.xxh3_64_intdigest(entry.pixels.tobytes())
                    account.note_digest(entry.record.sequence, digest)
        logged += _take(account, _frame(sequence))
    logged += account.end(SeriesEnd(n_frames=n_frames))
    headers = _headers(logged)
    archived = {header.sequence for header in headers}
    declared = {n for first, count in _losses(logged) for n in range(first, first + count)}
    end = _end(logged)
    assert [header.row for header in headers] == list(range(len(headers)))
    assert end.n_archived == len(headers) == len(archived)
    assert end.n_received == end.n_archived + len(declared - archived)
    if sequences:
        last = max(max(sequences), (n_frames or 0) - 1)
        assert archived | declared == set(range(last + 1))


def test_a_kill_between_the_records_of_one_frame_loses_no_frame() -> None:
    account = _account(late_frames=0)
    logged = account.begin(SeriesStart(series="a"), 1) + _take(account, _frame(0), _frame(2))
    both = account.take(_frame(3), 1)
    assert [type(entry.record) for entry in both] == [LossRange, FrameHeader]
    again = _account(late_frames=0)
    again.restore(both[0].account)
    assert again.position is not None
    assert again.position.next_sequence == 3, "frame 3 was not logged, so it is wanted again"
    assert len(logged) == 3


def test_a_feed_that_goes_on_counting_after_a_jump_is_followed() -> None:
    account = _account()
    account.begin(SeriesStart(series="a"), 1)
    far = 5_000_000
    headers = _headers(_take(account, _frame(0), *(_frame(far + n) for n in range(4))))
    assert [bool(h.fault) for h in headers] == [False, True, False, False, False]
    assert _end(account.end(SeriesEnd())).n_received == 5


def test_a_feed_that_counts_from_anywhere_has_no_losses_before_its_first_frame() -> None:
    account = _account()
    account.begin(SeriesStart(series="a"), 1)
    headers = _headers(_take(account, _frame(7_000_000), _frame(7_000_001)))
    assert [h.fault for h in headers] == ["", ""]
    assert _end(account.end(SeriesEnd())).n_received == 2


def test_a_frame_that_is_lost_after_a_jump_is_declared_alone() -> None:
    account = _account()
    account.begin(SeriesStart(series="a"), 1)
    _take(account, _frame(0))
    account.lose(_frame(10**9), "frame log full", 1)
    entries = account.end(SeriesEnd())
    assert _losses(entries) == [(10**9, 1)]
    assert _end(entries).n_received == 2


def test_a_record_fits_the_wire_whatever_the_feed_says_of_itself() -> None:
    account = _account()
    metadata = {f"key{n}": "x" * 1000 for n in range(500)}
    entries = account.begin(SeriesStart(series="a", metadata=metadata), 1)
    entries += _take(account, _frame(0, name="n" * 10_000, fault="f" * 10_000))
    for entry in entries:
        assert len(encode_record(entry.record)) < 8192
        assert len(entry.account) < 2048
    start = entries[0].record
    assert isinstance(start, SeriesStart)
    assert "500 entries" in start.metadata["cut"]


def test_the_account_beside_a_record_stays_small_on_a_feed_that_loses_much() -> None:
    account = _account(late_frames=0)
    account.begin(SeriesStart(series="a"), 1)
    entries = _take(account, *(_frame(2 * n) for n in range(2000)))
    assert len(entries[-1].account) < 8192
    end = _end(account.end(SeriesEnd(n_frames=3999)))
    assert (end.n_received, end.n_archived) == (3999, 2000)


@pytest.mark.parametrize(
    ("stated", "expected"), [(0.02, 0.02), (1, 1.0), (None, 0.0), (float("inf"), 0.0), (-1.0, 0.0)]
)
def test_each_frame_carries_the_pixel_size_of_its_series(
    stated: float | None, expected: float
) -> None:
    account = _account()
    account.begin(SeriesStart(series="a", calibration=Calibration(pixel_size_nm=stated)), 1)
    (entry,) = _take(account, _frame(0))
    assert entry.record.pixel_size_nm == expected
