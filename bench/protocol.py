"""The delivery protocol in simulated time: many workers, hosts and delays, messages lost, deaths.

    python -m bench protocol -- [--frames N] [--json FILE] [--measured FILE] [--output PNG]

`Dispatcher`, `MarkPace` and `Receipt` are those of the program, and the numbers of its stages, too;
simulated are time, the links, the work, and when the loops of `ingest` and `sort` turn. A lane is a
link with a worker at its end, which does one frame after the other. Not simulated: batches of
frames, bandwidth, what the processes and machines beside cost each other.

`bench/relay.py` measures the same with the real processes; the picture shows both.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hrtem_stream.messages import Delivery
from hrtem_stream.stages.ingest import ACKNOWLEDGEMENT_WAIT_S, DUE_INTERVAL_S
from hrtem_stream.stages.sort import IDLE_FLUSH_S, STATE_INTERVAL_S
from hrtem_stream.transport.delivery import Acknowledgement, Dispatcher, Receipt
from hrtem_stream.transport.log_format import LoggedRecord
from hrtem_stream.transport.mark_pace import MarkPace


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One worker and the link to it and back."""

    service_s: float
    """For a frame."""
    delay_s: float = 0.0
    """To the worker, and again from it to `sort`."""
    delay_back_s: float | None = None
    loss: float = 0.0
    """Share of messages, frames and marks, lost on the way to the worker."""
    life_s: float = math.inf
    """Mean time until the worker is killed, and loses what has reached it."""
    restart_s: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is simulated; defaults are those of the settings, and the processor times measured."""

    lanes: tuple[Lane, ...]
    n_frames: int = 2000
    window: int = 256
    rate: float = math.inf
    """Frames a second that are offered; infinite: always another one, as of a recording."""
    ingest_s: float = 0.7e-3
    normalise_s: float = 0.0
    """For a frame, one after the other, before they are divided among the lanes."""
    sort_s: float = 0.0
    acknowledgement_delay_s: float = 0.0
    acknowledgement_loss: float = 0.0
    mark_interval_s: float = 0.1
    stall_s: float = 1.0
    flush_frames: int = 32
    flush_s: float = 0.05
    seed: int = 1
    limit_s: float = 1e5


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of it. The rate is that between a tenth and nine tenths of the frames."""

    frames_per_s: float
    redelivered: float
    """Publications beyond the first, for each frame."""
    duplicates: float
    """Frames that reached `sort` again, for each frame: work done twice."""
    latency_p50_s: float
    latency_p99_s: float
    """From first publication to flushed."""
    n_settled: int
    n_deaths: int


def simulate(case: Case) -> Outcome:
    """Let a series through.

    Raises
    ------
    RuntimeError
        Not all frames were settled within `limit_s` of simulated time.
    """
    return _Simulation(case).run()


