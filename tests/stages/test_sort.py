"""sort: order, flushing, restarts, odd frames, with a real log and archive and no sockets."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrtem_stream import open_archive
from hrtem_stream.archive.recovery import recover
from hrtem_stream.archive.verify import verify
from hrtem_stream.archive.writer import ArchiveWriter
from hrtem_stream.errors import ArchiveError
from hrtem_stream.messages import (
    ControlRecord,
    LossRange,
    Mark,
    SegmentedFrame,
    SeriesEnd,
    SeriesStart,
)
from hrtem_stream.runtime.heart import Heart
from hrtem_stream.runtime.meter import Meter
from hrtem_stream.settings import ArchiveSettings
from hrtem_stream.stages.series import SortedSeries
from hrtem_stream.stages.sort import Sort
from hrtem_stream.transport.delivery import Acknowledgement
from hrtem_stream.transport.frame_log import FrameLog, FrameLogReader
from hrtem_stream.transport.log_format import LoggedRecord, pixels_offset
from hrtem_stream.transport.summaries import (
    STATUS_TOPIC,
    SUMMARY_TOPIC,
    decode_status,
    decode_summary,
)
from hrtem_stream.transport.wire import encode
from tests.stages.frames import SHAPE, delivery, segmented


class Inbox:
    def __init__(self) -> None:
        self.messages: deque[Any] = deque()

    def wait(self, timeout_s: float) -> bool:
        time.sleep(0.001)
        return bool(self.messages)

    def receive(self) -> Any:
        return self.messages.popleft() if self.messages else None

    def also_wake_on(self, descriptor: int) -> None:
        pass


class Outbox:
    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.heard = {SUMMARY_TOPIC}

    def is_heard(self, topic: bytes) -> bool:
        return topic in self.heard

    def send(self, parts: Any) -> None:
        self.sent.append(parts)

    @property
    def state(self) -> Acknowledgement:
        return Acknowledgement.decode(bytes(self.sent[-1][-1]))


class Stop:
    is_set = False


class Bench:
    """A sort with its log, its archive folder and its wires in hand."""

    def __init__(self, folder: Path, **archive: Any) -> None:
        self.folder = folder
        self.log = FrameLog.create(folder / "log", 4 << 20)
        self.archive = ArchiveSettings(directory=str(folder), codec="none", **archive)
        self.records: dict[int, LoggedRecord] = {}
        self.pub = 0
        self.start_sort()

    def start_sort(self) -> None:
        self.inbox, self.acknowledge, self.tell = Inbox(), Outbox(), Outbox()
        self.meter = Meter("sort")
        self.sort = Sort(
            series=SortedSeries(
                archive=self.archive, settings_json="{}", closed=self.folder / "closed",
                working_size=SHAPE[0],
            ),
            reader=FrameLogReader(self.log.path), inbox=self.inbox,
            acknowledge=self.acknowledge, tell=self.tell, meter=self.meter,
            heart=Heart(self.folder / "heart"), stop=Stop(), window=64, flush_frames=8,
            flush_s=0.01, n_threads=1, full_disk_wait_s=0.0,  # type: ignore[arg-type]
        )  # fmt: skip

    def kill_sort(self) -> None:
        """Let go of everything as a killed process would."""
        self.sort._series.abandon()
        self.start_sort()

    def frame(self, row: int, **changes: Any) -> SegmentedFrame:
        """Log a frame and give its message."""
        shape = changes.pop("shape", (128, 128))
        dtype = changes.pop("dtype", "<u2")
        pixels = np.random.default_rng(row).poisson(200, shape).astype(dtype)
        if shape[1] == 0:
            pixels = np.zeros(shape[0], np.uint8)
        record = self.log.append(1, b"", b"", pixels)
        self.records[record.ordinal] = record
        return segmented(
            row, record.ordinal, shape=shape, digest=record.digest, dtype=pixels.dtype.str,
            **changes,
        )  # fmt: skip

    def control(self, record: Any) -> ControlRecord:
        logged = self.log.append(2, b"", b"")
        self.records[logged.ordinal] = logged
        return ControlRecord(delivery=delivery(logged.ordinal), record=record)

    def start(self, series_id: str = "id", series: str = "s") -> ControlRecord:
        return self.control(SeriesStart(series=series, series_id=series_id))

    def end(self, n_received: int, series_id: str = "id") -> ControlRecord:
        end = SeriesEnd(
            series="s", series_id=series_id, n_received=n_received, n_archived=n_received
        )
        return self.control(end)

    def send(self, *messages: Any, floor: int = 0) -> None:
        for message in messages:
            self.pub += 1
            ordinal = message.delivery.ordinal
            offset = self.records[ordinal].offset if ordinal in self.records else 0
            parcel = delivery(
                ordinal, log_id=self.log.log_id, offset=offset, pub=self.pub, floor=floor,
                digest=self.records[ordinal].digest if ordinal in self.records else 0,
            )  # fmt: skip
            parts = encode(replace(message, delivery=parcel))
            self.inbox.messages.append([bytes(part) for part in parts])

    def turn_until(self, is_so: Callable[[], bool], timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not is_so():
            assert time.monotonic() < deadline, "it never was so"
            self.sort.turn()

    def turn_some(self, seconds: float = 0.1) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.sort.turn()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.sort._series.abandon()
    made.sort._threads.shutdown()


def test_the_next_archive_is_laid_out_while_there_is_no_series(bench: Bench) -> None:
    bench.sort.turn()
    assert bench.sort._series.is_prepared
    bench.send(bench.start(), bench.frame(0))
    bench.turn_until(lambda: bench.sort._series.last_ordinal("id") == 1)
    assert not bench.sort._series.is_prepared
    bench.send(bench.end(1))
    bench.turn_until(lambda: bench.sort._series.is_prepared)
    assert not verify(bench.folder / "s.nxs").differences
    assert not list(bench.folder.glob("*.part*"))


def test_frames_that_come_out_of_order_are_archived_in_order(bench: Bench) -> None:
    start = bench.start()
    frames = [bench.frame(row) for row in range(5)]
    end = bench.end(5)
    bench.send(end, frames[3], frames[1], start, frames[4], frames[2])
    bench.turn_some()
    assert not (bench.folder / "s.nxs").exists()
    assert bench.acknowledge.state.base == 1, "the start alone"
    bench.send(frames[0])
    bench.turn_until(lambda: (bench.folder / "s.nxs").exists())
    with open_archive(bench.folder / "s.nxs") as archive:
        assert archive.scores["sequence"].tolist() == [0, 1, 2, 3, 4]
        assert archive.ledger.balanced
    bench.turn_some(0.02)
    assert bench.acknowledge.state.base == 7


def test_what_is_acknowledged_is_what_a_successor_finds_in_the_file(bench: Bench) -> None:
    messages = [bench.start(), *(bench.frame(row) for row in range(6)), bench.end(6)]
    bench.send(*messages[:4])
    bench.turn_until(lambda: bench.sort._receipt.base == 4)
    bench.turn_some(0.02)
    assert bench.acknowledge.state.base == 4
    bench.kill_sort()
    bench.send(*messages[2:], floor=2)
    bench.turn_until(lambda: (bench.folder / "s.nxs").exists())
    with open_archive(bench.folder / "s.nxs") as archive:
        assert archive.scores["sequence"].tolist() == [0, 1, 2, 3, 4, 5]


def test_a_series_that_was_closed_before_the_acknowledgement_arrived_is_not_written_again(
    bench: Bench,
) -> None:
    messages = [bench.start(), bench.frame(0), bench.end(1)]
    bench.send(*messages)
    bench.turn_until(lambda: (bench.folder / "s.nxs").exists())
    before = (bench.folder / "s.nxs").read_bytes()
    bench.kill_sort()
    bench.send(*messages)
    bench.turn_until(lambda: bench.sort._receipt.base == 3)
    assert (bench.folder / "s.nxs").read_bytes() == before
    assert not (bench.folder / "s-2.nxs").exists()


def test_the_start_is_not_acknowledged_before_a_file_holds_it(bench: Bench) -> None:
    bench.send(bench.start())
    bench.turn_some()
    assert bench.sort._receipt.base == 0


def test_the_first_image_gives_the_shape_even_if_a_torn_frame_comes_before_it(
    bench: Bench,
) -> None:
    torn = bench.frame(0, shape=(100, 0), fault="payload is short")
    bench.send(bench.start(), torn)
    bench.turn_some()
    assert bench.sort._receipt.base == 0
    bench.send(bench.frame(1), bench.end(2))
    bench.turn_until(lambda: (bench.folder / "s.nxs").exists())
    with open_archive(bench.folder / "s.nxs") as archive:
        assert archive.shape == (128, 128)
        assert archive.set_aside(0).payload == bytes(100)
        assert archive.scores["fault"].tolist()[0] == "payload is short"


def test_an_image_of_one_pixel_does_not_set_those_after_it_aside(bench: Bench) -> None:
    torn = bench.frame(0, shape=(100, 0), fault="payload is short")
    bench.send(bench.start(), torn, bench.frame(1, shape=(1, 1), dtype="|u1"), bench.frame(2))
    bench.send(bench.end(3))
    bench.turn_until(lambda: len(list(bench.folder.glob("s*.nxs"))) == 2)
    with open_archive(bench.folder / "s-2.nxs") as archive:
        assert archive.shape == (128, 128)
        assert archive.scores["sequence"].tolist() == [2]


def test_images_of_one_pixel_lie_in_one_file(bench: Bench) -> None:
    bench.send(bench.start(), bench.frame(0, shape=(1, 1)))
    bench.turn_until(lambda: bench.sort._receipt.base == 2)
    bench.send(bench.frame(1, shape=(1, 1)), bench.frame(2, shape=(1, 1)), bench.end(3))
    bench.turn_until(lambda: (bench.folder / "s.nxs").exists())
    assert not (bench.folder / "s-2.nxs").exists()
    with open_archive(bench.folder / "s.nxs") as archive:
        assert archive.scores["sequence"].tolist() == [0, 1, 2]


def test_a_series_without_a_frame_leaves_a_file_with_its_ledger(bench: Bench) -> None:
    loss = bench.control(LossRange(series="s", series_id="id", first=0, n_frames=3, reason="gap"))
    bench.send(bench.start())
    bench.send(loss, bench.end(3))
    bench.turn_until(lambda: (bench.folder / "s.nxs").exists())
    with open_archive(bench.folder / "s.nxs") as archive:
        assert len(archive) == 0
        assert (archive.ledger.received, archive.ledger.lost) == (3, 3)


def test_a_frame_of_another_shape_is_set_aside_byte_for_byte(bench: Bench) -> None:
    bench.send(bench.start(), bench.frame(0), bench.frame(1, shape=(64, 32)), bench.end(2))
    bench.turn_until(lambda: (bench.folder / "s.nxs").exists())
    with open_archive(bench.folder / "s.nxs") as archive:
        aside = archive.set_aside(1)
        pixels = np.random.default_rng(1).poisson(200, (64, 32)).astype(np.uint16)
        assert (aside.shape, aside.payload) == ((64, 32), pixels.tobytes())
        assert np.isnan(archive.scores["graphene_fraction"][1])


def test_a_message_of_a_log_that_is_not_there_seals_nothing(bench: Bench) -> None:
    start, frame, end = bench.start(), bench.frame(0), bench.end(1)
    bench.send(start, frame)
    forged = encode(replace(frame, delivery=delivery(5, log_id=1)))
    bench.inbox.messages.append([bytes(part) for part in forged])
    bench.send(end)
    bench.turn_until(lambda: (bench.folder / "s.nxs").exists())
    with open_archive(bench.folder / "s.nxs") as archive:
        assert archive.ledger.end_reason == ""
        assert archive.ledger.balanced


def test_pixels_that_came_in_the_message_need_no_log(bench: Bench, tmp_path: Path) -> None:
    start, frame, end = bench.start(), bench.frame(0), bench.end(1)
    found = bench.log.pixel_bytes(bench.records[1])
    pixels = np.frombuffer(found, np.uint16).reshape(128, 128)
    bench.sort._reader = FrameLogReader(tmp_path / "no log on this host")
    damaged = pixels ^ 1
    bench.send(start, replace(frame, pixels=damaged))
    bench.turn_until(lambda: bench.sort._receipt.base == 1 and bench.sort.n_held == 0)
    assert bench.sort._receipt.state().held == b"", "a frame damaged on its way is asked for again"
    bench.send(replace(frame, pixels=pixels), end)
    bench.turn_until(lambda: (bench.folder / "s.nxs").exists())
    with open_archive(bench.folder / "s.nxs") as archive:
        assert archive.scores["digest"].tolist() == [bench.records[1].digest]
        assert archive.ledger.balanced


def test_a_mark_is_answered_at_once_with_the_horizon(bench: Bench) -> None:
    bench.send(Mark(delivery=delivery(-1)))
    bench.sort.turn()
    assert bench.acknowledge.state.horizon == {0: 1}


def test_watchers_hear_of_each_frame(bench: Bench) -> None:
    bench.send(bench.start(), *(bench.frame(row) for row in range(3)))
    bench.turn_until(lambda: len(_told(bench, SUMMARY_TOPIC)) == 3)
    assert [decode_summary(parts).row for parts in _told(bench, SUMMARY_TOPIC)] == [0, 1, 2]


def test_no_summary_is_made_for_nobody_and_who_comes_later_hears_the_right_rank(
    bench: Bench,
) -> None:
    bench.tell.heard.clear()
    bench.send(bench.start(), *(bench.frame(row) for row in range(3)))
    bench.turn_until(lambda: bench.sort._receipt.base == 4)
    assert not _told(bench, SUMMARY_TOPIC)
    bench.tell.heard.add(SUMMARY_TOPIC)
    bench.send(bench.frame(3))
    bench.turn_until(lambda: bool(_told(bench, SUMMARY_TOPIC)))
    (summary,) = map(decode_summary, _told(bench, SUMMARY_TOPIC))
    assert (summary.row, summary.rank) == (3, 3), "each frame has less graphene than the last"


def test_watchers_hear_how_the_series_stands_and_that_it_ended(bench: Bench) -> None:
    bench.send(bench.start(), bench.frame(0), bench.control(LOSS), bench.end(3))
    bench.turn_until(lambda: (bench.folder / "s.nxs").exists())
    status = decode_status(_told(bench, STATUS_TOPIC)[-1])
    assert status.is_closed
    assert (status.n_archived, status.n_lost, status.lost_reason) == (1, 2, "missing at the feed")
    assert status.archive == str(bench.folder / "s.nxs")


LOSS = LossRange(series="s", series_id="id", first=1, n_frames=2, reason="missing at the feed")


def _told(bench: Bench, topic: bytes) -> list[list[Any]]:
    return [parts for parts in bench.tell.sent if bytes(parts[0]) == topic]


def test_another_log_seals_what_belongs_to_the_one_before(bench: Bench) -> None:
    bench.send(bench.start(), bench.frame(0), bench.frame(1))
    bench.turn_until(lambda: bench.sort._receipt.base == 3)
    bench.log = FrameLog.create(bench.folder / "log", 4 << 20)
    bench.records.clear()
    start = bench.start(series_id="other")
    frame = bench.frame(0, series_id="other")
    bench.send(start, frame, bench.end(1, series_id="other"))
    bench.turn_until(lambda: (bench.folder / "s-2.nxs").exists())
    with open_archive(bench.folder / "s.nxs") as archive:
        assert len(archive) == 2
        assert "replaced" in archive.ledger.end_reason


def _spoil(bench: Bench, frame: SegmentedFrame) -> None:
    """Flip a bit of a frame's pixels in the log."""
    record = bench.records[frame.delivery.ordinal]
    bench.log._buffer[pixels_offset(record) + 200] ^= 1


