"""What processes say of themselves, as a part of a mark or of a message to watchers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from hrtem_stream.checked import checked_record
from hrtem_stream.errors import WireError
from hrtem_stream.messages import Delivery, Mark, Station
from hrtem_stream.transport.parts import MAX_META_BYTES, Part, pack, unpack

MAX_STATIONS_OF_A_MARK = 8
MAX_HOST_CHARACTERS = 64


def mark_meta(mark: Mark) -> bytes:
    """Give the meta of a mark; nothing where it is not the last and has passed no stage."""
    if not (mark.is_last or mark.stations):
        return b""
    return pack([mark.is_last, stations_to_wire(mark.stations)])


def read_mark(delivery: Delivery, meta: Part) -> Mark:
    """Read a mark; raises WireError if its meta is none."""
    if not len(meta):
        return Mark(delivery=delivery)
    content = unpack(meta, MAX_META_BYTES, "meta")
    if not (isinstance(content, list) and len(content) == 2 and type(content[0]) is bool):
        raise WireError("meta", "the meta of a mark must be a truth value and a list")
    stations = stations_from_wire(content[1], at_most=MAX_STATIONS_OF_A_MARK)
    return Mark(delivery=delivery, is_last=content[0], stations=stations)


def stations_to_wire(stations: Sequence[Station]) -> list[dict[str, Any]]:
    """Give processes as they lie in msgpack."""
    return [
        dataclasses.asdict(dataclasses.replace(station, host=station.host[:MAX_HOST_CHARACTERS]))
        for station in stations
    ]


def stations_from_wire(content: Any, *, at_most: int) -> tuple[Station, ...]:
    """Read processes; raises WireError if one is unsound, or there are too many."""
    if not (isinstance(content, list) and len(content) <= at_most):
        raise WireError("meta", f"there must be a list of at most {at_most} stations")
    try:
        stations = tuple(checked_record(Station(**fields)) for fields in content)
    except (TypeError, ValueError) as error:
        raise WireError("meta", f"station: {error}") from None
    if any(len(station.host) > MAX_HOST_CHARACTERS for station in stations):
        raise WireError("meta", f"the name of a host may have {MAX_HOST_CHARACTERS} characters")
    return stations