class _Simulation:
    """Events in order of time; each is a function of no arguments."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._rng = random.Random(case.seed)
        self._now_s = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self._ingest = _Ingest(case, self)
        self._workers = [_Worker(lane, self) for lane in case.lanes]
        self._sort = _Sort(case, self)
        self._normalised_s = 0.0

    def run(self) -> Outcome:
        case = self._case
        self.at(0.0, self._ingest.turn)
        self.at(0.0, self._sort.turn)
        while self._events and not self._ingest.is_done:
            self._now_s, _, event = heapq.heappop(self._events)
            if self._now_s > case.limit_s:
                raise RuntimeError(f"only {self._sort.n_settled} frames in {case.limit_s:g} s")
            event()
        settled_s = np.array(self._sort.settled_s)
        low, high = case.n_frames // 10, case.n_frames * 9 // 10
        latency_s = settled_s - np.array(self._ingest.published_s)
        return Outcome(
            frames_per_s=float((high - low) / max(settled_s[high - 1] - settled_s[low - 1], 1e-9)),
            redelivered=self._ingest.n_republished / case.n_frames,
            duplicates=self._sort.n_duplicates / case.n_frames,
            latency_p50_s=float(np.quantile(latency_s, 0.5)),
            latency_p99_s=float(np.quantile(latency_s, 0.99)),
            n_settled=self._sort.n_settled,
            n_deaths=sum(worker.n_deaths for worker in self._workers),
        )

    @property
    def now_s(self) -> float:
        return self._now_s

    def at(self, when_s: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (max(when_s, self._now_s), next(self._number), event))

    def is_lost(self, share: float) -> bool:
        return share > 0 and self._rng.random() < share

    def lifetime(self, mean_s: float) -> float:
        return self._rng.expovariate(1 / mean_s)

    def publish(self, delivery: Delivery, sent_s: float) -> None:
        """Through `normalise`, and down the lane."""
        work_s = 0.0 if delivery.ordinal < 0 else self._case.normalise_s
        self._normalised_s = max(self._normalised_s, sent_s) + work_s
        worker = self._workers[delivery.shard]
        if not self.is_lost(worker.lane.loss):
            when_s = self._normalised_s + worker.lane.delay_s
            self.at(when_s, lambda: worker.take(delivery))

    def arrive(self, delivery: Delivery) -> None:
        self._sort.take(delivery)

    def acknowledge(self, state: Acknowledgement) -> None:
        if not self.is_lost(self._case.acknowledgement_loss):
            when_s = self._now_s + self._case.acknowledgement_delay_s
            self.at(when_s, lambda: self._ingest.hear(state))


class _Ingest:
    """Turns when an acknowledgement comes, when a frame is due, and otherwise each 20 ms."""

    def __init__(self, case: Case, simulation: _Simulation) -> None:
        self._case = case
        self._simulation = simulation
        self._dispatcher = Dispatcher(
            log_id=1, generation=1, base=0, n_shards=len(case.lanes), window=case.window,
            stall_s=case.stall_s,
        )  # fmt: skip
        self._pace = MarkPace(interval_s=case.mark_interval_s)
        self._inbox: deque[Acknowledgement] = deque()
        self._checked_s = 0.0
        self._free_s = 0.0
        self._opened_s = math.inf
        self._due_s = math.inf
        self.published_s: list[float] = []

    @property
    def is_done(self) -> bool:
        return self._dispatcher.base >= self._case.n_frames

    @property
    def n_republished(self) -> int:
        return self._dispatcher.n_republished

    def hear(self, state: Acknowledgement) -> None:
        self._inbox.append(state)
        self._turn_at(self._free_s)

    def turn(self) -> None:
        now_s = self._simulation.now_s
        self._due_s = math.inf
        heard = bool(self._inbox)
        while self._inbox:
            self._dispatcher.take(self._inbox.popleft(), now_s)
        if heard or now_s >= self._checked_s + DUE_INTERVAL_S:
            self._checked_s = now_s
            for _, delivery in self._dispatcher.due(now_s):
                self._send(delivery)
        if self._dispatcher.open_shards:
            self._opened_s = min(self._opened_s, now_s)
        while self._is_offered(now_s) and self._dispatcher.may_publish():
            record = _record(len(self.published_s))
            self.published_s.append(now_s)
            self._send(self._dispatcher.publish(record, now_s))
        for mark in self._pace.due(self._dispatcher, now_s):
            self._simulation.publish(mark.delivery, self._free_s)
        self._turn_at(min(now_s + ACKNOWLEDGEMENT_WAIT_S, self._next_offer_s(now_s)))

    def _is_offered(self, now_s: float) -> bool:
        n = len(self.published_s)
        return n < self._case.n_frames and self._offer_s(n) <= now_s

    def _offer_s(self, n: int) -> float:
        return self._opened_s + (0.0 if math.isinf(self._case.rate) else n / self._case.rate)

    def _next_offer_s(self, now_s: float) -> float:
        n = len(self.published_s)
        if n >= self._case.n_frames or not self._dispatcher.may_publish():
            return math.inf
        return max(now_s, self._offer_s(n))

    def _send(self, delivery: Delivery) -> None:
        self._free_s = max(self._free_s, self._simulation.now_s) + self._case.ingest_s
        self._simulation.publish(delivery, self._free_s)

    def _turn_at(self, when_s: float) -> None:
        when_s = max(when_s, self._free_s)
        if when_s < self._due_s:
            self._due_s = when_s
            self._simulation.at(when_s, lambda: self.turn() if when_s == self._due_s else None)


class _Worker:
    """Does what reaches it in order; dies now and then, and what it had is lost."""

    def __init__(self, lane: Lane, simulation: _Simulation) -> None:
        self.lane = lane
        self.n_deaths = 0
        self._simulation = simulation
        self._free_s = 0.0
        self._up_s = 0.0
        if not math.isinf(lane.life_s):
            simulation.at(simulation.lifetime(lane.life_s), self._die)

    def take(self, delivery: Delivery) -> None:
        now_s = self._simulation.now_s
        if now_s < self._up_s:
            return
        work_s = 0.0 if delivery.ordinal < 0 else self.lane.service_s
        self._free_s = max(self._free_s, now_s) + work_s
        life = self.n_deaths
        self._simulation.at(self._free_s, lambda: self._give(delivery, life))

    def _give(self, delivery: Delivery, life: int) -> None:
        if life == self.n_deaths:
            back_s = self.lane.delay_back_s
            back_s = self.lane.delay_s if back_s is None else back_s
            simulation = self._simulation
            simulation.at(simulation.now_s + back_s, lambda: simulation.arrive(delivery))

    def _die(self) -> None:
        self.n_deaths += 1
        self._up_s = self._free_s = self._simulation.now_s + self.lane.restart_s
        self._simulation.at(self._up_s + self._simulation.lifetime(self.lane.life_s), self._die)


class _Sort:
    """Encodes one frame after the other, flushes in order, says what it has."""

    def __init__(self, case: Case, simulation: _Simulation) -> None:
        self._case = case
        self._simulation = simulation
        self._flush_frames = max(1, min(case.flush_frames, case.window // 4))
        self._receipt = Receipt(incarnation=1)
        self._ready: set[int] = set()
        self._n_encoding = 0
        self._free_s = 0.0
        self._flushed_s = 0.0
        self._told_s = 0.0
        self._is_marked = False
        self._due_s = math.inf
        self.settled_s: list[float] = []

    @property
    def n_settled(self) -> int:
        return len(self.settled_s)

    @property
    def n_duplicates(self) -> int:
        return self._receipt.n_duplicates

    def take(self, delivery: Delivery) -> None:
        if self._receipt.is_new_log(delivery):
            self._receipt.begin_log(delivery)
        is_new = self._receipt.take(delivery)
        if delivery.ordinal < 0:
            self._is_marked = True
        elif is_new:
            self._n_encoding += 1
            self._free_s = max(self._free_s, self._simulation.now_s) + self._case.sort_s
            self._simulation.at(self._free_s, lambda: self._note_encoded(delivery.ordinal))
        self.turn()

    def turn(self) -> None:
        now_s = self._simulation.now_s
        self._due_s = math.inf
        settled = self._flush(now_s)
        if settled or self._is_marked or now_s >= self._told_s + STATE_INTERVAL_S:
            if self._receipt.log_id != -1:
                state = self._receipt.state()
                self._simulation.acknowledge(Acknowledgement.decode(state.encode()))
            self._told_s = now_s
            self._is_marked = False
        self._turn_at(min(self._told_s + STATE_INTERVAL_S, self._next_flush_s()))

    def _note_encoded(self, ordinal: int) -> None:
        self._n_encoding -= 1
        self._ready.add(ordinal)
        self.turn()

    def _leading(self) -> list[int]:
        leading: list[int] = []
        while (
            len(leading) < self._flush_frames and self._receipt.base + len(leading) in self._ready
        ):
            leading.append(self._receipt.base + len(leading))
        return leading

    def _flush(self, now_s: float) -> bool:
        leading = self._leading()
        is_due = leading and (
            len(leading) >= self._flush_frames
            or self._is_marked
            or now_s >= self._flushed_s + self._flush_interval_s()
        )
        if not is_due:
            return False
        self._receipt.settle(leading)
        self._ready.difference_update(leading)
        self.settled_s += [now_s] * len(leading)
        self._flushed_s = now_s
        return True

    def _flush_interval_s(self) -> float:
        return self._case.flush_s if self._n_encoding else IDLE_FLUSH_S

    def _next_flush_s(self) -> float:
        leading = self._leading()
        if not leading:
            return math.inf
        if len(leading) >= self._flush_frames:
            return self._simulation.now_s
        return self._flushed_s + self._flush_interval_s()

    def _turn_at(self, when_s: float) -> None:
        if when_s < self._due_s:
            self._due_s = when_s
            self._simulation.at(when_s, lambda: self.turn() if when_s == self._due_s else None)


def _record(ordinal: int) -> LoggedRecord:
    return LoggedRecord(
        ordinal=ordinal, offset=0, kind=1, meta=b"", account=b"", n_pixel_bytes=0, span=0, digest=0
    )


SMALL = (Lane(service_s=0.02, delay_back_s=0.0), Lane(service_s=0.06, delay_back_s=0.0))
"""What `bench/relay.py` measures: two unequal workers, and a link that is slow one way."""
SMALL_DELAYS_S = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8)
SMALL_WINDOWS = (32, 8)
LOSSES = (0.0, 0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5)
LOSSY_DELAY_S = 0.02
BUSY_S = 0.05
"""What each hop takes longer where processes wait for a processor."""
LARGE_WORKERS = 64
LARGE_SERVICE_S = 0.01
LARGE_WINDOWS = (256, 1024, 4096)
LARGE_DELAYS_S = (0.0005, 0.005, 0.02, 0.05, 0.1)
MORTAL = (Lane(service_s=0.05, delay_s=0.0005),) * 16
MORTAL_WINDOWS = (64, 256, 1024)
DEATHS_S = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
"""Mean time between deaths somewhere among all workers."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.protocol", description=__doc__)
    parser.add_argument("--frames", type=int, default=1000, help="of a point; of many workers: 4 x")
    parser.add_argument("--json", type=Path, default=Path("bench/results/protocol.json"))
    parser.add_argument("--measured", type=Path, default=Path("bench/results/relay.json"))
    parser.add_argument("--output", type=Path, default=Path("docs/protocol.png"))
    options = parser.parse_args()
    found = curves(options.frames)
    options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    measured: list[dict[str, Any]] = []
    if options.measured.exists():
        measured = json.loads(options.measured.read_text(encoding="utf-8"))["points"]
    draw(found, measured, options.output)