@pytest.mark.parametrize("rotten", [[0], [1], [3], [0, 1, 2, 3]])
def test_a_frame_whose_pixels_changed_in_the_log_is_lost_and_named(
    bench: Bench, rotten: list[int]
) -> None:
    start, frames = bench.start(), [bench.frame(row) for row in range(4)]
    for number in rotten:
        _spoil(bench, frames[number])
    bench.send(start, *frames, bench.end(4))
    bench.turn_until(lambda: (bench.folder / "s.nxs").exists())
    kept = [number for number in range(4) if number not in rotten]
    with open_archive(bench.folder / "s.nxs") as archive:
        ledger = archive.ledger
        assert archive.score("sequence").tolist() == kept
        assert archive.rows.tolist() == list(range(len(kept)))
    lost = [n for loss in ledger.losses for n in range(loss.first, loss.first + loss.n_frames)]
    assert lost == rotten
    assert {loss.reason for loss in ledger.losses} == {"damaged in the frame log"}
    assert (ledger.received, ledger.archived, ledger.lost) == (4, len(kept), len(rotten))
    assert verify(bench.folder / "s.nxs").differences == ()


def test_a_sort_that_dies_after_a_rotten_frame_goes_on_behind_it(bench: Bench) -> None:
    messages = [bench.start(), *(bench.frame(row) for row in range(6)), bench.end(6)]
    _spoil(bench, messages[2])  # type: ignore[arg-type]
    bench.send(*messages[:5])
    bench.turn_until(lambda: bench.sort._receipt.base == 5)
    bench.kill_sort()
    bench.send(*messages)
    bench.turn_until(lambda: (bench.folder / "s.nxs").exists())
    with open_archive(bench.folder / "s.nxs") as archive:
        assert archive.score("sequence").tolist() == [0, 2, 3, 4, 5]
        assert archive.ledger.lost == 1
    assert verify(bench.folder / "s.nxs").differences == ()


