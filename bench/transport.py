"""The transport with no-op stages: feed, a stage that passes frames on, and one that settles them.

Three processes, as in the pipeline: the frame log, publications by ZeroMQ, windows and
acknowledgements, digests taken. The stage maps each frame's pixels and hands its message on. The
feed cannot wait: a frame that finds the window or the log full is missed. Limit: how fast one
process copies a frame from memory into shared memory.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np

from bench.row import Row, in_turns, row
from hrtem_stream.messages import FrameHeader
from hrtem_stream.transport.delivery import Acknowledgement, Dispatcher, Receipt
from hrtem_stream.transport.frame_log import FrameLog, FrameLogReader
from hrtem_stream.transport.sockets import Publisher, Subscriber, make_context
from hrtem_stream.transport.wire import (
    FRAME_RECORD,
    RAW,
    decode,
    encode,
    encode_publication,
    encode_record,
)

SIDES = (512, 4096)
LOG_BYTES = 512 << 20
WINDOW = 1000
"""As many frames as the queues of pvaPy hold in `peers`."""
STATE_INTERVAL_S = 0.005
MARK_INTERVAL_S = 0.05
HIGH_WATER = 8192


def measure(seconds: float) -> list[Row]:
    """Measure the highest rate, 8 s each unless told otherwise."""
    rows = []
    for side in SIDES:
        rates, n_missed = hold(side, rate=None, seconds=seconds or 8.0)
        rows.append(
            row(
                f"transport, no-op stages, {side}² uint8, as fast as it goes, missed {n_missed} "
                "(limit: copying into shared memory)",
                rates, "frames/s", limit=copy_rate(side),
            )
        )  # fmt: skip
    return rows


def copy_rate(side: int) -> float:
    """Give how many frames a second one process copies into shared memory."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        target = np.memmap(Path(folder) / "copy", np.uint8, "w+", shape=(8, side * side))
        frame = np.random.default_rng(0).integers(0, 256, side * side, np.uint8)
        target[:] = 1

        def work() -> None:
            for slot in target:
                slot[...] = frame

        times = in_turns({"": work}, seconds=1.0)
        return 8e3 / float(np.median(times[""]))


