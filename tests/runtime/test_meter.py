"""Metrics: one port, loopback, health beside it, and names that Prometheus accepts."""

from __future__ import annotations

import shutil
import subprocess
import time
import urllib.error
import urllib.request

import pytest

from hrtem_stream.runtime.meter import Meter


def _get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def _busy_meter() -> Meter:
    meter = Meter("sort")
    meter.count_lost("missing at the feed", 2)
    meter.count_rejected("size")
    meter.count_switch("backlog")
    meter.count_faulty()
    meter.frame_age_seconds.observe(0.01)
    return meter


def test_metrics_and_health_are_served_on_one_port() -> None:
    meter = _busy_meter()
    port = meter.serve("127.0.0.1", 0)
    status, text = _get(port, "/metrics")
    assert status == 200
    assert 'hrtem_frames_lost_total{reason="missing at the feed",stage="sort"} 2.0' in text
    assert 'hrtem_ledger_imbalance{stage="sort"} 0.0' in text
    assert "hrtem_build_info" in text
    assert _get(port, "/healthz") == (200, "ok\n")


def test_health_fails_when_the_loop_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter("sort")
    port = meter.serve("127.0.0.1", 0)
    meter.beat_s = time.monotonic() - 60
    assert _get(port, "/healthz")[0] == 503


def test_a_taken_port_gives_way_to_a_free_one(caplog: pytest.LogCaptureFixture) -> None:
    first = Meter("sort").serve("127.0.0.1", 0)
    second = Meter("sort").serve("127.0.0.1", first)
    assert second not in (0, first)
    assert "a free one is taken" in caplog.text


def test_promtool_finds_nothing_to_say_about_the_metrics() -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    port = _busy_meter().serve("127.0.0.1", 0)
    text = _get(port, "/metrics")[1]
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, text=True, capture_output=True, check=False
    )
    complaints = [line for line in checked.stderr.splitlines() if line.startswith("hrtem_")]
    assert complaints == []