def test_frames_go_on_in_a_file_of_their_own_when_their_archive_was_taken_away(
    bench: Bench,
) -> None:
    messages = [bench.start(), *(bench.frame(row) for row in range(4)), bench.end(4)]
    bench.send(*messages[:3])
    bench.turn_until(lambda: bench.sort._receipt.base == 3)
    bench.kill_sort()
    for left in bench.folder.glob("s.nxs.part*"):
        left.unlink()
    bench.send(*messages[3:], floor=3)
    bench.turn_until(lambda: (bench.folder / "s.nxs").exists())
    with open_archive(bench.folder / "s.nxs") as archive:
        assert archive.rows.tolist() == [2, 3]
        assert archive.ledger.balanced


def test_a_successor_ranks_among_all_frames_of_the_series(tmp_path: Path) -> None:
    bench = Bench(tmp_path, frames_per_file=2)
    messages = [bench.start(), *(bench.frame(row) for row in range(6)), bench.end(6)]
    bench.send(*messages[:6])
    bench.turn_until(lambda: bench.sort._receipt.base == 6)
    bench.kill_sort()
    bench.send(*messages)
    bench.turn_until(lambda: (bench.folder / "s_0003.nxs").exists())
    told = [parts for parts in bench.tell.sent if parts[0] == SUMMARY_TOPIC]
    (summary,) = map(decode_summary, told)
    assert (summary.row, summary.rank) == (5, 5), "each frame has less graphene than the one before"
    bench.sort._series.abandon()
    bench.sort._threads.shutdown()


