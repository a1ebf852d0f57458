"""What is left of an image when its lattices are taken out of the spectrum, for whole batches.

A soft cousin of the Bragg filter, in torch, so that it runs where the network runs. It is a part
of the network `fast`: weights are trained with exactly this channel, and a tuned Bragg filter in
`science` may change without spoiling them.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

LEAST_FREQUENCY = 0.09
"""Reflections lie above this spatial frequency, in 1/px; coarser texture is always kept."""
EXCESS = 2.0
"""A reflection's power exceeds its surroundings' geometric mean by exp of this."""
SOFTNESS = 0.35


@torch.compiler.disable  # type: ignore[untyped-decorator,unused-ignore]
def lattice_residual(images: Tensor) -> Tensor:
    """Remove every reflection from standardised images.

    r = F⁻¹[(1 - m(g)) F[x]], where m rises from 0 to 1 as the smoothed power of the windowed
    image exceeds the geometric mean of its surroundings in the spectrum.

    Parameters
    ----------
    images : (B, 1, P, Q) float32
        Standardised images.

    Returns
    -------
    (B, 1, P, Q) float32
        In the units of the input. Grains of a fiftieth of the image or less stay in it.
    """
    size = (images.shape[-2], images.shape[-1])
    window, allowed = window_and_band(size, images.device)
    power = torch.fft.rfft2(images * window).abs().square()
    level = torch.log(_mean(power) + 1e-6)
    around = _surroundings(level)
    reflection = torch.sigmoid((level - around - EXCESS) / SOFTNESS) * allowed
    notch = _mean(_largest(reflection))
    return torch.fft.irfft2(torch.fft.rfft2(images) * (1.0 - notch), s=size)


def _mean(spectrum: Tensor) -> Tensor:
    """Average 3 × 3; rows are periodic, columns end at 0 and at the Nyquist frequency."""
    rows = spectrum + spectrum.roll(1, -2) + spectrum.roll(-1, -2)
    columns = F.pad(rows, (1, 1, 0, 0), mode="replicate")
    return (columns[..., :-2] + columns[..., 1:-1] + columns[..., 2:]) / 9.0


def _largest(spectrum: Tensor) -> Tensor:
    """Take the largest value of 5 × 5."""
    for axis in (-2, -1):
        # Power is symmetric, so what wraps around at the columns' ends is no worse than a border.
        pair = torch.maximum(spectrum, spectrum.roll(1, axis))
        spectrum = torch.maximum(
            torch.maximum(pair, pair.roll(1, axis)),
            torch.maximum(pair.roll(-1, axis), pair.roll(-2, axis)),
        )
    return spectrum


def _surroundings(level: Tensor) -> Tensor:
    """Average over about a tenth of the spectrum's height either way."""
    width = max(1, level.shape[-2] // 32)
    coarse = _mean(F.avg_pool2d(level, width, ceil_mode=True))
    size = (level.shape[-2], level.shape[-1])
    return F.interpolate(coarse, size, mode="bilinear", align_corners=False)


@lru_cache(maxsize=8)
def window_and_band(size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the Hann window of images of a size, and 1 where reflections may lie."""
    window = torch.outer(
        torch.hann_window(size[0], periodic=False), torch.hann_window(size[1], periodic=False)
    )
    g2 = torch.fft.fftfreq(size[0])[:, None] ** 2 + torch.fft.rfftfreq(size[1])[None, :] ** 2
    return window.to(device), (g2 > LEAST_FREQUENCY**2).float().to(device)
