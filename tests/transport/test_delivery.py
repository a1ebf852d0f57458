"""The delivery guarantee, between two state machines over a channel that loses and restarts."""

from __future__ import annotations

import random

import pytest

from hrtem_stream.errors import WireError
from hrtem_stream.messages import Delivery
from hrtem_stream.transport.delivery import Acknowledgement, Dispatcher, Receipt
from hrtem_stream.transport.log_format import LoggedRecord


def _record(ordinal: int) -> LoggedRecord:
    return LoggedRecord(ordinal, 64 * ordinal, 1, b"", b"", 0, 64, 0)


def _dispatcher(**changes: object) -> Dispatcher:
    arguments = {
        "log_id": 1, "generation": 1, "base": 0, "n_shards": 1, "window": 8, "stall_s": 1.0,
    }  # fmt: skip
    return Dispatcher(**{**arguments, **changes})  # type: ignore[arg-type]


def _open(dispatcher: Dispatcher, receipt: Receipt, now_s: float = 0.0) -> None:
    for mark in (mark.delivery for mark in dispatcher.marks()):
        if receipt.is_new_log(mark):
            receipt.begin_log(mark)
        receipt.take(mark)
    dispatcher.take(receipt.state(), now_s)


def test_nothing_is_published_before_a_mark_came_back_over_the_shard() -> None:
    dispatcher, receipt = _dispatcher(), Receipt(incarnation=5)
    assert not dispatcher.may_publish()
    _open(dispatcher, receipt)
    assert dispatcher.may_publish()
    assert dispatcher.is_open


def test_the_window_closes_at_its_size_and_opens_with_what_is_settled() -> None:
    dispatcher, receipt = _dispatcher(window=2), Receipt(incarnation=5)
    _open(dispatcher, receipt)
    deliveries = [dispatcher.publish(_record(ordinal), 0.0) for ordinal in range(2)]
    assert not dispatcher.may_publish()
    for delivery in deliveries:
        assert receipt.take(delivery)
    dispatcher.take(receipt.state(), 0.1)
    assert not dispatcher.may_publish(), "held is not settled"
    receipt.settle([0])
    dispatcher.take(receipt.state(), 0.2)
    assert dispatcher.may_publish()


def test_a_record_below_the_horizon_that_did_not_arrive_is_published_again() -> None:
    dispatcher, receipt = _dispatcher(), Receipt(incarnation=5)
    _open(dispatcher, receipt)
    dispatcher.publish(_record(0), 0.0)
    assert receipt.take(dispatcher.publish(_record(1), 0.0))
    dispatcher.take(receipt.state(), 0.1)
    again = dispatcher.due(0.1)
    assert [record.ordinal for record, _ in again] == [0]
    assert again[0][1].attempt == 2
    assert dispatcher.due(0.1) == [], "once, not again before the horizon moves"


def test_a_slow_stage_causes_no_repeat() -> None:
    dispatcher, receipt = _dispatcher(), Receipt(incarnation=5)
    _open(dispatcher, receipt)
    for ordinal in range(8):
        dispatcher.publish(_record(ordinal), 0.0)
    dispatcher.take(receipt.state(), 3600.0)
    assert dispatcher.due(3600.0) == []


def test_what_an_earlier_sort_held_is_published_again_to_its_successor() -> None:
    dispatcher, receipt = _dispatcher(), Receipt(incarnation=5)
    _open(dispatcher, receipt)
    receipt.take(dispatcher.publish(_record(0), 0.0))
    dispatcher.take(receipt.state(), 0.1)
    successor = Receipt(incarnation=6)
    _open(dispatcher, successor, 0.2)
    assert [record.ordinal for record, _ in dispatcher.due(0.2)] == [0]