def test_a_recovered_series_goes_on_in_files_of_the_same_length_and_survives_a_death(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path, frames_per_file=2)
    messages = [bench.start(), *(bench.frame(row) for row in range(8)), bench.end(8)]
    bench.send(*messages[:2])
    bench.turn_until(lambda: bench.sort._receipt.base == 2)
    bench.kill_sort()
    recover(bench.folder / "s_0001.nxs.part")
    bench.send(*messages[:7])
    bench.turn_until(lambda: bench.sort._receipt.base == 7)
    bench.kill_sort()
    bench.send(*messages)
    bench.turn_until(lambda: (bench.folder / "s-2_0004.nxs").exists())
    found = []
    for path in sorted(bench.folder.glob("*.nxs")):
        with open_archive(path) as archive:
            found.append((path.name, archive.rows.tolist()))
            assert archive.ledger.balanced
    assert found == [
        ("s-2_0001.nxs", [1, 2]), ("s-2_0002.nxs", [3, 4]), ("s-2_0003.nxs", [5, 6]),
        ("s-2_0004.nxs", [7]), ("s_0001.nxs", [0]),
    ]  # fmt: skip
    bench.sort._series.abandon()
    bench.sort._threads.shutdown()


def test_torn_frames_that_no_image_follows_do_not_stop_the_series(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hrtem_stream.stages.sort.IMAGE_WAIT_S", 0.05)
    bench.send(bench.start())
    bench.turn_some(0.2)
    assert bench.sort._receipt.base == 0, "a start alone can wait"
    torn = [bench.frame(row, shape=(100, 0), fault="payload is short") for row in range(2)]
    bench.send(*torn)
    bench.turn_until(lambda: bench.sort._receipt.base == 3)
    bench.send(bench.frame(2), bench.frame(3), bench.end(4))
    bench.turn_until(lambda: (bench.folder / "s-2.nxs").exists())
    with (
        open_archive(bench.folder / "s.nxs") as first,
        open_archive(bench.folder / "s-2.nxs") as second,
    ):
        assert [len(first), len(second)] == [2, 2]
        assert second.shape == (128, 128)
        assert second.rows.tolist() == [2, 3]
        assert first.ledger.balanced
        assert second.ledger.balanced


def test_a_sort_that_dies_between_two_files_goes_on_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, frames_per_file=2)
    messages = [bench.start(), *(bench.frame(row) for row in range(5)), bench.end(5)]
    create = ArchiveWriter.create_from
    with monkeypatch.context() as patch:

        def fail(path: Path, **arguments: Any) -> ArchiveWriter:
            if "0002" in str(path):
                raise ArchiveError("killed here")
            return create(path, **arguments)

        patch.setattr(ArchiveWriter, "create_from", fail)
        bench.send(*messages)
        with pytest.raises(ArchiveError, match="killed here"):
            bench.turn_until(lambda: False)
    bench.kill_sort()
    bench.send(*messages)
    bench.turn_until(lambda: (bench.folder / "s_0003.nxs").exists())
    sequences = []
    for number in (1, 2, 3):
        with open_archive(bench.folder / f"s_000{number}.nxs") as archive:
            sequences += archive.scores["sequence"].tolist()
    assert sequences == [0, 1, 2, 3, 4]
    bench.sort._series.abandon()
    bench.sort._threads.shutdown()


