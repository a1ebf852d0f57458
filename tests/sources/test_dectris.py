from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import numpy as np
import pytest

from hrtem_stream.errors import SettingsError
from hrtem_stream.messages import (
    FeedFrame,
    FeedGap,
    FeedItem,
    FeedPosition,
    FeedReject,
    SeriesEnd,
    SeriesStart,
)
from tests.sources.series_account import account_for

pytest.importorskip("cbor2")
pytest.importorskip("dectris.compression")
pytest.importorskip("lz4.block")

from hrtem_stream.simulators.dectris import DectrisSender, encode_array, encode_message
from hrtem_stream.simulators.programme import Programme, play
from hrtem_stream.sources.dectris import DROPPED, NO_CHANNEL, DectrisSource
from hrtem_stream.sources.dectris_control import ControlUnit
from tests.sources.test_dectris_wire import RECORDED

IMAGES = [np.random.default_rng(n).poisson(9, (40, 56)).astype("<u2") for n in range(4)]


@pytest.fixture
def endpoint() -> Iterator[str]:
    # Not below tmp_path: socket paths have at most 107 characters.
    with tempfile.TemporaryDirectory() as folder:
        yield f"ipc://{folder}/feed"


class FakeCounter:
    """A control unit that has dropped so many images."""

    def __init__(self, n_dropped: int | None) -> None:
        self.n_dropped = n_dropped
        self.is_closed = False

    def at_least(self, n_images: int) -> bool:
        return (self.n_dropped or 0) >= n_images

    def read(self) -> int | None:
        return self.n_dropped

    def close(self) -> None:
        self.is_closed = True


def drain(source: DectrisSource) -> list[FeedItem]:
    """Take what there is, until it has been silent for a while."""
    items = []
    while (item := source.receive(0.3)) is not None:
        items.append(item)
    return items


def receive(
    endpoint: str, programme: Programme, *, n_channels: int = 1, **options: Any
) -> list[FeedItem]:
    source = DectrisSource(endpoint, **options)
    source.open(None)
    try:
        with DectrisSender(endpoint, n_channels=n_channels) as sender:
            play(programme, sender, IMAGES)
            return drain(source)
    finally:
        source.close()


def frames(items: list[FeedItem]) -> list[FeedFrame]:
    return [item for item in items if isinstance(item, FeedFrame)]


def test_a_series_comes_with_its_start_and_end(endpoint: str) -> None:
    items = receive(endpoint, Programme(n_frames=6))
    start, *middle, end = items
    assert isinstance(start, SeriesStart)
    assert start.feed == "dectris"
    assert start.n_expected == 6
    assert start.calibration.voltage_kv == 80.0
    assert end == SeriesEnd(series=start.series, n_frames=6)
    for number, frame in enumerate(middle):
        assert isinstance(frame, FeedFrame)
        assert (frame.sequence, frame.fault, frame.series) == (number, "", start.series)
        assert frame.name == f"image {number}"
        assert frame.acquired_ns > 0
        np.testing.assert_array_equal(frame.pixels, IMAGES[number % 4])
    assert account_for(items) == [(6, 6, 0, "")]


def test_two_series_in_a_row_are_two(endpoint: str) -> None:
    items = receive(endpoint, Programme(n_frames=3, n_series=2))
    assert account_for(items) == [(3, 3, 0, ""), (3, 3, 0, "")]
    assert len({frame.series for frame in frames(items)}) == 2


def test_a_series_without_a_count_ends_where_the_detector_ends_it(endpoint: str) -> None:
    items = receive(endpoint, Programme(n_frames=5, is_counted=False))
    assert isinstance(items[0], SeriesStart)
    assert items[0].n_expected is None
    assert account_for(items) == [(5, 5, 0, "")]


def test_images_that_are_missing_are_lost(endpoint: str) -> None:
    items = receive(endpoint, Programme(n_frames=8, gaps=frozenset({2, 3, 6})))
    assert account_for(items) == [(8, 5, 3, "")]


def test_the_control_unit_tells_why_images_are_missing(endpoint: str) -> None:
    counter = FakeCounter(2)
    items = receive(endpoint, Programme(n_frames=8, gaps=frozenset({2, 3})), dropped=counter)
    assert FeedGap(first=2, n_frames=2, reason=DROPPED) in items
    assert account_for(items) == [(8, 6, 2, "")]
    assert counter.is_closed


