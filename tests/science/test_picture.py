"""Pictures of masks."""

from __future__ import annotations

import numpy as np
import pytest

from hrtem_stream.science.picture import contact_sheet, error_map, overlay

GREY = np.full((4, 4), 100, np.uint8)


def test_amorphous_is_tinted_red_and_vacuum_blue() -> None:
    amorphous, vacuum = np.zeros((4, 4), np.bool_), np.zeros((4, 4), np.bool_)
    amorphous[0], vacuum[1] = True, True
    picture = overlay(GREY, amorphous=amorphous, vacuum=vacuum)
    red, green, blue = picture[0, 0].tolist()
    assert red > green
    assert red > blue
    assert picture[1, 0, 2] > picture[1, 0, 0]
    assert (picture[2] == 100).all()


def test_an_error_map_is_white_red_and_blue() -> None:
    mask = np.array([[True, True, False, False]])
    label = np.array([[True, False, True, False]])
    picture = error_map(GREY[:1], mask=mask, label=label)
    assert picture.shape == (1, 8, 3)
    expected = [[255, 255, 255], [255, 0, 0], [0, 0, 255], [0, 0, 0]]
    assert picture[0, 4:].tolist() == expected


def test_a_sheet_has_a_place_for_each_picture() -> None:
    picture = np.zeros((40, 60, 3), np.uint8)
    sheet = contact_sheet([picture] * 5, ["a"] * 5, n_columns=2)
    assert sheet.shape[0] > 3 * 40
    assert 2 * 60 < sheet.shape[1] < 3 * 60
    with pytest.raises(ValueError, match="caption"):
        contact_sheet([picture], [], n_columns=2)
