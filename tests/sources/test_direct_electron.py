from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hrtem_stream.errors import SettingsError
from hrtem_stream.messages import (
    Calibration,
    FeedFinished,
    FeedFrame,
    FeedItem,
    FeedPosition,
    FeedReject,
    SeriesEnd,
    SeriesStart,
)
from hrtem_stream.sources import direct_electron
from hrtem_stream.sources.direct_electron import DirectElectronSource
from hrtem_stream.sources.direct_electron_camera import Camera, MovieBuffer, camera_at
from tests.sources.series_account import account_for


class FakeCamera:
    """Hands out what a script says: numbers of frames, None, False, or an error to raise."""

    def __init__(self, script: Sequence[Any], *, n_frames: int | None = None) -> None:
        self.script = list(script)
        self.started: list[int] = []
        self.is_closed = False
        self._n_frames = n_frames
        self.through = threading.Event()

    def start(self, n_frames: int) -> None:
        self.started.append(n_frames)

    def n_frames(self) -> int | None:
        return self._n_frames

    def calibration(self) -> Calibration:
        return Calibration(voltage_kv=200.0)

    def metadata(self) -> dict[str, str]:
        return {"Camera Name": "fake"}

    def take(self) -> MovieBuffer | bool | None:
        if not self.script:
            self.through.set()
            time.sleep(0.02)
            return None
        step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        if step is None or step is False:
            return step
        numbers = np.array(step, np.int64)
        return MovieBuffer(numbers, np.ones((len(step), 4, 6), "<u2") * numbers[:, None, None])

    def close(self) -> None:
        self.is_closed = True


def receive(
    *cameras: FakeCamera, position: FeedPosition | None = None, **options: Any
) -> list[FeedItem]:
    """Take what the cameras give, one connection after the other."""
    waiting = list(cameras)

    def connect() -> Any:
        if not waiting:
            raise ConnectionRefusedError("no server")
        return waiting.pop(0)

    source = DirectElectronSource(connect, **options)
    source.open(position)
    items: list[FeedItem] = []
    while not (items and isinstance(items[-1], FeedFinished)):
        item = source.receive(0.4)
        if item is None and cameras[-1].through.is_set():
            break
        items += [item] if item is not None else []
    source.close()
    source.close()
    assert all(camera.is_closed for camera in cameras)
    return items


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_electron, "RETRY_S", 0.02)
    monkeypatch.setattr(direct_electron, "IDLE_S", 0.02)
    monkeypatch.setattr(direct_electron, "GIVE_UP_S", 0.1)


def test_an_acquisition_that_we_start_is_one_series_and_then_the_feed_is_finished() -> None:
    camera = FakeCamera([None, [0, 1, 2], None, [3], False], n_frames=4)
    start, *frames, end, finished = receive(camera, start=True, n_frames=4)
    assert camera.started == [4]
    assert isinstance(start, SeriesStart)
    assert (start.n_expected, start.feed) == (4, "direct_electron")
    assert start.calibration.voltage_kv == 200.0
    assert [frame.sequence for frame in frames if isinstance(frame, FeedFrame)] == [0, 1, 2, 3]
    assert isinstance(frames[2], FeedFrame)
    np.testing.assert_array_equal(frames[2].pixels, np.full((4, 6), 2))
    assert not frames[2].pixels.flags.writeable
    assert end == SeriesEnd(n_frames=4)
    assert finished == FeedFinished()


def test_acquisitions_of_others_are_waited_for_each_a_series() -> None:
    items = receive(FakeCamera([False, [0, 1], False, False, None, [0, 1, 2], False]))
    assert account_for(items) == [(2, 2, 0, ""), (3, 3, 0, "")]


def test_numbers_that_begin_anew_are_another_acquisition() -> None:
    items = receive(FakeCamera([[0, 1], [2, 0, 1], False]))
    assert account_for(items) == [(3, 3, 0, "another acquisition began"), (2, 2, 0, "")]


def test_numbers_that_are_left_out_are_lost() -> None:
    items = receive(FakeCamera([[0, 1, 4], [5, 7], False]))
    assert account_for(items) == [(8, 5, 3, "")]


def test_an_acquisition_that_is_stopped_ends_early() -> None:
    items = receive(FakeCamera([[0, 1], False], n_frames=9))
    assert account_for(items) == [(2, 2, 0, "ended at the server after 2 of 9 frames")]


@pytest.mark.parametrize(
    "error",
    [UnboundLocalError("totalBytes"), ConnectionResetError("gone"), AttributeError("x")],
)
def test_a_feed_that_is_lost_is_told_and_goes_on_with_the_gap(error: Exception) -> None:
    items = receive(FakeCamera([[0, 1], error]), FakeCamera([[5, 6], False]))
    (reject,) = [item for item in items if isinstance(item, FeedReject)]
    assert reject.reason == "connection_broken"
    assert account_for(items) == [(7, 4, 3, "")]


