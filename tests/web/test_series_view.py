"""What a watcher knows of a series, whatever it missed."""

from __future__ import annotations

import numpy as np
import pytest

from hrtem_stream.science.ranking import order
from hrtem_stream.web.series_view import MAX_ROWS, N_BEST, N_RECENT, SeriesView
from tests.web.summaries import status, summary


@pytest.fixture
def fractions() -> np.ndarray:
    return np.random.default_rng(3).choice(np.linspace(0, 1, 40), 500)


def _fill(view: SeriesView, fractions: np.ndarray, rows: np.ndarray) -> None:
    view.fill(rows, fractions=fractions[rows], methods=["bragg"] * rows.size, sequences=rows + 100)


def test_what_was_missed_and_read_again_ranks_as_the_archive_does(fractions: np.ndarray) -> None:
    view = SeriesView("s", "id")
    for row in range(0, 500, 3):
        view.take(summary(row, float(fractions[row])))
    view.note_status(status(n_archived=500))
    assert not view.is_complete
    missing = view.missing()
    assert missing.size == 500 - 167
    _fill(view, fractions, missing)
    assert view.is_complete
    assert view.best(500) == order(fractions).tolist()
    np.testing.assert_array_equal(view.fractions, fractions)
    assert view.method_counts == {"unet": 167, "bragg": 333, "none": 0}


def test_a_frame_counts_once(fractions: np.ndarray) -> None:
    view = SeriesView("s", "id")
    for row in (0, 1, 1, 0):
        view.take(summary(row, float(fractions[row])))
    _fill(view, fractions, np.arange(2))
    assert view.n_known == 2


@pytest.mark.parametrize("row", [-1, MAX_ROWS, 2**60])
def test_a_row_that_cannot_be_is_not_believed(row: int) -> None:
    view = SeriesView("s", "id")
    view.take(summary(row))
    assert view.n_rows == 0


def test_threshold_and_rejections_are_counted_as_export_applies_them(fractions: np.ndarray) -> None:
    view = SeriesView("s", "id")
    _fill(view, fractions, np.arange(500))
    rejected = [int(order(fractions)[0]), int(order(fractions)[-1])]
    n_kept = int((fractions >= 0.6).sum()) - 1
    assert view.kept(0.6, rejected) == (n_kept, 500 - n_kept)


def test_pictures_are_kept_of_the_latest_and_the_best_alone(fractions: np.ndarray) -> None:
    view = SeriesView("s", "id")
    for row, fraction in enumerate(fractions.tolist()):
        view.take(summary(row, fraction))
    assert view.summary(499) is not None
    assert all(view.summary(row) is not None for row in view.best(N_BEST))
    held = sum(view.summary(row) is not None for row in range(500))
    assert held <= N_RECENT + 2 * N_BEST


def test_a_frame_that_came_late_is_not_the_newest() -> None:
    view = SeriesView("s", "id")
    view.take(summary(5))
    view.take(summary(3))
    assert view.newest is not None
    assert view.newest.row == 5


def test_a_frame_without_a_fraction_ranks_last() -> None:
    view = SeriesView("s", "id")
    view.take(summary(0, float("nan"), method="none"))
    view.take(summary(1, 0.0))
    assert view.best(2) == [1, 0]
    assert view.kept(0.0) == (2, 0)
    assert view.kept(0.1) == (0, 2)
