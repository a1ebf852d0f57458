from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from hrtem_stream.errors import FeedError
from hrtem_stream.messages import (
    FeedFrame,
    FeedGap,
    FeedItem,
    FeedPosition,
    SeriesEnd,
    SeriesStart,
)
from hrtem_stream.sources.folder import FolderRules, FolderSource
from hrtem_stream.sources.folder_watch import ChangeReports, network_drive

SETTLE_S, GIVE_UP_S, END_AFTER_S = 1.0, 30.0, 100.0


def image(seed: int, shape: tuple[int, int] = (8, 10)) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).poisson(200, shape).astype(np.uint16)


def write_tiff(path: Path, *seeds: int, **options: Any) -> None:
    frames = np.stack([image(seed) for seed in seeds])
    tifffile.imwrite(path, frames[0] if len(seeds) == 1 else frames, **options)


def grow_mrc(path: Path, *seeds: int) -> None:
    """Write a stack, or go on with it; the header always tells one frame."""
    if not path.exists():
        with mrcfile.new(path) as file:
            file.set_data(image(seeds[0]))
        seeds = seeds[1:]
    with path.open("ab") as stack:
        for seed in seeds:
            stack.write(image(seed).tobytes())


class Session:
    """A folder, and a source that watches it with a clock of our own."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "frames"
        self.folder.mkdir()
        self.root = root
        self.now_s = 1000.0
        self.n_archived: Callable[[str], int] = lambda series: 0
        self.rules = FolderRules(
            settle_s=SETTLE_S, give_up_s=GIVE_UP_S, end_after_s=END_AFTER_S, polling="always"
        )
        self.source = self.new()

    def new(self) -> FolderSource:
        return FolderSource(
            self.folder, rules=self.rules, state=self.root / "out" / "live.folder.jsonl",
            seen_mark=self.root / "runtime" / "folder-seen",
            archived=lambda series: self.n_archived(series), clock=lambda: self.now_s,
        )  # fmt: skip

    def open(self, position: FeedPosition | None = None) -> None:
        self.source = self.new()
        self.source.open(position)

    def take(self, seconds: float = 5.0) -> list[FeedItem]:
        """Take what comes within so many seconds."""
        items = []
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            item = self.source.receive(0)
            if item is None:
                self.now_s += 0.25
            else:
                items.append(item)
        return items


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    made = Session(tmp_path)
    yield made
    made.source.close()


def frames_of(items: list[FeedItem]) -> list[FeedFrame]:
    return [item for item in items if isinstance(item, FeedFrame)]


def names_of(items: list[FeedItem]) -> list[str]:
    return [frame.name for frame in frames_of(items)]


def test_files_are_taken_once_each_in_the_order_people_number_them(session: Session) -> None:
    for number in (10, 9, 1):
        write_tiff(session.folder / f"f{number}.tif", number)
    session.open()
    items = session.take()
    assert isinstance(items[0], SeriesStart)
    assert items[0].series == "frames"
    assert names_of(items) == ["f1", "f9", "f10"]
    assert [frame.sequence for frame in frames_of(items)] == [0, 1, 2]
    for frame, number in zip(frames_of(items), (1, 9, 10), strict=True):
        np.testing.assert_array_equal(frame.pixels, image(number))
    write_tiff(session.folder / "f11.tif", 11)
    assert names_of(session.take()) == ["f11"]
    assert session.take() == []


def test_a_file_counts_when_it_does_not_change_any_more(session: Session) -> None:
    session.open()
    whole = session.folder / "whole.tif"
    write_tiff(whole, 1)
    content = whole.read_bytes()
    whole.unlink()
    half = session.folder / "half.tif"
    for n in range(50, len(content), 50):
        half.write_bytes(content[:n])
        os.utime(half, ns=(n, 10**18 + n))
        assert session.take(0.5) == []
    half.write_bytes(content)
    assert names_of(session.take()) == ["half"]


def test_a_file_renamed_into_place_counts_once(session: Session) -> None:
    session.open()
    write_tiff(session.folder / "a.tif.tmp", 1)
    assert session.take() == []
    (session.folder / "a.tif.tmp").rename(session.folder / "a.tif")
    assert names_of(session.take()) == ["a"]
    write_tiff(session.folder / "b.tif", 2)
    assert session.take(0.5) == []
    (session.folder / "b.tif").rename(session.folder / "c.tif")
    assert names_of(session.take(2 * GIVE_UP_S)) == ["c"]


def test_what_is_no_frame_is_passed_over(session: Session) -> None:
    session.open()
    for name in (".hidden.tif", "notes.txt", "series.nxs", "~a.tif", "series.nxs.part"):
        (session.folder / name).write_bytes(b"x")
    write_tiff(session.folder / "a.tif", 1)
    write_tiff(session.folder / "a_LABEL.tif", 1)
    assert names_of(session.take(2 * GIVE_UP_S)) == ["a"]


def test_patterns_choose_files(session: Session) -> None:
    session.rules = session.rules._replace(patterns=("good*.tif",))
    session.open()
    write_tiff(session.folder / "good_1.tif", 1)
    write_tiff(session.folder / "bad_1.tif", 2)
    assert names_of(session.take(2 * GIVE_UP_S)) == ["good_1"]


def test_a_file_that_stays_half_written_is_archived_raw(session: Session) -> None:
    session.open()
    write_tiff(session.folder / "a.tif", 1)
    content = (session.folder / "a.tif").read_bytes()[:100]
    (session.folder / "a.tif").write_bytes(content)
    assert session.take(GIVE_UP_S - 2) == []
    (frame,) = frames_of(session.take(10))
    assert frame.fault
    assert frame.pixels.tobytes() == content
    assert session.take(2 * GIVE_UP_S) == []


def test_an_empty_file_and_one_that_vanishes_are_declared_lost(session: Session) -> None:
    session.open()
    (session.folder / "empty.tif").touch()
    (session.folder / "gone.tif").write_bytes(b"half")
    assert session.take(0.5) == []
    (session.folder / "gone.tif").unlink()
    items = session.take(2 * GIVE_UP_S)
    gaps = [item for item in items if isinstance(item, FeedGap)]
    assert {gap.reason for gap in gaps} == {
        "file could not be read (empty.tif: is empty)",
        "file could not be read (gone.tif: vanished)",
    }
    assert [gap.first for gap in gaps] == [0, 1]
    write_tiff(session.folder / "good.tif", 1)
    assert [frame.sequence for frame in frames_of(session.take())] == [2]


def test_an_unreadable_file_is_taken_when_it_becomes_readable(session: Session) -> None:
    session.open()
    path = session.folder / "a.tif"
    path.symlink_to(session.root / "elsewhere.tif")
    assert session.take(GIVE_UP_S / 2) == []
    write_tiff(session.root / "elsewhere.tif", 1)
    assert names_of(session.take()) == ["a"]


def test_a_file_written_anew_under_its_name_counts_again(session: Session) -> None:
    session.open()
    write_tiff(session.folder / "latest.tif", 1)
    session.take()
    write_tiff(session.folder / "latest.tif", 2)
    (frame,) = frames_of(session.take())
    np.testing.assert_array_equal(frame.pixels, image(2))
    assert frame.sequence == 1


def test_a_multi_frame_file_gives_all_its_frames(session: Session) -> None:
    session.open()
    write_tiff(session.folder / "a.tif", 1, 2, 3, photometric="minisblack")
    assert names_of(session.take()) == ["a[0]", "a[1]", "a[2]"]


def test_a_stack_is_taken_while_it_grows(session: Session) -> None:
    session.open()
    path = session.folder / "movie.mrc"
    taken: list[FeedFrame] = []
    for seeds in ((0, 1), (2,), (3, 4)):
        grow_mrc(path, *seeds)
        taken += frames_of(session.take(0.75))
    taken += frames_of(session.take())
    assert [frame.name for frame in taken] == [f"movie[{k}]" for k in range(5)]
    for seed, frame in enumerate(taken):
        np.testing.assert_array_equal(frame.pixels, image(seed))


def test_a_stack_that_goes_on_growing_later_goes_on_where_it_was(session: Session) -> None:
    session.open()
    path = session.folder / "movie.mrc"
    grow_mrc(path, 0, 1, 2)
    assert len(frames_of(session.take(20))) == 3
    grow_mrc(path, 3, 4)
    later = frames_of(session.take(20))
    assert [frame.sequence for frame in later] == [3, 4]
    np.testing.assert_array_equal(later[0].pixels, image(3))
    path.unlink()
    grow_mrc(path, *range(10, 17))
    anew = frames_of(session.take(20))
    assert [frame.sequence for frame in anew] == list(range(5, 12))
    np.testing.assert_array_equal(anew[0].pixels, image(10))


def test_a_series_ends_when_no_file_comes_and_the_next_file_begins_another(
    session: Session,
) -> None:
    session.open()
    write_tiff(session.folder / "a.tif", 1)
    assert isinstance(session.take()[0], SeriesStart)
    (end,) = session.take(END_AFTER_S + 5)
    assert end == SeriesEnd(series="frames", n_frames=1)
    write_tiff(session.folder / "b.tif", 2)
    start, frame = session.take()
    assert isinstance(start, SeriesStart)
    assert isinstance(frame, FeedFrame)
    assert (start.series, frame.sequence) == ("frames_2", 0)


@pytest.mark.parametrize("change", ["shape", "dtype", "pixel size"])
def test_files_of_another_kind_begin_another_series(session: Session, change: str) -> None:
    session.open()
    tag = [(65003, "s", 0, "nm", True), (65004, "s", 0, "nm", True)]

    def tags(nm: float) -> list[Any]:
        return [*tag, (65009, "d", 1, nm, True), (65010, "d", 1, nm, True)]

    tifffile.imwrite(session.folder / "a.tif", image(1), extratags=tags(0.02))
    assert len(frames_of(session.take())) == 1
    other = {
        "shape": (image(2, (16, 16)), 0.02),
        "dtype": (image(2).astype(np.float32), 0.02),
        "pixel size": (image(2), 0.04),
    }
    pixels, nm = other[change]
    tifffile.imwrite(session.folder / "b.tif", pixels, extratags=tags(nm))
    end, start, _ = session.take()
    assert isinstance(end, SeriesEnd)
    assert isinstance(start, SeriesStart)
    assert start.series == "frames_2"
    assert start.calibration.pixel_size_nm == pytest.approx(nm)


def test_each_folder_in_it_is_a_series_of_its_own(session: Session) -> None:
    session.rules = session.rules._replace(recursive=True)
    session.open()
    for name in ("one", "two"):
        (session.folder / name).mkdir()
        write_tiff(session.folder / name / "a.tif", 1)
    items = session.take()
    starts = [item.series for item in items if isinstance(item, SeriesStart)]
    assert starts == ["frames_one", "frames_two"]


def test_files_from_before_the_session_can_be_left_out(session: Session) -> None:
    session.rules = session.rules._replace(existing=False)
    write_tiff(session.folder / "old.tif", 1)
    session.open()
    assert session.take() == []
    write_tiff(session.folder / "new.tif", 2)
    session.open()  # a restart within the session
    assert names_of(session.take()) == ["new"]


def test_another_session_does_not_repeat_what_was_given(session: Session) -> None:
    write_tiff(session.folder / "a.tif", 1)
    session.open()
    assert names_of(session.take()) == ["a"]
    session.source.close()
    session.n_archived = lambda series: pytest.fail("it was closed in order")
    write_tiff(session.folder / "b.tif", 2)
    session.open()
    items = session.take()
    assert names_of(items) == ["b"]
    assert isinstance(items[0], SeriesStart)


@pytest.mark.parametrize("n_taken", range(1, 9))
def test_a_restart_skips_and_repeats_nothing(session: Session, n_taken: int) -> None:
    """Ingest dies after any number of items, and is told where the log ended."""
    write_tiff(session.folder / "a.tif", 0)
    write_tiff(session.folder / "b.tif", 1, 2, 3, photometric="minisblack")
    (session.folder / "c.tif").touch()
    write_tiff(session.folder / "d.tif", 4)
    session.open()
    taken = list(itertools.islice(items_of(session), n_taken))
    next_sequence = max(
        [
            item.sequence + 1 if isinstance(item, FeedFrame) else item.first + item.n_frames
            for item in taken
            if isinstance(item, FeedFrame | FeedGap)
        ],
        default=0,
    )
    session.open(FeedPosition(series="frames", next_sequence=next_sequence))
    taken += session.take(3 * GIVE_UP_S)
    assert [frame.sequence for frame in frames_of(taken)] == [0, 1, 2, 3, 4]
    assert sorted(names_of(taken)) == ["a", "b[0]", "b[1]", "b[2]", "d"]
    assert sum(isinstance(item, FeedGap) for item in taken) == 1
    assert sum(isinstance(item, SeriesStart) for item in taken) == 1


def items_of(session: Session) -> Iterator[FeedItem]:
    while True:
        item = session.source.receive(0)
        if item is not None:
            yield item
        session.now_s += 0.25


def test_a_stack_goes_on_growing_through_a_restart(session: Session) -> None:
    session.open()
    path = session.folder / "movie.mrc"
    grow_mrc(path, 0, 1, 2)
    taken = frames_of(session.take(0.75))
    assert len(taken) == 3
    grow_mrc(path, 3)
    session.open(FeedPosition(series="frames", next_sequence=2))  # one was not logged
    again = frames_of(session.take(10))
    assert [frame.sequence for frame in again] == [2, 3]
    np.testing.assert_array_equal(again[0].pixels, image(2))


def test_an_end_that_was_given_and_not_taken_is_given_again(session: Session) -> None:
    write_tiff(session.folder / "a.tif", 1)
    session.open()
    session.take(END_AFTER_S + 5)
    write_tiff(session.folder / "b.tif", 2)
    session.take()
    session.open(FeedPosition(series="frames", next_sequence=1))
    items = session.take()
    assert items[0] == SeriesEnd(series="frames", n_frames=1)
    assert names_of(items) == ["b"]


def test_after_a_crash_of_the_machine_what_no_archive_holds_is_given_anew(
    session: Session,
) -> None:
    for number in range(4):
        write_tiff(session.folder / f"f{number}.tif", number)
    session.open()
    assert len(frames_of(session.take())) == 4
    session.source = session.new()  # the frame log is gone, and nothing was closed
    session.n_archived = lambda series: 2 if series == "frames" else 0
    session.open()
    items = session.take()
    assert names_of(items) == ["f2", "f3"]
    assert isinstance(items[0], SeriesStart)
    assert items[0].series == "frames_2"


def test_a_file_that_was_moved_away_before_a_restart_is_declared_lost(session: Session) -> None:
    write_tiff(session.folder / "a.tif", 1, 2, 3, photometric="minisblack")
    session.open()
    session.take()
    (session.folder / "a.tif").unlink()
    session.open(FeedPosition(series="frames", next_sequence=1))
    (gap,) = session.take()
    assert gap == FeedGap(
        first=1, n_frames=2, reason="file could not be read (a.tif: vanished)"
    )  # fmt: skip


@pytest.mark.parametrize("rest", [b'{"file": ["a', b"nonsense\n", b"[]\n", b'{"file": 3}\n'])
def test_a_torn_state_is_read_as_far_as_it_goes(session: Session, rest: bytes) -> None:
    write_tiff(session.folder / "a.tif", 1)
    session.open()
    session.take()
    session.source.close()
    with (session.root / "out" / "live.folder.jsonl").open("ab") as file:
        file.write(rest)
    write_tiff(session.folder / "b.tif", 2)
    session.open()
    assert names_of(session.take()) == ["b"]
    session.open(FeedPosition(series="frames_2", next_sequence=1))
    assert session.take() == []


def test_a_folder_that_is_not_there_is_unreachable(session: Session) -> None:
    session.folder.rmdir()
    with pytest.raises(FeedError, match="is no folder to watch"):
        session.open()


def test_a_folder_that_goes_away_and_comes_back_is_watched_on(session: Session) -> None:
    session.open()
    session.folder.rename(session.root / "unmounted")
    assert session.take() == []
    (session.root / "unmounted").rename(session.folder)
    write_tiff(session.folder / "a.tif", 1)
    assert names_of(session.take()) == ["a"]


def test_a_position_in_an_unknown_series_is_refused(session: Session) -> None:
    with pytest.raises(FeedError, match="no file of series 'other' is known here"):
        session.open(FeedPosition(series="other", next_sequence=3))


def test_the_file_system_reports_a_new_file_at_once(tmp_path: Path) -> None:
    reports = ChangeReports(tmp_path, polling="auto", poll_s=1)
    reports.start()
    try:
        for number in range(100):  # the listener needs a moment to begin
            (tmp_path / f"{number}.tif").touch()
            if reports.heard(0.1):
                break
        else:
            pytest.fail("nothing was reported within 10 s")
    finally:
        reports.close()


def test_a_local_folder_is_no_network_drive(tmp_path: Path) -> None:
    assert not network_drive(tmp_path)