def test_frames_that_were_in_the_log_when_their_file_was_recovered_go_into_another_file(
    bench: Bench,
) -> None:
    messages = [bench.start(), *(bench.frame(row) for row in range(4)), bench.end(4)]
    bench.send(*messages[:3])
    bench.turn_until(lambda: bench.sort._receipt.base == 3)
    bench.kill_sort()
    recover(bench.folder / "s.nxs.part")
    bench.send(*messages)
    bench.turn_until(lambda: (bench.folder / "s-2.nxs").exists())
    with open_archive(bench.folder / "s.nxs") as one, open_archive(bench.folder / "s-2.nxs") as two:
        assert one.scores["sequence"].tolist() == [0, 1]
        assert two.scores["sequence"].tolist() == [2, 3]
    closed = (bench.folder / "closed").read_text().split()
    assert closed == [str(bench.folder / "s.nxs"), str(bench.folder / "s-2.nxs")]


def test_a_frame_that_cannot_be_read_in_the_log_is_asked_for_again(bench: Bench) -> None:
    start, frame = bench.start(), bench.frame(0)
    bench.send(start, frame)
    parts = bench.inbox.messages.pop()
    bench.pub += 1
    wrong = delivery(
        frame.delivery.ordinal, log_id=bench.log.log_id, offset=64 * 1000, pub=bench.pub
    )
    bench.inbox.messages.append([bytes(p) for p in encode(replace(frame, delivery=wrong))])
    bench.turn_some(0.2)
    bench.turn_until(lambda: not bench.acknowledge.state.has(frame.delivery.ordinal))
    bench.inbox.messages.append(parts)
    bench.send(bench.end(1))
    bench.turn_until(lambda: (bench.folder / "s.nxs").exists())


