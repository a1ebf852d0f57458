"""Charts are sound SVG whatever is known."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from hrtem_stream.web.charts import histogram, timeline

SERIES = (
    np.zeros(0), np.array([np.nan, np.nan]), np.array([0.5]), np.linspace(0, 1, 10_001),
    np.array([0.2, np.nan, 1.0]),
)  # fmt: skip


@pytest.mark.parametrize("fractions", SERIES)
@pytest.mark.parametrize("threshold", [None, 0.0, 1.0])
def test_a_chart_is_sound_and_says_what_it_shows(
    fractions: np.ndarray, threshold: float | None
) -> None:
    for chart in (
        timeline(fractions, threshold=threshold),
        histogram(fractions, threshold=threshold),
    ):
        root = ElementTree.fromstring(chart)
        assert "raphene fraction" in root.attrib["aria-label"]
        assert "nan" not in chart


def test_a_histogram_has_a_bar_as_high_as_it_has_frames() -> None:
    root = ElementTree.fromstring(histogram(np.array([0.01, 0.51, 0.52])))
    heights = [float(bar.attrib["height"]) for bar in root.iter("rect")]
    assert heights[0] == pytest.approx(heights[10] / 2, abs=0.1)
    assert sum(height > 0 for height in heights) == 2


def test_frames_below_the_threshold_are_pale() -> None:
    root = ElementTree.fromstring(histogram(np.array([0.5]), threshold=0.5))
    kinds = [bar.attrib["class"] for bar in root.iter("rect")]
    assert kinds == ["bar pale"] * 10 + ["bar"] * 10


def test_a_long_series_is_drawn_with_few_points() -> None:
    assert len(timeline(np.random.default_rng(0).random(1_000_000))) < 20_000
