"""What the processes of a session say of themselves: heartbeat and metrics, read from outside.

Reading costs a stage one answer on its metrics port, as a scrape by Prometheus does, however many
people look on.
"""

from __future__ import annotations

import http.client
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from hrtem_stream.runtime.heart import read_beat

TIMEOUT_S = 0.5
MAX_BYTES = 1 << 20

Labelled = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One process at one moment."""

    pid: int = 0
    """0 when no such process ever was on this host."""
    is_alive: bool = False
    beat_age_s: float = math.inf
    n_done: int = 0
    n_expected: int = 0
    host: str = ""
    """Name of another host that it runs on; empty for this one."""
    index: int = 0
    """Which of several of its stage; known of other hosts only."""
    is_leaving: bool = False
    """Whether it was told to stop; known of other hosts only."""
    values: Mapping[str, float] = field(default_factory=dict)
    """Metrics without further labels, by name without `hrtem_` and `_total`."""
    labelled: Labelled = field(default_factory=dict)
    """Metrics with one further label: values by label."""

    def value(self, name: str) -> float:
        """Return a metric, 0 where it is not known."""
        return self.values.get(name, 0.0)


def read_process(heart: Path, *, host: str = "127.0.0.1", token: str | None = None) -> Reading:
    """Read the heartbeat of a process and, where it serves them, its metrics.

    Parameters
    ----------
    heart
        File of the heartbeat.
    host, token
        Interface of the metrics, and what they ask for off loopback.
    """
    beat = read_beat(heart)
    if not beat.pid:
        return Reading()
    is_alive = Path(f"/proc/{beat.pid}").exists()
    text = _fetch(host, beat.metrics_port, token) if is_alive and beat.metrics_port else ""
    values, labelled = parse_metrics(text)
    age_s = (time.monotonic_ns() - beat.beat_ns) / 1e9 if beat.beat_ns else math.inf
    return Reading(
        pid=beat.pid, is_alive=is_alive, beat_age_s=age_s, n_done=beat.n_done,
        n_expected=beat.n_expected, values=values, labelled=labelled,
    )  # fmt: skip


def parse_metrics(text: str) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Read the text format of Prometheus: plain values, and values by their one further label.

    What cannot be read is left out; histograms are taken by their sum and count.
    """
    values: dict[str, float] = {}
    labelled: dict[str, dict[str, float]] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if not sample.name.startswith("hrtem_") or sample.name.endswith("_created"):
                    continue
                name = sample.name.removeprefix("hrtem_").removesuffix("_total")
                further = [v for k, v in sample.labels.items() if k not in ("stage", "le")]
                if "le" in sample.labels:
                    continue
                if not further:
                    values[name] = sample.value
                elif len(further) == 1:
                    labelled.setdefault(name, {})[further[0]] = sample.value
    except ValueError:
        return values, labelled
    return values, labelled


def _fetch(host: str, port: int, token: str | None) -> str:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/metrics", headers=headers)
        return connection.getresponse().read(MAX_BYTES).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()
