"""The Bragg filter: limits, symmetries, the published form, and its scores on real frames."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from hrtem_stream.science.bragg import (
    DEFAULT,
    bragg_mask,
    bragg_mask_published,
    bragg_residual,
    residual_level,
    subtract_lattice,
    threshold_level,
)
from hrtem_stream.science.illumination import normalise_frame, normalise_image
from hrtem_stream.science.scores import pooled_scores
from tests.science import drawn

REAL = Path(__file__).parents[3] / "shared" / "data" / "graphene-u-net"


def normalised(contrast: np.ndarray, *, dose: float = 2000.0) -> np.ndarray:
    return normalise_image(drawn.expose(contrast, dose=dose).astype(np.float32)).image


def contaminated(island: np.ndarray, *, strength: float = 0.15) -> np.ndarray:
    shape = island.shape
    return 0.1 * drawn.lattice(shape) + np.where(island, strength * drawn.texture(shape), 0.0)


def mask_plainly(image: np.ndarray, *, peak_threshold: float, mask_threshold: float) -> np.ndarray:
    """Eq. 4–6 as published, on the whole complex plane, normalised at the borders."""
    n = len(image)
    g = np.fft.fftshift(np.fft.fftfreq(n))
    y, x = np.meshgrid(g, g, indexing="ij")
    hann = np.hanning(n + 2)[1:-1]
    spectrum = np.abs(np.fft.fftshift(np.fft.fft2(image * hann[:, None] * hann)))
    smooth = ndimage.gaussian_filter(spectrum * np.hypot(y, x), 2.0, mode="wrap")
    band = (np.hypot(y, x) >= 0.1) & (np.hypot(y, x) <= 0.5)
    peaks = (smooth == ndimage.maximum_filter(smooth, 7)) & band
    peaks &= smooth > peak_threshold * smooth[band].mean()
    rows, columns = np.nonzero(peaks)
    strongest = np.argsort(-smooth[peaks])[:24]
    padded, field = np.zeros((2, n + 32, n + 32))
    padded[:n, :n], field[:n, :n] = image, 1.0
    y, x = np.meshgrid(*[np.fft.fftfreq(n + 32)] * 2, indexing="ij")
    apertures = np.zeros_like(padded)
    for row, column in zip(rows[strongest], columns[strongest], strict=True):
        apertures = np.maximum(
            apertures, np.exp(-((y - g[row]) ** 2 + (x - g[column]) ** 2) / (2 * 0.0156**2))
        )
    zero = np.exp(-(y**2 + x**2) / (2 * 0.0156**2))
    lattice = np.fft.ifft2(np.fft.fft2(padded) * apertures).real
    lattice /= np.fft.ifft2(np.fft.fft2(field) * zero).real
    residual = np.abs(image - lattice[:n, :n])
    return ndimage.gaussian_filter(residual, 5.0, truncate=3.0) > mask_threshold


def test_the_published_form_agrees_with_a_plain_version() -> None:
    image = normalised(contaminated(drawn.disc(45.0)))
    fast = bragg_mask_published(image, peak_threshold=4.0, mask_threshold=0.8)
    plain = mask_plainly(image, peak_threshold=4.0, mask_threshold=0.8)
    assert 0.02 < plain.mean() < 0.5
    assert (fast == plain).mean() > 0.998


@pytest.mark.parametrize("dose", [300.0, 2000.0, 50_000.0])
@pytest.mark.parametrize("angle", [0.0, 0.2, 0.5])
def test_a_clean_frame_is_clean(angle: float, dose: float) -> None:
    assert bragg_mask(normalised(0.1 * drawn.lattice(angle=angle), dose=dose)).mean() < 0.01


def test_a_clean_frame_under_an_uneven_beam_is_clean() -> None:
    expected = 1000.0 * drawn.beam(fall_off=7.0) * (1.0 + 0.1 * drawn.lattice())
    counts = np.random.default_rng(0).poisson(expected).astype(np.float32)
    assert bragg_mask(normalise_image(counts).image).mean() < 0.01


def test_two_grains_are_clean_but_for_their_boundary() -> None:
    left = np.indices((256, 256))[1] < 128
    contrast = 0.1 * np.where(left, drawn.lattice(), drawn.lattice(angle=0.55))
    assert bragg_mask(normalised(contrast)).mean() < 0.1


@pytest.mark.parametrize("radius", [15.0, 40.0, 70.0])
def test_an_island_is_found_where_it_is(radius: float) -> None:
    island = drawn.disc(radius, centre=(90, 150))
    found = bragg_mask(normalised(contaminated(island)))
    assert (found & island).sum() / (found | island).sum() > (0.5 if radius < 20 else 0.8)


def test_an_island_under_an_uneven_beam_is_found() -> None:
    island = drawn.disc(40.0, centre=(180, 80))
    expected = 2000.0 * drawn.beam() * (1.0 + contaminated(island))
    counts = np.random.default_rng(0).poisson(expected).astype(np.float32)
    found = bragg_mask(normalise_image(counts).image)
    assert (found & island).sum() / (found | island).sum() > 0.75


def test_a_frame_without_a_lattice_is_amorphous_throughout() -> None:
    for seed in range(3):
        assert bragg_mask(normalised(0.1 * drawn.texture(seed=seed))).all()
    assert bragg_mask(np.zeros((64, 64), np.float32)).all()


def test_a_single_set_of_fringes_is_not_a_lattice() -> None:
    fringes = np.sin(2 * np.pi * 0.2 * np.indices((256, 256))[0])
    assert bragg_mask(normalised(0.1 * fringes)).all()


def test_a_frame_covered_throughout_is_amorphous_though_the_lattice_shows() -> None:
    everywhere = np.ones((256, 256), np.bool_)
    assert bragg_mask(normalised(contaminated(everywhere, strength=0.3))).mean() > 0.9


def test_a_hole_is_not_amorphous() -> None:
    hole = drawn.disc(40.0)
    found = bragg_mask(normalised(np.where(hole, 0.0, 0.1 * drawn.lattice())))
    assert (found & hole).mean() < 0.02


@pytest.mark.parametrize("shape", [(256, 256), (128, 200), (301, 256), (160, 144)])
def test_any_working_size_is_segmented(shape: tuple[int, int]) -> None:
    island = drawn.disc(20.0, centre=(40, 30), shape=shape)
    mask = bragg_mask(drawn.standardised(contaminated(island, strength=0.3)))
    assert mask.shape == shape
    assert mask.dtype == np.bool_
    assert mask[40, 30]
    assert not mask[-5, -5]


def test_turning_or_inverting_the_image_turns_or_keeps_the_mask() -> None:
    image = normalised(contaminated(drawn.disc(40.0, centre=(100, 150))))
    mask = bragg_mask(image)
    assert (mask == bragg_mask(np.ascontiguousarray(image.T)).T).mean() > 0.99
    assert (bragg_mask(np.ascontiguousarray(image[::-1, ::-1]))[::-1, ::-1] == mask).mean() > 0.99
    assert (bragg_mask(-image) == mask).all()


def test_the_residual_is_high_on_a_contaminant_and_low_on_the_lattice() -> None:
    island = drawn.disc(50.0)
    residual = bragg_residual(normalised(contaminated(island)))
    assert residual.dtype == np.float32
    assert residual.shape == (256, 256)
    assert residual[drawn.disc(40.0)].mean() > 2.0 * residual[~drawn.disc(65.0)].mean()


def test_a_read_only_image_is_taken_and_not_modified() -> None:
    image = normalised(contaminated(drawn.disc(40.0)))
    before = image.copy()
    image.flags.writeable = False
    bragg_mask(image)
    assert (image == before).all()


def test_the_mask_is_made_of_the_public_steps() -> None:
    image = normalised(contaminated(drawn.disc(40.0)))
    residual, reflections = subtract_lattice(image)
    assert len(reflections) >= 3
    assert (residual_level(residual) == bragg_residual(image)).all()


def test_small_islands_are_dropped_and_small_gaps_filled() -> None:
    parameters = replace(DEFAULT, least_island_px=300, largest_gap_px=150, clean_quantile=0.1)
    level = np.full((128, 128), 0.04, np.float32)
    level[drawn.disc(30.0, centre=(60, 60), shape=(128, 128))] = 1.0
    level[drawn.disc(4.0, centre=(60, 60), shape=(128, 128))] = 0.0
    level[drawn.disc(5.0, centre=(110, 110), shape=(128, 128))] = 1.0
    mask = threshold_level(level, noise=1.0, parameters=parameters)
    assert mask[60, 60]
    assert not mask[110, 110]


def test_an_island_needs_a_pixel_above_the_higher_threshold() -> None:
    parameters = replace(DEFAULT, high_threshold=2.0, low_threshold=1.0, least_island_px=10)
    level = np.full((64, 64), 0.04, np.float32)
    level[10:30, 10:30] = 0.3
    assert not threshold_level(level, noise=1.0, parameters=parameters).any()
    level[20, 20] = 0.5
    assert threshold_level(level, noise=1.0, parameters=parameters).sum() == 400


def test_unusable_images_are_refused() -> None:
    for image in (np.zeros((16, 64), np.float32), np.zeros((2, 64, 64), np.float32)):
        with pytest.raises(ValueError, match="image must be at least 32 x 32"):
            bragg_mask(image)


@pytest.mark.skipif(not REAL.is_dir(), reason="no shared/data beside the checkout")
def test_scores_on_every_other_real_frame_pass_the_published_ones() -> None:
    names = sorted(p for p in REAL.glob("*.png") if not p.stem.endswith("_LABEL"))[::2]
    pairs = []
    for name in names:
        label = np.asarray(Image.open(name.with_name(name.stem + "_LABEL.png"))) > 127
        pairs.append((bragg_mask(normalise_frame(np.asarray(Image.open(name))).image), label))
    found = pooled_scores(pairs)
    assert found.accuracy > 0.965
    assert found.jaccard > 0.80
    assert found.f1 > 0.89
