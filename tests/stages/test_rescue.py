"""What is left in a frame log reaches the archive; what cannot be read is lost and named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrtem_stream import open_archive
from hrtem_stream.archive.ledger import Ledger
from hrtem_stream.archive.recovery import recover
from hrtem_stream.archive.verify import verify
from hrtem_stream.messages import FeedFrame, FeedGap, SeriesEnd, SeriesStart
from hrtem_stream.settings import ArchiveSettings
from hrtem_stream.stages.account import Entry, SeriesAccount
from hrtem_stream.stages.fallback import BraggSegmenter, WithFallback
from hrtem_stream.stages.ingest import _KINDS
from hrtem_stream.stages.normalise import Normalise
from hrtem_stream.stages.rescue import Rescue, Rescued
from hrtem_stream.stages.segment import Segment
from hrtem_stream.stages.series import SortedSeries
from hrtem_stream.stages.solitary import Analysis
from hrtem_stream.transport.frame_log import FrameLog
from hrtem_stream.transport.log_format import RING_START, LoggedRecord, pixels_offset
from hrtem_stream.transport.salvage import SalvagedLog
from hrtem_stream.transport.wire import encode_record

SIZE = 64


class Feed:
    """Logs what a feed says, as ingest does."""

    def __init__(self, folder: Path, capacity: int = 4 << 20, **archive: Any) -> None:
        self.folder = folder
        self.log = FrameLog.create(folder / "frames.log", capacity)
        self.account = SeriesAccount(default_series="s", feed="native", late_frames=4)
        self.records: list[LoggedRecord] = []
        self.archive = ArchiveSettings(directory=str(folder), codec="none", **archive)
        self.sequence = 0

    def say(self, entries: list[Entry]) -> None:
        for entry in entries:
            meta = encode_record(entry.record)
            kind = _KINDS[type(entry.record)]
            self.records.append(self.log.append(kind, meta, entry.account, entry.pixels))

    def start(self, series: str = "s") -> None:
        self.sequence = 0
        self.say(self.account.begin(SeriesStart(series=series), 1))

    def frames(self, n: int) -> None:
        for _ in range(n):
            self.say(self.account.take(self.frame(self.sequence), 1))
            self.sequence += 1

    def frame(self, sequence: int) -> FeedFrame:
        pixels = np.random.default_rng(sequence).poisson(200, (SIZE, SIZE)).astype(np.uint16)
        return FeedFrame(sequence=sequence, pixels=pixels)

    def gap(self, n: int) -> None:
        self.say(self.account.miss(FeedGap(first=self.sequence, n_frames=n, reason="gap"), 1))
        self.sequence += n

    def end(self) -> None:
        self.say(self.account.end(SeriesEnd()))

    def spoil(self, ordinal: int, *, pixels: bool = False) -> None:
        """Flip a bit of a record: of its meta, or of its pixels."""
        record = self.records[ordinal]
        where = pixels_offset(record) if pixels else RING_START + record.offset + 64
        self.log._buffer[where + 5] ^= 4

    def rescue(self, kind: type[Rescue] = Rescue, wanted_from: int | None = None) -> Rescued:
        """Do what `recover FOLDER` does after the host went down."""
        self.log.close()
        log = SalvagedLog.open(self.log.path)
        series = SortedSeries(
            archive=self.archive, settings_json="{}", closed=self.folder / "closed",
            working_size=SIZE,
        )  # fmt: skip
        bragg = BraggSegmenter()
        rescue = kind(
            log, series, folder=self.folder, n_threads=1,
            analyse=Analysis(
                lambda reader: Normalise(reader, working_size=SIZE),
                lambda: Segment(
                    WithFallback(bragg, fallback=bragg, oldest_s=0.0), working_size=SIZE
                ),
            ),
            wanted_from=log.base if wanted_from is None else wanted_from,
        )  # fmt: skip
        try:
            return rescue.run()
        finally:
            series.abandon()
            log.close()

    def archive_and_crash(self) -> None:
        """Leave what is logged in an unfinished archive, and go on with the log."""
        assert self.rescue(_CutOff).n_damaged == 0
        self.log = FrameLog.take_over(self.log.path)[0]


class _CutOff(Rescue):
    """A session that ends before the series does."""

    def _closing(self) -> list[Any]:
        return []


@pytest.fixture
def feed(tmp_path: Path) -> Iterator[Feed]:
    yield Feed(tmp_path)


def _archived(path: Path) -> tuple[list[int], Ledger]:
    assert verify(path).differences == ()
    with open_archive(path) as archive:
        return archive.score("sequence").tolist(), archive.ledger


@pytest.mark.parametrize("n_frames", [0, 1, 2, 20])
def test_a_series_that_only_the_log_has_is_archived_and_ended(feed: Feed, n_frames: int) -> None:
    feed.start()
    feed.frames(n_frames)
    rescued = feed.rescue()
    assert (rescued.n_frames, rescued.n_damaged) == (n_frames, 0)
    sequences, ledger = _archived(feed.folder / "s.nxs")
    assert sequences == list(range(n_frames))
    assert (ledger.end_reason, ledger.lost) == ("recovered", 0)


@pytest.mark.parametrize("n_archived", [1, 2, 9])
def test_archive_and_log_together_give_a_complete_file(feed: Feed, n_archived: int) -> None:
    feed.start()
    feed.frames(n_archived)
    feed.archive_and_crash()
    feed.log.acknowledge(n_archived)
    feed.frames(10 - n_archived)
    feed.gap(3)
    feed.frames(2)
    feed.end()
    assert feed.rescue().n_frames == 12 - n_archived
    sequences, ledger = _archived(feed.folder / "s.nxs")
    assert sequences == [*range(10), 13, 14]
    assert (ledger.received, ledger.lost, ledger.end_reason) == (15, 3, "")


def test_a_second_time_there_is_nothing_to_do(feed: Feed) -> None:
    feed.start()
    feed.frames(5)
    feed.rescue()
    before = (feed.folder / "s.nxs").read_bytes()
    feed.log = FrameLog.take_over(feed.log.path)[0]
    assert feed.rescue().n_frames == 0
    assert (feed.folder / "s.nxs").read_bytes() == before
    assert [path.name for path in feed.folder.glob("*.nxs*")] == ["s.nxs"]


def test_what_was_acknowledged_and_did_not_reach_the_disk_is_archived_from_the_log(
    feed: Feed,
) -> None:
    feed.start()
    feed.frames(4)
    feed.archive_and_crash()
    feed.frames(6)
    feed.log.acknowledge(feed.log.next_ordinal)
    assert feed.rescue().n_frames == 6
    assert _archived(feed.folder / "s.nxs")[0] == list(range(10))


def test_a_series_that_was_acknowledged_and_taken_away_does_not_come_back(feed: Feed) -> None:
    feed.start("old")
    feed.frames(4)
    feed.end()
    feed.log.acknowledge(feed.log.next_ordinal)
    feed.start("new")
    feed.frames(2)
    assert feed.rescue().n_frames == 2
    assert [path.name for path in feed.folder.glob("*.nxs*")] == ["new.nxs"]


def test_a_file_that_was_recovered_alone_is_gone_on_with(feed: Feed) -> None:
    feed.start()
    feed.frames(3)
    feed.archive_and_crash()
    recover(feed.folder / "s.nxs.part")
    feed.frames(3)
    feed.end()
    feed.rescue()
    sequences, ledger = _archived(feed.folder / "s.nxs")
    assert (sequences, ledger.received, ledger.end_reason) == ([0, 1, 2, 3, 4, 5], 6, "")
    assert [path.name for path in feed.folder.glob("*.nxs*")] == ["s.nxs"]


def test_several_series_are_finished_each_in_its_files(tmp_path: Path) -> None:
    feed = Feed(tmp_path, frames_per_file=2)
    for name, n_frames in [("a", 3), ("b", 4), ("c", 1)]:
        feed.start(name)
        feed.frames(n_frames)
        if name != "c":
            feed.end()
    feed.rescue()
    found = {path.name: _archived(path)[0] for path in sorted(tmp_path.glob("*.nxs*"))}
    assert found == {
        "a_0001.nxs": [0, 1], "a_0002.nxs": [2], "b_0001.nxs": [0, 1], "b_0002.nxs": [2, 3],
        "c_0001.nxs": [0],
    }  # fmt: skip


@pytest.mark.parametrize("victims", [[1], [3], [6], [2, 3], [1, 2, 3, 4, 5, 6]])
@pytest.mark.parametrize("pixels", [True, False])
def test_damaged_frames_are_lost_and_named_and_all_others_archived(
    feed: Feed, victims: list[int], pixels: bool
) -> None:
    """Ordinal 0 is the start, so frame n has ordinal n + 1."""
    feed.start()
    feed.frames(6)
    feed.end()
    for victim in victims:
        feed.spoil(victim, pixels=pixels)
    assert feed.rescue().n_damaged == len(victims)
    sequences, ledger = _archived(feed.folder / "s.nxs")
    lost = [n for loss in ledger.losses for n in range(loss.first, loss.first + loss.n_frames)]
    assert lost == [victim - 1 for victim in victims]
    assert sequences == [n for n in range(6) if n not in lost]
    assert {loss.reason for loss in ledger.losses} == {"damaged in the frame log"}
    assert (ledger.received, ledger.end_reason) == (6, "")


def test_the_last_frame_of_a_log_that_cannot_be_read_is_lost_too(feed: Feed) -> None:
    feed.start()
    feed.frames(4)
    feed.spoil(4)
    feed.rescue()
    sequences, ledger = _archived(feed.folder / "s.nxs")
    assert (sequences, ledger.received, ledger.lost) == ([0, 1, 2], 4, 1)


def test_a_damaged_end_and_start_part_their_series_all_the_same(feed: Feed) -> None:
    feed.start("a")
    feed.frames(2)
    feed.end()
    feed.start("b")
    feed.frames(2)
    feed.end()
    for ordinal in (3, 4):
        feed.spoil(ordinal)
    feed.rescue()
    sequences, ledger = _archived(feed.folder / "a.nxs")
    assert (sequences, ledger.end_reason) == ([0, 1], "its end was damaged in the frame log")
    assert _archived(feed.folder / "b.nxs")[0] == [0, 1]


def test_a_log_that_is_cut_short_gives_what_it_still_has(feed: Feed) -> None:
    feed.start()
    feed.frames(6)
    feed.log.close()
    with feed.log.path.open("r+b") as file:
        file.truncate(pixels_offset(feed.records[5]) + 100)
    feed.log.close = lambda: None  # type: ignore[method-assign]
    feed.rescue()
    sequences, ledger = _archived(feed.folder / "s.nxs")
    assert sequences == [0, 1, 2, 3]
    assert (ledger.received, ledger.lost) == (6, 2)


@pytest.mark.parametrize("n_waiting", [0, 2])
def test_the_end_of_a_series_whose_archive_was_taken_away_counts_what_is_left(
    feed: Feed, n_waiting: int
) -> None:
    feed.start()
    feed.frames(4)
    feed.log.acknowledge(feed.log.next_ordinal)
    feed.frames(n_waiting)
    feed.end()
    feed.rescue()
    found = {path.name: _archived(path)[1].received for path in feed.folder.glob("*.nxs*")}
    assert found == ({"s.nxs": 2} if n_waiting else {})


def test_what_was_acknowledged_into_a_file_that_cannot_be_read_is_archived_again(
    feed: Feed,
) -> None:
    feed.start()
    feed.frames(4)
    feed.archive_and_crash()
    feed.log.acknowledge(feed.log.next_ordinal)
    part = feed.folder / "s.nxs.part"
    with part.open("r+b") as file:
        file.truncate(20_000)
    feed.rescue(wanted_from=0)
    assert _archived(feed.folder / "s-2.nxs")[0] == [0, 1, 2, 3]
