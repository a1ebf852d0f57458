"""The delivery guarantee, as two state machines without sockets or clocks.

`Dispatcher`, in `ingest`, decides what is published, on which shard, and when again. `Receipt`, in
`sort`, decides what is new, what comes next, and what is acknowledged. Between them lie stages
that keep the order within a shard and may die, stall or repeat at any moment.

Every publication carries a number `pub` and its shard. `sort` tells with each acknowledgement the
highest `pub` met on each shard, the horizon. A record whose newest `pub` lies below the horizon of
its shard and which `sort` does not have is lost, and is published again; no clock is involved.
Marks move the horizon while records are outstanding. A shard that returns nothing for `stall_s`
while another does gives its records away.

A shard opens when a mark has come back over it, so a worker may join at any time. One that is to
leave says so in the marks that it passes on. Its shard gets nothing more, and the marks that then
follow are the last: whatever lies before one on the shard has been worked on when it arrives.

`sort` has a record in one of two ways: settled (flushed into the archive, below `base` as archives
are written in order) or held (received by this incarnation of `sort`, not yet flushed). Only what
is settled leaves the window.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import msgpack

from hrtem_stream.errors import WireError
from hrtem_stream.messages import Delivery, Mark
from hrtem_stream.transport.log_format import LoggedRecord

STATE_VERSION = 2
MAX_HELD = 65_536
GENERATION_SHIFT = 40
_ALL = 2**63
"""Above every `pub`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledgement:
    """What `sort` says it has: a state, repeated, never an event."""

    log_id: int
    incarnation: int
    """Identity of the `sort` process: what an earlier one held is gone."""
    base: int
    """Every ordinal below is flushed into the archive."""
    held: bytes
    """Bit i (least significant first) tells whether ordinal base + i is held."""
    horizon: dict[int, int]
    """Highest `pub` met on each shard."""
    n_duplicates: int = 0
    leaving: frozenset[int] = frozenset()
    """Shards whose worker is leaving, or has left."""

    @property
    def end(self) -> int:
        """First of the ordinals of which none is held."""
        return self.base + 8 * len(self.held)

    def has(self, ordinal: int) -> bool:
        """Tell whether a record is settled or held."""
        bit = ordinal - self.base
        return bit < 0 or (bit >> 3 < len(self.held) and bool(self.held[bit >> 3] >> (bit & 7) & 1))

    def encode(self) -> bytes:
        """Give the wire form: a msgpack array."""
        content = [
            STATE_VERSION, self.log_id, self.incarnation, self.base, self.held,
            list(self.horizon.items()), self.n_duplicates, sorted(self.leaving),
        ]  # fmt: skip
        packed: bytes = msgpack.packb(content)
        return packed

    @classmethod
    def decode(cls, packed: bytes) -> Acknowledgement:
        """Read the wire form.

        Raises
        ------
        WireError
            It is not one.
        """
        try:
            version, log_id, incarnation, base, held, horizon, n_duplicates, leaving = (
                msgpack.unpackb(packed)
            )
            if version != STATE_VERSION:
                raise WireError("version", f"acknowledgement version must be {STATE_VERSION}")
            numbers = [
                log_id,
                incarnation,
                base,
                n_duplicates,
                *(n for pair in horizon for n in pair),
                *leaving,
            ]
            if not (all(type(n) is int for n in numbers) and isinstance(held, bytes)):
                raise ValueError("fields must be integers and bytes")
            return cls(
                log_id=log_id, incarnation=incarnation, base=base, held=held,
                horizon=dict(horizon), n_duplicates=n_duplicates, leaving=frozenset(leaving),
            )  # fmt: skip
        except (TypeError, ValueError, msgpack.exceptions.UnpackException) as error:
            raise WireError("envelope", f"acknowledgement: {error}") from None


@dataclass(slots=True)
class _Outstanding:
    record: LoggedRecord
    delivery: Delivery


@dataclass(slots=True)
class _Shard:
    n_outstanding: int = 0
    horizon: int = -1
    moved_s: float = 0.0
    """When the horizon last moved, or records were first sent after a quiet time."""
    service_s: float = 1e-3
    """Mean time between returns while busy."""
    measured_s: float = 0.0
    n_returned: int = 0
    returned: set[int] = field(default_factory=set)
    suspended: bool = True
    """Nothing has come back over it yet, or it stalled and is silent since, or its worker leaves:
    it gets nothing."""
    is_leaving: bool = False


