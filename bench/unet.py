"""Milliseconds per 256 × 256 image of both networks, for each engine, with one and two threads.

Run:  python -m bench unet [--json] [--output FILE] [--seconds S]

All engines take turns in each round, so that whatever else the machine does hits all of them
alike. With one thread the time is that of the processor, which other work disturbs least; with two
it is that of the clock. `plain` is the published network as torch runs it when nothing is asked
for, and the reference of all; the limit of each is its own arithmetic at the speed of a large
matrix product of the same precision, measured in the same rounds. `segmenter` is what the pipeline
runs, on a processor one image at a time, from array to mask, by torch or by OpenVINO where that is
installed. With a GPU its engines follow, copies to it and back included, and its memory beside the
published 710 MiB.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bench.row import Row, row
from hrtem_stream.unet.architecture import Config, build
from hrtem_stream.unet.fast import FastConfig
from hrtem_stream.unet.inference import UNetSegmenter
from hrtem_stream.unet.openvino_engine import OpenVinoNetwork
from hrtem_stream.unet.paper import PaperConfig

BATCH = 4
SIDE = 256
MATRIX = 2048
NETWORKS: dict[str, Config] = {"paper": PaperConfig(), "fast": FastConfig()}
PUBLISHED_MIB = 710.0
GPU_BATCHES = (8, 64, 256)
CLOCKS: dict[int, tuple[str, Callable[[], float]]] = {
    1: ("1 thread, processor time", time.process_time),
    2: ("2 threads, by the clock", time.perf_counter),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One way to run a network."""

    network: str
    name: str
    precision: torch.dtype
    run: Callable[[], object]
    """Works on `BATCH` images."""

    def __str__(self) -> str:
        return f"U-Net {self.network}, {self.name}"


def measure(seconds: float) -> list[Row]:
    """Measure every engine there is, on the processor and on the GPU."""
    rows = []
    n_threads_before = torch.get_num_threads()
    for n_threads in CLOCKS:
        torch.set_num_threads(n_threads)
        torch.compiler.reset()  # what was compiled for one thread would go on with one
        rows += _cpu_rows(n_threads, seconds=seconds or 20.0)
    torch.set_num_threads(n_threads_before)
    if torch.cuda.is_available():
        for name in NETWORKS:
            rows += _gpu_rows(name, n_rounds=7)
    return rows


def cpu_engines(name: str, images: NDArray[np.float32]) -> list[Engine]:
    """Return the engines for a network on the processor."""
    torch.manual_seed(0)
    network = build(NETWORKS[name]).eval()
    last = build(NETWORKS[name]).eval().to(memory_format=torch.channels_last)
    coarse = build(NETWORKS[name]).eval().to(torch.bfloat16, memory_format=torch.channels_last)
    fused = torch.compile(coarse)
    batch = torch.from_numpy(images)[:, None]
    single, half = torch.float32, torch.bfloat16
    layers = [
        ("plain float32", single, network),
        ("channels_last float32", single, last),
        ("channels_last bfloat16", half, coarse),
        ("compiled bfloat16", half, fused),
    ]
    engines = [
        Engine(network=name, name=words, precision=precision, run=_running(module, batch))
        for words, precision, module in layers
    ]
    for words, precision in (("float32", single), ("bfloat16", half)):
        segmenter = UNetSegmenter(network, precision=precision, max_batch=1)
        engines.append(
            Engine(
                network=name,
                name=f"segmenter {words}",
                precision=precision,
                run=_segmenting(segmenter, images),
            )
        )
    if name == "fast" and importlib.util.find_spec("openvino") is not None:
        for words, precision in (("float32", single), ("bfloat16", half)):
            graph = OpenVinoNetwork(network, precision=precision)
            engines.append(
                Engine(
                    network=name,
                    name=f"segmenter OpenVINO {words}",
                    precision=precision,
                    run=_segmenting(UNetSegmenter(graph, max_batch=1), images),
                )
            )
    return engines


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


def _cpu_rows(n_threads: int, *, seconds: float) -> list[Row]:
    images = np.random.default_rng(0).standard_normal((BATCH, SIDE, SIDE)).astype(np.float32)
    engines = [engine for name in NETWORKS for engine in cpu_engines(name, images)]
    products = {precision: _product(precision) for precision in (torch.float32, torch.bfloat16)}
    works = {str(engine): engine.run for engine in engines}
    works |= {str(precision): product for precision, product in products.items()}
    words, clock = CLOCKS[n_threads]
    times = _in_turns(works, clock=clock, seconds=seconds)
    gflop_per_s = {
        precision: 2e-9 * MATRIX**3 / np.array(times[str(precision)]) for precision in products
    }
    rows = [
        row(f"matrix product {str(precision).removeprefix('torch.')}, {words}", rate, "GFLOP/s")
        for precision, rate in gflop_per_s.items()
    ]
    reference = 1e3 / BATCH * statistics.median(times["U-Net paper, plain float32"])
    for engine in engines:
        gflop = 2e-9 * n_products(NETWORKS[engine.network])
        rows.append(
            row(
                f"{engine}, a {SIDE}² image, {words} (reference: the paper's network, plain; "
                "limit: its products as one matrix product)",
                1e3 / BATCH * np.array(times[str(engine)]),
                "ms",
                reference=reference,
                limit=1e3 * gflop / float(np.median(gflop_per_s[engine.precision])),
            )
        )
    return rows


def _gpu_rows(name: str, *, n_rounds: int) -> Iterator[Row]:
    """Measure a GPU with host-to-device copies, and its memory."""
    for batch in GPU_BATCHES:
        n_images = 8 * batch  # several batches, so that copies go on beside the work
        images = np.random.default_rng(0).standard_normal((n_images, SIDE, SIDE), np.float32)
        torch.cuda.reset_peak_memory_stats()
        segmenter = UNetSegmenter(
            build(NETWORKS[name]), device="cuda", precision=torch.bfloat16, max_batch=batch
        )
        run = _segmenting(segmenter, images)
        times = _in_turns({name: run}, clock=time.perf_counter, seconds=0.0, least=n_rounds)[name]
        words = f"U-Net {name}, cuda bfloat16, batch {batch}"
        yield row(f"{words}, {SIDE}² images, with copies", n_images / np.array(times), "images/s")
        yield row(
            f"{words}, memory (reference: the paper's network, published)",
            torch.cuda.max_memory_allocated() / 2**20,
            "MiB",
            reference=PUBLISHED_MIB,
        )


def _in_turns(
    works: dict[str, Callable[[], object]],
    *,
    clock: Callable[[], float],
    seconds: float,
    least: int = 5,
) -> dict[str, list[float]]:
    """Return the seconds of each call; the first two rounds, which compile and choose, are not."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(2):
        for run in works.values():
            run()
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(next(iter(times.values()))) < least:
        for name, run in works.items():
            started = clock()
            run()
            times[name].append(clock() - started)
    return times


def _product(precision: torch.dtype) -> Callable[[], object]:
    a = torch.randn(MATRIX, MATRIX).to(precision)
    return lambda: a @ a


def _running(
    network: Callable[[torch.Tensor], torch.Tensor] | nn.Module, batch: torch.Tensor
) -> Callable[[], object]:
    def run() -> object:
        with torch.inference_mode():
            return network(batch)

    return run


def _segmenting(segmenter: UNetSegmenter, images: NDArray[np.float32]) -> Callable[[], object]:
    return lambda: segmenter.segment(images)
