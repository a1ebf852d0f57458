"""When which shards are marked.

Marks move the horizon of busy shards, open shards whose worker has joined, and bring word of the
stages that they pass. There may be many spare shards, for workers that join later, so that one
without a worker is marked seldom once others lead on.
"""

from __future__ import annotations

import math

from hrtem_stream.messages import Mark
from hrtem_stream.transport.delivery import Dispatcher

OPENING_S = 0.02
"""While no shard is open: what waits for the first one waits for nothing else."""
JOINING_S = 0.5
"""Of a shard without a worker beside open ones: a worker that joins waits so long at most."""
IDLE_S = 0.5
"""Of an open shard on which nothing is outstanding."""


class MarkPace:
    """Keeps the time since the last mark of each shard.

    Parameters
    ----------
    interval_s
        Between two marks of a shard on which records are outstanding.
    """

    def __init__(self, *, interval_s: float) -> None:
        self._interval_s = interval_s
        self._marked_s: dict[int, float] = {}

    def due(self, dispatcher: Dispatcher, now_s: float) -> list[Mark]:
        """Give the marks that are due now."""
        busy, open_shards = set(dispatcher.busy_shards), set(dispatcher.open_shards)
        due = []
        for shard in range(dispatcher.n_shards):
            interval_s = self._interval_s if shard in busy else IDLE_S
            if shard not in open_shards | busy:
                interval_s = JOINING_S if open_shards else OPENING_S
            if now_s - self._marked_s.get(shard, -math.inf) >= interval_s:
                self._marked_s[shard] = now_s
                due.append(shard)
        return dispatcher.marks(due)
