"""normalise: every frame comes out, analysed or with its fault."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hrtem_stream.science import reduction, vacuum
from hrtem_stream.science.compiled import compiled
from hrtem_stream.science.islands import islands_with_core
from hrtem_stream.science.working_scale import WorkingScale, matched_to_lattice
from hrtem_stream.stages.normalise import Normalise, thumbnail
from tests.science.test_lattice_scale import counted, honeycomb
from tests.stages.frames import raw


class Memory:
    def __init__(self, pixels: NDArray[Any]) -> None:
        self._pixels = pixels

    def pixels(
        self, log_id: int, ordinal: int, offset: int, dtype: str, shape: tuple[int, int]
    ) -> NDArray[Any]:
        return self._pixels


def _frame(pixels: NDArray[Any], **changes: Any) -> Any:
    stage = Normalise(Memory(pixels), working_size=64)  # type: ignore[arg-type]
    (result,) = stage.process([raw(0, **changes)])
    return result


def _noise() -> NDArray[np.uint16]:
    return np.random.default_rng(0).poisson(300, (128, 128)).astype(np.uint16)


def test_a_frame_becomes_a_standardised_working_image() -> None:
    result = _frame(_noise())
    assert result.image.shape == (64, 64)
    assert result.image.mean() == pytest.approx(0, abs=1e-3)
    assert result.image.std() == pytest.approx(1, abs=1e-2)
    assert result.header.fault == ""
    assert result.coefficients.mean() == pytest.approx(300, rel=0.05)


def test_the_first_frame_needs_nothing_compiled_that_warming_up_has_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Other tests may have had it compiled for the frame's type: a fresh one knows no type yet.
    fresh: Any = compiled(reduction._average_pixel_pairs.py_func)  # type: ignore[attr-defined]
    monkeypatch.setattr(reduction, "_average_pixel_pairs", fresh)
    frame = _noise()
    frame.flags.writeable = False  # as it comes out of the log
    stage = Normalise(Memory(frame), working_size=64)  # type: ignore[arg-type]
    stage.warm_up()
    before = len(fresh.signatures)
    assert before
    stage.process([raw(0)])
    assert len(fresh.signatures) == before


def test_signed_counts_give_what_unsigned_ones_give() -> None:
    unsigned, signed = _frame(_noise()), _frame(_noise().astype(np.int16))
    assert np.allclose(unsigned.image, signed.image, atol=1e-4)


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.zeros((128, 128), np.uint16), "blank"),
        (np.full((128, 128), 7, np.uint16), "constant"),
        (np.full((128, 128), np.nan, np.float32), "finite"),
        (np.where(np.arange(128) % 2, 65535, _noise()).astype(np.uint16), "saturated"),
    ],
)
def test_a_frame_that_cannot_be_analysed_says_why(pixels: NDArray[Any], words: str) -> None:
    result = _frame(pixels)
    assert words in result.header.fault
    assert not result.image.any()


def test_a_fault_that_came_with_the_frame_stays() -> None:
    assert _frame(_noise(), fault="truncated").header.fault == "truncated"


def test_a_thumbnail_spans_three_deviations_each_way() -> None:
    image = np.array([[-9.0, -3.0, 0.0, 3.0, 9.0]], np.float32)
    assert thumbnail(image).tolist() == [[0, 0, 127, 255, 255]]


def test_warming_up_runs_every_loop_that_a_frame_may_need(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = []

    def keep(*arguments: Any, **parameters: Any) -> NDArray[np.bool_]:
        kept.append(islands_with_core(*arguments, **parameters))
        return kept[-1]

    monkeypatch.setattr(vacuum, "islands_with_core", keep)
    Normalise(Memory(_noise()), working_size=256).warm_up()
    assert kept


def test_a_thumbnail_equals_the_plain_version() -> None:
    image = np.random.default_rng(0).normal(0.0, 2.0, (64, 48)).astype(np.float32)
    plain = np.clip((image + np.float32(3.0)) * np.float32(42.5), 0, 255).astype(np.uint8)
    assert np.array_equal(thumbnail(image), plain)


def test_pixels_that_came_in_the_message_are_taken_from_it_and_passed_on_if_asked() -> None:
    class Nowhere:
        def pixels(self, *place: Any) -> NDArray[Any]:
            raise AssertionError("there is no log on this host")

    frame = replace(raw(0), pixels=_noise())
    for passes in (False, True):
        stage = Normalise(Nowhere(), working_size=64, passes_pixels=passes)
        (result,) = stage.process([frame])
        assert np.array_equal(result.image, _frame(_noise()).image)
        assert (result.pixels is frame.pixels) is passes
        assert (stage.pass_on(frame, "why").pixels is frame.pixels) is passes


def test_in_mode_lattice_the_working_image_follows_the_lattice_and_the_thumbnail_does_not() -> None:
    pixels = counted(honeycomb((768, 512), pixel_size_nm=0.02), dose=300.0)
    scaling = partial(matched_to_lattice, size=64, working_pixel_nm=0.04)
    stage = Normalise(Memory(pixels), working_size=64, scaling=scaling)  # type: ignore[arg-type]
    frames = [raw(0, shape=(768, 512)), raw(1, shape=(768, 512), pixel_size_nm=0.025)]
    found, stated = stage.process(frames)
    assert found.image.shape == pytest.approx((384, 256), rel=0.02)
    assert (found.scale, found.thumbnail.shape) == ("spectrum", (64, 64))
    assert found.working_pixel_nm == pytest.approx(0.04)
    assert stated.image.shape == (480, 320)
    assert stated.scale == "calibration"
    assert stated.vacuum.shape == stated.beam_off.shape == (480, 320)
    assert found.thumbnail.std() > 20


def test_a_frame_without_a_lattice_is_flagged_and_treated_as_published() -> None:
    scaling = partial(matched_to_lattice, size=64, working_pixel_nm=0.04)
    stage = Normalise(Memory(_noise()), working_size=64, scaling=scaling)  # type: ignore[arg-type]
    (result,) = stage.process([raw(0)])
    assert (result.scale, result.image.shape) == ("none", (64, 64))
    np.testing.assert_array_equal(result.image, _frame(_noise()).image)


class Spectra:
    """Finds scales as it is told, and counts how often it was asked."""

    def __init__(self, *told: WorkingScale) -> None:
        self.told = list(told)
        self.n_asked = 0

    def __call__(self, frame: NDArray[Any], pixel_size_nm: float) -> WorkingScale:
        self.n_asked += 1
        return self.told.pop(0) if len(self.told) > 1 else self.told[0]


FOUND = WorkingScale(shape=(64, 64), source="spectrum", pixel_size_nm=0.05)
LARGER = WorkingScale(shape=(96, 96), source="spectrum", pixel_size_nm=0.05)
NOTHING = WorkingScale(shape=(64, 64), source="none")


def _scales(spectra: Spectra, sequences: list[int], series_id: str = "a") -> list[str]:
    stage = Normalise(Memory(_noise()), working_size=64, scaling=spectra)  # type: ignore[arg-type]
    frames = [raw(k, sequence=k, series_id=series_id) for k in sequences]
    return [result.scale for result in stage.process(frames)]


def test_the_scale_that_one_frame_shows_serves_those_after_it_for_a_while() -> None:
    spectra = Spectra(FOUND)
    assert _scales(spectra, list(range(130))) == ["spectrum"] * 130
    assert spectra.n_asked == 3


def test_each_frame_is_asked_until_one_shows_a_scale() -> None:
    spectra = Spectra(NOTHING, NOTHING, FOUND, NOTHING)
    assert _scales(spectra, [0, 1, 2, 3, 70, 71]) == ["none", "none", *["spectrum"] * 4]
    assert spectra.n_asked == 5


def test_a_scale_other_than_as_published_is_found_for_each_frame() -> None:
    spectra = Spectra(LARGER)
    assert _scales(spectra, [0, 1, 2]) == ["spectrum"] * 3
    assert spectra.n_asked == 3


def test_frames_of_no_series_are_each_asked() -> None:
    spectra = Spectra(FOUND)
    _scales(spectra, [0, 1, 2], series_id="")
    assert spectra.n_asked == 3
