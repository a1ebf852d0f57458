"""Milliseconds per 256 × 256 image of both networks, for each engine, with 1 and 2 threads.

Run:  python -m bench.unet [--json bench/results/unet.json --rounds 7]

All engines take turns in each round, so that whatever else the machine does hits all of them
alike; the least and the median over the rounds are reported, and the median of the processor time,
which other work disturbs least. `plain` is what torch does when nothing is asked for; `segmenter`
is what the pipeline runs, on a processor one image at a time. Beside them stand the machine's
matrix products, measured in the same run, and the share of them that the network's arithmetic
reaches. With a GPU its engines follow, copies to it and back included.
"""

from __future__ import annotations

import argparse
import itertools
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

from bench.row import Row, row
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
        times = measured(engines, n_images=BATCH, n_rounds=arguments.rounds)
        peak = peaks(n_threads, n_rounds=arguments.rounds)
        found |= times | peak | ratios(times, peak, n_threads)
    if torch.cuda.is_available():
        for name, config in NETWORKS.items():
            found |= gpu_engines(name, config, n_rounds=arguments.rounds)
    for name, values in found.items():
        line = "  ".join(f"{key} {value:9.3f}" for key, value in values.items())
        sys.stdout.write(f"{name:44s} {line}\n")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps({"machine": machine(), "results": found}, indent=1))


def measure(seconds: float) -> list[Row]:
    """Measure what ships on a processor beside the paper's network in plain torch, one thread."""
    images = np.random.default_rng(0).standard_normal((BATCH, SIDE, SIDE)).astype(np.float32)
    torch.set_num_threads(1)
    plain = cpu_engines(PaperConfig(), images, compiled=False)["plain float32"]
    fast = cpu_engines(FastConfig(), images, compiled=False)
    engines = {
        "plain": plain,
        "bfloat16": fast["segmenter bfloat16"],
        "float32": fast["segmenter float32"],
    }
    times: dict[str, list[float]] = {name: [] for name in engines}
    end = time.monotonic() + (seconds or 15.0)
    for n_round in itertools.count():
        for name, run in engines.items():
            began = time.process_time()
            run()
            if n_round:
                times[name].append((time.process_time() - began) / BATCH * 1e3)
        if time.monotonic() > end and n_round >= 3:
            break
    reference = statistics.median(times["plain"])
    return [
        row(
            f"U-Net fast, {name}, 256² image, one thread "
            "(reference: the paper's network in plain torch)",
            times[name], "ms", reference=reference,
        )
        for name in ("bfloat16", "float32")
    ]  # fmt: skip


def cpu_engines(config: Config, images: np.ndarray, *, compiled: bool) -> dict[str, Engine]:
    """Return the engines to compare, each of which works on the whole batch."""
    torch.manual_seed(0)
    network = build(config).eval()
    batch = torch.from_numpy(images)[:, None]
    last = build(config).eval().to(memory_format=torch.channels_last)
    coarse = build(config).eval().to(torch.bfloat16, memory_format=torch.channels_last)
    segmenters = {
        f"segmenter {words}": UNetSegmenter(network, precision=precision, max_batch=max_batch)
        for words, precision, max_batch in (
            ("float32", torch.float32, 1),
            ("bfloat16", torch.bfloat16, 1),
            ("bfloat16, batch 8", torch.bfloat16, BATCH),
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
    for batch in (8, 64, 256):
        n_images = 8 * batch  # several batches, so that copies go on beside the work
        images = np.random.default_rng(0).standard_normal((n_images, SIDE, SIDE), np.float32)
        torch.cuda.reset_peak_memory_stats()
        segmenter = UNetSegmenter(
            build(config), device="cuda", precision=torch.bfloat16, max_batch=batch
        )
        key = f"{name} cuda bfloat16, batch {batch}"
        found |= measured(
            {key: _segmenting(segmenter, images)}, n_images=n_images, n_rounds=n_rounds
        )
        found[key]["images_per_s"] = 1e3 / found[key]["median_ms"]
        found[key]["MiB"] = torch.cuda.max_memory_allocated() / 2**20
    return found


def measured(
    engines: dict[str, Engine], *, n_images: int, n_rounds: int
) -> dict[str, dict[str, float]]:
    """Return least and median milliseconds per image of each engine."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
    for n_round in range(n_rounds + 1):
        for name, run in engines.items():
            started, worked = time.perf_counter(), time.process_time()
            run()
            if n_round:
                took = time.perf_counter() - started, time.process_time() - worked
                times[name].append((took[0] / n_images * 1e3, took[1] / n_images * 1e3))
    return {
        name: {
            "least_ms": min(wall for wall, _ in each),
            "median_ms": statistics.median(wall for wall, _ in each),
            "cpu_ms": statistics.median(cpu for _, cpu in each),
        }
        for name, each in times.items()
    }


def peaks(n_threads: int, *, n_rounds: int) -> dict[str, dict[str, float]]:
    """Return the speed of large matrix products in GFLOP, per second and per processor second."""
    n = 2048
    found = {}
    for precision in (torch.float32, torch.bfloat16):
        a = torch.randn(n, n).to(precision)
        wall, cpu = [], []
        for _ in range(n_rounds + 1):
            started, worked = time.perf_counter(), time.process_time()
            a @ a
            wall.append(time.perf_counter() - started)
            cpu.append(time.process_time() - worked)
        name = f"matrix product {precision}, {n_threads} thread(s)".replace("torch.", "")
        found[name] = {
            "gflop_per_s": 2e-9 * n**3 / min(wall),
            "gflop_per_cpu_s": 2e-9 * n**3 / min(cpu),
        }
    return found


def ratios(
    times: dict[str, dict[str, float]], peak: dict[str, dict[str, float]], n_threads: int
) -> dict[str, dict[str, float]]:
    """Compare the default with the published network, and both with the machine."""
    end = f", {n_threads} thread(s)"
    published = times[f"paper plain float32{end}"]
    default = times[f"fast segmenter bfloat16{end}"]
    gigaflop = {name: 2e-9 * n_products(config) for name, config in NETWORKS.items()}
    reached = {
        f"{name}_share_of_peak": gigaflop[name]
        / (times[f"{name} channels_last bfloat16{end}"]["cpu_ms"] * 1e-3)
        / peak[f"matrix product bfloat16{end}"]["gflop_per_cpu_s"]
        for name in NETWORKS
    }
    ratio = published["median_ms"] / default["median_ms"]
    cpu_ratio = published["cpu_ms"] / default["cpu_ms"]
    return {
        f"published plain over default{end}": {"median": ratio, "cpu": cpu_ratio},
        f"arithmetic{end}": {f"{name}_gflop": value for name, value in gigaflop.items()} | reached,
    }


def n_products(config: Config) -> float:
    """Count the multiplications of an image's convolutions."""
    network = build(config).eval()
    counted = []

    def count(layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        # A transposed convolution uses each weight for every pixel that comes in.
        pixels = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output
        counted.append(layer.weight.numel() * pixels.shape[-2] * pixels.shape[-1])

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.register_forward_hook(count)
    with torch.inference_mode():
        network(torch.zeros(1, 1, SIDE, SIDE))
    return float(sum(counted))


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
