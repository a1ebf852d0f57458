"""What systemd and Prometheus are told, and what the host says of itself."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import generate_latest

from hrtem_stream.runtime.host_meter import Gpus, HostCollector, host_registry
from hrtem_stream.runtime.notify import notify
from hrtem_stream.runtime.targets import TargetFile


def test_systemd_hears_a_state(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        assert notify("READY=1", environment={"NOTIFY_SOCKET": address})
        assert systemd.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", ["", "relative", "/nowhere/at/all"])
def test_without_systemd_nobody_hears(address: str) -> None:
    assert not notify("READY=1", environment={"NOTIFY_SOCKET": address})


def _groups(path: Path) -> list[Any]:
    return json.loads(path.read_text())


def test_targets_are_listed_with_session_and_process(tmp_path: Path) -> None:
    path = tmp_path / "targets" / "live.json"
    targets = TargetFile(path, session="live")
    targets.write({"sort": "127.0.0.1:9312"})
    assert _groups(path) == [
        {"targets": ["127.0.0.1:9312"], "labels": {"session": "live", "process": "sort"}}
    ]
    targets.write({"ingest": "127.0.0.1:9310"})  # sort is being started again just now
    assert [group["labels"]["process"] for group in _groups(path)] == ["ingest", "sort"]
    assert [p.name for p in path.parent.iterdir()] == ["live.json"]
    targets.remove()
    assert not path.exists()
    targets.remove()


def test_a_list_that_has_not_changed_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "live.json"
    targets = TargetFile(path, session="live")
    targets.write({"sort": "a:1"})
    path.write_text("untouched")
    targets.write({"sort": "a:1"})
    assert path.read_text() == "untouched"


def test_the_host_says_what_it_has(tmp_path: Path) -> None:
    text = generate_latest(host_registry(tmp_path, lambda: {"sort": 3})).decode()
    for name in (
        'hrtem_host_cpu_seconds_total{mode="user"}', "hrtem_host_cpus", "hrtem_host_memory_bytes",
        "hrtem_host_memory_available_bytes", "hrtem_disk_free_bytes", "hrtem_disk_size_bytes",
        'hrtem_process_restarts_total{process="sort"} 3.0', "hrtem_gpus",
    ):  # fmt: skip
        assert f"\n{name}" in text


class NVMLError(Exception):
    pass


def _power(device: int) -> int:
    raise NVMLError


def test_a_gpu_says_what_it_can(tmp_path: Path) -> None:
    nvml = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetMemoryInfo=lambda device: SimpleNamespace(used=2**30, total=2**33),
        nvmlDeviceGetUtilizationRates=lambda device: SimpleNamespace(gpu=75),
        nvmlDeviceGetTemperature=lambda device, sensor: 60,
        nvmlDeviceGetPowerUsage=_power,
    )
    collector = HostCollector(tmp_path, restarts=dict, gpus=Gpus(nvml, 1))
    samples = {
        (s.name, *s.labels.values()): s.value for m in collector.collect() for s in m.samples
    }
    assert samples["hrtem_gpus",] == 1
    assert samples["hrtem_gpu_busy_ratio", "0"] == 0.75
    assert samples["hrtem_gpu_memory_used_bytes", "0"] == 2**30
    assert ("hrtem_gpu_power_watts", "0") not in samples
