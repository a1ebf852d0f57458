"""What files and feeds say of their calibration: units, plausibility, and where they disagree.

Nothing is guessed. What is missing, implausible or contradictory is left out, with a sentence that
goes into the log and the archive.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Final, NamedTuple

from hrtem_stream.messages import Calibration

NOTE: Final = "calibration"
"""Key of the sentences in the metadata of a series."""

NM_PER_UNIT: Final = {
    "pm": 1e-3,
    "A": 0.1,
    "\u00c5": 0.1,
    "\u212b": 0.1,
    "\\u00C5": 0.1,
    "angstrom": 0.1,
    "ang": 0.1,
    "nm": 1.0,
    "um": 1e3,
    "\u00b5m": 1e3,
    "\u03bcm": 1e3,
    "\\u00B5m": 1e3,
    "micron": 1e3,
    "mm": 1e6,
    "cm": 1e7,
    "m": 1e9,
}
"""Units of length as programs write them, in nanometres."""

TOLERANCE: Final = 0.01
"""Two statements that differ by less say the same: files round."""

_PLAUSIBLE: Final = {
    "pixel_size_nm": (1e-4, 1e3, "nm"),
    "exposure_s": (1e-9, 1e5, "s"),
    "dose_e_per_nm2": (1e-6, 1e12, "e/nm²"),
    "voltage_kv": (1.0, 3000.0, "kV"),
}
_WORDS: Final = {
    "pixel_size_nm": "pixel size",
    "exposure_s": "exposure",
    "dose_e_per_nm2": "dose",
    "voltage_kv": "voltage",
}
_MAX_NOTES: Final = 8


class Stated(NamedTuple):
    """A calibration, and what has to be said of it."""

    calibration: Calibration
    notes: tuple[str, ...] = ()


def stated(
    *,
    pixel_size_nm: float | None = None,
    exposure_s: float | None = None,
    dose_e_per_nm2: float | None = None,
    voltage_kv: float | None = None,
    notes: Iterable[str] = (),
) -> Stated:
    """Keep what is plausible, and say what is not.

    0 and None are what programs write when they do not know; they are left out without a word.

    Parameters
    ----------
    pixel_size_nm, exposure_s, dose_e_per_nm2, voltage_kv
        As the file says, in nm, s, electrons per nm² and kV.
    notes
        What has been noticed before.
    """
    kept: dict[str, float] = {}
    said = list(notes)
    given = (pixel_size_nm, exposure_s, dose_e_per_nm2, voltage_kv)
    for (name, (low, high, unit)), value in zip(_PLAUSIBLE.items(), given, strict=True):
        if value is None or value == 0:
            continue
        if math.isfinite(value) and low <= value <= high:
            kept[name] = float(value)
        else:
            rule = f"must be {low:g} to {high:g} {unit}"
            said.append(f"{_WORDS[name]} {rule}, the file says {value:g}: left out")
    return Stated(Calibration(**kept), tuple(said))


def square_pixel(horizontal: float, vertical: float, *, unit: str) -> tuple[float | None, str]:
    """Return the pixel size in nm, None with the reason where there is none.

    Parameters
    ----------
    horizontal, vertical
        Size of a pixel in `unit`; its sign is the direction of an axis and means nothing here.
    unit
        As the file writes it.

    Returns
    -------
    tuple
        Pixel size in nm or None, and a sentence; the sentence is empty where the file simply
        states nothing.
    """
    unit = unit.strip()
    sizes = abs(horizontal), abs(vertical)
    if not unit or unit.lower() in ("px", "pixel", "pixels") or 0 in sizes:
        return None, ""
    if unit not in NM_PER_UNIT:
        return None, f"pixels are in {unit!r}, which is no length: no pixel size"
    if not math.isclose(*sizes, rel_tol=TOLERANCE):
        return None, f"pixels must be square, got {sizes[0]:g} x {sizes[1]:g} {unit}: no pixel size"
    return sizes[0] * NM_PER_UNIT[unit], ""


def agree(first: Calibration, second: Calibration) -> bool:
    """Tell whether two calibrations say the same, within what files round."""
    pairs = ((getattr(first, f.name), getattr(second, f.name)) for f in fields(Calibration))
    return all(_same(one, other) for one, other in pairs)


def common(statements: Sequence[Calibration]) -> Stated:
    """Return what all files of a series state alike; where they differ, say so instead."""
    kept: dict[str, float] = {}
    notes: list[str] = []
    for name, word in _WORDS.items():
        values = [getattr(calibration, name) for calibration in statements]
        known = [value for value in values if value is not None]
        if not known:
            continue
        unit = _PLAUSIBLE[name][2]
        if len(known) < len(values):
            notes.append(f"{word} is stated by {len(known)} of {len(values)} files: left out")
        elif all(_same(known[0], value) for value in known):
            kept[name] = known[0]
        else:
            spread = f"{min(known):g} to {max(known):g} {unit}"
            notes.append(f"{word} differs from file to file, {spread}: left out")
    return Stated(Calibration(**kept), tuple(notes))


def overruled(feed: Calibration, settings: Calibration) -> Stated:
    """Return the calibration with what the settings state in the place of what the feed says."""
    values: dict[str, float] = {}
    notes: list[str] = []
    for name, word in _WORDS.items():
        said, wanted = getattr(feed, name), getattr(settings, name)
        value = said if wanted is None else wanted
        if value is not None:
            values[name] = value
        if wanted is not None:
            unit = _PLAUSIBLE[name][2]
            instead = "" if said is None or _same(said, wanted) else f", the feed says {said:g}"
            notes.append(f"{word} {wanted:g} {unit} is from the settings{instead}")
    return Stated(Calibration(**values), tuple(notes))


def note_text(notes: Iterable[str], *, calibration: Calibration) -> str:
    """Return the sentences on a calibration as one line; empty when there is nothing to say."""
    said = list(dict.fromkeys(notes))
    if len(said) > _MAX_NOTES:
        said[_MAX_NOTES:] = [f"and {len(said) - _MAX_NOTES} more"]
    if calibration.pixel_size_nm is None and not any("pixel" in note for note in said):
        said.append("pixel size is not stated")
    return "; ".join(said)


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=TOLERANCE)
