"""What `sort` hears, by marks, of the processes before it on whatever host they run."""

from __future__ import annotations

from dataclasses import replace

from hrtem_stream.messages import Mark, Station

FORGOTTEN_S = 300.0
"""A process that is silent for so long is spoken of no more."""
LEFT_S = 2.0
"""The same for one that had said that it was leaving."""


class Stations:
    """The processes that marks have passed."""

    def __init__(self) -> None:
        self._heard: dict[tuple[str, int, str, int], tuple[Station, float]] = {}
        self._newest: dict[int, tuple[int, bool]] = {}
        """By shard: number of the newest mark, and whether it came by a worker that leaves."""

    @property
    def leaving(self) -> frozenset[int]:
        """Shards whose worker leaves, or has left with no other one in its place since."""
        return frozenset(shard for shard, (_, leaves) in self._newest.items() if leaves)

    def note(self, mark: Mark, now_s: float) -> None:
        """Take in a mark."""
        for station in mark.stations:
            place = (station.stage, station.index, station.host, station.pid)
            self._heard[place] = (station, now_s)
        shard, pub = mark.delivery.shard, mark.delivery.pub
        if mark.stations and pub >= self._newest.get(shard, (pub, False))[0]:
            self._newest[shard] = (pub, mark.stations[-1].is_leaving)

    def told(self, now_s: float) -> list[Station]:
        """Give each process with the time since it was heard of, by stage and number."""
        self._heard = {
            place: (station, heard_s)
            for place, (station, heard_s) in self._heard.items()
            if now_s - heard_s < (LEFT_S if station.is_leaving else FORGOTTEN_S)
        }
        return [
            replace(station, age_s=now_s - heard_s)
            for _, (station, heard_s) in sorted(self._heard.items())
        ]
