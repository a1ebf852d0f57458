"""ingest, with a feed of a few items, a real log, and no sockets."""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrtem_stream.errors import FeedError
from hrtem_stream.messages import (
    ControlRecord,
    FeedFinished,
    FeedFrame,
    FeedPosition,
    FrameHeader,
    LossRange,
    RawFrame,
    SeriesEnd,
    SeriesStart,
)
from hrtem_stream.runtime.heart import Heart
from hrtem_stream.runtime.meter import Meter
from hrtem_stream.runtime.pause import PAUSED
from hrtem_stream.series_name import series_name_fault
from hrtem_stream.stages.account import SeriesAccount
from hrtem_stream.stages.ingest import Ingest, open_log
from hrtem_stream.transport.delivery import Acknowledgement, Dispatcher
from hrtem_stream.transport.frame_log import FrameLog, read_log
from hrtem_stream.transport.log_format import NEXT_ORDINAL, NEXT_ORDINAL_OFFSET, RING_START
from hrtem_stream.transport.wire import decode, decode_record


class Feed:
    def __init__(self, items: list[Any], *, can_wait: bool = True) -> None:
        self.items = deque(items)
        self.can_wait = can_wait
        self.positions: list[FeedPosition | None] = []

    def open(self, position: FeedPosition | None) -> None:
        self.positions.append(position)
        if position is not None and position.series == "unknown":
            raise FeedError("not in this series")

    def receive(self, timeout_s: float) -> Any:
        return self.items.popleft() if self.items else None

    def close(self) -> None:
        pass


