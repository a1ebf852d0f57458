"""Views keep what makes a labelled image."""

from __future__ import annotations

import numpy as np
import pytest

from hrtem_stream.unet.augment import REAL, SIMULATED, Augmentation, augment, plain
from tests.unet.frames import SIZE, example

NOTHING = Augmentation(
    warp_share=0, sign_share=0, noise_share=0, blur_share=0, illumination_share=0
)


@pytest.mark.parametrize("augmentation", [REAL, SIMULATED, NOTHING])
def test_views_are_float32_of_the_same_size_with_binary_labels(augmentation: Augmentation) -> None:
    for seed in range(10):
        view = augment(example(), augmentation=augmentation, rng=np.random.default_rng(seed))
        for array in (view.image, view.amorphous, view.weight):
            assert array.dtype == np.float32
            assert array.shape == (SIZE, SIZE)
        assert set(np.unique(view.amorphous)) <= {0.0, 1.0}
        assert abs(float(view.image.mean())) < 1e-4
        assert 0.6 < float(view.image.std()) < 1.6


def test_without_changes_only_the_eight_symmetries_remain() -> None:
    views = [
        augment(example(), augmentation=NOTHING, rng=np.random.default_rng(seed))
        for seed in range(60)
    ]
    assert len({view.amorphous.tobytes() for view in views}) == 8


def test_image_and_label_are_warped_together() -> None:
    only_warp = Augmentation(
        warp_share=1, sign_share=0, noise_share=0, blur_share=0, illumination_share=0
    )
    for seed in range(10):
        view = augment(example(), augmentation=only_warp, rng=np.random.default_rng(seed))
        inside = view.image[view.amorphous > 0]
        assert inside.std() > 1.2 * view.image[view.amorphous == 0].std()


def test_the_example_is_left_as_it_was() -> None:
    original = example()
    before = original.image.copy()
    augment(original, augmentation=REAL, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(original.image, before)
    np.testing.assert_array_equal(plain(original).image, before)
