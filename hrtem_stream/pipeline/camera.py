"""The camera that the settings describe, with its references read from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hrtem_stream.errors import FeedError, SettingsError
from hrtem_stream.settings import Settings
from hrtem_stream.stages.camera import Camera, CorrectedCamera, RawCamera


def make_camera(settings: Settings) -> Camera:
    """Make what turns received pixels into analysed ones.

    Raises
    ------
    SettingsError
        When a reference cannot be read, or is none; the message names file, rule and value.
    """
    wanted = settings.normalise
    fills_largest = settings.feed.kind == "dectris" and settings.feed.dectris.masked == "auto"
    is_plain = wanted.binning == wanted.sum_frames == 1 and not fills_largest
    if is_plain and not (wanted.dark or wanted.gain or wanted.bad_pixels):
        return CorrectedCamera()
    dark = _reference("dark", wanted.dark)
    gain = _reference("gain", wanted.gain)
    bad = _bad_pixels(wanted.bad_pixels)
    if gain is not None:
        if np.any(gain < 0):
            raise SettingsError(
                f"normalise.gain: {wanted.gain}: must not be negative, has {gain.min():g}"
            )
        bad = (gain == 0) if bad is None else bad | (gain == 0)
    for name, reference in (("gain", gain), ("bad_pixels", bad)):
        if dark is not None and reference is not None and reference.shape != dark.shape:
            raise SettingsError(
                f"normalise.{name} must have the shape of normalise.dark, {dark.shape}, "
                f"is {reference.shape}"
            )
    return RawCamera(
        dark=dark,
        gain=gain,
        bad=bad if bad is not None and bad.any() else None,
        fills_largest=fills_largest,
        binning=wanted.binning,
        n_summed=wanted.sum_frames,
    )


def _reference(name: str, path: str) -> NDArray[np.float32] | None:
    """Read a reference; a stack is averaged."""
    if not path:
        return None
    frames = [np.asarray(pixels, np.float64) for pixels in _frames(name, path)]
    if len({frame.shape for frame in frames}) != 1:
        raise SettingsError(f"normalise.{name}: {path}: frames must be of one size")
    mean = np.mean(frames, axis=0).astype(np.float32)
    if not np.all(np.isfinite(mean)):
        n_odd = int(np.count_nonzero(~np.isfinite(mean)))
        raise SettingsError(f"normalise.{name}: {path}: must be finite, {n_odd} pixels are not")
    return np.ascontiguousarray(mean)


def _bad_pixels(path: str) -> NDArray[np.bool_] | None:
    """Read a map of bad pixels: what is not 0 is bad."""
    if not path:
        return None
    (bad, *others) = [np.asarray(pixels != 0, np.bool_) for pixels in _frames("bad_pixels", path)]
    if others:
        raise SettingsError(f"normalise.bad_pixels: {path}: must hold one map, holds more")
    if bad.all():
        raise SettingsError(f"normalise.bad_pixels: {path}: all pixels are bad; 0 means good")
    return bad


def _frames(name: str, path: str) -> list[NDArray[np.generic]]:
    from hrtem_stream.sources.files import read_frames

    try:
        read = list(read_frames([Path(path)]))
    except FeedError as error:
        raise SettingsError(f"normalise.{name}: {error}") from error
    faults = [frame.fault for frame in read if frame.fault]
    if faults:
        raise SettingsError(f"normalise.{name}: {path}: {faults[0]}")
    return [frame.pixels for frame in read]
