"""Illumination: the beam is recovered whatever lies in it, and good frames are left alone."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from hrtem_stream.science.bezier import bezier_surface, fit_bezier
from hrtem_stream.science.bragg import bragg_mask
from hrtem_stream.science.illumination import (
    NormalisedImage,
    fit_illumination,
    illumination_surface,
    normalise_frame,
    normalise_image,
    normalise_published,
    repair_defects,
    standardise,
)
from tests.science import drawn

REAL = Path(__file__).parents[3] / "shared" / "data" / "graphene-u-net"


def error(coefficients: np.ndarray, beam: np.ndarray, where: np.ndarray) -> float:
    """Return the relative deviation of a fitted surface from the beam, but for a factor."""
    ratio = (bezier_surface(coefficients, shape=beam.shape) / beam)[where]
    return float(ratio.std() / ratio.mean())


def lit_frame(dose: float = 1000.0, contrast: float = 0.08) -> np.ndarray:
    expected = dose * drawn.beam() * (1.0 + contrast * drawn.lattice())
    return np.random.default_rng(0).poisson(expected).astype(np.float32)


EVERYWHERE = np.ones((256, 256), np.bool_)


def test_a_beam_with_five_fold_fall_off_is_followed_to_a_few_per_cent() -> None:
    coefficients, beam_off = fit_illumination(lit_frame())
    assert coefficients.shape == (5, 5)
    assert not beam_off.any()
    assert error(coefficients, drawn.beam(), EVERYWHERE) < 0.02
    plain = fit_bezier(lit_frame(), degree=2)
    assert error(plain, drawn.beam(), EVERYWHERE) > 0.03


def test_contaminants_and_holes_do_not_pull_the_fit() -> None:
    frame = lit_frame()
    frame[20:90, 150:230] *= 0.8
    frame[170:220, 40:80] *= 1.3
    coefficients, _ = fit_illumination(frame)
    plain = fit_bezier(frame, degree=4)
    assert error(coefficients, drawn.beam(), EVERYWHERE) < 0.025
    assert error(plain, drawn.beam(), EVERYWHERE) > 0.05


def test_the_dark_outside_of_the_beam_is_marked_and_does_not_pull_the_fit() -> None:
    inside = drawn.disc(110.0, centre=(120, 130))
    frame = np.where(inside, lit_frame(), 5.0).astype(np.float32)
    coefficients, beam_off = fit_illumination(frame)
    assert (beam_off == ~inside).mean() > 0.98
    assert error(coefficients, drawn.beam(), inside) < 0.03


def test_a_frame_without_light_is_off_throughout() -> None:
    frame = np.zeros((256, 256), np.uint16)
    frame[100, 100] = 1000
    normalised = normalise_frame(frame)
    assert normalised.beam_off.all()
    assert not normalised.vacuum.any()
    assert (normalised.image == 0).all()


def test_hot_and_dead_pixels_are_repaired_and_nothing_else() -> None:
    frame = lit_frame()
    broken = frame.copy()
    broken[30, 40], broken[200, 10], broken[77, 200] = 60_000.0, 40_000.0, 50_000.0
    repaired = repair_defects(broken)
    changed = repaired != broken
    assert changed[30, 40] and changed[200, 10] and changed[77, 200]
    assert changed.sum() < 10
    assert np.abs(repaired / frame - 1.0)[[30, 200, 77], [40, 10, 200]].max() < 0.6


def test_defects_are_replaced_as_the_plain_version_replaces_them() -> None:
    frame = lit_frame()
    frame[::17, ::23] *= 3.0
    median = ndimage.median_filter(frame, 3, mode="nearest")
    difference = np.abs(frame - median)
    lit = median[::4, ::4] > 0.5 * median[::4, ::4].mean()
    limit = 10.0 * 1.4826 * np.median(difference[::4, ::4][lit])
    expected = np.where(difference > np.float32(limit), median, frame)
    assert (expected != frame).any()
    assert np.array_equal(repair_defects(frame), expected)


def test_the_illumination_is_nowhere_below_a_thousandth_of_its_peak() -> None:
    surface = illumination_surface(np.array([[-50.0, 0.0], [0.0, 100.0]]), shape=(40, 60))
    plain = bezier_surface(np.array([[-50.0, 0.0], [0.0, 100.0]]), shape=(40, 60))
    assert np.allclose(surface, np.maximum(plain, 1e-3 * plain.max()), rtol=1e-5)
    assert surface.min() > 0.0


def test_shot_noise_in_a_small_beam_is_not_taken_for_defects() -> None:
    frame = np.where(drawn.disc(60.0), drawn.expose(np.zeros((256, 256)), dose=500.0), 0)
    assert (repair_defects(frame.astype(np.float32)) != frame).sum() < 200


def test_the_normalised_image_is_standardised() -> None:
    normalised = normalise_image(lit_frame())
    assert normalised.image.dtype == normalised.coefficients.dtype == np.float32
    assert normalised.vacuum.dtype == normalised.beam_off.dtype == np.bool_
    assert normalised.image.mean() == pytest.approx(0.0, abs=1e-4)
    assert normalised.image.std() == pytest.approx(1.0, abs=1e-4)


def test_the_unlit_part_is_zero_and_does_not_count() -> None:
    inside = drawn.disc(100.0)
    normalised = normalise_image(np.where(inside, lit_frame(), 1.0).astype(np.float32))
    assert (normalised.image[normalised.beam_off] == 0).all()
    assert normalised.image[~normalised.beam_off].std() == pytest.approx(1.0, abs=1e-3)


def test_the_coefficients_are_in_detector_counts() -> None:
    normalised = normalise_image(np.full((256, 256), 1234.0, np.float32) + lit_frame() * 0.01)
    surface = illumination_surface(normalised.coefficients, shape=(256, 256))
    assert surface.mean() == pytest.approx(1234.0, rel=0.01)


def test_scaling_the_counts_changes_nothing_but_the_coefficients() -> None:
    one, ten = normalise_image(lit_frame()), normalise_image(10.0 * lit_frame())
    assert np.abs(one.image - ten.image).max() < 1e-3
    assert np.allclose(10.0 * one.coefficients, ten.coefficients, rtol=1e-3)


def test_turning_the_frame_turns_the_result() -> None:
    frame = lit_frame()
    turned = normalise_image(np.ascontiguousarray(frame[::-1, ::-1]))
    assert np.abs(turned.image[::-1, ::-1] - normalise_image(frame).image).max() < 1e-2


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.float32, np.float64])
def test_frames_of_any_dtype_and_shape_are_normalised(dtype: type[np.generic]) -> None:
    expected = 100.0 * (1.0 + 0.2 * drawn.lattice((512, 768), g=0.08))
    frame = np.random.default_rng(2).poisson(expected).astype(dtype)
    frame.flags.writeable = False
    normalised = normalise_frame(frame)
    assert isinstance(normalised, NormalisedImage)
    assert normalised.image.shape == (256, 256)


def test_another_working_shape_and_degree_may_be_asked_for() -> None:
    frame = lit_frame().astype(np.uint16)
    normalised = normalise_frame(frame, degree=2, shape=(128, 200))
    assert normalised.image.shape == normalised.vacuum.shape == (128, 200)
    assert normalised.coefficients.shape == (3, 3)


def test_a_faulty_frame_is_refused_with_the_fault() -> None:
    nan = np.ones((256, 256), np.float32)
    nan[3, 3] = np.nan
    for frame, message in (
        (nan, "must be finite"),
        (np.zeros((256, 256), np.uint16), "must not be blank"),
        (np.full((256, 256), 3, np.uint8), "must not be constant"),
        (np.zeros((4, 4, 4), np.uint8), "must be a non-empty"),
        (np.zeros((256, 256), np.int32), "unsigned integers or floats"),
    ):
        with pytest.raises(ValueError, match=message):
            normalise_frame(frame)


def test_unusable_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="degree must be from 0 to 7, got 8"):
        normalise_image(lit_frame(), degree=8)
    with pytest.raises(ValueError, match="image must be at least 16 x 16"):
        normalise_image(np.ones((8, 64), np.float32))


def test_the_published_form_is_divide_by_plain_fit_and_standardise() -> None:
    image = lit_frame()
    flat = image / bezier_surface(fit_bezier(image, degree=2), shape=image.shape)
    expected = (flat - flat.mean()) / flat.std()
    assert np.abs(normalise_published(image) - expected).max() < 1e-3


def test_an_image_without_variation_standardises_to_zero() -> None:
    constant = np.full((32, 32), 4.0, np.float32)
    assert (standardise(constant, beam_off=np.zeros((32, 32), np.bool_)) == 0).all()


def test_the_argument_is_not_modified() -> None:
    frame = lit_frame()
    before = frame.copy()
    normalise_image(frame)
    assert (frame == before).all()


@pytest.mark.skipif(not REAL.is_dir(), reason="no shared/data beside the checkout")
def test_real_flat_frames_come_through_as_they_are_but_for_slow_shades() -> None:
    names = sorted(p for p in REAL.glob("*.png") if not p.stem.endswith("_LABEL"))[::5]
    assert names
    vacuum = []
    for name in names:
        frame = np.asarray(Image.open(name))
        normalised = normalise_frame(frame)
        plain = (frame - frame.mean()) / frame.std()
        assert np.corrcoef(normalised.image.ravel(), plain.ravel())[0, 1] > 0.85, name
        assert not normalised.beam_off.any(), name
        mask = bragg_mask(normalised.image)
        assert (mask == bragg_mask(normalised.image, reflections=normalised.reflections)).all(), (
            name
        )
        label = np.asarray(Image.open(name.with_name(name.stem + "_LABEL.png"))) > 127
        assert not (normalised.vacuum & label).any(), name
        vacuum.append(normalised.vacuum.mean())
    assert np.mean(vacuum) < 0.004