def test_a_frame_that_comes_alone_does_not_wait_for_others(bench: Bench) -> None:
    bench.sort._flush_s = 60.0
    bench.send(bench.start(), bench.frame(0))
    bench.turn_until(
        lambda: bench.acknowledge.sent != [] and bench.acknowledge.state.base == 2, 5.0
    )
    bench.send(bench.frame(1))
    bench.turn_until(lambda: bench.acknowledge.state.base == 3, 5.0)


def _found(folder: Path) -> dict[str, tuple[str, list[int]]]:
    """Give series and rows of every archive in a folder."""
    found = {}
    for path in sorted([*folder.glob("*.nxs"), *folder.glob("*.part")]):
        with open_archive(path) as archive:
            found[path.name] = archive.header.start.series_id, archive.rows.tolist()
    return found


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_finished_file_that_is_moved_away_does_not_hide_an_unfinished_one(
    tmp_path: Path, overwrite: bool
) -> None:
    bench = Bench(tmp_path)
    bench.send(bench.start("A"), bench.frame(0, series_id="A"), bench.end(1, "A"))
    bench.turn_until(lambda: (tmp_path / "s.nxs").exists())
    messages = [bench.start("B"), *(bench.frame(row, series_id="B") for row in range(4))]
    bench.send(*messages)
    bench.turn_until(lambda: bench.sort._receipt.base == 8)
    (tmp_path / "s.nxs").rename(tmp_path / "moved.nxs")
    bench.archive = bench.archive.model_copy(update={"overwrite": overwrite})
    bench.kill_sort()
    floor = messages[3].delivery.ordinal  # that what came later was flushed is not known yet
    bench.send(*messages[3:], bench.frame(4, series_id="B"), bench.end(5, "B"), floor=floor)
    bench.turn_until(lambda: (tmp_path / "s-2.nxs").exists())
    assert _found(tmp_path) == {"moved.nxs": ("A", [0]), "s-2.nxs": ("B", [0, 1, 2, 3, 4])}
    _put_away(bench)


