"""Summaries of frames for the tests of the page."""

from __future__ import annotations

from typing import Any

import numpy as np

from hrtem_stream.messages import FrameSummary, SeriesStatus

SIDE = 32


def summary(row: int, fraction: float = 0.5, **changes: Any) -> FrameSummary:
    amorphous = np.zeros((SIDE, SIDE), bool)
    amorphous[:8] = True
    vacuum = np.zeros((SIDE, SIDE), bool)
    vacuum[-4:] = True
    known = {
        "series": "s", "series_id": "id", "sequence": row, "row": row, "name": "",
        "shape": (64, 64), "method": "unet", "fault": "", "graphene_fraction": fraction,
        "amorphous_fraction": 0.25, "vacuum_fraction": 0.1, "beam_off_fraction": 0.0,
        "confidence": 0.9, "agreement": float("nan"), "rank": 0, "latency_s": 0.01,
        "received_ns": 10**18, "amorphous": amorphous, "vacuum": vacuum,
        "thumbnail": np.random.default_rng(abs(row)).integers(0, 255, (SIDE, SIDE), np.uint8),
    }  # fmt: skip
    return FrameSummary(**(known | changes))


def status(**changes: Any) -> SeriesStatus:
    known = {
        "series": "s", "series_id": "id", "n_expected": None, "pixel_size_nm": 0.02,
        "n_archived": 0, "n_lost": 0, "lost_reason": "", "archive": "/nowhere/s.nxs",
        "is_closed": False,
    }  # fmt: skip
    return SeriesStatus(**(known | changes))
