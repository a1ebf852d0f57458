"""Tiles of a large image, joined without seams."""

from __future__ import annotations

import numpy as np
import pytest

from hrtem_stream.science.filters import blur
from hrtem_stream.science.tiles import by_tiles

IMAGE = np.random.default_rng(0).standard_normal((150, 97)).astype(np.float32)


@pytest.mark.parametrize(("side", "overlap"), [(64, 16), (64, 31), (97, 8), (400, 8)])
def test_what_is_local_is_the_same_by_tiles(side: int, overlap: int) -> None:
    doubled = by_tiles(IMAGE, lambda tile: 2 * tile, side=side, overlap=overlap)
    np.testing.assert_allclose(doubled, 2 * IMAGE, rtol=1e-6)
    assert doubled.dtype == np.float32


def test_there_is_no_seam_where_tiles_disagree() -> None:
    levels = iter(range(100))
    joined = by_tiles(
        np.zeros((200, 64), np.float32),
        lambda tile: np.full(tile.shape, next(levels), np.float32),
        side=64,
        overlap=24,
    )
    assert np.abs(np.diff(joined, axis=0)).max() < 1.5 / 24


def test_borders_of_tiles_leave_no_trace_in_an_average() -> None:
    whole = blur(IMAGE, deviation_px=2.0)
    tiled = by_tiles(IMAGE, lambda tile: blur(tile, deviation_px=2.0), side=80, overlap=30)
    inner = (slice(8, -8), slice(8, -8))
    assert np.abs(tiled - whole)[inner].max() < 0.1 * whole.std()


def test_tiles_do_not_exceed_their_side() -> None:
    sizes = set()
    by_tiles(IMAGE, lambda tile: (sizes.add(tile.shape), tile)[1], side=64, overlap=20)
    assert sizes == {(64, 64)}


@pytest.mark.parametrize("overlap", [0, 32, 40])
def test_an_overlap_out_of_range_is_refused(overlap: int) -> None:
    with pytest.raises(ValueError, match="overlap must be"):
        by_tiles(IMAGE, lambda tile: tile, side=64, overlap=overlap)
