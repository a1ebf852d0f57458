"""What `sort` hears of the processes before it."""

from __future__ import annotations

from hrtem_stream.messages import Delivery, Mark, Station
from hrtem_stream.stages.stations import Stations


def _mark(pub: int, *stations: Station, shard: int = 0) -> Mark:
    delivery = Delivery(log_id=1, ordinal=-1, offset=0, pub=pub, shard=shard, floor=0)
    return Mark(delivery=delivery, stations=stations)


def _worker(*, pid: int = 1, n_done: int = 0, is_leaving: bool = False) -> Station:
    return Station(
        stage="segment", index=0, host="gpu", pid=pid, n_done=n_done, is_leaving=is_leaving
    )


def test_each_process_is_told_once_with_the_time_since_it_was_heard_of() -> None:
    stations = Stations()
    stations.note(_mark(1, _worker(n_done=3)), 10.0)
    stations.note(_mark(2, _worker(n_done=5)), 11.0)
    (told,) = stations.told(12.5)
    assert (told.n_done, told.age_s) == (5, 1.5)


def test_a_shard_is_being_left_until_another_worker_passes_a_mark_on() -> None:
    stations = Stations()
    stations.note(_mark(1, _worker()), 0.0)
    assert stations.leaving == frozenset()
    stations.note(_mark(2, _worker(is_leaving=True)), 1.0)
    assert stations.leaving == {0}
    stations.note(_mark(1, _worker()), 1.1)  # an older one that came late says nothing
    assert stations.leaving == {0}
    stations.note(_mark(3, _worker(pid=2)), 2.0)
    assert stations.leaving == frozenset()


def test_a_process_that_left_is_soon_forgotten_and_a_silent_one_later() -> None:
    stations = Stations()
    stations.note(_mark(1, _worker(pid=1, is_leaving=True)), 0.0)
    stations.note(_mark(2, _worker(pid=2)), 0.0)
    assert [station.pid for station in stations.told(10.0)] == [2]
    assert stations.told(400.0) == []


def test_a_mark_that_has_passed_no_worker_changes_nothing() -> None:
    stations = Stations()
    stations.note(_mark(1), 0.0)
    assert (stations.told(0.0), stations.leaving) == ([], frozenset())
