from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hrtem_stream.errors import FeedError
from hrtem_stream.messages import (
    FeedFinished,
    FeedFrame,
    FeedGap,
    FeedItem,
    FeedPosition,
    SeriesEnd,
    SeriesStart,
)
from hrtem_stream.sources.replay import ReplaySource, series_of
from hrtem_stream.sources.simulated import SimulatedSource
from hrtem_stream.sources.source import Source
from tests.archive.series import archive_of


def play(source: Source, position: FeedPosition | None = None) -> list[FeedItem]:
    source.open(position)
    items: list[FeedItem] = []
    while not items or not isinstance(items[-1], FeedFinished):
        item = source.receive(1)
        assert item is not None
        items.append(item)
    source.close()
    return items


def frames_of(items: list[FeedItem]) -> list[FeedFrame]:
    return [item for item in items if isinstance(item, FeedFrame)]


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    path = tmp_path / "S1.npy"
    np.save(path, np.arange(4 * 20 * 30, dtype=np.uint16).reshape(4, 20, 30))
    return path


def test_a_series_has_a_start_its_frames_and_an_end(stack: Path) -> None:
    items = play(ReplaySource([stack]))
    assert isinstance(items[0], SeriesStart)
    assert (items[0].series, items[0].n_expected, items[0].feed) == ("S1", 4, "replay")
    assert items[-2:] == [SeriesEnd(series="S1", n_frames=4), FeedFinished()]
    frames = frames_of(items)
    assert [frame.sequence for frame in frames] == [0, 1, 2, 3]
    assert [frame.name for frame in frames] == [f"S1[{k}]" for k in range(4)]
    assert {frame.series for frame in frames} == {"S1"}
    for frame, image in zip(frames, np.load(stack), strict=True):
        np.testing.assert_array_equal(frame.pixels, image)


@pytest.mark.parametrize("memory_bytes", [0, 2500, 10**9])
def test_a_repeated_series_goes_on_counting(stack: Path, memory_bytes: int) -> None:
    source = ReplaySource([stack], n_repeats=3, memory_bytes=memory_bytes)
    frames = frames_of(play(source))
    assert [frame.sequence for frame in frames] == list(range(12))
    for frame, image in zip(frames, [*np.load(stack)] * 3, strict=True):
        np.testing.assert_array_equal(frame.pixels, image)


def test_what_is_in_memory_is_not_read_again(stack: Path) -> None:
    source = ReplaySource([stack], n_repeats=2)
    source.open(None)
    for _ in range(5):
        source.receive(0)
    stack.unlink()
    items = [source.receive(0) for _ in range(4)]
    source.close()
    assert all(isinstance(item, FeedFrame) and not item.fault for item in items)


@pytest.mark.parametrize("next_sequence", [0, 3, 5, 8])
def test_a_restarted_replay_goes_on_where_it_was(stack: Path, next_sequence: int) -> None:
    whole = play(ReplaySource([stack], n_repeats=2))
    position = FeedPosition(series="S1", next_sequence=next_sequence)
    rest = play(ReplaySource([stack], n_repeats=2), position)
    assert not isinstance(rest[0], SeriesStart)
    assert len(rest) == len(whole) - 1 - next_sequence
    for frame, again in zip(frames_of(whole)[next_sequence:], frames_of(rest), strict=True):
        assert frame.sequence == again.sequence
        np.testing.assert_array_equal(frame.pixels, again.pixels)


def test_a_position_elsewhere_is_refused(stack: Path) -> None:
    with pytest.raises(FeedError, match="cannot continue series 'S2': this feed plays 'S1'"):
        ReplaySource([stack]).open(FeedPosition(series="S2", next_sequence=0))
    with pytest.raises(FeedError, match="cannot continue series 'S1' at frame 5: it has 4"):
        ReplaySource([stack]).open(FeedPosition(series="S1", next_sequence=5))


