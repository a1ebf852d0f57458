"""What `sort` tells watchers, on a socket that may drop: summaries of frames, states of series."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from hrtem_stream.checked import checked_record
from hrtem_stream.errors import WireError
from hrtem_stream.messages import FrameSummary, SeriesStatus, Station
from hrtem_stream.transport.parts import (
    MAX_META_BYTES,
    Part,
    bits,
    need_parts,
    pack,
    raw,
    read_array,
    read_bits,
    unpack,
    working_shape,
)
from hrtem_stream.transport.station_parts import stations_from_wire, stations_to_wire
from hrtem_stream.transport.wire import WIRE_VERSION

SUMMARY_TOPIC, STATUS_TOPIC, STATIONS_TOPIC = b"frame:", b"series:", b"stations:"
MAX_STATIONS = 512


def encode_summary(summary: FrameSummary) -> list[Part]:
    """Encode what watchers hear of a frame."""
    fields = {
        name: getattr(summary, name)
        for name in FrameSummary.__dataclass_fields__
        if name not in ("thumbnail", "amorphous", "vacuum")
    }
    return [
        SUMMARY_TOPIC,
        pack([WIRE_VERSION, list(summary.thumbnail.shape), fields]),
        raw(summary.thumbnail),
        bits(summary.amorphous),
        bits(summary.vacuum),
    ]


def decode_summary(parts: Sequence[Part]) -> FrameSummary:
    """Decode what `encode_summary` made; raises WireError as `decode` does."""
    need_parts(parts, 5)
    content = unpack(parts[1], MAX_META_BYTES, "meta")
    try:
        version, shape, fields = content
        if version != WIRE_VERSION:
            raise WireError("version", f"wire version must be {WIRE_VERSION}, got {version!r}")
        rows, columns = working_shape(shape)
        return checked_record(
            FrameSummary(
                **{**fields, "shape": tuple(fields["shape"])},
                thumbnail=read_array(parts[2], np.uint8, (rows, columns)),
                amorphous=read_bits(parts[3], (rows, columns)),
                vacuum=read_bits(parts[4], (rows, columns)),
            )
        )
    except (TypeError, ValueError, KeyError) as error:
        raise WireError("meta", f"summary: {error}") from None


def encode_status(status: SeriesStatus) -> list[Part]:
    """Encode what watchers hear of a series."""
    return [STATUS_TOPIC, pack([WIRE_VERSION, dataclasses.asdict(status)])]


def decode_status(parts: Sequence[Part]) -> SeriesStatus:
    """Decode what `encode_status` made; raises WireError as `decode` does."""
    need_parts(parts, 2)
    content = unpack(parts[1], MAX_META_BYTES, "meta")
    try:
        version, fields = content
        if version != WIRE_VERSION:
            raise WireError("version", f"wire version must be {WIRE_VERSION}, got {version!r}")
        return checked_record(SeriesStatus(**fields))
    except (TypeError, ValueError) as error:
        raise WireError("meta", f"status: {error}") from None


def encode_stations(stations: Sequence[Station]) -> list[Part]:
    """Encode what watchers hear of the processes that `sort` hears of."""
    return [STATIONS_TOPIC, pack([WIRE_VERSION, stations_to_wire(stations[:MAX_STATIONS])])]


def decode_stations(parts: Sequence[Part]) -> tuple[Station, ...]:
    """Decode what `encode_stations` made; raises WireError as `decode` does."""
    need_parts(parts, 2)
    content = unpack(parts[1], 4 * MAX_META_BYTES, "meta")
    if not (isinstance(content, list) and len(content) == 2):
        raise WireError("meta", "stations must come as a version and a list")
    if content[0] != WIRE_VERSION:
        raise WireError("version", f"wire version must be {WIRE_VERSION}, got {content[0]!r}")
    return stations_from_wire(content[1], at_most=MAX_STATIONS)
