"""Four classes of pixels from three masks."""

from __future__ import annotations

import numpy as np
import pytest

from hrtem_stream.science.classes import (
    AMORPHOUS,
    BOUNDARY,
    CLASS_NAMES,
    GRAPHENE,
    VACUUM,
    classify,
)


def test_amorphous_material_covers_vacuum_and_vacuum_a_boundary() -> None:
    boundary, amorphous, vacuum = np.zeros((3, 30, 30), np.bool_)
    boundary[15] = True
    vacuum[:, :20] = True
    amorphous[:, :10] = True
    classes = classify(boundary, amorphous=amorphous, vacuum=vacuum, pixel_size_nm=0.05)
    assert classes.dtype == np.uint8
    assert (classes[:, :10] == AMORPHOUS).all()
    assert (classes[:, 10:20] == VACUUM).all()
    assert np.count_nonzero(classes[:, 25] == BOUNDARY) == 6  # 0.3 nm
    assert (classes[:10, 20:] == GRAPHENE).all()
    assert CLASS_NAMES[BOUNDARY] == "grain boundary"


def test_masks_must_fit_and_have_a_scale() -> None:
    mask = np.zeros((4, 4), np.bool_)
    with pytest.raises(ValueError, match="one shape"):
        classify(mask, amorphous=mask[:2], vacuum=mask, pixel_size_nm=0.05)
    with pytest.raises(ValueError, match="above 0"):
        classify(mask, amorphous=mask, vacuum=mask, pixel_size_nm=float("nan"))
