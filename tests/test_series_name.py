from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hrtem_stream.series_name import series_name_fault, series_name_from, series_name_of_feed


@pytest.mark.parametrize(
    "name", ["S1", "2014_0601_Gr_FS_002", "Gr 5 (b), -3 nm", "Graphén", "素" * 60]
)
def test_ordinary_names_are_taken(name: str) -> None:
    assert series_name_fault(name) == ""


@pytest.mark.parametrize("name", ["", "a/b", "a\\b", "..", "a..b", ".a", "-a", "a ", "a\n", "a:b"])
def test_names_that_could_lead_elsewhere_are_refused(name: str) -> None:
    assert series_name_fault(name).startswith("series name must")


@given(st.text(max_size=300))
def test_a_name_that_is_taken_stays_in_its_folder(name: str) -> None:
    if not series_name_fault(name):
        folder = Path("/archives")
        assert (folder / f"{name}.nxs").resolve().parent == folder


@given(st.text(max_size=300))
def test_any_file_name_makes_a_name_that_is_taken(text: str) -> None:
    assert series_name_fault(series_name_from(text)) == ""


@given(st.text(max_size=300))
def test_any_name_of_a_feed_makes_a_name_that_is_taken_or_none(text: str) -> None:
    name = series_name_of_feed(text)
    assert not name if not text else series_name_fault(name) == ""
