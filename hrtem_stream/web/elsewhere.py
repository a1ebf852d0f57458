"""Processes of a session on other hosts, of which `sort` tells what marks have brought it.

Their heartbeats lie on hosts that cannot be looked at from here; but every mark that reaches `sort`
was passed on by a loop that turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from hrtem_stream.messages import Station
from hrtem_stream.runtime.readings import Reading

HEARD_S = 5.0
"""A process that passed no mark on for longer is not heard: marks come at least twice a second."""


def with_elsewhere(
    readings: Mapping[str, Sequence[Reading]], stations: Sequence[Station], *, host: str
) -> dict[str, list[Reading]]:
    """Add the processes of other hosts to the readings of this one, by stage.

    Parameters
    ----------
    readings
        By stage, with `pid` 0 where no such process ever was on this host.
    stations
        As `sort` tells them.
    host
        Name of this host.
    """
    found = {name: [r for r in group if r.pid] for name, group in readings.items()}
    for station in elsewhere(readings, stations, host=host):
        found.setdefault(station.stage, []).append(_reading(station))
    return {name: group or [Reading()] for name, group in found.items()}


def elsewhere(
    readings: Mapping[str, Sequence[Reading]], stations: Sequence[Station], *, host: str
) -> list[Station]:
    """Give the processes that are not among the readings of this host."""
    own = {(host, reading.pid) for group in readings.values() for reading in group}
    return [station for station in stations if (station.host, station.pid) not in own]


def rivals(readings: Sequence[Reading]) -> tuple[Reading, Reading] | None:
    """Give two workers of other hosts that serve the same shard, None where each has its own."""
    present = [r for r in readings if r.host and r.is_alive and not r.is_leaving]
    for one, other in combinations(present, 2):
        if one.index == other.index:
            return one, other
    return None


def _reading(station: Station) -> Reading:
    return Reading(
        pid=station.pid, is_alive=station.age_s <= HEARD_S, beat_age_s=station.age_s,
        n_done=station.n_done, host=station.host, index=station.index,
        is_leaving=station.is_leaving,
    )  # fmt: skip
