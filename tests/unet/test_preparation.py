"""What machine code prepares for `fast` is what the network prepares for itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from hrtem_stream.unet.fast import clip_outliers
from hrtem_stream.unet.preparation import Float, prepared
from hrtem_stream.unet.residual import lattice_residual

STRIDE = 16


def by_the_network(image: Float) -> Float:
    """Prepare an image as the network's own layers do."""
    clipped = clip_outliers(torch.from_numpy(image)[None, None])
    both = torch.cat([clipped, lattice_residual(clipped)], dim=1)
    rows, columns = image.shape
    both = F.pad(both, (0, -columns % STRIDE, 0, -rows % STRIDE), mode="reflect")
    folded: Float = F.pixel_unshuffle(both, 2)[0].permute(1, 2, 0).numpy()
    return folded


def noisy_lattice(shape: tuple[int, int], *, seed: int = 0) -> Float:
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(shape)
    lattice = np.cos(1.3 * columns) + np.cos(0.7 * columns + 1.1 * rows)
    return (lattice + rng.standard_normal(shape)).astype(np.float32)


@pytest.mark.parametrize("shape", [(256, 256), (64, 48), (100, 257), (31, 33)])
def test_it_agrees_with_the_layers_of_the_network_at_any_shape(shape: tuple[int, int]) -> None:
    image = noisy_lattice(shape)
    found = prepared(image, stride=STRIDE)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, by_the_network(image), atol=1e-5)


def test_hot_pixels_and_the_dark_outside_of_the_beam_are_treated_alike() -> None:
    image = noisy_lattice((96, 96))
    image[:20] = 0.0
    image[50, 50] = 3e4
    np.testing.assert_allclose(
        prepared(image, stride=STRIDE), by_the_network(image), atol=1e-5
    )  # fmt: skip


def test_an_empty_image_stays_empty() -> None:
    assert not prepared(np.zeros((64, 64), np.float32), stride=STRIDE).any()


def test_a_pixel_that_is_not_finite_is_seen_in_the_result() -> None:
    image = noisy_lattice((64, 64))
    image[3, 5] = np.nan
    assert not np.isfinite(prepared(image, stride=STRIDE)).all()


def test_the_image_is_not_written_to() -> None:
    image = noisy_lattice((64, 64))
    before = image.copy()
    image.flags.writeable = False
    prepared(image, stride=STRIDE)
    np.testing.assert_array_equal(image, before)
