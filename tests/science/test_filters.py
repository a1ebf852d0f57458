"""Averages: limits and closed forms."""

import cv2
import numpy as np
import pytest

from hrtem_stream.science.filters import (
    average_magnitude,
    blur,
    noise_deviation,
    quantile,
    subtract_local_mean,
)


def test_a_constant_image_has_no_deviation_from_its_local_mean() -> None:
    assert (
        np.abs(subtract_local_mean(np.full((64, 96), 5.0, np.float32), deviation_px=14)).max()
        < 1e-5
    )


def test_a_slow_gradient_goes_and_a_fine_lattice_stays() -> None:
    rows, columns = np.indices((256, 256))
    fine = np.cos(2 * np.pi * 0.2 * columns)
    flattened = subtract_local_mean((rows / 50.0 + fine).astype(np.float32), deviation_px=14.0)
    assert np.abs(flattened - fine)[40:-40, 40:-40].max() < 0.1


def test_the_average_of_a_wave_is_damped_as_a_gaussian_damps_it() -> None:
    columns = np.indices((64, 256))[1]
    wave = np.cos(2 * np.pi * 0.05 * columns).astype(np.float32)
    damped = blur(wave, deviation_px=3.0)[32, 100:150]
    factor = np.exp(-2 * (np.pi * 0.05 * 3.0) ** 2)
    assert np.abs(damped - factor * wave[32, 100:150]).max() < 0.01


@pytest.mark.parametrize("deviation", [0.3, 1.0, 20.0])
def test_the_deviation_of_white_noise_is_measured(deviation: float) -> None:
    noise = np.random.default_rng(0).normal(3.0, deviation, (256, 256)).astype(np.float32)
    assert noise_deviation(noise) == pytest.approx(deviation, rel=0.03)


def test_a_lattice_does_not_count_as_noise() -> None:
    rows, columns = np.indices((256, 256))
    lattice = np.cos(2 * np.pi * (0.15 * columns + 0.08 * rows)).astype(np.float32)
    assert noise_deviation(lattice) < 0.03


@pytest.mark.parametrize("shape", [(256, 256), (64, 96), (129, 203), (3, 5)])
def test_the_local_mean_is_that_of_opencv_on_every_fourth_pixel(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).normal(1.0, 2.0, shape).astype(np.float32)
    small = cv2.resize(
        image, (max(shape[1] // 4, 1), max(shape[0] // 4, 1)), interpolation=cv2.INTER_AREA
    )
    mean = cv2.resize(blur(small, deviation_px=2.5), shape[::-1], interpolation=cv2.INTER_LINEAR)
    flattened = subtract_local_mean(image, deviation_px=10.0)
    assert flattened.dtype == np.float32
    assert np.abs(flattened - (image - mean)).max() < 2e-6


@pytest.mark.parametrize("shape", [(256, 256), (33, 47), (2, 3), (1, 1)])
def test_the_noise_is_what_the_second_differences_of_opencv_say(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).normal(3.0, 2.0, shape).astype(np.float32)
    step = np.array([1.0, -2.0, 1.0], np.float32)
    difference = cv2.sepFilter2D(image, cv2.CV_32F, step, step).astype(np.float64)
    plain = np.sqrt(np.mean(difference**2)) / 6.0
    assert noise_deviation(image) == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("n", [1, 2, 50, 4096])
def test_a_quantile_equals_that_of_numpy(n: int, share: float) -> None:
    values = np.random.default_rng(n).standard_normal((n, 2)).astype(np.float32)[:, :1]
    assert quantile(values, share=share) == pytest.approx(np.quantile(values, share), rel=1e-5)


@pytest.mark.parametrize("shape", [(256, 256), (129, 200)])
def test_the_average_magnitude_equals_the_plain_one_to_two_per_cent(
    shape: tuple[int, int],
) -> None:
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    plain = blur(np.abs(image), deviation_px=4.0)
    coarse = average_magnitude(image, deviation_px=4.0)
    assert coarse.dtype == np.float32
    assert np.abs(coarse - plain).mean() < 0.01 * plain.mean()
    assert np.abs(coarse - plain)[20:-20, 20:-20].max() < 0.03 * plain.mean()


@pytest.mark.parametrize("shape", [(256, 256), (34, 58), (2, 4)])
def test_the_average_magnitude_is_what_opencv_makes_of_it(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).normal(0.5, 2.0, shape).astype(np.float32)
    small = cv2.resize(np.abs(image), (shape[1] // 2, shape[0] // 2), interpolation=cv2.INTER_AREA)
    blurred = blur(small, deviation_px=0.5 * np.sqrt(15.0))
    plain = cv2.resize(blurred, shape[::-1], interpolation=cv2.INTER_LINEAR)
    assert np.abs(average_magnitude(image, deviation_px=4.0) - plain).max() < 2e-6