def curves(n_frames: int) -> dict[str, list[dict[str, Any]]]:
    """Simulate all curves of the picture; each point says what was asked and what came of it."""
    small = Case(lanes=SMALL, n_frames=n_frames)
    large = Case(
        lanes=(Lane(service_s=LARGE_SERVICE_S, delay_s=0.0005),) * LARGE_WORKERS,
        n_frames=4 * n_frames, ingest_s=0.0,
    )  # fmt: skip
    return {
        "delay": [
            _point(replace(small, window=window, lanes=_lanes(SMALL, delay_s=delay_s)),
                   window=window, delay_s=delay_s)
            for window in SMALL_WINDOWS for delay_s in SMALL_DELAYS_S
        ],
        "loss": [
            _point(replace(small, window=32, lanes=_lanes(SMALL, delay_s=LOSSY_DELAY_S, loss=loss)),
                   loss=loss)
            for loss in LOSSES
        ],
        "loss, busy": [
            _point(replace(small, window=32, lanes=_lanes(
                SMALL, delay_s=LOSSY_DELAY_S + BUSY_S, delay_back_s=BUSY_S, loss=loss,
            ), acknowledgement_delay_s=BUSY_S), loss=loss)
            for loss in LOSSES
        ],
        "many workers": [
            _point(replace(large, window=window, lanes=_lanes(large.lanes, delay_s=delay_s)),
                   window=window, delay_s=delay_s)
            for window in LARGE_WINDOWS for delay_s in LARGE_DELAYS_S
        ],
        "deaths": [
            _point(
                Case(
                    lanes=_lanes(MORTAL, life_s=len(MORTAL) * every_s),
                    window=window, n_frames=5 * n_frames,
                ),
                window=window, every_s=every_s,
            )
            for window in MORTAL_WINDOWS for every_s in DEATHS_S
        ],
    }  # fmt: skip