def hold(side: int, *, rate: float | None, seconds: float) -> tuple[list[float], int]:
    """Send frames at a rate, or as fast as they are taken.

    Returns
    -------
    rates
        Frames settled in each second.
    n_missed
        Frames that found no room, or were not settled in the end.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        stop = context.Event()
        others = [context.Process(target=work, args=(folder, stop)) for work in (_stage, _settle)]
        for process in others:
            process.start()
        try:
            return _feed(Path(folder), side, rate, seconds)
        finally:
            stop.set()
            for process in others:
                process.join(10)


def _feed(folder: Path, side: int, rate: float | None, seconds: float) -> tuple[list[float], int]:
    log = FrameLog.create(folder / "log", LOG_BYTES)
    dispatcher = Dispatcher(
        log_id=log.log_id, generation=log.generation, base=0, n_shards=1, window=WINDOW, stall_s=5.0
    )
    with _sockets(folder, give="frames", take="acknowledged", binds=(True, False)) as (out, acks):
        frame = np.random.default_rng(0).integers(0, 256, (side, side), np.uint8)
        _open(dispatcher, out, acks)
        began = now_s = marked_s = time.monotonic()
        n_offered = n_sent = 0
        settled: list[tuple[float, int]] = [(began, 0)]
        while now_s - began < seconds or (
            dispatcher.n_outstanding and now_s - began < seconds + 10
        ):
            now_s = time.monotonic()
            _hear(dispatcher, log, acks, now_s)
            if now_s - settled[-1][0] >= 1.0:
                settled.append((now_s, dispatcher.base))
            if now_s - marked_s >= MARK_INTERVAL_S:
                marked_s = now_s
                for mark in dispatcher.marks():
                    out.send(encode(mark))
                for record, delivery in dispatcher.due(now_s):
                    out.send(encode_publication(delivery, record.meta, kind=RAW))
            is_due = now_s - began < seconds and (
                rate is None or n_offered < (now_s - began) * rate
            )
            has_room = dispatcher.may_publish() and log.fits(4096, frame.nbytes)
            if is_due and has_room:
                _publish(log, dispatcher, out, frame, n_sent, now_s)
                n_sent += 1
            elif not is_due or rate is None:
                acks.wait(0.001)
            n_offered += is_due and (has_room or rate is not None)
        return (
            [(n - m) / (b - a) for (a, m), (b, n) in pairwise(settled)],
            n_offered - dispatcher.base,
        )


def _publish(
    log: FrameLog, dispatcher: Dispatcher, out: Publisher, frame: np.ndarray, n: int, now_s: float
) -> None:
    header = FrameHeader(
        series="bench", series_id="bench", sequence=n, row=n, shape=frame.shape, dtype="|u1",
        digest=0, received_ns=time.time_ns(),
    )  # fmt: skip
    record = log.append(FRAME_RECORD, encode_record(header), b"", frame)
    out.send(encode_publication(dispatcher.publish(record, now_s), record.meta, kind=RAW))


def _open(dispatcher: Dispatcher, out: Publisher, acks: Subscriber) -> None:
    """Send marks until one has come all the way round."""
    while not dispatcher.may_publish():
        for mark in dispatcher.marks():
            out.send(encode(mark))
        acks.wait(0.02)
        while (parts := acks.receive()) is not None:
            dispatcher.take(Acknowledgement.decode(bytes(parts[-1])), time.monotonic())


def _hear(dispatcher: Dispatcher, log: FrameLog, acks: Subscriber, now_s: float) -> None:
    while (parts := acks.receive()) is not None:
        dispatcher.take(Acknowledgement.decode(bytes(parts[-1])), now_s)
        log.acknowledge(dispatcher.base)


def _stage(folder: str, stop: Event) -> None:
    reader = FrameLogReader(Path(folder) / "log")
    with _sockets(Path(folder), give="passed", take="frames", binds=(True, False)) as (out, inbox):
        while not stop.is_set():
            inbox.wait(0.1)
            while (parts := inbox.receive()) is not None:
                message = decode(parts)
                if hasattr(message, "header"):
                    delivery, header = message.delivery, message.header
                    reader.pixels(
                        delivery.log_id, delivery.ordinal, delivery.offset, header.dtype,
                        header.shape,
                    )  # fmt: skip
                out.send(parts)


def _settle(folder: str, stop: Event) -> None:
    receipt = Receipt(incarnation=os.getpid())
    told_s = 0.0
    with _sockets(Path(folder), give="acknowledged", take="passed", binds=(True, False)) as (
        out, inbox,
    ):  # fmt: skip
        while not stop.is_set():
            inbox.wait(STATE_INTERVAL_S)
            while (parts := inbox.receive()) is not None:
                delivery = decode(parts).delivery
                if receipt.is_new_log(delivery):
                    receipt.begin_log(delivery)
                if receipt.take(delivery) and delivery.ordinal == receipt.base:
                    receipt.settle([delivery.ordinal])
            if time.monotonic() - told_s >= STATE_INTERVAL_S and receipt.log_id != -1:
                out.send([b"state:", receipt.state().encode()])
                told_s = time.monotonic()


@contextlib.contextmanager
def _sockets(
    folder: Path, *, give: str, take: str, binds: tuple[bool, bool]
) -> Iterator[tuple[Publisher, Subscriber]]:
    context = make_context()
    out = Publisher(context, f"ipc://{folder}/{give}", bind=binds[0], high_water=HIGH_WATER)
    inbox = Subscriber(
        context, f"ipc://{folder}/{take}", bind=binds[1], topics=[b""], high_water=HIGH_WATER
    )
    try:
        yield out, inbox
    finally:
        out.close()
        inbox.close()
        context.term()
