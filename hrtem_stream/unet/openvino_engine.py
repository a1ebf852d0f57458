"""`fast` by OpenVINO: the processor's second engine, 1.4 to 1.7 times as quick as torch.

The graph is built here from the weights in hand, so that nothing is converted and no second file
exists. OpenVINO's own group normalisation would have each layer rearrange the channels; here

    y = ReLU(γ (x - μ) / √(σ² + ε) + β)

takes μ and σ² from sums over the pixels of each channel, averaged over the group as a small matrix
product, and the channels stay where the convolutions want them. What comes before the first
convolution is `prepared`; loops of OpenVINO and of torch calculate in the precision that is asked.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from hrtem_stream.errors import SegmenterError
from hrtem_stream.unet.checkpoint import WEIGHTS
from hrtem_stream.unet.fast import FastNet
from hrtem_stream.unet.preparation import prepared

if TYPE_CHECKING:
    from openvino import Model, Node, Output

N_SHAPES = 4
"""Graphs that are kept, each for one shape of images; a new one takes about a second."""
_TELEMETRY = "openvino_telemetry"


class OpenVinoNetwork:
    """Map standardised images (B, 1, P, Q) to log odds in the same shape, as `FastNet` does.

    Parameters
    ----------
    network : nn.Module
        A `FastNet`; its weights are copied.
    precision : torch.dtype
        bfloat16 or float32. The masks of both agree in 99.98 % of the pixels of the real frames.

    Raises
    ------
    SegmenterError
        OpenVINO is not installed, the network is not a `FastNet`, or a weight is not finite.
    """

    def __init__(self, network: nn.Module, *, precision: torch.dtype) -> None:
        if not isinstance(network, FastNet):
            message = f"openvino calculates the network fast, got {type(network).__name__}"
            raise SegmenterError(message, "device")
        self._core = _core()
        self._network = network
        for name, tensor in network.state_dict().items():
            # A rectifier of OpenVINO makes NaN to 0, so it would not be seen in the output.
            if not bool(torch.isfinite(tensor).all()):
                raise SegmenterError(f"weights must be finite, got others in {name}", WEIGHTS)
        self._hints = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == torch.bfloat16 else "f32",
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # several workers would share one core
        }
        self._requests: OrderedDict[tuple[int, int, int], Any] = OrderedDict()

    def __call__(self, images: Tensor) -> Tensor:
        """Return the log odds, one image after the other.

        Raises
        ------
        RuntimeError
            OpenVINO fails.
        """
        log_odds = torch.empty_like(images)
        for image, out in zip(images[:, 0].numpy(), log_odds[:, 0].numpy(), strict=True):
            folded = prepared(image, stride=self._network.config.stride)
            if not np.isfinite(folded.sum()):
                out[:] = np.nan
                continue
            request = self._request(folded.shape[0], folded.shape[1])
            found = request.infer([folded[None]], share_inputs=True, share_outputs=True)[0][0]
            rows, columns = image.shape
            unfolded = found.reshape(*found.shape[:2], 2, 2).swapaxes(1, 2)
            out[:] = unfolded.reshape(2 * found.shape[0], -1)[:rows, :columns]
        return log_odds

    def _request(self, rows: int, columns: int) -> Any:
        """Return the graph for folded images of a shape, ready to run with torch's threads."""
        key = (rows, columns, torch.get_num_threads())
        if key not in self._requests:
            while len(self._requests) >= N_SHAPES:
                self._requests.popitem(last=False)
            graph = fast_graph(self._network, rows=rows, columns=columns)
            hints = self._hints | {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
            self._requests[key] = self._core.compile_model(
                graph, "CPU", hints
            ).create_infer_request()
        self._requests.move_to_end(key)
        return self._requests[key]


def fast_graph(network: FastNet, *, rows: int, columns: int) -> Model:
    """Return the convolutions of `fast` for one folded image of a shape.

    From (1, rows, columns, 8) to (1, rows, columns, 4), float32, channels last; both sides are
    multiples of half the network's stride.
    """
    from openvino import Model
    from openvino import opset13 as op

    folded = op.parameter([1, rows, columns, 8], np.float32)
    x = op.transpose(folded, _whole([0, 3, 1, 2]))
    skips = []
    for encoder in network.encoders:
        for layer in encoder:
            x = _layer(x, layer)
        skips.append(x)
        x = op.max_pool(x, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2]).output(0)
    for layer in network.bottom:
        x = _layer(x, layer)
    whole = op.matmul(
        op.reduce_mean(x, _whole([2, 3]), False),
        _constant(network.whole_frame.weight),
        transpose_a=False,
        transpose_b=True,
    )
    x = op.add(x, _per_channel(op.add(whole, _constant(network.whole_frame.bias[None]))))
    for rise, decoder in zip(network.rises, network.decoders, strict=True):
        x = op.convolution_backprop_data(
            x, _constant(rise.weight), [2, 2], pads_begin=[0, 0], pads_end=[0, 0], dilations=[1, 1]
        )
        x = op.add(x, _constant(rise.bias[None, :, None, None]))
        x = op.concat([x, skips.pop()], 1)
        for layer in decoder:
            x = _layer(x, layer)
    x = op.convolution(x, _constant(network.head.weight), [1, 1], [0, 0], [0, 0], [1, 1])
    x = op.add(x, _constant(network.head.bias[None, :, None, None]))
    x = op.transpose(x, _whole([0, 2, 3, 1]))
    return Model([op.result(x)], [folded], "fast")


