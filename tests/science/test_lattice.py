"""Reflections: found where they are; the lattice image against a plain version of Eq. 5."""

import cv2
import numpy as np
import pytest

from hrtem_stream.science.lattice import (
    _average_around,
    _find_maxima,
    _take_strongest,
    find_reflections,
    lattice_image,
    padded_shape,
    without_lattice,
)
from hrtem_stream.science.packed_spectrum import unfold_amplitudes
from tests.science import drawn

APERTURE = 0.0156


def lattice_image_plainly(image: np.ndarray, reflections: np.ndarray) -> np.ndarray:
    """Eq. 5 on the whole complex plane, normalised at the borders."""
    rows, columns = image.shape
    padded = np.zeros(padded_shape(rows, columns))
    field = np.zeros_like(padded)
    padded[:rows, :columns], field[:rows, :columns] = image, 1.0
    y, x = np.meshgrid(*(np.fft.fftfreq(n) for n in padded.shape), indexing="ij")

    def aperture(g: np.ndarray) -> np.ndarray:
        dy, dx = (y - g[0] + 0.5) % 1.0 - 0.5, (x - g[1] + 0.5) % 1.0 - 0.5
        return np.exp(-(dy**2 + dx**2) / (2 * APERTURE**2))

    apertures = np.max([aperture(s * g) for g in reflections[:, :2] for s in (1, -1)], axis=0)
    filtered = np.fft.ifft2(np.fft.fft2(padded) * apertures).real
    gain = np.fft.ifft2(np.fft.fft2(field) * aperture(np.zeros(2))).real
    return (filtered / gain)[:rows, :columns]


def found(image: np.ndarray, **parameters: float) -> np.ndarray:
    return find_reflections(image.astype(np.float32), threshold=1.5, n_peaks=24, **parameters)


@pytest.mark.parametrize("angle", [0.0, 0.2, np.pi / 6, 1.0])
@pytest.mark.parametrize("shape", [(256, 256), (192, 255), (300, 256)])
def test_the_reflections_of_a_lattice_are_found(shape: tuple[int, int], angle: float) -> None:
    noise = np.random.default_rng(0).standard_normal(shape)
    peaks = found(drawn.lattice(shape, angle=angle) + noise)[:3, :2]
    for g in drawn.reflections(angle=angle):
        distance = np.minimum(np.hypot(*(peaks - g).T), np.hypot(*(peaks + g).T))
        assert distance.min() < 1.0 / min(shape)


def test_the_most_prominent_reflections_come_first_and_no_more_than_asked_for() -> None:
    image = drawn.lattice() + np.random.default_rng(1).standard_normal((256, 256))
    peaks = find_reflections(image.astype(np.float32), threshold=1.01, n_peaks=8)
    assert peaks.shape == (4, 3)
    assert (np.diff(peaks[:, 2]) <= 0).all()


