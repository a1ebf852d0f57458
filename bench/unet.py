"""Milliseconds per 256 × 256 image of both networks, for each engine, with 1 and 2 threads.

Run:  python bench/unet.py [--json bench/results/unet.json] [--rounds 7]

All engines take turns in each round, so that whatever else the machine does hits all of them
alike; the least and the median over the rounds are reported. `plain` is what torch does when
nothing is asked for; `segmenter` is what the pipeline runs. Beside them stand the machine's matrix
products, measured in the same rounds. With a GPU its engines follow, copies included.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hrtem_stream.unet.architecture import Config, build
from hrtem_stream.unet.fast import FastConfig
from hrtem_stream.unet.inference import UNetSegmenter
from hrtem_stream.unet.paper import PaperConfig

BATCH = 8
SIDE = 256
NETWORKS: dict[str, Config] = {"paper": PaperConfig(), "fast": FastConfig()}

Engine = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compiled", action="store_true", help="add torch.compile (a minute each)")
    arguments = parser.parse_args()
    images = np.random.default_rng(0).standard_normal((BATCH, SIDE, SIDE)).astype(np.float32)
    found: dict[str, dict[str, float]] = {}
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        engines = {
            f"{name} {engine}, {n_threads} thread(s)": run
            for name, config in NETWORKS.items()
            for engine, run in cpu_engines(config, images, compiled=arguments.compiled).items()
        }
        found |= measured(engines, n_images=BATCH, n_rounds=arguments.rounds)
        found |= peaks(n_threads, n_rounds=arguments.rounds)
    if torch.cuda.is_available():
        for name, config in NETWORKS.items():
            found |= gpu_engines(name, config, n_rounds=arguments.rounds)
    for name, values in found.items():
        line = "  ".join(f"{key} {value:9.3f}" for key, value in values.items())
        sys.stdout.write(f"{name:44s} {line}\n")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"machine": machine(), "results": found}, indent=1))


def cpu_engines(config: Config, images: np.ndarray, *, compiled: bool) -> dict[str, Engine]:
    """Return the engines to compare, each of which works on the whole batch."""
    torch.manual_seed(0)
    network = build(config).eval()
    batch = torch.from_numpy(images)[:, None]
    last = build(config).eval().to(memory_format=torch.channels_last)
    coarse = build(config).eval().to(torch.bfloat16, memory_format=torch.channels_last)
    segmenters = {
        name: UNetSegmenter(network, precision=precision, max_batch=BATCH)
        for name, precision in (
            ("segmenter float32", torch.float32),
            ("segmenter bfloat16", torch.bfloat16),
        )
    }
    engines: dict[str, Engine] = {
        "plain float32": lambda: _run(network, batch),
        "channels_last float32": lambda: _run(last, batch),
        "channels_last bfloat16": lambda: _run(coarse, batch),
        **{name: _segmenting(segmenter, images) for name, segmenter in segmenters.items()},
    }
    if compiled:
        fused = torch.compile(coarse)
        engines["compiled bfloat16"] = lambda: _run(fused, batch)
    return engines


def gpu_engines(name: str, config: Config, *, n_rounds: int) -> dict[str, dict[str, float]]:
    """Measure a GPU with host-to-device copies, and its memory."""
    found: dict[str, dict[str, float]] = {}
    for n_images in (8, 64, 256):
        images = np.random.default_rng(0).standard_normal((n_images, SIDE, SIDE), np.float32)
        torch.cuda.reset_peak_memory_stats()
        segmenter = UNetSegmenter(
            build(config), device="cuda", precision=torch.bfloat16, max_batch=n_images
        )
        key = f"{name} cuda bfloat16, batch {n_images}"
        found |= measured(
            {key: _segmenting(segmenter, images)}, n_images=n_images, n_rounds=n_rounds
        )
        found[key]["MiB"] = torch.cuda.max_memory_allocated() / 2**20
    return found


def measured(
    engines: dict[str, Engine], *, n_images: int, n_rounds: int
) -> dict[str, dict[str, float]]:
    """Return least and median milliseconds per image of each engine."""
    times: dict[str, list[float]] = {name: [] for name in engines}
    for n_round in range(n_rounds + 1):
        for name, run in engines.items():
            started = time.perf_counter()
            run()
            if n_round:
                times[name].append((time.perf_counter() - started) / n_images * 1e3)
    return {
        name: {"least_ms": min(each), "median_ms": statistics.median(each)}
        for name, each in times.items()
    }


def peaks(n_threads: int, *, n_rounds: int) -> dict[str, dict[str, float]]:
    """Return the speed of large matrix products in GFLOP/s."""
    n = 2048
    found = {}
    for precision in (torch.float32, torch.bfloat16):
        a = torch.randn(n, n).to(precision)
        best = float("inf")
        for _ in range(n_rounds + 1):
            started = time.perf_counter()
            a @ a
            best = min(best, time.perf_counter() - started)
        name = f"matrix product {precision}, {n_threads} thread(s)".replace("torch.", "")
        found[name] = {"best_gflop_per_s": 2 * n**3 / best * 1e-9}
    return found


def machine() -> dict[str, object]:
    """Describe where this ran."""
    return {
        "processor": _processor(),
        "n_cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
    }


def _processor() -> str:
    description = Path("/proc/cpuinfo")
    if description.exists():
        for line in description.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def _run(
    network: Callable[[torch.Tensor], torch.Tensor] | nn.Module, batch: torch.Tensor
) -> object:
    with torch.inference_mode():
        return network(batch)


def _segmenting(segmenter: UNetSegmenter, images: np.ndarray) -> Engine:
    return lambda: segmenter.segment(images)


if __name__ == "__main__":
    main()