def test_frames_that_are_announced_and_missing_are_a_gap(stack: Path) -> None:
    stack.write_bytes(stack.read_bytes()[: 128 + 1200 + 100])
    items = play(ReplaySource([stack], n_repeats=2))
    kinds = [type(item) for item in items]
    one_pass = [FeedFrame, FeedFrame, FeedGap]
    assert kinds == [SeriesStart, *one_pass, *one_pass, SeriesEnd, FeedFinished]
    gaps = [item for item in items if isinstance(item, FeedGap)]
    assert [(gap.first, gap.n_frames) for gap in gaps] == [(2, 2), (6, 2)]
    n_accounted = len(frames_of(items)) + sum(gap.n_frames for gap in gaps)
    assert items[-2] == SeriesEnd(series="S1", n_frames=n_accounted)


def test_a_damaged_file_is_a_frame_with_a_fault(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"broken")
    frames = frames_of(play(ReplaySource([tmp_path])))
    assert [bool(frame.fault) for frame in frames] == [False, True]
    assert frames[1].pixels.tobytes() == b"broken"


def test_frames_come_at_the_rate_that_was_asked_for(stack: Path) -> None:
    source = ReplaySource([stack], rate=50)
    begin_s = time.monotonic()
    play(source)
    assert 0.05 < time.monotonic() - begin_s < 1
    source.open(None)
    assert isinstance(source.receive(0), SeriesStart)
    assert isinstance(source.receive(0), FeedFrame)
    assert source.receive(0) is None
    source.close()


def test_the_real_rate_needs_times(stack: Path, tmp_path: Path) -> None:
    with pytest.raises(FeedError, match=r"S1\.npy: has no times of acquisition"):
        ReplaySource([stack], rate="real").open(None)
    archive = archive_of(tmp_path / "a.nxs", 3)
    frames = frames_of(play(ReplaySource([archive], rate="real")))
    assert [frame.acquired_ns for frame in frames] == [10**18, 10**18 + 1, 10**18 + 2]


def test_a_path_that_cannot_be_read_is_told_at_the_start(tmp_path: Path) -> None:
    source = ReplaySource([tmp_path / "none"])
    with pytest.raises(FeedError, match="none: does not exist"):
        source.open(None)
    source.close()


def test_a_series_is_named_after_its_first_path(tmp_path: Path) -> None:
    (tmp_path / "2014.06 a").mkdir()
    assert series_of([tmp_path / "2014.06 a", "b.npy"]) == "2014.06 a"
    assert series_of(["/x/f.v2.h5::/run/frames"]) == "f.v2"


def test_the_simulated_feed_is_the_same_after_a_restart() -> None:
    def source() -> SimulatedSource:
        return SimulatedSource(n_frames=4, size=64, seed=7)

    whole = play(source())
    assert isinstance(whole[0], SeriesStart)
    assert whole[0].calibration.pixel_size_nm is not None
    assert whole[-2:] == [SeriesEnd(series="simulated", n_frames=4), FeedFinished()]
    rest = play(source(), FeedPosition(series="simulated", next_sequence=2))
    assert [frame.sequence for frame in frames_of(rest)] == [2, 3]
    for frame, again in zip(frames_of(whole)[2:], frames_of(rest), strict=True):
        assert frame.pixels.dtype == np.uint16
        assert not frame.pixels.flags.writeable
        np.testing.assert_array_equal(frame.pixels, again.pixels)


def test_a_simulation_that_cannot_be_is_a_feed_error() -> None:
    with pytest.raises(FeedError, match="cannot simulate: sides must be 64"):
        SimulatedSource(n_frames=1, size=8, seed=0).open(None)


@pytest.mark.parametrize("module", ["native", "replay", "simulated"])
def test_importing_a_source_loads_nothing_heavy(module: str) -> None:
    heavy = ("scipy", "cv2", "h5py", "tifffile", "mrcfile", "PIL", "skimage", "torch", "numba")
    code = (
        f"import sys, hrtem_stream.sources.{module}; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