class Dispatcher:
    """The publishing end: window, shards, horizons, re-publication.

    Parameters
    ----------
    log_id
        Identity of the frame log.
    generation
        Number of this writer of the log; makes `pub` grow over restarts.
    base
        First ordinal that is not known to be in the archive.
    n_shards
        Number of segment workers.
    window
        Records outstanding at most.
    stall_s
        After this time without a return, while another shard returns, a shard's records are given
        away.
    """

    def __init__(
        self,
        *,
        log_id: int,
        generation: int,
        base: int,
        n_shards: int,
        window: int,
        stall_s: float,
    ) -> None:
        self.log_id = log_id
        self.base = base
        self.window = window
        self.n_republished = 0
        self._stall_s = stall_s
        self._pub = generation << GENERATION_SHIFT
        self._outstanding: dict[int, _Outstanding] = {}
        """By ordinal, in their order."""
        self._shards = [_Shard() for _ in range(n_shards)]
        self._last: Acknowledgement | None = None

    @property
    def n_outstanding(self) -> int:
        """Records published and not yet settled."""
        return len(self._outstanding)

    @property
    def is_open(self) -> bool:
        """Tell whether every shard has shown that it leads to `sort`."""
        return not any(shard.suspended for shard in self._shards)

    def may_publish(self) -> bool:
        """Tell whether the window has room and some shard is known to be open to its end."""
        if len(self._outstanding) >= self.window:
            return False
        return any(not shard.suspended for shard in self._shards)

    def publish(self, record: LoggedRecord, now_s: float) -> Delivery:
        """Take a record, the next in order, into the window and say how it is to be published."""
        shard = self._quickest()
        if not self._shards[shard].n_outstanding:
            self._shards[shard].moved_s = self._shards[shard].measured_s = now_s
            self._shards[shard].n_returned = 0
        delivery = Delivery(
            log_id=self.log_id, ordinal=record.ordinal, offset=record.offset,
            pub=self._next_pub(), shard=shard, floor=self.base, digest=record.digest,
        )  # fmt: skip
        self._outstanding[record.ordinal] = _Outstanding(record, delivery)
        self._shards[shard].n_outstanding += 1
        return delivery

    def take(self, state: Acknowledgement, now_s: float) -> None:
        """Take in an acknowledgement; one of another log only tells that `sort` lives."""
        if state.log_id != self.log_id:
            self._last = replace(state, base=self.base, held=b"", horizon={})
            return
        self._last = state
        for shard, pub in state.horizon.items():
            if 0 <= shard < len(self._shards) and pub > self._shards[shard].horizon:
                self._shards[shard].horizon = pub
                self._shards[shard].moved_s = now_s
                self._shards[shard].suspended = False
        for number, known in enumerate(self._shards):
            known.is_leaving = number in state.leaving
            known.suspended |= known.is_leaving
        self._count_returns(state, now_s)
        for ordinal in self._below(state.base):
            self._forget(ordinal)
        self.base = max(self.base, state.base)

    def due(self, now_s: float) -> list[tuple[LoggedRecord, Delivery]]:
        """Give the records that are lost, or stuck on a stalled shard, with new deliveries."""
        if self._last is None:
            return []
        stalled = self._stalled(now_s)
        # Of a stalled shard everything counts as overtaken.
        horizons = [
            _ALL if number in stalled else shard.horizon
            for number, shard in enumerate(self._shards)
        ]
        again = [
            ordinal
            for ordinal, entry in self._outstanding.items()
            if entry.delivery.pub < horizons[entry.delivery.shard] and not self._last.has(ordinal)
        ]
        for shard in stalled:
            self._shards[shard].moved_s = now_s
            self._shards[shard].suspended = True
        return [self._again(ordinal, now_s) for ordinal in again]

    @property
    def n_shards(self) -> int:
        """Number of shards."""
        return len(self._shards)

    @property
    def open_shards(self) -> list[int]:
        """Shards that are known to lead to `sort`."""
        return [number for number, shard in enumerate(self._shards) if not shard.suspended]

    @property
    def busy_shards(self) -> list[int]:
        """Shards on which something is outstanding, or that are being left."""
        return [
            n for n, shard in enumerate(self._shards) if shard.n_outstanding or shard.is_leaving
        ]

    def marks(self, shards: Iterable[int] | None = None, *, is_last: bool = False) -> list[Mark]:
        """Give a mark for each of the shards; for every one if none are named.

        It is the last one where the worker leaves, or if all is over.
        """
        return [
            Mark(
                delivery=Delivery(
                    log_id=self.log_id, ordinal=-1, offset=0,
                    pub=self._next_pub(), shard=shard, floor=self.base,
                ),
                is_last=is_last or self._shards[shard].is_leaving,
            )
            for shard in (range(len(self._shards)) if shards is None else shards)
        ]  # fmt: skip

    def _again(self, ordinal: int, now_s: float) -> tuple[LoggedRecord, Delivery]:
        entry = self._outstanding[ordinal]
        self._leave_shard(ordinal, entry)
        shard = self._quickest()
        if not self._shards[shard].n_outstanding:
            self._shards[shard].moved_s = self._shards[shard].measured_s = now_s
        self._shards[shard].n_outstanding += 1
        entry.delivery = replace(
            entry.delivery, pub=self._next_pub(), shard=shard, floor=self.base,
            attempt=entry.delivery.attempt + 1,
        )  # fmt: skip
        self.n_republished += 1
        return entry.record, entry.delivery

    def _stalled(self, now_s: float) -> set[int]:
        waiting = [
            number
            for number, shard in enumerate(self._shards)
            if shard.n_outstanding and now_s - shard.moved_s >= self._stall_s
        ]
        alive = any(now_s - shard.moved_s < self._stall_s for shard in self._shards)
        return set(waiting) if alive and len(waiting) < len(self._shards) else set()

    def _quickest(self) -> int:
        """Choose the shard with the shortest expected delay."""
        every = range(len(self._shards))
        return min(
            [number for number in every if not self._shards[number].suspended] or every,
            key=lambda n: (self._shards[n].n_outstanding + 1) * self._shards[n].service_s,
        )

    def _count_returns(self, state: Acknowledgement, now_s: float) -> None:
        """Free the shards of what came back, and learn how fast each one is."""
        for ordinal in self._below(state.end):
            shard = self._shards[self._outstanding[ordinal].delivery.shard]
            if ordinal not in shard.returned and state.has(ordinal):
                shard.returned.add(ordinal)
                shard.n_outstanding -= 1
                shard.n_returned += 1
        for shard in self._shards:
            busy_s = now_s - shard.measured_s
            if shard.n_returned and busy_s > 0.02:
                measured = busy_s / shard.n_returned
                shard.service_s += 0.3 * (measured - shard.service_s)
                shard.n_returned = 0
                shard.measured_s = now_s

    def _below(self, ordinal: int) -> list[int]:
        """List the outstanding records below one: they were published in order."""
        return list(
            itertools.takewhile(lambda outstanding: outstanding < ordinal, self._outstanding)
        )

    def _leave_shard(self, ordinal: int, entry: _Outstanding) -> None:
        shard = self._shards[entry.delivery.shard]
        if ordinal in shard.returned:
            shard.returned.discard(ordinal)
        else:
            shard.n_outstanding -= 1

    def _forget(self, ordinal: int) -> None:
        self._leave_shard(ordinal, self._outstanding.pop(ordinal))

    def _next_pub(self) -> int:
        self._pub += 1
        return self._pub