def test_an_aborted_series_ends_early_and_has_lost_nothing(endpoint: str) -> None:
    items = receive(endpoint, Programme(n_frames=8, abort_after=5), dropped=FakeCounter(0))
    assert account_for(items) == [(5, 5, 0, "ended by the detector after 5 of 8 images")]


def test_last_images_that_were_dropped_are_lost_and_not_taken_for_an_abort(endpoint: str) -> None:
    programme = Programme(n_frames=8, gaps=frozenset({1, 6, 7}))
    assert account_for(receive(endpoint, programme, dropped=FakeCounter(3))) == [(8, 5, 3, "")]


def test_where_the_control_unit_is_not_asked_the_end_says_so(endpoint: str) -> None:
    items = receive(endpoint, Programme(n_frames=8, gaps=frozenset({7})))
    (account,) = account_for(items)
    assert account == (
        7, 7, 0, "ended by the detector after 7 of 8 images (its control unit was not asked)",
    )  # fmt: skip


def test_each_channel_becomes_a_frame(endpoint: str) -> None:
    items = receive(endpoint, Programme(n_frames=3, gaps=frozenset({1})), n_channels=2)
    found = frames(items)
    assert [frame.sequence for frame in found] == [0, 1, 4, 5]
    assert found[3].name == "image 2 threshold_2"
    np.testing.assert_array_equal(found[3].pixels, IMAGES[2] >> 1)
    assert isinstance(items[0], SeriesStart)
    assert items[0].n_expected == 6
    assert account_for(items) == [(6, 4, 2, "")]


def test_one_channel_can_be_chosen(endpoint: str) -> None:
    items = receive(endpoint, Programme(n_frames=3), n_channels=2, channel="threshold_2")
    assert [frame.sequence for frame in frames(items)] == [0, 1, 2]
    np.testing.assert_array_equal(frames(items)[2].pixels, IMAGES[2] >> 1)
    assert account_for(items) == [(3, 3, 0, "")]


def test_a_channel_that_is_not_there_is_a_fault_of_every_frame(endpoint: str) -> None:
    items = receive(endpoint, Programme(n_frames=2), n_channels=2, channel="threshold_9")
    assert [frame.fault for frame in frames(items)] == [
        f"{NO_CHANNEL}: it has threshold_1, threshold_2"
    ] * 2
    assert account_for(items) == [(2, 2, 0, "")]


def test_a_channel_that_was_not_announced_is_told(endpoint: str) -> None:
    source = DectrisSource(endpoint)
    source.open(None)
    try:
        with DectrisSender(endpoint) as sender:
            for names in (["a"], ["a", "b"]):
                arrays = {name: encode_array(IMAGES[0]) for name in names}
                number = len(names) - 1
                sender.send_bytes(
                    encode_message("image", series=5, identity="X", image_id=number, data=arrays)
                )
            items = drain(source)
    finally:
        source.close()
    assert [frame.sequence for frame in frames(items)] == [0, 1]
    (reject,) = [item for item in items if isinstance(item, FeedReject)]
    assert "not announced: 'b'" in reject.message


def test_an_image_that_is_cut_short_is_archived_raw(endpoint: str) -> None:
    items = receive(endpoint, Programme(n_frames=4, damaged=frozenset({2})))
    damaged = frames(items)[2]
    assert damaged.sequence == 2
    assert "ends early" in damaged.fault
    assert damaged.pixels.dtype == np.uint8
    assert damaged.pixels.size > 500
    assert account_for(items) == [(4, 4, 0, "")]


def test_of_an_image_with_two_channels_that_is_cut_short_none_is_forgotten(endpoint: str) -> None:
    items = receive(endpoint, Programme(n_frames=3, damaged=frozenset({1})), n_channels=2)
    assert account_for(items) == [(6, 5, 1, "")]


