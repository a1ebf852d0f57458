"""What an archive holds, as plain values for JSON."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from hrtem_stream.archive.reader import open_archive

N_BEST = 10
"""Rows listed as the best."""


def summary(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Summarise an archive.

    Raises
    ------
    ArchiveError
        If there is no such file, it is not an archive, or its tables are damaged.
    """
    with open_archive(path) as archive:
        # Not all scores: the texts of a million frames would take half a gigabyte.
        names = ("graphene_fraction", "method", "raw_bytes", "stored_bytes", "latency", "sequence")
        scores = {name: archive.score(name) for name in names}
        best = archive.ranking()[:N_BEST]
        ledger = archive.ledger
        return {
            "path": str(path),
            "series": ledger.series,
            "shape": list(archive.shape),
            "dtype": archive.dtype.str,
            "n_frames": len(archive),
            "codec": archive.header.codec,
            "keep": archive.header.keep,
            "complete": archive.is_complete,
            "ledger": asdict(ledger) | {"balanced": ledger.balanced},
            "methods": {"unet": 0, "bragg": 0, "none": 0} | Counter(scores["method"].tolist()),
            "n_faults": int(np.count_nonzero(archive.score("fault") != "")),
            "n_set_aside": len(archive.set_aside_rows),
            "raw_bytes": int(scores["raw_bytes"].sum()),
            "stored_bytes": int(scores["stored_bytes"].sum()),
            "file_bytes": Path(path).stat().st_size,
            "best": [
                {
                    "row": int(row),
                    "sequence": int(scores["sequence"][row]),
                    "name": archive.name(row),
                    "graphene_fraction": _number(scores["graphene_fraction"][row]),
                }
                for row in best
            ],
            "calibration": asdict(archive.calibration),
            "latency_s": {
                "p50": _percentile(scores["latency"], 50),
                "p99": _percentile(scores["latency"], 99),
            },
            "provenance": archive.header.provenance,
        }


def _percentile(values: Any, percent: float) -> float | None:
    return float(np.percentile(values, percent)) if len(values) else None


def _number(value: float) -> float | None:
    """Return a number that JSON knows; it has no NaN."""
    return float(value) if np.isfinite(value) else None
