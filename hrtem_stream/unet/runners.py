"""How a batch gets through a network on a device: layer by layer, or as one captured CUDA graph.

A small network on a large GPU spends its time on launching layers. A graph launches once, works in
fixed memory, and with two runners the copies of one batch go on beside the work of another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Decide: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Maps images (B, 1, P, Q) to masks (B, P, Q) bool and confidences (B,), on their device."""

Result: TypeAlias = tuple[NDArray[np.bool_], NDArray[np.float32]]

N_WARM_UPS = 3
"""Runs before a capture, in which libraries choose their algorithms and take their memory."""


class Runner(Protocol):
    """Takes one batch at a time; `submit` need not wait for the device, `collect` does."""

    def submit(self, images: NDArray[np.float32]) -> None:
        """Begin with a batch (B, P, Q)."""

    def collect(self) -> Result:
        """Return the masks and confidences of the batch submitted last."""


class PlainRunner:
    """Runs layer by layer, on any device."""

    def __init__(self, decide: Decide, device: torch.device) -> None:
        self._decide = decide
        self._device = device
        self._result: tuple[Tensor, Tensor] | None = None

    def submit(self, images: NDArray[np.float32]) -> None:
        """Run a batch (B, P, Q) of any size."""
        batch = torch.from_numpy(np.require(images, np.float32, ["C", "W"]))[:, None]
        with torch.inference_mode():
            self._result = self._decide(batch.to(self._device))

    def collect(self) -> Result:
        """Copy masks and confidences to the host."""
        assert self._result is not None, "submit comes first"
        mask, confidence = self._result
        return mask.cpu().numpy(), confidence.cpu().numpy()


class GraphRunner:
    """Replays a CUDA graph for batches of one shape, between pinned buffers.

    Parameters
    ----------
    decide : Decide
        What is captured; nothing in it may wait for the GPU.
    device : torch.device
        A CUDA device.
    shape : (int, int, int)
        Of every batch (B, P, Q); smaller ones are filled up with zeros, so that the kernels, and
        with them the masks, do not depend on how many frames came together.

    Raises
    ------
    torch.cuda.OutOfMemoryError
        The GPU has too little memory.
    RuntimeError
        Something in `decide` cannot be captured.
    """

    def __init__(
        self, decide: Decide, device: torch.device, *, shape: tuple[int, int, int]
    ) -> None:
        self._stream = torch.cuda.Stream(device)
        self._done = torch.cuda.Event()
        self._n_images = 0
        self._sent = _pinned(torch.Size(shape), torch.float32)
        self._images = torch.zeros((shape[0], 1, *shape[1:]), device=device)
        with torch.no_grad(), torch.cuda.stream(self._stream):
            for _ in range(N_WARM_UPS):
                decide(self._images)
            self._stream.synchronize()
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=self._stream):
                self._result = decide(self._images)
        self._received = [_pinned(tensor.shape, tensor.dtype) for tensor in self._result]

    def submit(self, images: NDArray[np.float32]) -> None:
        """Copy up to B images in and start the graph, without waiting for it."""
        self._done.synchronize()  # a batch whose result nobody took may still be on its way
        self._n_images = len(images)
        self._sent[: len(images)].copy_(torch.from_numpy(np.require(images, np.float32, ["W"])))
        self._sent[len(images) :].zero_()
        with torch.cuda.stream(self._stream):
            self._images[:, 0].copy_(self._sent, non_blocking=True)
            self._graph.replay()
            for host, tensor in zip(self._received, self._result, strict=True):
                host.copy_(tensor, non_blocking=True)
            self._done.record(self._stream)

    def collect(self) -> Result:
        """Wait for the graph and return what belongs to the images that were given."""
        self._done.synchronize()
        mask, confidence = (host[: self._n_images].numpy().copy() for host in self._received)
        return mask, confidence


def _pinned(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Return host memory that a GPU can copy from and to by itself."""
    return torch.zeros(shape, dtype=dtype, pin_memory=True)
