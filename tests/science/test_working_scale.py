"""The size at which a frame is worked on, and masks brought from one size to another."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from hrtem_stream.science.bragg import bragg_mask
from hrtem_stream.science.reduction import reduce_frame
from hrtem_stream.science.run_length import mask_of_runs, runs_of_mask
from hrtem_stream.science.working_scale import matched_to_lattice, reduce_mask, resized
from tests.science.test_lattice_scale import counted, honeycomb

REAL_FRAMES = Path(__file__).parents[2].parent / "shared" / "data" / "graphene-u-net"

match = partial(matched_to_lattice, size=256, working_pixel_nm=0.045)


@pytest.mark.parametrize(
    ("side", "pixel_size_nm", "expected"),
    [
        (256, 0.045, (256, 256)),  # nothing to do
        (1024, 0.0125, (256, 256)),  # as published does
        (4096, 0.01, (910, 910)),
        (4096, 0.02, (1820, 1820)),
        (
            512,
            0.037,
            (421, 421),
        ),  # near the limit of the sampling; the detector has more
        (256, 0.074, (256, 256)),  # and here it has not
        (1024, 0.08, (1024, 1024)),  # enlarging adds nothing
        (1024, 0.005, (183, 183)),  # a small field: finer pixels, but no finer than known
    ],
)
def test_the_working_image_is_as_fine_as_the_lattice_needs(
    side: int, pixel_size_nm: float, expected: tuple[int, int]
) -> None:
    scale = match(np.broadcast_to(np.uint16(1), (side, side)), pixel_size_nm)
    assert scale.shape == expected
    assert scale.source == "calibration"
    assert scale.pixel_size_nm == pytest.approx(side * pixel_size_nm / expected[0], rel=0.01)


def test_an_oblong_frame_keeps_its_proportions() -> None:
    assert match(np.broadcast_to(np.uint16(1), (2048, 4096)), 0.02).shape == (910, 1820)


def test_without_calibration_the_scale_is_that_of_the_spectrum() -> None:
    frame = counted(honeycomb((1500, 1500), pixel_size_nm=0.03), dose=100.0)
    scale = match(frame, 0.0)
    assert scale.source == "spectrum"
    assert scale.shape[0] == pytest.approx(1000, rel=0.02)


def test_a_frame_without_a_lattice_is_treated_as_published_and_says_so() -> None:
    noise = counted(np.zeros((512, 512)), dose=50.0)
    scale = match(noise, 0.0)
    assert (scale.source, scale.shape) == ("none", (256, 256))
    assert math.isnan(scale.pixel_size_nm)


@pytest.mark.parametrize(("side", "pixel_size_nm"), [(1024, 0.2), (8192, 0.08), (1024, 1e-6)])
def test_a_frame_that_cannot_be_worked_on_at_its_lattice_is_treated_as_published(
    side: int, pixel_size_nm: float
) -> None:
    scale = match(np.broadcast_to(np.uint16(1), (side, side)), pixel_size_nm)
    assert (scale.source, scale.shape) == ("none", (256, 256))


def test_as_published_every_frame_has_the_same_size() -> None:
    frame = np.broadcast_to(np.uint16(1), (300, 600))
    assert resized(frame, 0.02, size=256).shape == (256, 256)
    assert resized(frame, 0.02, size=256).pixel_size_nm == pytest.approx(0.02 * 600 / 256)
    assert math.isnan(resized(frame, 0.0, size=256).pixel_size_nm)


@pytest.mark.parametrize("working", [(910, 910), (1024, 1024), (1820, 1637), (171, 171)])
def test_a_mask_maps_back_to_detector_pixels_without_a_shift(working: tuple[int, int]) -> None:
    i, j = np.indices((1024, 1024), dtype=np.float32)
    bright = np.hypot(i - 391.3, j - 702.8) < 120
    small = reduce_frame(bright.astype(np.float32), shape=working) >= 0.5
    start, length = runs_of_mask(small, shape=(1024, 1024))
    back = mask_of_runs(start, length=length, shape=(1024, 1024))
    found, true = ndimage.center_of_mass(back), ndimage.center_of_mass(bright)
    # A tenth of a working pixel, where that is the larger one.
    assert found == pytest.approx(true, abs=0.1 * max(1.0, 1024 / min(working)))


def test_a_mask_is_reduced_by_area() -> None:
    mask = np.zeros((6, 6), np.bool_)
    mask[:3, :2] = True
    assert reduce_mask(mask, shape=(2, 3)).tolist() == [[True, False, False], [False] * 3]
    assert reduce_mask(mask, shape=(6, 6)) is mask


@pytest.mark.skipif(not REAL_FRAMES.is_dir(), reason="needs the published frames")
def test_all_published_frames_keep_their_size() -> None:
    sources = []
    for path in sorted(set(REAL_FRAMES.glob("*.png")) - set(REAL_FRAMES.glob("*_LABEL.png")))[::3]:
        with Image.open(path) as picture:
            scale = match(np.asarray(picture.convert("L")), 0.0)
        assert scale.shape == (256, 256)
        sources.append(scale.source)
    assert sources.count("spectrum") >= 0.95 * len(sources)


@pytest.mark.parametrize("shape", [(1024, 256), (256, 1024), (64, 64), (17, 1000), (1000, 1003)])
@pytest.mark.parametrize("pixel_size_nm", [1e-30, 0.0005, 0.002, 0.0035, 0.02, 0.2, 900.0])
def test_whatever_the_calibration_the_bragg_filter_takes_the_working_image(
    shape: tuple[int, int], pixel_size_nm: float
) -> None:
    scale = matched_to_lattice(
        np.zeros(shape, np.uint16), pixel_size_nm, size=64, working_pixel_nm=0.045
    )
    noise = np.random.default_rng(0).standard_normal(scale.shape).astype(np.float32)
    assert bragg_mask(noise).shape == scale.shape
