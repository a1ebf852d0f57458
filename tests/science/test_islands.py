"""Islands: against a plain version with labelled components, at both connectivities."""

import numpy as np
import pytest
from scipy import ndimage

from hrtem_stream.science.islands import find_islands, islands_with_core
from tests.science import drawn


def islands_plainly(
    level: np.ndarray, low: float, high: float, least: int, largest: int
) -> np.ndarray:
    """Label the islands and their gaps, and look at each in turn."""
    mask = np.zeros(level.shape, np.bool_)
    islands, n = ndimage.label(level > np.float32(low), np.ones((3, 3)))
    for k in range(1, n + 1):
        island = islands == k
        if island.sum() >= least and level[island].max() > np.float32(high):
            mask |= island
    gaps, n = ndimage.label(~mask)
    for k in range(1, n + 1):
        if (gaps == k).sum() <= largest:
            mask |= gaps == k
    return mask


@pytest.mark.parametrize("shape", [(64, 64), (40, 71), (1, 50), (50, 1)])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("blur_px", [0, 1, 3])
def test_islands_equal_the_plain_version(shape: tuple[int, int], seed: int, blur_px: int) -> None:
    noise = np.random.default_rng(seed).standard_normal(shape)
    level = ndimage.gaussian_filter(noise, blur_px).astype(np.float32)
    for low, high in ((0.0, 0.1), (-0.2, 0.0), (0.1, 0.3)):
        for least, largest in ((1, 0), (5, 4), (30, 20)):
            fast = find_islands(
                level, low=low, high=high, least_island_px=least, largest_gap_px=largest
            )
            assert fast.dtype == np.bool_
            assert (fast == islands_plainly(level, low, high, least, largest)).all()


def test_an_image_below_the_threshold_has_no_island_and_one_above_is_one() -> None:
    level = np.ones((20, 30), np.float32)
    parameters = {"least_island_px": 10, "largest_gap_px": 5}
    assert not find_islands(level, low=1.0, high=1.0, **parameters).any()
    assert not find_islands(level, low=0.5, high=1.0, **parameters).any()
    assert find_islands(level, low=0.5, high=0.9, **parameters).all()


def test_a_spiral_is_one_island() -> None:
    rows, columns = np.indices((128, 128)) - 64
    turn = np.hypot(rows, columns) / 10.0 - np.arctan2(rows, columns) / (2 * np.pi)
    level = ((turn % 1.0 < 0.5) & drawn.disc(60.0, centre=(64, 64), shape=(128, 128))) * 1.0
    found = find_islands(
        level.astype(np.float32), low=0.5, high=0.6, least_island_px=2000, largest_gap_px=0
    )
    assert (found == islands_plainly(level, 0.5, 0.6, 2000, 0)).all()
    assert found.any()


@pytest.mark.parametrize("shape", [(64, 64), (40, 71), (1, 50), (50, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_islands_with_a_core_equal_the_plain_version(shape: tuple[int, int], seed: int) -> None:
    noise = np.random.default_rng(seed).standard_normal((2, *shape))
    mask, core = (ndimage.gaussian_filter(field, 2) > 0.0 for field in noise)
    islands, n = ndimage.label(mask)
    for least_px, least_share in ((1, 0.0), (20, 0.25), (20, 0.6)):
        plain = np.zeros(shape, np.bool_)
        for k in range(1, n + 1):
            island = islands == k
            if island.sum() >= least_px and core[island].mean() >= least_share:
                plain |= island
        kept = islands_with_core(mask, core, least_px=least_px, least_share=least_share)
        assert kept.dtype == np.bool_
        assert np.array_equal(kept, plain)