def _lanes(lanes: tuple[Lane, ...], **changes: float) -> tuple[Lane, ...]:
    return tuple(replace(lane, **changes) for lane in lanes)


def _point(case: Case, **asked: float) -> dict[str, Any]:
    return {**asked, **asdict(simulate(case))}


def draw(
    found: dict[str, list[dict[str, Any]]], measured: list[dict[str, Any]], output: Path
) -> None:
    """Draw the curves, and what was measured with the real processes as points."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(11, 7.5), layout="constrained")
    delay, loss, many, deaths = axes.flat
    for n, window in enumerate(SMALL_WINDOWS):
        _line(delay, _of(found["delay"], window), "delay_s", f"window {window}, simulated", n)
        points = [one for one in _of(measured, window) if not one["loss"]]
        delay.plot(*_xy(points, "delay_s", "frames_per_s"), f"C{n}o", label="measured")
    delay.set(title="two workers, 20 and 60 ms a frame", xlabel="delay to them, s",
              ylabel="frames/s", ylim=(0, None))  # fmt: skip
    points = sorted((one for one in measured if one["loss"]), key=lambda one: one["loss"])
    _line(loss, found["loss"], "loss", "frames/s, simulated", 0)
    loss.plot(
        *_xy(found["loss, busy"], "loss", "frames_per_s"), "C0--", label="and 50 ms more a hop"
    )
    loss.plot(*_xy(points, "loss", "frames_per_s"), "C0o", label="measured, busy machine")
    loss.set(title="the same, window 32, delay 20 ms", xlabel="share of messages lost",
             ylabel="frames/s", ylim=(0, None))  # fmt: skip
    again = loss.twinx()
    again.plot(*_xy(found["loss"], "loss", "redelivered"), "C1-", label="sent again, simulated")
    again.plot(*_xy(points, "loss", "redelivered"), "C1s", label="measured")
    again.set(ylabel="publications beyond the first, a frame", ylim=(0, None))
    again.legend(loc="lower right", fontsize=8)
    for n, window in enumerate(LARGE_WINDOWS):
        _line(many, _of(found["many workers"], window), "delay_s", f"window {window}", n)
    for n, window in enumerate(MORTAL_WINDOWS):
        _line(deaths, _of(found["deaths"], window), "every_s", f"window {window}", n)
    workers = f"{LARGE_WORKERS} workers of {LARGE_SERVICE_S * 1e3:.0f} ms a frame, simulated"
    many.set(title=workers, xlabel="delay each way, s", ylabel="frames/s", ylim=(0, None))
    deaths.set(title="16 workers of 50 ms, killed, back after 2 s; simulated",
               xlabel="time between deaths, s", ylabel="frames/s", xscale="log",
               ylim=(0, None))  # fmt: skip
    for one in axes.flat:
        one.legend(fontsize=8, loc="lower left")
    delay.legend(fontsize=8, loc="upper right")
    figure.savefig(output, dpi=90)


def _of(points: list[dict[str, Any]], window: int) -> list[dict[str, Any]]:
    return [one for one in points if one["window"] == window]


def _xy(points: list[dict[str, Any]], x: str, y: str) -> tuple[list[float], list[float]]:
    return [one[x] for one in points], [one[y] for one in points]


def _line(axis: Any, points: list[dict[str, Any]], x: str, label: str, color: int) -> None:
    axis.plot(*_xy(points, x, "frames_per_s"), f"C{color}.-", label=label)


if __name__ == "__main__":
    main()