@pytest.mark.parametrize("shape", [(256, 170), (40, 29), (7, 5), (1, 9)])
def test_the_neighbourhood_of_a_maximum_is_averaged_as_opencv_averages_it(
    shape: tuple[int, int],
) -> None:
    plane = np.random.default_rng(0).random(shape, np.float32)
    places, averages = np.arange(0, plane.size, 3), np.empty(-(-plane.size // 3), np.float32)
    _average_around(plane, places, 8, averages)
    plain = cv2.blur(plane, (17, 17), borderType=cv2.BORDER_REFLECT_101).ravel()[places]
    assert np.allclose(averages, plain, rtol=1e-6)


@pytest.mark.parametrize("n", [0, 3, 200])
def test_the_strongest_maxima_are_those_that_a_stable_sort_puts_first(n: int) -> None:
    rng = np.random.default_rng(n)
    # Few values, so that there are ties; a background of zero counts as the least number.
    plane = rng.integers(0, 6, (40, 29)).astype(np.float32)
    places = np.sort(rng.choice(plane.size, n, replace=False))
    background = rng.integers(0, 3, n).astype(np.float32)
    found = np.empty((12, 3))
    n_found = _take_strongest(plane, places, background, np.float32(1.5), found)
    with np.errstate(over="ignore"):
        prominence = plane.ravel()[places] / np.maximum(background, np.finfo(np.float32).tiny)
    strongest = np.argsort(-prominence, kind="stable")[:12]
    strongest = strongest[prominence[strongest] > 1.5]
    plain = np.stack([*np.divmod(places[strongest], 29), prominence[strongest]], axis=1)
    assert np.array_equal(found[:n_found], plain)


def test_only_one_of_each_pair_is_returned() -> None:
    peaks = found(drawn.lattice(angle=0.0) + 0.3 * drawn.texture())[:, :2]
    sums = peaks[:, None] + peaks[None, :]
    assert np.hypot(sums[..., 0], sums[..., 1]).min() > 0.01


def test_amorphous_texture_has_no_prominent_reflection() -> None:
    for seed in range(5):
        peaks = found(drawn.texture(seed=seed))
        assert len(peaks) == 0 or peaks[0, 2] < 1.9


def test_an_empty_image_has_no_reflection_and_no_lattice() -> None:
    empty = np.zeros((64, 64), np.float32)
    assert found(empty).shape == (0, 3)
    assert (lattice_image(empty + 1, np.empty((0, 3)), aperture=APERTURE) == 0).all()


@pytest.mark.parametrize("angle", [0.0, 0.3, np.pi / 6])
@pytest.mark.parametrize("shape", [(256, 256), (100, 131)])
def test_the_lattice_image_equals_the_plain_version(shape: tuple[int, int], angle: float) -> None:
    image = (drawn.lattice(shape, angle=angle) + drawn.texture(shape)).astype(np.float32)
    peaks = found(image)
    fast = lattice_image(image, peaks, aperture=APERTURE)
    assert fast.dtype == np.float32
    # Apertures are cut at 3.5 deviations, where a Gaussian is two thousandths.
    assert np.abs(fast - lattice_image_plainly(image, peaks)).max() < 0.02


def test_a_perfect_lattice_is_its_own_lattice_image_up_to_the_border() -> None:
    image = drawn.lattice().astype(np.float32)
    peaks = np.concatenate([drawn.reflections(), np.ones((3, 1))], axis=1)
    assert np.abs(lattice_image(image, peaks, aperture=APERTURE) - image).max() < 0.15


def test_the_lattice_image_turns_with_the_image() -> None:
    image = (drawn.lattice() + 0.5 * drawn.texture()).astype(np.float32)
    peaks = found(image)
    turned = lattice_image(np.ascontiguousarray(image[::-1, ::-1]), peaks, aperture=APERTURE)
    assert np.allclose(
        turned[::-1, ::-1], lattice_image(image, peaks, aperture=APERTURE), atol=1e-4
    )


@pytest.mark.parametrize("shape", [(64, 48), (37, 48), (48, 37)])
def test_what_is_left_without_the_lattice_is_image_less_lattice(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    peaks = np.array([[0.2, 0.1, 2.0], [-0.1, 0.25, 1.8]])
    left = without_lattice(image, peaks, aperture=APERTURE)
    assert left.dtype == np.float32
    lattice = lattice_image(image, peaks, aperture=APERTURE)
    assert np.allclose(left, image - lattice, atol=1e-5)


@pytest.mark.parametrize("shape", [(96, 60), (9, 17), (40, 2)])
def test_maxima_are_those_of_the_dilated_plane(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    # Few values, so that there are plateaus.
    plane = rng.integers(0, 12, shape).astype(np.float32)
    band = rng.random(shape) > 0.3
    plain = (plane == cv2.dilate(plane, np.ones((7, 7), np.uint8))) & band
    assert (_find_maxima(plane, band, 3) == np.flatnonzero(plain)).all()


@pytest.mark.parametrize("shape", [(16, 12), (15, 12), (16, 13), (15, 13)])
def test_amplitudes_are_those_of_the_plane_from_the_margin_on(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    image = rng.standard_normal(shape).astype(np.float32)
    half, margin = shape[1] // 2 + 1, 4
    weights = rng.random((shape[0], half)).astype(np.float32)
    plane = np.empty((shape[0], margin + half), np.float32)
    unfold_amplitudes(cv2.dft(image), weights, margin, plane)
    weighted = np.abs(np.fft.rfft2(image)) * weights
    opposite = weighted[-np.arange(shape[0]) % shape[0]][:, margin:0:-1]
    plain = np.roll(np.hstack([opposite, weighted]), shape[0] // 2, axis=0)
    assert np.allclose(plane, plain, atol=1e-5)
