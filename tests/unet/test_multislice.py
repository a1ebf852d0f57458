"""The other simulation, on which networks are tested: labels and counts make sense."""

from __future__ import annotations

import numpy as np
import pytest

from bench import multislice
from hrtem_stream.science.illumination import normalise_frame
from hrtem_stream.science.working_scale import matched_to_lattice
from hrtem_stream.unet.inference import UNetSegmenter


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


def test_a_full_cover_near_the_limit_of_the_sampling_is_recognised() -> None:
    frame = multislice.draw(38)
    assert frame.amorphous.all()
    scale = matched_to_lattice(frame.pixels, 0.0, size=256, working_pixel_nm=0.045)
    segmenter, _ = UNetSegmenter.from_checkpoint(max_batch=1)
    image = normalise_frame(frame.pixels, shape=scale.shape).image
    assert segmenter.segment(image[None])[0].mean() > 0.95
    coarse = normalise_frame(frame.pixels).image
    assert segmenter.segment(coarse[None])[0].mean() < 0.5, "the reason for it"
