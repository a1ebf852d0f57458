"""When which shards are marked."""

from __future__ import annotations

from hrtem_stream.transport.delivery import Dispatcher, Receipt
from hrtem_stream.transport.log_format import LoggedRecord
from hrtem_stream.transport.mark_pace import IDLE_S, JOINING_S, OPENING_S, MarkPace


def _dispatcher(n_shards: int) -> Dispatcher:
    return Dispatcher(log_id=1, generation=1, base=0, n_shards=n_shards, window=8, stall_s=1.0)


def _shards(pace: MarkPace, dispatcher: Dispatcher, now_s: float) -> list[int]:
    return [mark.delivery.shard for mark in pace.due(dispatcher, now_s)]


def _open(dispatcher: Dispatcher, receipt: Receipt, shard: int) -> None:
    (mark,) = dispatcher.marks([shard])
    if receipt.is_new_log(mark.delivery):
        receipt.begin_log(mark.delivery)
    receipt.take(mark.delivery)
    dispatcher.take(receipt.state(), 0.0)


def test_while_no_shard_is_open_all_are_asked_in_haste() -> None:
    pace, dispatcher = MarkPace(interval_s=0.1), _dispatcher(3)
    assert _shards(pace, dispatcher, 0.0) == [0, 1, 2]
    assert _shards(pace, dispatcher, OPENING_S / 2) == []
    assert _shards(pace, dispatcher, OPENING_S * 1.1) == [0, 1, 2]


def test_spare_shards_cost_little_and_a_busy_one_is_marked_at_its_interval() -> None:
    pace, dispatcher = MarkPace(interval_s=0.1), _dispatcher(3)
    _open(dispatcher, Receipt(incarnation=1), 1)
    assert _shards(pace, dispatcher, 1.0) == [0, 1, 2]
    dispatcher.publish(LoggedRecord(0, 0, 1, b"", b"", 0, 64, 0), 1.0)
    assert _shards(pace, dispatcher, 1.11) == [1]
    assert _shards(pace, dispatcher, 1.22) == [1]
    assert _shards(pace, dispatcher, 1.01 + max(IDLE_S, JOINING_S)) == [0, 1, 2]
