"""The Gaussian average: against OpenCV's."""

import cv2
import numpy as np
import pytest

from hrtem_stream.science.gaussian import gaussian_average

BORDERS = (cv2.BORDER_REFLECT, cv2.BORDER_REFLECT_101)


@pytest.mark.parametrize("mirror", [0, 1])
@pytest.mark.parametrize("reach", [0, 1, 3, 6, 8, 15])
@pytest.mark.parametrize("shape", [(128, 128), (256, 141), (37, 45), (9, 3), (1, 1)])
def test_it_is_that_of_opencv(shape: tuple[int, int], reach: int, mirror: int) -> None:
    image = np.random.default_rng(reach).normal(1.0, 2.0, shape).astype(np.float32)
    deviation = 0.3 * reach + 0.1
    averaged = gaussian_average(image, deviation_px=deviation, reach=reach, mirror=mirror)
    size = (2 * reach + 1, 2 * reach + 1)
    plain = cv2.GaussianBlur(image, size, deviation, borderType=BORDERS[mirror])
    assert averaged.dtype == np.float32
    assert np.abs(averaged - plain).max() < 2e-6


def test_a_view_is_averaged_as_a_copy_and_not_modified() -> None:
    image = np.random.default_rng(0).standard_normal((64, 96)).astype(np.float32)
    view, before = image[::2, 1::3], image.copy()
    of_view = gaussian_average(view, deviation_px=2.0, reach=6, mirror=0)
    assert np.array_equal(
        of_view, gaussian_average(view.copy(), deviation_px=2.0, reach=6, mirror=0)
    )
    assert np.array_equal(image, before)
