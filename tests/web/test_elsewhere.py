"""Processes of other hosts among those of this one."""

from __future__ import annotations

from hrtem_stream.messages import Station
from hrtem_stream.runtime.readings import Reading
from hrtem_stream.web.elsewhere import elsewhere, rivals, with_elsewhere


def _station(*, pid: int, host: str, age_s: float = 0.2, index: int = 0) -> Station:
    return Station(stage="segment", index=index, host=host, pid=pid, n_done=3, age_s=age_s)


def test_a_process_of_this_host_is_not_counted_twice() -> None:
    own = {"segment": [Reading(pid=7, is_alive=True)]}
    stations = [_station(pid=7, host="here"), _station(pid=7, host="there")]
    assert elsewhere(own, stations, host="here") == [stations[1]]
    assert [(r.pid, r.host) for r in with_elsewhere(own, stations, host="here")["segment"]] == [
        (7, ""),
        (7, "there"),
    ]


def test_a_stage_that_runs_elsewhere_alone_takes_the_place_of_none() -> None:
    nobody = {"segment": [Reading()], "sort": [Reading()]}
    found = with_elsewhere(nobody, [_station(pid=7, host="there", age_s=9.0)], host="here")
    assert [(r.host, r.is_alive) for r in found["segment"]] == [("there", False)]
    assert found["sort"] == [Reading()]


def test_two_workers_of_one_shard_are_rivals() -> None:
    one = Reading(pid=1, is_alive=True, host="a", index=2)
    other = Reading(pid=2, is_alive=True, host="b", index=2)
    assert rivals([one, Reading(pid=3, is_alive=True, host="b", index=1), other]) == (one, other)
    assert rivals([one, Reading(pid=2, is_alive=True, host="b", index=2, is_leaving=True)]) is None
