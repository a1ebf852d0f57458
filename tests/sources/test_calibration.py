from __future__ import annotations

import logging
from typing import Any

import pytest

from hrtem_stream.messages import Calibration, FeedItem, FeedPosition, SeriesStart
from hrtem_stream.sources.calibrated import CalibratedSource
from hrtem_stream.sources.calibration import agree, common, overruled, square_pixel, stated


@pytest.mark.parametrize(
    ("unit", "nm"),
    [("nm", 0.5), ("pm", 0.0005), ("Å", 0.05), ("µm", 500), ("\u03bcm", 500), ("m", 5e8)],
)
def test_units_of_length_become_nanometres(unit: str, nm: float) -> None:
    size, note = square_pixel(0.5, -0.5, unit=unit)
    assert (size, note) == (pytest.approx(nm), "")


@pytest.mark.parametrize("unit", ["1/nm", "eV", "mrad"])
def test_axes_that_are_no_length_give_no_pixel_size(unit: str) -> None:
    size, note = square_pixel(0.5, 0.5, unit=unit)
    assert size is None
    assert f"pixels are in '{unit}', which is no length" in note


@pytest.mark.parametrize(("scale", "unit"), [(0.0, "nm"), (1.0, ""), (1.0, "px")])
def test_a_file_that_states_nothing_is_not_spoken_of(scale: float, unit: str) -> None:
    assert square_pixel(scale, scale, unit=unit) == (None, "")


def test_pixels_must_be_square() -> None:
    size, note = square_pixel(0.02, 0.03, unit="nm")
    assert size is None
    assert "must be square, got 0.02 x 0.03 nm" in note


def test_what_is_implausible_is_left_out_and_said() -> None:
    said = stated(pixel_size_nm=1e-9, voltage_kv=80, exposure_s=0, dose_e_per_nm2=None)
    assert said.calibration == Calibration(voltage_kv=80)
    assert said.notes == (
        "pixel size must be 0.0001 to 1000 nm, the file says 1e-09: left out",
    )  # fmt: skip
    assert stated(exposure_s=float("nan")).calibration == Calibration()


def test_files_that_agree_within_rounding_share_a_calibration() -> None:
    files = [Calibration(pixel_size_nm=0.02, voltage_kv=80), Calibration(pixel_size_nm=0.020001)]
    said = common(files)
    assert said.calibration == Calibration(pixel_size_nm=0.02)
    assert said.notes == ("voltage is stated by 1 of 2 files: left out",)
    assert agree(files[0], Calibration(pixel_size_nm=0.0201, voltage_kv=80))
    assert not agree(*files)


def test_files_that_differ_share_none_and_that_is_said() -> None:
    said = common([Calibration(pixel_size_nm=0.02), Calibration(pixel_size_nm=0.04)])
    assert said.calibration == Calibration()
    assert said.notes == ("pixel size differs from file to file, 0.02 to 0.04 nm: left out",)


def test_the_settings_go_before_the_feed_and_that_is_said() -> None:
    said = overruled(Calibration(pixel_size_nm=0.02, voltage_kv=80), Calibration(pixel_size_nm=0.1))
    assert said.calibration == Calibration(pixel_size_nm=0.1, voltage_kv=80)
    assert said.notes == ("pixel size 0.1 nm is from the settings, the feed says 0.02",)


class OneStart:
    can_wait = True

    def __init__(self, start: SeriesStart) -> None:
        self._start = start

    def open(self, position: FeedPosition | None) -> None:
        pass

    def receive(self, timeout_s: float) -> FeedItem | None:
        return self._start

    def close(self) -> None:
        pass


def begun(calibration: Calibration, settings: Calibration, **metadata: str) -> Any:
    start = SeriesStart(series="s", calibration=calibration, metadata=metadata)
    return CalibratedSource(OneStart(start), settings=settings).receive(0)


def test_a_series_without_pixel_size_says_so_in_log_and_metadata(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        start = begun(Calibration(), Calibration(), camera="x")
    assert start.metadata == {"camera": "x", "calibration": "pixel size is not stated"}
    assert "calibration of series s: pixel size is not stated" in caplog.text


def test_a_series_with_a_good_calibration_has_nothing_said_of_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calibration = Calibration(pixel_size_nm=0.02)
    with caplog.at_level(logging.WARNING):
        start = begun(calibration, Calibration())
    assert (start.calibration, start.metadata, caplog.text) == (calibration, {}, "")


def test_an_implausible_statement_of_a_feed_does_not_reach_the_archive() -> None:
    start = begun(Calibration(pixel_size_nm=-1.0), Calibration(voltage_kv=80))
    assert start.calibration == Calibration(voltage_kv=80)
    assert "pixel size must be 0.0001 to 1000 nm" in start.metadata["calibration"]
    assert "voltage 80 kV is from the settings" in start.metadata["calibration"]
