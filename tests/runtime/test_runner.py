"""The runner: order, batches, suspects, messages that are not understood."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hrtem_stream.errors import LogError, WireError
from hrtem_stream.messages import (
    ControlRecord,
    Delivery,
    FrameHeader,
    Mark,
    RawFrame,
    SeriesEnd,
    Station,
)
from hrtem_stream.runtime.heart import Heart
from hrtem_stream.runtime.meter import Meter
from hrtem_stream.runtime.runner import Runner
from hrtem_stream.runtime.stage import Stage
from hrtem_stream.runtime.suspicion import Suspicions


@dataclass
class Stop:
    is_set: bool = True


@dataclass
class Part:
    """A message in the place of its bytes."""

    message: Any

    def __len__(self) -> int:
        return 1


class Inbox:
    def __init__(self, messages: Sequence[Any]) -> None:
        self._messages = deque(messages)

    def wait(self, timeout_s: float) -> bool:
        return bool(self._messages)

    def receive(self) -> Any:
        return [self._messages.popleft()] if self._messages else None


class Outbox:
    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, parts: Sequence[Any]) -> None:
        self.sent += [part.message for part in parts]


class Echo(Stage[RawFrame, RawFrame]):
    name = "echo"

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.passed_on: list[int] = []
        self.logs: list[int] = []
        self.overwritten: set[int] = set()

    def follow_log(self, log_id: int) -> None:
        self.logs.append(log_id)

    def process(self, batch: Sequence[RawFrame]) -> list[RawFrame]:
        ordinals = [frame.delivery.ordinal for frame in batch]
        if self.overwritten & set(ordinals):
            raise LogError("overwritten")
        self.batches.append(ordinals)
        return list(batch)

    def pass_on(self, frame: RawFrame, reason: str) -> RawFrame:
        self.passed_on.append(frame.delivery.ordinal)
        return frame


def _delivery(ordinal: int, pub: int) -> Delivery:
    return Delivery(log_id=1, ordinal=ordinal, offset=0, pub=pub, shard=0, floor=0)


def _frame(ordinal: int) -> RawFrame:
    header = FrameHeader(
        series="s", series_id="x", sequence=ordinal, row=ordinal, shape=(1, 1), dtype="|u1",
        received_ns=1,
    )  # fmt: skip
    return RawFrame(delivery=_delivery(ordinal, ordinal), header=header)


def _decode(parts: Sequence[Any]) -> Any:
    if parts[0] == "nonsense":
        raise WireError("meta", "nonsense")
    return parts[0]


def _station(n_done: int = 0, *, is_leaving: bool = True) -> Station:
    return Station(stage="echo", index=0, host="here", pid=7, n_done=n_done, is_leaving=is_leaving)


def _run(
    messages: Sequence[Any],
    folder: Path,
    *,
    stage: Echo | None = None,
    batch_frames: int = 4,
    **patience: float,
) -> tuple[Echo, list[Any], Meter]:
    stage = stage or Echo()
    outbox = Outbox()
    meter = Meter("segment")
    runner = Runner(
        stage, inbox=Inbox(messages), outbox=outbox, decode=_decode,
        encode=lambda message: [Part(message)],
        suspicions=Suspicions(folder / "s"), meter=meter, heart=Heart(folder / "heart"),
        stop=Stop(), batch_frames=batch_frames, batch_wait_s=0.0,  # type: ignore[arg-type]
        station=_station(is_leaving=False), **patience,
    )  # fmt: skip
    runner.run()
    return stage, outbox.sent, meter


def test_a_stage_makes_ready_for_a_log_when_its_first_mark_comes(tmp_path: Path) -> None:
    mark = Mark(delivery=_delivery(-1, 100))
    stage, _, _ = _run([mark, mark], tmp_path)
    assert (stage.logs, stage.batches) == ([1], [])
    _run([mark, _frame(0), mark], tmp_path, stage=stage)
    assert (stage.logs, stage.batches) == ([1, 1], [[0]])


def test_marks_and_records_keep_their_place_among_the_frames(tmp_path: Path) -> None:
    mark = Mark(delivery=_delivery(-1, 100))
    end = ControlRecord(delivery=_delivery(2, 101), record=SeriesEnd())
    messages = [_frame(0), mark, _frame(1), end, _frame(3)]
    sent = _run(messages, tmp_path)[1]
    assert [message.delivery for message in sent] == [message.delivery for message in messages]


def test_a_mark_tells_of_the_stages_that_it_has_passed(tmp_path: Path) -> None:
    before = Station(stage="normalise", index=0, host="there", pid=3, n_done=9)
    mark = Mark(delivery=_delivery(-1, 100), is_last=True, stations=(before,))
    (passed,) = _run([mark], tmp_path)[1]
    assert passed == Mark(delivery=mark.delivery, is_last=True, stations=(before, _station()))


def test_a_worker_that_is_to_leave_goes_at_the_last_mark_of_its_shard(tmp_path: Path) -> None:
    last = Mark(delivery=_delivery(-1, 100), is_last=True)
    began_s = time.monotonic()
    _, sent, _ = _run([_frame(0), last], tmp_path, patience_s=60.0)
    assert len(sent) == 2
    assert time.monotonic() - began_s < 30.0


def test_a_worker_that_hears_nothing_more_goes_when_its_patience_is_over(tmp_path: Path) -> None:
    began_s = time.monotonic()
    _run([_frame(0), Mark(delivery=_delivery(-1, 100))], tmp_path, patience_s=0.2)
    assert time.monotonic() - began_s >= 0.2


def test_a_worker_that_is_kept_busy_goes_when_its_time_is_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _run([_frame(n) for n in range(8)], tmp_path, patience_s=60.0, leave_within_s=0.0)
    assert "they are sent again" in caplog.text


def test_frames_are_worked_on_in_batches(tmp_path: Path) -> None:
    stage, _, _ = _run([_frame(n) for n in range(6)], tmp_path, batch_frames=4)
    assert stage.batches == [[0, 1, 2, 3], [4, 5]]


def test_a_message_that_is_not_understood_is_counted_and_dropped(tmp_path: Path) -> None:
    _, sent, meter = _run(["nonsense", _frame(0)], tmp_path)
    assert [message.delivery.ordinal for message in sent] == [0]
    value = meter.registry.get_sample_value(
        "hrtem_messages_rejected_total", {"stage": "segment", "reason": "meta"}
    )
    assert value == 1


def test_a_frame_that_was_overwritten_is_dropped_without_its_neighbours(tmp_path: Path) -> None:
    stage = Echo()
    stage.overwritten = {1}
    _, sent, _ = _run([_frame(n) for n in range(3)], tmp_path, stage=stage)
    assert [message.delivery.ordinal for message in sent] == [0, 2]


def test_suspects_are_worked_on_alone_and_the_condemned_not_at_all(tmp_path: Path) -> None:
    for _ in range(2):
        suspicions = Suspicions(tmp_path / "s")
        suspicions.follow_log(1)
        suspicions.note([1])
    suspicions = Suspicions(tmp_path / "s")
    suspicions.note([2])
    stage, sent, _ = _run([_frame(n) for n in range(4)], tmp_path)
    assert stage.passed_on == [1]
    assert sorted(stage.batches) == [[0, 3], [2]]
    assert [message.delivery.ordinal for message in sent] == [0, 1, 2, 3]


def test_an_exception_leaves_the_note_that_makes_its_frame_a_suspect(tmp_path: Path) -> None:
    class Broken(Echo):
        def process(self, batch: Sequence[RawFrame]) -> list[RawFrame]:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        _run([_frame(7)], tmp_path, stage=Broken())
    assert Suspicions(tmp_path / "s").is_suspect(7)