def test_a_stalled_shard_gives_its_records_away_and_gets_none_until_it_moves() -> None:
    dispatcher, receipt = _dispatcher(n_shards=2), Receipt(incarnation=5)
    _open(dispatcher, receipt)
    deliveries = [dispatcher.publish(_record(ordinal), 0.0) for ordinal in range(4)]
    assert {delivery.shard for delivery in deliveries} == {0, 1}
    for delivery in deliveries:
        if delivery.shard == 1:
            receipt.take(delivery)
    dispatcher.take(receipt.state(), 1.5)
    again = dispatcher.due(1.5)
    assert {delivery.shard for _, delivery in again} == {1}
    assert len(again) == 2
    for ordinal in range(4, 8):
        assert dispatcher.publish(_record(ordinal), 1.6).shard == 1


def test_a_shard_that_is_being_left_gets_nothing_and_is_told_which_mark_is_the_last() -> None:
    dispatcher, receipt = _dispatcher(n_shards=2), Receipt(incarnation=5)
    _open(dispatcher, receipt)
    first = [dispatcher.publish(_record(ordinal), 0.0) for ordinal in range(2)]
    assert {delivery.shard for delivery in first} == {0, 1}
    dispatcher.take(receipt.state(leaving=frozenset({1})), 0.1)
    assert dispatcher.open_shards == [0]
    assert dispatcher.busy_shards == [0, 1]
    assert {dispatcher.publish(_record(ordinal), 0.1).shard for ordinal in range(2, 8)} == {0}
    assert [(m.delivery.shard, m.is_last) for m in dispatcher.marks()] == [(0, False), (1, True)]
    for delivery in first:  # what lay before the last mark was worked on
        assert receipt.take(delivery)
    dispatcher.take(receipt.state(leaving=frozenset({1})), 0.2)
    assert dispatcher.due(0.2) == []


def test_a_shard_whose_worker_came_back_is_opened_by_a_mark() -> None:
    dispatcher, receipt = _dispatcher(n_shards=2), Receipt(incarnation=5)
    _open(dispatcher, receipt)
    dispatcher.take(receipt.state(leaving=frozenset({1})), 0.1)
    assert dispatcher.open_shards == [0]
    _open(dispatcher, receipt, 0.2)
    assert dispatcher.open_shards == [0, 1]


def test_a_quicker_shard_gets_more() -> None:
    dispatcher, receipt = _dispatcher(n_shards=2, window=64), Receipt(incarnation=5)
    _open(dispatcher, receipt)
    waiting: dict[int, list[Delivery]] = {0: [], 1: []}
    counts = [0, 0]
    ordinal, settled = 0, 0
    arrived: set[int] = set()
    for step in range(4000):
        now_s = step * 0.002
        while dispatcher.may_publish():
            delivery = dispatcher.publish(_record(ordinal), now_s)
            waiting[delivery.shard].append(delivery)
            counts[delivery.shard] += step > 1000
            ordinal += 1
        for shard, period in ((0, 1), (1, 10)):
            if step % period == 0 and waiting[shard]:
                delivery = waiting[shard].pop(0)
                receipt.take(delivery)
                arrived.add(delivery.ordinal)
        while settled in arrived:
            receipt.settle([settled])
            settled += 1
        dispatcher.take(receipt.state(), now_s)
    assert counts[0] > 5 * counts[1] > 0


def test_a_floor_above_the_base_tells_a_new_sort_what_was_settled() -> None:
    receipt = Receipt(incarnation=5)
    first = Delivery(log_id=1, ordinal=7, offset=0, pub=9, shard=0, floor=3)
    receipt.begin_log(first)
    receipt.take(first)
    receipt.take(Delivery(log_id=1, ordinal=9, offset=0, pub=10, shard=0, floor=8))
    assert receipt.base == 8
    assert receipt.state().has(7)
    assert receipt.state().has(9)
    assert not receipt.state().has(8)


def test_duplicates_are_counted_and_not_taken() -> None:
    receipt = Receipt(incarnation=5)
    delivery = Delivery(log_id=1, ordinal=0, offset=0, pub=1, shard=0, floor=0)
    receipt.begin_log(delivery)
    assert receipt.take(delivery)
    assert not receipt.take(delivery)
    receipt.settle([0])
    assert not receipt.take(delivery)
    assert receipt.n_duplicates == 2