def test_a_server_that_is_gone_for_good_ends_the_acquisition_that_we_started() -> None:
    items = receive(FakeCamera([[0, 1], OSError("gone")], n_frames=5), start=True)
    assert account_for(items) == [(2, 2, 0, "DE-Server was gone for 0.1 s after 2 of 5 frames")]
    assert items[-1] == FeedFinished()


def test_a_restarted_source_starts_no_second_acquisition() -> None:
    camera = FakeCamera([[4, 5], False])
    position = FeedPosition(series="s", next_sequence=3)
    items = receive(camera, position=position, start=True)
    assert camera.started == []
    assert not any(isinstance(item, SeriesStart) for item in items)
    assert [item.sequence for item in items if isinstance(item, FeedFrame)] == [4, 5]


def test_a_number_that_makes_no_sense_is_refused() -> None:
    items = receive(FakeCamera([[0, -7, 2**40], False]))
    assert [item.reason for item in items if isinstance(item, FeedReject)] == ["bad_field"] * 2
    assert account_for(items) == [(1, 1, 0, "")]


def test_frames_wait_in_the_server_and_not_in_memory() -> None:
    camera = FakeCamera([[number] for number in range(50)])
    source = DirectElectronSource(lambda: camera)  # type: ignore[arg-type,return-value]
    source.open(None)
    threading.Event().wait(0.3)
    assert len(camera.script) > 40
    numbers = []
    while len(numbers) < 50:
        item = source.receive(1)
        numbers += [item.sequence] if isinstance(item, FeedFrame) else []
    source.close()
    assert numbers == list(range(50))


def camera_that_says(info: dict[str, Any], answer: tuple[Any, ...]) -> Camera:
    """Make a camera whose client says this of its movie buffer."""
    camera = Camera.__new__(Camera)
    camera._max_buffer_bytes = 1 << 20
    camera._client = SimpleNamespace(
        get_movie_buffer_info=lambda: SimpleNamespace(**GOOD_INFO | info),
        get_movie_buffer=lambda *_, **__: answer,
    )
    return camera


GOOD_INFO = {
    "headerBytes": 1024, "imageBufferBytes": 960, "frameIndexStartPos": 0, "imageStartPos": 1024,
    "imageW": 10, "imageH": 6, "framesInBuffer": 8, "imageDataType": SimpleNamespace(name="DE16u"),
}  # fmt: skip
OK = SimpleNamespace(name="OK")
CONTENT = np.arange(128, dtype="<i8").tobytes() + np.arange(480, dtype="<u2").tobytes()


def test_a_movie_buffer_is_taken_apart() -> None:
    found = camera_that_says({}, (OK, len(CONTENT), 5, CONTENT)).take()
    assert isinstance(found, MovieBuffer)
    assert found.numbers.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(found.frames, np.arange(300).reshape(5, 6, 10))


@pytest.mark.parametrize(
    ("name", "expected"), [("TIMEOUT", None), ("FINISHED", False)]
)  # fmt: skip
def test_a_movie_buffer_may_have_none_yet_or_be_through(name: str, expected: object) -> None:
    assert camera_that_says({}, (SimpleNamespace(name=name), 0, 0, b"")).take() is expected


NONSENSE: list[tuple[dict[str, Any], tuple[Any, ...]]] = [
    ({"framesInBuffer": 0}, ()), ({"framesInBuffer": 10**6}, ()), ({"imageW": 0}, ()),
    ({"imageH": 10**6}, ()), ({"headerBytes": -1}, ()), ({"headerBytes": 2**40}, ()),
    ({"imageW": 16384, "imageH": 16384}, ()),
    ({"imageDataType": SimpleNamespace(name="DEUndef")}, ()),
    ({}, (OK, 0, 9, CONTENT)), ({}, (OK, 0, -1, CONTENT)), ({}, (OK, 0, 8, CONTENT[:1100])),
    ({"frameIndexStartPos": 10**6}, (OK, 0, 1, CONTENT)),
    ({"imageStartPos": -5}, (OK, 0, 1, CONTENT)),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(NONSENSE)))
def test_a_movie_buffer_that_makes_no_sense_is_refused_before_it_is_asked_for(number: int) -> None:
    info, answer = NONSENSE[number]
    with pytest.raises(ValueError, match=r"\w"):
        camera_that_says(info, answer).take()


def test_a_failure_of_the_server_is_a_lost_feed() -> None:
    with pytest.raises(ConnectionError, match="FAILED"):
        camera_that_says({}, (SimpleNamespace(name="FAILED"), 0, 0, b"")).take()


def test_an_endpoint_that_is_none_is_a_settings_error() -> None:
    with pytest.raises(SettingsError, match="tcp://HOST:PORT"):
        camera_at("de-server", max_buffer_bytes=1)


def test_without_deapi_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    absent: Callable[[str], None] = lambda name: None  # noqa: E731
    monkeypatch.setattr("importlib.util.find_spec", absent)
    with pytest.raises(SettingsError, match=r"hrtem-stream\[direct-electron\]"):
        camera_at("tcp://a:1", max_buffer_bytes=1)
