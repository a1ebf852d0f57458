"""Metrics of the host and of the session as a whole, served by the supervisor.

Numbers are read when somebody asks. A host without a GPU says that it has none.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

logger = logging.getLogger(__name__)


class HostCollector:
    """What the host and the session's processes say at this moment.

    Parameters
    ----------
    folder
        Of the archives, whose disk is looked at.
    restarts
        Gives the restarts of each process so far.
    gpus
        The GPUs.
    """

    def __init__(
        self, folder: Path, *, restarts: Callable[[], Mapping[str, int]], gpus: Gpus
    ) -> None:
        self._folder = folder
        self._restarts = restarts
        self._gpus = gpus

    def collect(self) -> Iterator[Metric]:
        """Read all numbers."""
        yield from self._processors()
        yield from self._memory()
        yield from self._disk()
        yield from self._gpus.collect()
        restarts = CounterMetricFamily(
            "hrtem_process_restarts", "Restarts of a process of the session", labels=["process"]
        )
        for name, n_restarts in self._restarts().items():
            restarts.add_metric([name], n_restarts)
        yield restarts

    def _processors(self) -> Iterator[Metric]:
        times = psutil.cpu_times()
        seconds = CounterMetricFamily(
            "hrtem_host_cpu_seconds", "Processor time of the host", labels=["mode"]
        )
        for mode in ("user", "system", "iowait", "idle"):
            seconds.add_metric([mode], getattr(times, mode, 0.0))
        yield seconds
        count = GaugeMetricFamily("hrtem_host_cpus", "Processors of the host")
        count.add_metric([], psutil.cpu_count() or 1)
        yield count

    def _memory(self) -> Iterator[Metric]:
        memory = psutil.virtual_memory()
        for name, text, value in (
            ("hrtem_host_memory_bytes", "Memory of the host", memory.total),
            ("hrtem_host_memory_available_bytes", "Memory to be had", memory.available),
        ):
            gauge = GaugeMetricFamily(name, text)
            gauge.add_metric([], value)
            yield gauge

    def _disk(self) -> Iterator[Metric]:
        with contextlib.suppress(OSError):
            usage = shutil.disk_usage(self._folder)
            for name, text, value in (
                ("hrtem_disk_size_bytes", "Size of the disk of the archives", usage.total),
                ("hrtem_disk_free_bytes", "Room on the disk of the archives", usage.free),
            ):
                gauge = GaugeMetricFamily(name, text)
                gauge.add_metric([], value)
                yield gauge


class Gpus:
    """NVIDIA GPUs, asked through NVML; none where there is no driver."""

    def __init__(self, nvml: Any, n_gpus: int) -> None:
        self._nvml = nvml
        self._n_gpus = n_gpus

    @classmethod
    def found(cls) -> Gpus:
        """Look for GPUs; finding none is no error."""
        try:
            nvml = importlib.import_module("pynvml")
            nvml.nvmlInit()
            return cls(nvml, int(nvml.nvmlDeviceGetCount()))
        except ImportError:
            logger.debug("no GPU metrics: pip install 'hrtem-stream[gpu-metrics]'")
        except Exception as error:
            if type(error).__module__ != "pynvml":
                raise
            logger.debug("no GPU: %s", error)
        return cls(None, 0)

    def collect(self) -> Iterator[Metric]:
        """Read all GPUs."""
        count = GaugeMetricFamily("hrtem_gpus", "GPUs of the host")
        count.add_metric([], self._n_gpus)
        yield count
        families = {
            name: GaugeMetricFamily(f"hrtem_gpu_{name}", text, labels=["gpu"])
            for name, text in (
                ("busy_ratio", "Share of the time in which the GPU worked"),
                ("memory_used_bytes", "Memory in use on the GPU"),
                ("memory_bytes", "Memory of the GPU"),
                ("temperature_celsius", "Temperature of the GPU"),
                ("power_watts", "Power that the GPU draws"),
            )
        }
        for number in range(self._n_gpus):
            for name, value in self._read(number).items():
                families[name].add_metric([str(number)], value)
        yield from families.values()

    def _read(self, number: int) -> dict[str, float]:
        nvml = self._nvml
        device = nvml.nvmlDeviceGetHandleByIndex(number)
        memory = nvml.nvmlDeviceGetMemoryInfo(device)
        values = {"memory_used_bytes": float(memory.used), "memory_bytes": float(memory.total)}
        for name, read in (  # not every GPU tells each of these
            ("busy_ratio", lambda: nvml.nvmlDeviceGetUtilizationRates(device).gpu / 100),
            ("temperature_celsius", lambda: float(nvml.nvmlDeviceGetTemperature(device, 0))),
            ("power_watts", lambda: nvml.nvmlDeviceGetPowerUsage(device) / 1000),
        ):
            with contextlib.suppress(nvml.NVMLError):
                values[name] = read()
        return values


def host_registry(folder: Path, restarts: Callable[[], Mapping[str, int]]) -> CollectorRegistry:
    """Make the registry that the supervisor serves."""
    registry = CollectorRegistry()
    registry.register(HostCollector(folder, restarts=restarts, gpus=Gpus.found()))
    return registry
