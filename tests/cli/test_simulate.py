from __future__ import annotations

import pytest

from hrtem_stream.cli.simulate import parse_numbers
from hrtem_stream.errors import SettingsError


@pytest.mark.parametrize(
    ("text", "numbers"), [("", set()), ("3", {3}), ("3, 7-9", {3, 7, 8, 9}), ("5-4", set())]
)
def test_numbers_and_ranges_are_read(text: str, numbers: set[int]) -> None:
    assert parse_numbers(text) == numbers


@pytest.mark.parametrize("text", ["a", "-3", "3-", "1.5"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="such as 3,7-9"):
        parse_numbers(text)