def test_a_source_that_comes_late_takes_the_series_up(endpoint: str) -> None:
    source = DectrisSource(endpoint, dropped=FakeCounter(1))
    source.open(FeedPosition(series="series-5-X", next_sequence=40))
    try:
        with DectrisSender(endpoint) as sender:
            for number in (42, 44):
                sender.send_bytes(
                    encode_message(
                        "image", series=5, identity="X", image_id=number,
                        data={"a": encode_array(IMAGES[0])},
                    )
                )  # fmt: skip
            sender.send_bytes(encode_message("end", series=5, identity="X"))
            items = drain(source)
    finally:
        source.close()
    assert [frame.sequence for frame in frames(items)] == [42, 44]
    assert items[-1] == SeriesEnd(series="series-5-X", n_frames=45)


def test_what_cannot_be_understood_is_refused_and_the_feed_goes_on(endpoint: str) -> None:
    source = DectrisSource(endpoint)
    source.open(None)
    try:
        with DectrisSender(endpoint) as sender:
            sender.send_bytes(b"hello")
            sender.send_bytes(b"")
            play(Programme(n_frames=1), sender, IMAGES)
            items = drain(source)
    finally:
        source.close()
    assert [type(item).__name__ for item in items] == [
        "FeedReject", "FeedReject", "SeriesStart", "FeedFrame", "SeriesEnd",
    ]  # fmt: skip


def test_recorded_messages_become_a_series(endpoint: str) -> None:
    if not RECORDED.is_dir():
        pytest.skip(f"the recorded messages are not at {RECORDED}")
    folder = RECORDED / "r500k_bm_bslz4_16bit"
    source = DectrisSource(endpoint, channel="threshold_1")
    source.open(None)
    try:
        with DectrisSender(endpoint) as sender:
            for path in sorted(folder.glob("*.cbor")):
                sender.send_bytes(path.read_bytes())
            items = drain(source)
    finally:
        source.close()
    assert [frame.sequence for frame in frames(items)] == [0, 1, 2]
    assert all(frame.pixels.shape == (514, 1030) for frame in frames(items))
    assert account_for(items) == [(3, 3, 0, "")]


class _Answers(BaseHTTPRequestHandler):
    answers: dict[str, bytes]

    def do_GET(self) -> None:
        answer = self.answers.get(self.path)
        self.send_response(200 if answer is not None else 404)
        self.end_headers()
        self.wfile.write(answer or b"")

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def web() -> Iterator[tuple[str, dict[str, bytes]]]:
    """A control unit's web interface: its address and its answers."""
    handler = type("Handler", (_Answers,), {"answers": {}})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", handler.answers
        server.shutdown()
        thread.join()


def test_the_counter_is_read_in_the_version_that_the_control_unit_speaks(
    web: tuple[str, dict[str, bytes]],
) -> None:
    address, answers = web
    answers["/stream/api/version/"] = b'{"value": "1.9.0", "value_type": "string"}'
    answers["/stream/api/1.9.0/status/dropped"] = b'{"value": 3}'
    unit = ControlUnit(address, interval_s=60)
    assert unit.at_least(3)
    assert not unit.at_least(4)
    assert unit.read() == 3
    unit.close()


@pytest.mark.parametrize("answer", [b"", b"[]", b'{"value": "3"}', b'{"value": -1}', b"\xff" * 99])
def test_an_answer_that_makes_no_sense_is_none(
    web: tuple[str, dict[str, bytes]], answer: bytes
) -> None:
    address, answers = web
    answers["/stream/api/1.8.0/status/dropped"] = answer
    unit = ControlUnit(address, interval_s=60)
    assert unit.read() is None
    unit.close()


def test_a_control_unit_that_is_not_there_is_asked_in_vain() -> None:
    unit = ControlUnit("http://127.0.0.1:9", interval_s=0.01)
    assert unit.read() is None
    assert not unit.at_least(1)
    unit.close()


def test_the_counter_is_read_again_and_again(web: tuple[str, dict[str, bytes]]) -> None:
    address, answers = web
    answers["/stream/api/1.8.0/status/dropped"] = b'{"value": 7}'
    unit = ControlUnit(address, interval_s=0.01)
    threading.Event().wait(0.3)
    assert unit.last == 7
    unit.close()


def test_without_the_decompressor_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dectris.compression", None)
    with pytest.raises(SettingsError, match=r"hrtem-stream\[dectris\]"):
        DectrisSource("tcp://127.0.0.1:1")
