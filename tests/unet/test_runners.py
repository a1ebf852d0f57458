"""Runners: a batch in, masks out; the CUDA graph with a stand-in for the GPU."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hrtem_stream.unet import inference, runners
from hrtem_stream.unet.inference import UNetSegmenter

CPU = torch.device("cpu")
IMAGES = np.random.default_rng(0).standard_normal((7, 16, 24)).astype(np.float32)


def decide(batch: Tensor) -> tuple[Tensor, Tensor]:
    return batch[:, 0] > 0, batch.abs().mean(dim=(1, 2, 3))


class StandIn:
    """In the place of streams and events."""

    def __init__(self, *_: object) -> None: ...

    def synchronize(self) -> None: ...

    def record(self, *_: object) -> None: ...


class Graph:
    """In the place of a CUDA graph: does the captured work again, in the same memory."""

    captured: list[Graph]

    def replay(self) -> None:
        for tensor, value in zip(self.results, decide(self.images), strict=True):
            tensor.copy_(value)


@pytest.fixture
def graph_runner(monkeypatch: pytest.MonkeyPatch) -> runners.GraphRunner:
    @contextlib.contextmanager
    def nothing(*_: object, **__: object) -> Iterator[None]:
        yield

    for name, stand_in in (("Stream", StandIn), ("Event", StandIn), ("CUDAGraph", Graph)):
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(torch.cuda, "graph", nothing)
    monkeypatch.setattr(torch.cuda, "stream", nothing)
    monkeypatch.setattr(runners, "_pinned", lambda shape, dtype: torch.full(shape, 7, dtype=dtype))
    runner = runners.GraphRunner(decide, CPU, shape=(4, 16, 24))
    runner._graph.images, runner._graph.results = runner._images, runner._result
    return runner


def test_a_plain_runner_takes_any_number_of_images() -> None:
    runner = runners.PlainRunner(decide, CPU)
    for n_images in (1, 4):
        runner.submit(IMAGES[:n_images])
        mask, confidence = runner.collect()
        np.testing.assert_array_equal(mask, IMAGES[:n_images] > 0)
        assert confidence.shape == (n_images,)


def test_a_graph_sees_a_full_batch_and_gives_what_was_asked(
    graph_runner: runners.GraphRunner,
) -> None:
    graph_runner.submit(IMAGES[:4])
    full, _ = graph_runner.collect()
    graph_runner.submit(IMAGES[4:6])
    assert not graph_runner._images[2:].any(), "what the batch before left is wiped out"
    mask, confidence = graph_runner.collect()
    np.testing.assert_array_equal(full, IMAGES[:4] > 0)
    np.testing.assert_array_equal(mask, IMAGES[4:6] > 0)
    np.testing.assert_allclose(confidence, np.abs(IMAGES[4:6]).mean(axis=(1, 2)), rtol=1e-5)


def test_a_result_is_not_overwritten_by_the_next_batch(graph_runner: runners.GraphRunner) -> None:
    graph_runner.submit(IMAGES[:2])
    mask, _ = graph_runner.collect()
    graph_runner.submit(IMAGES[2:4])
    graph_runner.collect()
    np.testing.assert_array_equal(mask, IMAGES[:2] > 0)


class Late:
    """A runner in the place of the graph's, which works only when its result is asked for."""

    sizes: list[int]
    limit = 99

    def __init__(self, decide: runners.Decide, _: torch.device, *, shape: tuple[int, ...]) -> None:
        if shape[0] > self.limit:
            raise torch.cuda.OutOfMemoryError("no memory left")
        self.sizes.append(shape[0])
        self.plain = runners.PlainRunner(decide, CPU)

    def submit(self, images: NDArray[np.float32]) -> None:
        self.images = images.copy()

    def collect(self) -> runners.Result:
        self.plain.submit(self.images)
        return self.plain.collect()


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> type[Late]:
    Late.sizes, Late.limit = [], 99
    monkeypatch.setattr(inference, "GraphRunner", Late)
    return Late


def on_a_gpu(max_batch: int) -> UNetSegmenter:
    segmenter = UNetSegmenter(nn.Identity(), max_batch=max_batch)
    segmenter._graphs = True
    return segmenter


def test_two_runners_take_turns_and_keep_the_order(late: type[Late]) -> None:
    segmenter = on_a_gpu(2)
    for n_images in (7, 1):
        amorphous, _ = segmenter.segment(IMAGES[:n_images])
        np.testing.assert_array_equal(amorphous, IMAGES[:n_images] > 0)
    assert late.sizes == [2, 2], "captured once each, whatever the number of images"


def test_a_capture_without_memory_halves_the_batch(late: type[Late]) -> None:
    late.limit = 3
    amorphous, _ = on_a_gpu(8).segment(IMAGES)
    np.testing.assert_array_equal(amorphous, IMAGES > 0)
    assert set(late.sizes) == {2}


def test_other_shapes_do_not_pile_up(late: type[Late]) -> None:
    segmenter = on_a_gpu(4)
    for rows in range(4, 16):
        segmenter.segment(IMAGES[:, :rows])
    assert len(segmenter._runners) <= 2 * inference.N_RUNNERS


def test_what_cannot_be_captured_runs_layer_by_layer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(inference, "GraphRunner", refuse)
    segmenter = on_a_gpu(4)
    with caplog.at_level(logging.WARNING):
        amorphous, _ = segmenter.segment(IMAGES)
    np.testing.assert_array_equal(amorphous, IMAGES > 0)
    assert caplog.text.count("no CUDA graph") == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_a_mask_does_not_depend_on_its_neighbours() -> None:
    images = np.random.default_rng(0).standard_normal((8, 256, 256)).astype(np.float32)
    segmenter, _ = UNetSegmenter.from_checkpoint(device="cuda", max_batch=8)
    together, certainty = segmenter.segment(images)
    for number, image in enumerate(images):
        alone, confidence = segmenter.segment(image[None])
        np.testing.assert_array_equal(alone[0], together[number])
        assert confidence[0] == certainty[number]