def _layer(x: Node | Output, layer: nn.Sequential) -> Node:
    """Convolve, normalise by groups, and rectify."""
    from openvino import opset13 as op

    convolution, normalisation, _ = layer
    reach = list(convolution.padding)
    x = op.convolution(x, _constant(convolution.weight), [1, 1], reach, reach, convolution.dilation)
    n_channels, n_groups = normalisation.num_channels, normalisation.num_groups
    size = n_channels // n_groups
    over_groups = _constant(
        torch.kron(torch.eye(n_groups), torch.full((size, size), 1.0 / size))
    )  # (C, C)
    _, _, rows, columns = x.shape
    means = op.matmul(op.reduce_mean(x, _whole([2, 3]), False), over_groups, False, False)
    # Deviations from the mean are squared, never the values: nothing cancels in bfloat16.
    x = op.subtract(x, _per_channel(means))
    norms = op.reduce_l2(x, _whole([2, 3]), False)
    powers = op.multiply(op.multiply(norms, norms), _constant(torch.tensor(1.0 / (rows * columns))))
    variances = op.matmul(powers, over_groups, False, False)
    deviations = op.sqrt(op.add(variances, _constant(torch.tensor(normalisation.eps))))
    scales = op.divide(_constant(normalisation.weight[None]), deviations)
    x = op.multiply(x, _per_channel(scales))
    return op.relu(op.add(x, _constant(normalisation.bias[None, :, None, None])))


def _per_channel(x: Node) -> Node:
    from openvino import opset13 as op

    return op.reshape(x, _whole([1, x.shape[1], 1, 1]), False)


def _constant(tensor: Tensor) -> Node:
    from openvino import opset13 as op

    return op.constant(tensor.detach().float().contiguous().numpy())


def _whole(numbers: list[int]) -> Node:
    from openvino import opset13 as op

    return op.constant(np.array(numbers, np.int64))


def _core() -> Any:
    try:
        with _untold():
            import openvino
        return openvino.Core()
    except ModuleNotFoundError as error:
        message = f"OpenVINO is not installed ({error}); pip install 'hrtem-stream[openvino]'"
        raise SegmenterError(message, "not_installed") from None
    except (ImportError, AttributeError, OSError, RuntimeError, ValueError) as error:
        # Compiled for another NumPy, without its plug-ins, or half installed.
        raise SegmenterError(f"OpenVINO cannot be used: {error}", "device") from error


@contextmanager
def _untold() -> Iterator[None]:
    """Hide the package with which OpenVINO tells its makers of each import, over the network."""
    known = sys.modules.get(_TELEMETRY)
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # an import of it fails
    try:
        yield
    finally:
        del sys.modules[_TELEMETRY]
        if known is not None:
            sys.modules[_TELEMETRY] = known