class Wires:
    """Sends nothing on, and acknowledges what it is told to."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.states: deque[Acknowledgement] = deque()

    def send(self, parts: Any) -> None:
        self.sent.append(parts)

    def wait(self, timeout_s: float) -> bool:
        return bool(self.states)

    def receive(self) -> Any:
        return [b"", self.states.popleft().encode()] if self.states else None


class Stop:
    is_set = False


def _ingest(folder: Path, feed: Feed, **changes: Any) -> tuple[Ingest, Wires]:
    log, logged = open_log(folder / "log", changes.pop("capacity", 1 << 20))
    wires = Wires()
    ingest = Ingest(
        feed=feed, log=log, logged=logged,
        dispatcher=Dispatcher(
            log_id=log.log_id, generation=log.generation, base=log.base, n_shards=1, window=64,
            stall_s=1.0,
        ),
        account=SeriesAccount(default_series="s", feed="native", late_frames=4),
        outbox=wires, inbox=wires, meter=Meter("ingest"), heart=Heart(folder / "heart"),
        stop=Stop(), mark_interval_s=0.1, idle_end_s=0.0, **changes,  # type: ignore[arg-type]
    )  # fmt: skip
    generation = log.generation << 40
    wires.states.append(
        Acknowledgement(
            log_id=log.log_id, incarnation=1, base=log.base, held=b"", horizon={0: generation + 1}
        )
    )
    return ingest, wires


def _frame(sequence: int, size: int = 8) -> FeedFrame:
    return FeedFrame(sequence=sequence, pixels=np.full((size, size), sequence, np.uint16))


def _turn(ingest: Ingest, n_turns: int = 60) -> None:
    for _ in range(n_turns):
        ingest.turn()


def _records(folder: Path) -> list[Any]:
    return [decode_record(record.meta) for record in read_log(folder / "log")[2]]


def test_every_item_of_the_feed_becomes_a_record_in_its_order(tmp_path: Path) -> None:
    start, end = SeriesStart(series="a"), SeriesEnd(series="a", n_frames=2)
    ingest, wires = _ingest(tmp_path, Feed([start, _frame(0), _frame(1), end]))
    _turn(ingest)
    kinds = [type(record) for record in _records(tmp_path)]
    assert kinds == [SeriesStart, FrameHeader, FrameHeader, SeriesEnd]
    assert len([parts for parts in wires.sent if len(bytes(parts[2])) > 0]) == 4


def test_an_acknowledgement_is_heard_while_the_feed_never_pauses(tmp_path: Path) -> None:
    now_s = [0.0]
    feed = Feed([_frame(sequence) for sequence in range(100)])
    ingest, wires = _ingest(tmp_path, feed, clock=lambda: now_s[0])
    _turn(ingest, 20)
    wires.states.append(Acknowledgement(log_id=1, incarnation=1, base=0, held=b"", horizon={}))
    _turn(ingest, 5)
    assert wires.states, "it was asked for at each turn"
    now_s[0] = 0.002
    ingest.turn()
    assert not wires.states
    assert feed.items


def test_a_frame_is_published_in_the_turn_in_which_it_came(tmp_path: Path) -> None:
    ingest, wires = _ingest(tmp_path, Feed([SeriesStart(series="a"), _frame(0), _frame(1)]))
    published = []
    for _ in range(3):
        ingest.turn()
        messages = map(decode, wires.sent)
        published.append(sum(isinstance(m, RawFrame | ControlRecord) for m in messages))
    assert published == [1, 2, 3]


def test_a_late_end_of_the_series_before_does_not_end_the_present_one(tmp_path: Path) -> None:
    items = [
        SeriesStart(series="a"), _frame(0), SeriesStart(series="b"), _frame(0), _frame(1),
        SeriesEnd(series="a", n_frames=5), _frame(2), SeriesEnd(series="b", n_frames=3),
    ]  # fmt: skip
    ingest, _ = _ingest(tmp_path, Feed(items))
    _turn(ingest)
    records = _records(tmp_path)
    ends = [record for record in records if isinstance(record, SeriesEnd)]
    assert [(end.series, end.n_archived, end.n_received) for end in ends] == [
        ("a", 1, 1), ("b", 3, 3),
    ]  # fmt: skip
    assert not any(isinstance(record, LossRange) for record in records)


def test_a_restart_takes_up_the_series_and_publishes_what_was_not_acknowledged(
    tmp_path: Path,
) -> None:
    first, _ = _ingest(tmp_path, Feed([SeriesStart(series="a"), _frame(0), _frame(1)]))
    _turn(first)
    feed = Feed([_frame(2), SeriesEnd(series="a", n_frames=3)])
    first._log.close()
    second, wires = _ingest(tmp_path, feed)
    second._open_feed()
    _turn(second)
    assert feed.positions == [FeedPosition(series="a", next_sequence=2)]
    rows = [record.row for record in _records(tmp_path) if isinstance(record, FrameHeader)]
    assert rows == [0, 1, 2]
    assert second._log.republished == 3, "the start and two frames went out a second time"
    assert len([parts for parts in wires.sent if len(bytes(parts[2])) > 0]) == 5


def test_a_feed_that_was_through_is_not_played_again_after_a_restart(tmp_path: Path) -> None:
    mark = tmp_path / "finished"
    end = SeriesEnd(series="a", n_frames=1)
    first, _ = _ingest(
        tmp_path, Feed([SeriesStart(series="a"), _frame(0), end]), finished_mark=mark
    )
    _turn(first)
    feed = Feed([SeriesStart(series="a"), _frame(0), end, FeedFinished()])
    first._log.close()
    second, wires = _ingest(tmp_path, feed, finished_mark=mark)
    log = second._log
    wires.states.append(
        Acknowledgement(
            log_id=log.log_id, incarnation=1, base=3, held=b"", horizon={0: log.generation << 41}
        )
    )
    second.run()
    assert feed.positions == []
    assert len(_records(tmp_path)) == 3


def test_a_feed_that_cannot_go_back_ends_its_series_and_begins_anew(tmp_path: Path) -> None:
    first, _ = _ingest(tmp_path, Feed([SeriesStart(series="unknown"), _frame(0)]))
    _turn(first)
    feed = Feed([])
    first._log.close()
    second, _ = _ingest(tmp_path, feed)
    second._open_feed()
    _turn(second)
    assert [position is None for position in feed.positions] == [False, True]
    assert "could not go on" in _records(tmp_path)[-1].reason


@pytest.mark.parametrize("is_recording", [True, False])
def test_a_camera_is_not_kept_waiting_while_the_log_has_room(
    tmp_path: Path, is_recording: bool
) -> None:
    """A frame in the log outlives this process; one that waits in a socket does not."""
    items = [SeriesStart(series="a"), *(_frame(n) for n in range(200))]
    feed = Feed(items)
    ingest, wires = _ingest(tmp_path, feed, is_recording=is_recording)
    _turn(ingest, 400)
    published = [parts for parts in wires.sent if len(bytes(parts[2])) > 0]
    assert len(published) == 64, "the window"
    assert len(feed.items) == (137 if is_recording else 0)


def test_a_full_log_makes_a_feed_that_can_wait_wait(tmp_path: Path) -> None:
    items = [SeriesStart(series="a"), *(_frame(n, size=100) for n in range(20))]
    feed = Feed(items)
    ingest, _ = _ingest(tmp_path, feed, capacity=100_000)
    _turn(ingest)
    assert len(feed.items) > 10
    assert not any(isinstance(record, LossRange) for record in _records(tmp_path))


def test_a_full_log_loses_frames_of_a_feed_that_cannot_wait_and_counts_them(
    tmp_path: Path,
) -> None:
    items = [SeriesStart(series="a"), *(_frame(n, size=100) for n in range(20))]
    ingest, wires = _ingest(tmp_path, Feed(items, can_wait=False), capacity=100_000)
    _turn(ingest)
    log = ingest._log
    wires.states.append(
        Acknowledgement(
            log_id=log.log_id, incarnation=1, base=log.next_ordinal, held=b"",
            horizon={0: log.generation << 41},
        )
    )  # fmt: skip
    n_logged = sum(isinstance(record, FrameHeader) for record in _records(tmp_path))
    ingest._feed.items.append(SeriesEnd(series="a", n_frames=20))  # type: ignore[attr-defined]
    _turn(ingest)
    records = _records(tmp_path)
    (loss,) = [record for record in records if isinstance(record, LossRange)]
    assert (loss.first, loss.n_frames, loss.reason) == (n_logged, 20 - n_logged, "frame log full")
    assert records[-1].n_received == 20


def test_an_end_that_meets_a_full_log_is_logged_at_once(tmp_path: Path) -> None:
    """What is only in memory is lost with this process, and the feed does not say it again."""
    items = [SeriesStart(series="a"), *(_frame(n, size=100) for n in range(20))]
    feed = Feed([*items, SeriesEnd(series="a", n_frames=20)], can_wait=False)
    ingest, _ = _ingest(tmp_path, feed, capacity=100_000)
    _turn(ingest)
    assert not ingest._has_room(100 * 100 * 2)
    frames = [r for r in _records(tmp_path) if isinstance(r, FrameHeader)]
    loss, end = _records(tmp_path)[-2:]
    assert (loss.first, loss.n_frames, loss.reason) == (
        len(frames), 20 - len(frames), "frame log full",
    )  # fmt: skip
    assert end.n_received == 20


def test_what_is_taken_from_a_feed_that_waits_is_logged_at_once(tmp_path: Path) -> None:
    items = [SeriesStart(series="a"), *(_frame(n, size=100) for n in range(20))]
    feed = Feed(items)
    ingest, _ = _ingest(tmp_path, feed, capacity=100_000)
    for _ in range(60):
        ingest.turn()
        assert len(_records(tmp_path)) + len(feed.items) == len(items)
    assert feed.items


def test_a_restart_with_nothing_whole_in_the_log_keeps_the_account(tmp_path: Path) -> None:
    """The log holds one frame at a time, and ingest dies while it writes the next."""
    ingest, _ = _ingest(tmp_path, Feed([SeriesStart(series="a"), _frame(0, size=100)]))
    _turn(ingest)
    log = ingest._log
    account = log.account
    log.close()
    small = FrameLog.create(tmp_path / "log", 8192)
    small.append(1, b"meta", account)
    small.acknowledge(1)
    torn = small.append(1, b"meta", b"", np.zeros(7900, np.uint8))
    struct.pack_into("<Q", small._buffer, RING_START + torn.offset, 0)
    NEXT_ORDINAL.pack_into(small._buffer, NEXT_ORDINAL_OFFSET, 1)
    small.close()
    feed = Feed([])
    again, _ = _ingest(tmp_path, feed)
    again._open_feed()
    assert feed.positions == [FeedPosition(series="a", next_sequence=1)]


def test_a_feed_from_which_nothing_comes_is_unreachable_only_the_first_time(
    tmp_path: Path,
) -> None:
    times = iter(range(1000))
    ingest, _ = _ingest(tmp_path, Feed([]), first_item_s=5.0, clock=lambda: float(next(times)))
    with pytest.raises(FeedError, match="within 5 s"):
        _turn(ingest)


class Switch:
    def __init__(self) -> None:
        self.is_on = True

    def __call__(self) -> bool:
        return self.is_on


def test_files_wait_while_saving_is_paused(tmp_path: Path) -> None:
    feed, switch = Feed([_frame(0), _frame(1)]), Switch()
    ingest, _ = _ingest(tmp_path, feed, is_paused=switch, waits_when_paused=True)
    _turn(ingest)
    assert len(feed.items) == 2
    switch.is_on = False
    _turn(ingest)
    kinds = [type(record) for record in _records(tmp_path)]
    assert kinds == [SeriesStart, FrameHeader, FrameHeader]


def test_a_file_that_was_being_read_when_saving_was_paused_is_archived(tmp_path: Path) -> None:
    switch = Switch()

    class Slow(Feed):
        def receive(self, timeout_s: float) -> Any:
            item = super().receive(timeout_s)
            switch.is_on = item is not None
            return item

    switch.is_on = False
    ingest, _ = _ingest(tmp_path, Slow([_frame(0)]), is_paused=switch, waits_when_paused=True)
    _turn(ingest)
    assert [type(record) for record in _records(tmp_path)] == [SeriesStart, FrameHeader]


@pytest.mark.parametrize("can_wait", [True, False])
def test_each_frame_of_a_camera_is_declared_while_saving_is_paused(
    tmp_path: Path, can_wait: bool
) -> None:
    feed, switch = Feed([_frame(0), _frame(1), _frame(2)], can_wait=can_wait), Switch()
    ingest, _ = _ingest(tmp_path, feed, is_paused=switch)
    _turn(ingest)
    assert not feed.items
    switch.is_on = False
    feed.items.extend([_frame(3), SeriesEnd(n_frames=4)])
    _turn(ingest)
    _, frame, loss, end = _records(tmp_path)
    assert frame.sequence == 3
    assert (loss.first, loss.n_frames, loss.reason) == (0, 3, PAUSED)
    assert (end.n_received, end.n_archived) == (4, 1)


def test_pixels_travel_with_the_message_if_asked(tmp_path: Path) -> None:
    items = [SeriesStart(series="a"), _frame(0), _frame(1)]
    ingest, wires = _ingest(tmp_path, Feed(items), sends_pixels=True)
    _turn(ingest)
    frames = [m for m in map(decode, wires.sent) if isinstance(m, RawFrame)]
    assert [frame.header.sequence for frame in frames] == [0, 1]
    for frame in frames:
        assert frame.pixels is not None
        assert frame.pixels.tolist() == [[frame.header.sequence] * 8] * 8


def test_an_acknowledgement_of_what_was_never_sent_is_refused(tmp_path: Path) -> None:
    ingest, wires = _ingest(tmp_path, Feed([SeriesStart(series="a"), _frame(0)]))
    _turn(ingest)
    true = Acknowledgement(
        log_id=read_log(tmp_path / "log")[0], incarnation=1, base=2, held=b"", horizon={}
    )
    wires.states.append(replace(true, base=2**40))
    _turn(ingest)
    assert read_log(tmp_path / "log")[1] == 0
    wires.states.append(true)
    _turn(ingest)
    assert read_log(tmp_path / "log")[1] == 2


def test_a_series_whose_name_would_leave_the_folder_gets_another(tmp_path: Path) -> None:
    ingest, _ = _ingest(tmp_path, Feed([SeriesStart(series="../../a"), _frame(0), _frame(1)]))
    _turn(ingest)
    (name,) = {record.series for record in _records(tmp_path)}
    assert series_name_fault(name) == ""