def test_an_unfinished_archive_that_cannot_be_opened_once_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, overwrite=True)
    messages = [bench.start(), *(bench.frame(row) for row in range(4))]
    bench.send(*messages)
    bench.turn_until(lambda: bench.sort._receipt.base == 5)
    bench.kill_sort()
    with monkeypatch.context() as patch:

        def fails(path: Path) -> None:
            patch.undo()
            raise ArchiveError(f"{path} cannot be opened: Input/output error")

        patch.setattr("hrtem_stream.archive.rotation.open_archive", fails)
        bench.send(bench.frame(4), bench.end(5), floor=5)
        bench.turn_until(lambda: bench.sort._receipt.base == 7)
    assert _found(tmp_path) == {"s.nxs.part": ("id", [0, 1, 2, 3]), "s-2.nxs": ("id", [4])}
    _put_away(bench)


def test_a_sort_that_dies_between_two_files_does_not_take_an_older_series_for_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, frames_per_file=2, overwrite=True)
    old = [bench.start("old"), *(bench.frame(row, series_id="old") for row in range(7))]
    bench.send(*old, bench.end(7, "old"))
    bench.turn_until(lambda: (tmp_path / "s_0004.nxs").exists())
    (tmp_path / "closed").unlink()
    bench.kill_sort()
    messages = [bench.start("new"), *(bench.frame(row, series_id="new") for row in range(6))]
    bench.send(*messages[:5], floor=9)
    bench.turn_until(lambda: bench.sort._receipt.base == 14)
    create = ArchiveWriter.create_from
    with monkeypatch.context() as patch:

        def fail(path: Path, **arguments: Any) -> ArchiveWriter:
            if "0003" in str(path):
                raise ArchiveError("killed here")
            return create(path, **arguments)

        patch.setattr(ArchiveWriter, "create_from", fail)
        bench.send(*messages[5:])
        with pytest.raises(ArchiveError, match="killed here"):
            bench.turn_until(lambda: False)
    bench.kill_sort()
    bench.send(*messages[5:], bench.end(6, "new"), floor=14)
    bench.turn_until(lambda: bench.sort._receipt.base == 17)
    assert _found(tmp_path) == {
        "s_0001.nxs": ("new", [0, 1]), "s_0002.nxs": ("new", [2, 3]),
        "s_0003.nxs": ("new", [4, 5]), "s_0004.nxs": ("old", [6]),
    }  # fmt: skip
    _put_away(bench)


def test_torn_first_frames_of_a_series_in_many_files_do_not_stop_a_successor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hrtem_stream.stages.sort.IMAGE_WAIT_S", 0.05)
    bench = Bench(tmp_path, frames_per_file=4)
    torn = [bench.start(), bench.frame(0, shape=(100, 0), fault="payload is short")]
    bench.send(*torn)
    bench.turn_until(lambda: bench.sort._receipt.base == 2)
    bench.send(bench.frame(1), bench.frame(2))
    bench.turn_until(lambda: bench.sort._receipt.base == 4)
    bench.kill_sort()
    bench.send(bench.frame(3), bench.end(4), floor=4)
    bench.turn_until(lambda: (tmp_path / "s-2_0001.nxs").exists())
    assert _found(tmp_path) == {"s_0001.nxs": ("id", [0]), "s-2_0001.nxs": ("id", [1, 2, 3])}
    _put_away(bench)


def _put_away(bench: Bench) -> None:
    bench.sort._series.abandon()
    bench.sort._threads.shutdown()


def test_who_comes_after_the_end_still_hears_how_the_last_series_stood(bench: Bench) -> None:
    loss = bench.control(LossRange(series="s", series_id="id", first=1, n_frames=2, reason="gap"))
    bench.send(bench.start(), bench.frame(0), loss, bench.end(3))
    bench.turn_until(lambda: (bench.folder / "s.nxs").exists())
    bench.tell.sent.clear()
    bench.turn_until(lambda: bool(_told(bench, STATUS_TOPIC)))
    status = decode_status(_told(bench, STATUS_TOPIC)[-1])
    assert (status.is_closed, status.n_archived, status.n_lost) == (True, 1, 2)
    assert Path(status.archive).is_absolute()
