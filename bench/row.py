"""What every benchmark gives: rows of one form, and the machine they were measured on."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured quantity beside its reference and its limit, all in one unit.

    The name says what was measured and what reference and limit are.
    """

    name: str
    median: float
    low: float
    high: float
    unit: str
    reference: float | None = None
    ratio_to_reference: float | None = None
    limit: float | None = None
    ratio_to_limit: float | None = None


def row(
    name: str,
    values: Any,
    unit: str,
    *,
    reference: float | None = None,
    limit: float | None = None,
) -> Row:
    """Make a row of repeated measurements: median, and the range of the middle eight tenths."""
    numbers = np.atleast_1d(np.asarray(values, np.float64))
    low, median, high = (float(np.quantile(numbers, share)) for share in (0.1, 0.5, 0.9))
    return Row(
        name=name, median=median, low=low, high=high, unit=unit,
        reference=reference, ratio_to_reference=median / reference if reference else None,
        limit=limit, ratio_to_limit=median / limit if limit else None,
    )  # fmt: skip


def in_turns(
    works: Mapping[str, Callable[[], object]], *, seconds: float = 4.0, least: int = 5
) -> dict[str, NDArray[np.float64]]:
    """Time pieces of work in turns; return the processor time of each call, in milliseconds.

    In turns, so that what else the machine does hits all of them alike; the time of this thread's
    processor, so that waiting for it does not count.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(next(iter(times.values()))) < least:
        for name, work in works.items():
            began = time.thread_time_ns()
            work()
            times[name].append((time.thread_time_ns() - began) / 1e6)
    return {name: np.array(values) for name, values in times.items()}


def machine() -> dict[str, Any]:
    """Say where and under what load something was measured."""
    return {
        "processor": _processor(),
        "n_processors": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
        "when": time.strftime("%Y-%m-%d %H:%M", time.gmtime()) + " UTC",
    }


def report(rows: list[Row]) -> dict[str, Any]:
    """Give what `--json` prints."""
    return {"machine": machine(), "rows": [asdict(one) for one in rows]}


def line(one: Row) -> str:
    """Give a row for people."""
    text = f"{one.median:10.4g} {one.unit:9} ({one.low:.4g} to {one.high:.4g})"
    for word, value, ratio in (
        ("reference", one.reference, one.ratio_to_reference),
        ("limit", one.limit, one.ratio_to_limit),
    ):
        if value is not None and ratio is not None:
            text += f"  {word} {value:.4g} (ratio {ratio:.3g})"
    return f"{one.name}\n    {text}"


def _processor() -> str:
    for text in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if text.startswith("model name"):
            return text.partition(":")[2].strip()
    return platform.processor()