def test_messages_of_a_log_that_was_replaced_are_not_taken_back_to() -> None:
    receipt = Receipt(incarnation=5)
    old = Delivery(log_id=1, ordinal=0, offset=0, pub=1, shard=0, floor=0)
    new = Delivery(log_id=2, ordinal=0, offset=0, pub=1, shard=0, floor=0)
    receipt.begin_log(old)
    receipt.begin_log(new)
    assert not receipt.is_new_log(old)
    assert not receipt.take(old)
    assert receipt.n_foreign == 1


def test_settling_out_of_order_is_refused() -> None:
    receipt = Receipt(incarnation=5)
    with pytest.raises(ValueError, match="must be 0"):
        receipt.settle([1])


def test_an_acknowledgement_survives_the_wire() -> None:
    state = Acknowledgement(
        log_id=3, incarnation=4, base=5, held=b"\x05", horizon={0: 8, 2: 9}, n_duplicates=1
    )
    assert Acknowledgement.decode(state.encode()) == state


@pytest.mark.parametrize(
    "packed", [b"", b"\xc1", b"\x93\x01\x02\x03", b"\x97" + b"\xa1x" * 7, b"\xff" * 40]
)
def test_what_is_no_acknowledgement_is_refused(packed: bytes) -> None:
    with pytest.raises(WireError):
        Acknowledgement.decode(packed)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("n_shards", [1, 3])
def test_everything_is_settled_once_over_a_channel_that_loses_stalls_and_restarts(
    seed: int, n_shards: int
) -> None:
    """Random loss, dying workers that lose their queues, and a restarting sort and ingest."""
    rng = random.Random(seed)
    n_records, window = 300, 16
    generation, logged_base = 1, 0
    dispatcher = _dispatcher(n_shards=n_shards, window=window)
    receipt = Receipt(incarnation=0)
    queues: list[list[Delivery]] = [[] for _ in range(n_shards)]
    archived: list[int] = []
    held: set[int] = set()
    published = 0
    step = 0
    while len(archived) < n_records:
        step += 1
        assert step < 60_000, "no progress: something outstanding must mean something moves"
        now_s = step * 0.01
        if rng.random() < 0.004:  # a worker dies with what it holds
            queues[rng.randrange(n_shards)].clear()
        if rng.random() < 0.003:  # sort dies; what is flushed is in its file
            receipt, held = Receipt(incarnation=step), set()
        if rng.random() < 0.003:  # ingest dies; its log remembers the base
            generation += 1
            dispatcher = _dispatcher(
                n_shards=n_shards, window=window, generation=generation, base=logged_base
            )
            published = logged_base
        sent = [delivery for _, delivery in dispatcher.due(now_s)]
        while published < n_records and dispatcher.may_publish():
            sent.append(dispatcher.publish(_record(published), now_s))
            published += 1
        if step % 10 == 0:
            sent += [mark.delivery for mark in dispatcher.marks()]
        for delivery in sent:
            if rng.random() > 0.02:
                queues[delivery.shard].append(delivery)
        for queue in queues:
            for _ in range(rng.randrange(4)):
                if not queue:
                    break
                delivery = queue.pop(0)
                if receipt.is_new_log(delivery):
                    receipt.begin_log(delivery)
                if receipt.take(delivery):
                    held.add(delivery.ordinal)
                held = {ordinal for ordinal in held if ordinal >= receipt.base}
        while receipt.base in held:
            ordinal = receipt.base
            if ordinal >= len(archived):
                assert ordinal == len(archived)
                archived.append(ordinal)
            held.discard(ordinal)
            receipt.settle([ordinal])
        if receipt.log_id != -1 and rng.random() < 0.5:
            dispatcher.take(receipt.state(), now_s)
            logged_base = max(logged_base, dispatcher.base)
    assert archived == list(range(n_records))
