"""Pictures: what they show lies where it is said to lie."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from hrtem_stream.web.pictures import (
    AMORPHOUS,
    VACUUM,
    contrast_filter,
    grey_jpeg,
    mask_png,
    ring_radii,
    scale_bar,
    screen_image,
    spectrum,
    tinted,
)


def test_a_mask_is_clear_where_nothing_is_masked_and_coloured_elsewhere() -> None:
    amorphous, vacuum = np.zeros((2, 4), bool), np.zeros((2, 4), bool)
    amorphous[0, 0] = amorphous[0, 1] = vacuum[0, 1] = vacuum[0, 2] = True
    with Image.open(io.BytesIO(mask_png(amorphous, vacuum=vacuum))) as image:
        shown = np.asarray(image.convert("RGBA"))
    assert shown[0, 0].tolist() == shown[0, 1].tolist() == [*AMORPHOUS, 255]
    assert shown[0, 2].tolist() == [*VACUUM, 255]
    assert (shown[1, :, 3] == 0).all()


def test_a_jpeg_has_the_shape_of_its_image() -> None:
    with Image.open(io.BytesIO(grey_jpeg(np.zeros((20, 30), np.uint8)))) as image:
        assert (image.size, image.mode) == ((30, 20), "L")


def test_a_tint_mixes_by_its_opacity() -> None:
    image = np.full((1, 2), 100, np.uint8)
    first = np.array([[True, False]])
    shown = tinted(image, amorphous=first, vacuum=~first, opacity=0.5)
    assert shown[0, 0].tolist() == [round((100 + c) / 2) for c in AMORPHOUS]
    assert shown[0, 1].tolist() == [round((100 + c) / 2) for c in VACUUM]


@pytest.mark.parametrize("shape", [(1024, 1024), (512, 1024)])
def test_the_ring_lies_on_the_reflections_of_graphene(shape: tuple[int, int]) -> None:
    size_nm, side = 0.02, 256
    p, q = np.indices((side, side)) * np.reshape(shape, (2, 1, 1)) * size_nm / side
    for angle in np.deg2rad([0, 30, 77]):
        waves = 128 + 60 * np.cos(2 * np.pi / 0.213 * (p * np.cos(angle) + q * np.sin(angle)))
        shown = spectrum(waves.astype(np.uint8)).astype(float)
        shown[108:149, 108:149] = 0
        brightest = np.array(np.unravel_index(shown.argmax(), shown.shape)) - side // 2
        radii = ring_radii(shape, pixel_size_nm=size_nm, working_side=side)
        assert radii is not None
        share = np.hypot(*(brightest / (side / 2) / radii))
        assert share == pytest.approx(1.0, abs=0.03)


def test_there_is_no_ring_where_the_working_image_cannot_show_the_lattice() -> None:
    assert ring_radii((1024, 1024), pixel_size_nm=0.03, working_side=256) is None


@pytest.mark.parametrize(
    ("width", "size_nm", "length"), [(1024, 0.02, 5.0), (512, 0.04, 5.0), (100, 0.3, 5.0),
                                     (1000, 0.0039, 0.5), (2048, 0.1, 50.0)],
)  # fmt: skip
def test_a_scale_bar_is_round_and_at_most_a_quarter(
    width: int, size_nm: float, length: float
) -> None:
    found, share = scale_bar(width, pixel_size_nm=size_nm)
    assert found == pytest.approx(length)
    assert share == pytest.approx(found / (width * size_nm))
    assert 0.09 < share <= 0.2501


def test_brightness_and_contrast_stretch_as_css_applies_them() -> None:
    image = np.random.default_rng(0).normal(120, 20, (64, 64)).clip(0, 255).astype(np.uint8)
    b, c = contrast_filter(image, 1, 99)
    low, high = np.percentile(image, [1, 99], method="inverted_cdf") / 255
    for value, wanted in ((low, 0.0), (high, 1.0), ((low + high) / 2, 0.5)):
        assert (b * value - 0.5) * c + 0.5 == pytest.approx(wanted, abs=1e-6)
        assert b * value <= 1 + 1e-9  # a browser clips between the two steps


def test_a_flat_image_has_a_contrast_too() -> None:
    b, c = contrast_filter(np.zeros((8, 8), np.uint8), 0.5, 99.5)
    assert np.isfinite([b, c]).all()


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<u4", "<f4"])
def test_a_large_frame_is_made_to_fit_a_screen(dtype: str) -> None:
    frame = np.random.default_rng(0).poisson(100, (300, 4096)).astype(dtype)
    assert screen_image(frame).shape == (150, 2048)


def test_a_frame_with_infinities_can_be_shown() -> None:
    frame = np.full((8, 8), np.inf, np.float32)
    assert screen_image(frame).dtype == np.uint8
