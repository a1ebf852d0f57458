"""Coverage: every pixel counts once, over the whole field of view."""

import numpy as np
import pytest

from hrtem_stream.science.coverage import Coverage, coverage


def mask(*values: int) -> np.ndarray:
    return np.array([values], np.bool_)


def test_the_four_fractions_share_the_field_of_view() -> None:
    assert coverage(mask(1, 0, 0, 0), mask(0, 1, 0, 0), mask(0, 0, 1, 0)) == Coverage(
        graphene_fraction=0.25,
        amorphous_fraction=0.25,
        vacuum_fraction=0.25,
        beam_off_fraction=0.25,
    )


def test_beam_off_goes_before_vacuum_and_vacuum_before_amorphous() -> None:
    found = coverage(mask(1, 1, 0, 0), mask(1, 1, 0, 0), mask(1, 0, 0, 0))
    assert found.beam_off_fraction == 0.25
    assert found.vacuum_fraction == 0.25
    assert found.amorphous_fraction == 0.0
    assert found.graphene_fraction == 0.5


def test_fractions_sum_to_one_however_the_masks_overlap() -> None:
    rng = np.random.default_rng(0)
    found = coverage(*(rng.random((16, 16)) < 0.5 for _ in range(3)))
    total = (
        found.graphene_fraction
        + found.amorphous_fraction
        + found.vacuum_fraction
        + found.beam_off_fraction
    )
    assert total == pytest.approx(1.0, abs=1e-12)


def test_an_empty_hole_and_a_blank_frame_have_no_graphene() -> None:
    none, everything = np.zeros((4, 4), np.bool_), np.ones((4, 4), np.bool_)
    assert coverage(none, everything, none).graphene_fraction == 0.0
    assert coverage(none, none, everything).graphene_fraction == 0.0


def test_nothing_found_is_all_graphene() -> None:
    none = np.zeros((4, 4), np.bool_)
    assert coverage(none, none, none).graphene_fraction == 1.0


def test_masks_of_another_shape_or_dtype_are_refused() -> None:
    none = np.zeros((4, 4), np.bool_)
    with pytest.raises(ValueError, match="vacuum must have the shape of amorphous"):
        coverage(none, np.zeros((4, 5), np.bool_), none)
    with pytest.raises(ValueError, match="beam_off must be boolean, got uint8"):
        coverage(none, none, np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match="not be empty"):
        coverage(none[:0], none[:0], none[:0])
