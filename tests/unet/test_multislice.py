"""The other simulation, on which networks are tested: labels and counts make sense."""

from __future__ import annotations

import numpy as np
import pytest

from bench import multislice


def test_a_frame_comes_again_with_its_labels_and_covers_differ() -> None:
    frames = [multislice.draw(seed) for seed in (1, 1, 0)]
    np.testing.assert_array_equal(frames[0].pixels, frames[1].pixels)
    assert [frame.coverage for frame in frames] == ["partial", "partial", "full"]
    assert 0.0 < frames[0].amorphous.mean() < 1.0
    assert frames[2].amorphous.all()
    assert frames[0].pixels.shape == (512, 512)
    assert frames[0].amorphous.shape == frames[0].beam_off.shape == (256, 256)


def test_contaminant_scatters_more_than_graphene() -> None:
    rng = np.random.default_rng(0)
    height = np.zeros((128, 128), np.float32)
    height[:64] = 2.0
    graphene = multislice._graphene(128, 0.03, rng)
    wave = multislice._scattered(graphene, height, 0.03, rng)
    image = multislice._image(wave, 6.0, 0.03, rng)
    assert image.mean() == pytest.approx(1.0, abs=0.02)
    assert image[8:56].std() > 2 * image[72:120].std()
