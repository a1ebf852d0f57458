"""Messages that tests of the stages hand about."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrtem_stream.messages import Delivery, FrameHeader, NormalisedFrame, RawFrame, SegmentedFrame

SHAPE = (64, 64)


def delivery(ordinal: int = 0, **changes: Any) -> Delivery:
    fields = {"log_id": 1, "offset": 0, "pub": ordinal, "shard": 0, "floor": 0}
    return Delivery(ordinal=ordinal, **{**fields, **changes})


def header(row: int = 0, **changes: Any) -> FrameHeader:
    fields: dict[str, Any] = {
        "series": "s", "series_id": "id", "sequence": row, "shape": (128, 128), "dtype": "<u2",
        "received_ns": 1_000_000_000,
    }  # fmt: skip
    return FrameHeader(row=row, **{**fields, **changes})


def raw(row: int = 0, **changes: Any) -> RawFrame:
    return RawFrame(delivery=delivery(row), header=header(row, **changes))


def normalised(row: int = 0, image: NDArray[Any] | None = None, **changes: Any) -> NormalisedFrame:
    if image is None:
        image = np.random.default_rng(row).standard_normal(SHAPE)
    return NormalisedFrame(
        delivery=delivery(row), header=header(row, **changes), image=image.astype(np.float32),
        coefficients=np.ones((5, 5), np.float32), vacuum=np.zeros(SHAPE, np.bool_),
        beam_off=np.zeros(SHAPE, np.bool_), thumbnail=np.zeros(SHAPE, np.uint8),
    )  # fmt: skip


def segmented(row: int = 0, ordinal: int | None = None, **changes: Any) -> SegmentedFrame:
    amorphous = np.zeros(SHAPE, np.bool_)
    amorphous[: 8 + row] = True
    amorphous_fraction = float(amorphous.mean())
    return SegmentedFrame(
        delivery=delivery(row if ordinal is None else ordinal), header=header(row, **changes),
        amorphous=amorphous, vacuum=np.zeros(SHAPE, np.bool_), beam_off=np.zeros(SHAPE, np.bool_),
        coefficients=np.ones((5, 5), np.float32), thumbnail=np.zeros(SHAPE, np.uint8),
        method="bragg", graphene_fraction=1 - amorphous_fraction,
        amorphous_fraction=amorphous_fraction, vacuum_fraction=0.0, beam_off_fraction=0.0,
    )  # fmt: skip
