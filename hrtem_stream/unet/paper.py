"""The published network, the named reference: a U-Net with padded convolutions.

Seven blocks of 32 features (three down, one bottom, three up) as chosen in the paper, and the
original nine blocks of 64 features by argument. Shapes at the end of the lines are those of a
256 × 256 image and the default configuration.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperConfig:
    """Shape of the network."""

    n_blocks: int = 7
    """Odd, at least 3: half go down, one is the bottom, half go up."""
    n_features: int = 32
    """Channels of the first block; they double at each step down."""

    @property
    def stride(self) -> int:
        """Every image is padded to a multiple of this."""
        return int(2 ** (self.n_blocks // 2))


class PaperNet(nn.Module):  # type: ignore[misc]
    """Map standardised images (B, 1, P, Q) to the log odds of amorphous (B, 1, P, Q).

    Raises
    ------
    ValueError
        If `n_blocks` is even or below 3.
    """

    def __init__(self, config: PaperConfig) -> None:
        super().__init__()
        if config.n_blocks < 3 or config.n_blocks % 2 == 0:
            raise ValueError(f"n_blocks must be odd and at least 3, got {config.n_blocks}")
        self.config = config
        widths = [config.n_features * 2**level for level in range(config.n_blocks // 2 + 1)]
        self.encoders = nn.ModuleList(
            _block(a, b) for a, b in zip([1, *widths[:-2]], widths[:-1], strict=True)
        )
        self.bottom = _block(widths[-2], widths[-1])
        self.rises = nn.ModuleList(
            nn.ConvTranspose2d(2 * a, a, 2, stride=2) for a in widths[-2::-1]
        )
        self.decoders = nn.ModuleList(_block(2 * a, a) for a in widths[-2::-1])
        self.classes = nn.Conv2d(widths[0], 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return log odds in the shape of the input: the difference of the two classes."""
        stride = self.config.stride
        rows, columns = images.shape[-2], images.shape[-1]
        x = images.to(self.classes.weight.dtype)
        x = F.pad(x, (0, -columns % stride, 0, -rows % stride), mode="reflect")
        skips = []
        for encoder in self.encoders:
            x = encoder(x)  # 32 × 256², 64 × 128², 128 × 64²
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.bottom(x)  # 256 × 32²
        for rise, decoder in zip(self.rises, self.decoders, strict=True):
            x = decoder(torch.cat([rise(x), skips.pop()], dim=1))
        classes = self.classes(x)[..., :rows, :columns]
        return classes[:, 1:] - classes[:, :1]


def _block(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(n_out, n_out, 3, padding=1),
        nn.ReLU(inplace=True),
    )
