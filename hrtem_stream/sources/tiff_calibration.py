"""What TIFF files say of their calibration, in the dialects of electron microscopy.

The resolution tag alone is no calibration: programs fill it with dots per inch of a screen.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from hrtem_stream.messages import Calibration
from hrtem_stream.sources.calibration import Stated, square_pixel, stated

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

_GATAN_UNITS: Final = (65003, 65004)
_GATAN_SCALES: Final = (65009, 65010)
_MAX_XML_CHARACTERS: Final = 1 << 20


def tiff_calibration(tiff: TiffFile, page: TiffPage) -> Stated:
    """Return the calibration of a TIFF: DigitalMicrograph's, OME's, FEI's, TVIPS' or ImageJ's."""
    for dialect in (_gatan, _ome, _fei, _tvips, _imagej):
        said = dialect(tiff, page)
        if said is not None:
            return said
    return Stated(Calibration())


def _gatan(tiff: TiffFile, page: TiffPage) -> Stated | None:
    """Return what DigitalMicrograph writes when it exports: tags of its own."""
    tags = [page.tags.get(code) for code in (*_GATAN_UNITS, *_GATAN_SCALES)]
    if None in tags:
        return None
    units = [_text(tag.value) for tag in tags[:2] if tag is not None]
    steps = [_number(tag.value) for tag in tags[2:] if tag is not None]
    if units[0] != units[1]:
        return stated(notes=[f"pixels are {units[1]!r} by {units[0]!r}: no pixel size"])
    return _pixel(*steps, unit=units[0])


def _ome(tiff: TiffFile, page: TiffPage) -> Stated | None:
    text = tiff.ome_metadata
    if not isinstance(text, str) or len(text) > _MAX_XML_CHARACTERS or "<!ENTITY" in text:
        return None
    try:
        pixels = ET.fromstring(text).find(".//{*}Pixels")
    except ET.ParseError:
        return None
    if pixels is None or "PhysicalSizeX" not in pixels.attrib:
        return None
    units = [pixels.get(f"PhysicalSize{axis}Unit", "\u00b5m") for axis in "XY"]
    if units[0] != units[1]:
        return stated(notes=[f"pixels are {units[1]!r} by {units[0]!r}: no pixel size"])
    steps = [_number(pixels.get(f"PhysicalSize{axis}")) for axis in "XY"]
    return _pixel(*steps, unit=units[0])


def _fei(tiff: TiffFile, page: TiffPage) -> Stated | None:
    told = tiff.fei_metadata
    if not isinstance(told, Mapping):
        return None
    scan = told.get("Scan")
    scan = scan if isinstance(scan, Mapping) else {}
    beam = told.get("Beam")
    volts = _number(beam.get("HV")) if isinstance(beam, Mapping) else 0.0
    size, note = square_pixel(
        _number(scan.get("PixelWidth")), _number(scan.get("PixelHeight")), unit="m"
    )
    return stated(pixel_size_nm=size, voltage_kv=volts / 1000, notes=[note] if note else [])


def _tvips(tiff: TiffFile, page: TiffPage) -> Stated | None:
    told = tiff.tvips_metadata
    if not isinstance(told, Mapping):
        return None
    size, note = square_pixel(
        _number(told.get("PixelSizeX")), _number(told.get("PixelSizeY")), unit="nm"
    )
    return stated(
        pixel_size_nm=size,
        exposure_s=_number(told.get("ExposureTime")) / 1000,
        voltage_kv=_number(told.get("HighTension")) / 1000,
        notes=[note] if note else [],
    )


def _imagej(tiff: TiffFile, page: TiffPage) -> Stated | None:
    """Return the resolution where ImageJ states its unit of length."""
    unit = (tiff.imagej_metadata or {}).get("unit")
    tags = [page.tags.get(name) for name in ("XResolution", "YResolution")]
    if not isinstance(unit, str) or None in tags:
        return None
    steps = []
    for tag in tags:
        n_pixels, n_units = tag.value if tag is not None else (0, 0)
        steps.append(n_units / n_pixels if n_pixels else 0.0)
    return _pixel(*steps, unit=unit)


def _pixel(horizontal: float, vertical: float, *, unit: str) -> Stated:
    size, note = square_pixel(horizontal, vertical, unit=unit)
    return stated(pixel_size_nm=size, notes=[note] if note else [])


def _text(value: Any) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return text.strip("\0 ")


def _number(value: Any) -> float:
    if isinstance(value, (list, tuple)):
        value = value[0] if value else None
    try:
        return float(value) if value is not None else 0.0
    except (TypeError, ValueError):
        return 0.0