class Receipt:
    """The receiving end: what is new, what comes next, what is settled."""

    def __init__(self, *, incarnation: int) -> None:
        self.log_id = -1
        self.base = 0
        self.n_duplicates = 0
        self.n_foreign = 0
        self._incarnation = incarnation
        self._held: set[int] = set()
        self._horizon: dict[int, int] = {}
        self._retired: set[int] = set()

    def is_new_log(self, delivery: Delivery) -> bool:
        """Tell whether a message comes from a log that was not heard of before."""
        return delivery.log_id != self.log_id and delivery.log_id not in self._retired

    def begin_log(self, delivery: Delivery) -> None:
        """Forget the present log and follow another one, from the base that it states."""
        if self.log_id != -1:
            self._retired.add(self.log_id)
        self.log_id = delivery.log_id
        self.base = delivery.floor
        self._held.clear()
        self._horizon.clear()

    def take(self, delivery: Delivery) -> bool:
        """Take in a message of the present log; tell whether its record is new.

        A floor above `base` means that an earlier incarnation had settled more than was known
        here: `base` follows it, and what the caller keeps below `base` is to be forgotten.
        """
        if delivery.log_id != self.log_id:
            self.n_foreign += 1
            return False
        if delivery.floor > self.base:
            self.base = delivery.floor
            self._held = {ordinal for ordinal in self._held if ordinal >= self.base}
        self._horizon[delivery.shard] = max(
            delivery.pub, self._horizon.get(delivery.shard, delivery.pub)
        )
        if delivery.ordinal < 0:
            return False
        if delivery.ordinal < self.base or delivery.ordinal in self._held:
            self.n_duplicates += 1
            return False
        if delivery.ordinal >= self.base + MAX_HELD:
            self.n_foreign += 1
            return False
        self._held.add(delivery.ordinal)
        return True

    def drop(self, ordinal: int) -> None:
        """Give back a record that could not be used after all, so that it is sent again."""
        self._held.discard(ordinal)

    def settle(self, ordinals: Iterable[int]) -> None:
        """Note that records are flushed into the archive; they follow each other from `base`.

        Raises
        ------
        ValueError
            An ordinal is not the next one.
        """
        for ordinal in ordinals:
            if ordinal != self.base:
                raise ValueError(f"ordinal must be {self.base}, the next one, got {ordinal}")
            self._held.discard(ordinal)
            self.base += 1

    def state(self, *, leaving: frozenset[int] = frozenset()) -> Acknowledgement:
        """Say what is settled, held and met, and which shards are being left."""
        held = bytearray()
        if self._held:
            held = bytearray((max(self._held) - self.base >> 3) + 1)
            for ordinal in self._held:
                bit = ordinal - self.base
                held[bit >> 3] |= 1 << (bit & 7)
        return Acknowledgement(
            log_id=self.log_id, incarnation=self._incarnation, base=self.base, held=bytes(held),
            horizon=dict(self._horizon), n_duplicates=self.n_duplicates, leaving=leaving,
        )  # fmt: skip
