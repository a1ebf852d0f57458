"""The structure of one frame: four classes, lattice parameter, grains, atoms, bonds and rings.

Everything is computed on the evened frame at the resolution of the detector, or reduced to pixels
of about 0.02 nm where those are finer; positions are given in pixels of the detector.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from hrtem_stream.science.atoms import Network, Positions, find_atoms, find_network
from hrtem_stream.science.classes import AMORPHOUS, VACUUM, classify
from hrtem_stream.science.illumination import normalise_frame
from hrtem_stream.science.lattice_scale import RING_NM, find_lattice_scale
from hrtem_stream.science.orientation import (
    Grains,
    OrientationMap,
    difference_deg,
    find_grains,
    orientation_map,
)
from hrtem_stream.science.working_scale import reduce_mask

Frame = NDArray[Any]
Image = NDArray[np.float32]
Mask = NDArray[np.bool_]

LATTICE_NM = 0.246
FINE_NM = 0.02
COARSEST_NM = 0.07
_RING_TOLERANCE = 0.1
"""Of the radius of the first ring, within which it is looked for."""
MAP_NM = 0.045
"""Pixels of the maps of orientation and classes, at least."""
_LEAST_ORDER = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class LatticeParameter:
    """The lattice parameter, as the mean over the reflections of the first ring."""

    px: float
    """In pixels of the detector; NaN where it cannot be measured."""
    uncertainty_px: float
    """Standard error from the scatter of the reflections: distortion counts in."""
    n_reflections: int

    def nm(self, pixel_size_nm: float) -> float:
        """Return it in nm for a calibrated pixel; 0.246 is graphene's."""
        return self.px * pixel_size_nm


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """What was found in one frame; positions in pixels of the detector."""

    pixel_size_nm: float
    """That everything in nm rests on: calibrated, or from the lattice itself."""
    is_calibrated: bool
    lattice: LatticeParameter
    contrast: int
    """1: atoms are bright, -1: dark."""
    positions: Positions
    height: NDArray[np.float64]
    """(n,), of each atom in units of their median."""
    network: Network
    grains: Grains
    orientation_deg: Image
    """(P, Q) map; where there is no lattice it means nothing."""
    classes: NDArray[np.uint8]
    """(P, Q) map, see `science.classes`."""
    map_pixel_nm: float
    boundary_line: Positions
    """(k, 2), points on the boundaries between grains, `grains.line` in pixels of the detector."""

    @property
    def has_lattice(self) -> Mask:
        """(P, Q), where the maps show graphene, grain boundaries with it."""
        return np.asarray((self.classes != AMORPHOUS) & (self.classes != VACUUM), np.bool_)

    @property
    def boundary_length_nm(self) -> float:
        """Total length of the boundaries between grains."""
        return float(self.grains.length_nm.sum())

    @property
    def largest_grain_nm2(self) -> float:
        """Area of the largest grain."""
        return float(self.grains.area_nm2.max(initial=0.0))


def analyse_frame(
    frame: Frame, *, amorphous: Mask, vacuum: Mask, pixel_size_nm: float = 0.0
) -> Structure:
    """Find the structure of a frame.

    Parameters
    ----------
    frame
        (M, N) counts of the detector.
    amorphous, vacuum
        bool, of any size: they are brought to that of the frame.
    pixel_size_nm
        As calibrated; 0: from the lattice.

    Raises
    ------
    ValueError
        If there is no lattice to be seen, the pixels are too coarse for atoms, or the calibration
        does not fit the lattice that is seen.
    """
    is_calibrated = pixel_size_nm > 0.0
    if not is_calibrated:
        scale = find_lattice_scale(frame)
        if scale is None:
            raise ValueError("frame must show a lattice or be calibrated, got neither")
        pixel_size_nm = scale.pixel_size_nm
    if pixel_size_nm > COARSEST_NM:
        raise ValueError(f"pixels must be at most {COARSEST_NM} nm, got {pixel_size_nm:.4f}")
    image, fine_nm = evened(frame, pixel_size_nm=pixel_size_nm)
    shape = (image.shape[0], image.shape[1])
    contaminated = reduce_mask(amorphous, shape=shape)
    empty = reduce_mask(vacuum, shape=shape) & ~contaminated
    clean = np.where(contaminated | empty, np.float32(0), image)
    lattice = measure_lattice(clean, pixel_size_nm=fine_nm)
    if is_calibrated and not lattice.n_reflections:
        _require_fit(frame, pixel_size_nm=pixel_size_nm)
    if not is_calibrated and lattice.n_reflections:
        # The spectrum's ring was good to a per cent; now the lattice itself is the ruler.
        correction = LATTICE_NM / (lattice.px * fine_nm)
        pixel_size_nm, fine_nm = correction * pixel_size_nm, correction * fine_nm
    atoms = find_atoms(image, pixel_size_nm=fine_nm, where=~contaminated & ~empty)
    ratio = frame.shape[0] / shape[0]
    network = find_network(atoms.positions, pixel_size_nm=fine_nm)
    found, grains, classes, map_nm = _mapped(clean, contaminated, empty, pixel_size_nm=fine_nm)
    return Structure(
        pixel_size_nm=pixel_size_nm,
        is_calibrated=is_calibrated,
        lattice=LatticeParameter(
            px=lattice.px * ratio,
            uncertainty_px=lattice.uncertainty_px * ratio,
            n_reflections=lattice.n_reflections,
        ),
        contrast=atoms.contrast,
        positions=_on_detector(atoms.positions, ratio),
        height=atoms.height,
        network=_scaled(network, ratio),
        grains=_with_bonds(grains, atoms.positions, network, fine_nm / map_nm),
        orientation_deg=found.orientation_deg,
        classes=classes,
        map_pixel_nm=map_nm,
        boundary_line=_on_detector(grains.line, map_nm / fine_nm * ratio),
    )


def _require_fit(frame: Frame, *, pixel_size_nm: float) -> None:
    """Refuse a calibration with which atoms would be sought at the scale of something else.

    Asked where no reflection lies where the calibration puts it. A ring √3 times too far out is the
    lattice's second: in contaminated frames the first may drown.
    """
    scale = find_lattice_scale(frame)
    if scale is None:
        return
    ratio = scale.pixel_size_nm / pixel_size_nm
    if min(abs(ratio - 1.0), abs(ratio / 3**0.5 - 1.0)) > _RING_TOLERANCE:
        raise ValueError(
            f"pixel size must fit the lattice parameter of {LATTICE_NM} nm, got "
            f"{pixel_size_nm:.4f} nm, and by the lattice it is {scale.pixel_size_nm:.4f}"
        )


def evened(frame: Frame, *, pixel_size_nm: float) -> tuple[Image, float]:
    """Even out a frame at its own resolution, or reduced by a whole number to about 0.02 nm.

    Returns
    -------
    image
        (P, Q) float32, standardised.
    pixel_size_nm
        Of the image.
    """
    step = max(1, int(FINE_NM / pixel_size_nm + 0.25))
    rows, columns = (n // step * step for n in frame.shape)
    whole = frame[:rows, :columns]
    image = normalise_frame(whole, shape=(rows // step, columns // step)).image
    return image, step * pixel_size_nm


def measure_lattice(image: Image, *, pixel_size_nm: float) -> LatticeParameter:
    """Measure the lattice parameter from the reflections of the first ring.

    Parameters
    ----------
    image
        (P, Q) float32 of mean 0, in which all but graphene is 0.
    pixel_size_nm
        Within 10 % of the truth: it tells where to look.

    Notes
    -----
    The power of the Hann-windowed image is fitted by a parabola through the logarithms of three
    points along either axis; reflections count that exceed a tenth of the strongest.
    """
    rows, columns = image.shape
    window = np.outer(np.hanning(rows + 2)[1:-1], np.hanning(columns + 2)[1:-1])
    power = np.abs(fft.rfft2(image * window.astype(np.float32))) ** 2
    g_row = fft.fftfreq(rows)[:, None]
    g_column = fft.rfftfreq(columns)[None, :]
    g = np.hypot(g_row, g_column)
    expected = pixel_size_nm / RING_NM
    ring = (g > 0.9 * expected) & (g < 1.1 * expected)
    noise = float(np.median(power[ring])) if ring.any() else 0.0
    peak = cv2.dilate(power.astype(np.float32), np.ones((5, 5), np.uint8))
    places = np.argwhere(ring & (power.astype(np.float32) == peak))
    nothing = LatticeParameter(px=float("nan"), uncertainty_px=float("nan"), n_reflections=0)
    if not len(places):
        return nothing
    strength = power[places[:, 0], places[:, 1]]
    kept = (strength > 0.1 * strength.max()) & (strength > 30 * noise)
    kept &= (places[:, 1] > 0) & (places[:, 1] < power.shape[1] - 1)
    places, strength = places[kept], strength[kept]
    if not len(places):
        return nothing
    radius = np.hypot(*_peak_frequencies(power, places, columns))
    parameter = 2.0 / 3**0.5 / radius
    mean = float(np.average(parameter, weights=strength))
    scatter = float(parameter.std(ddof=1)) if len(parameter) > 1 else float("nan")
    return LatticeParameter(
        px=mean, uncertainty_px=scatter / len(parameter) ** 0.5, n_reflections=len(parameter)
    )


def _peak_frequencies(
    power: NDArray[np.floating], places: NDArray[np.intp], columns: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Refine peaks of the power; return g along rows and columns in 1/px."""
    rows = power.shape[0]
    i, j = places.T
    log = np.log(np.maximum(power, np.finfo(np.float32).tiny))
    middle = log[i, j]
    above, below = log[(i - 1) % rows, j], log[(i + 1) % rows, j]
    left, right = log[i, j - 1], log[i, j + 1]
    di = 0.5 * (above - below) / (above - 2 * middle + below)
    dj = 0.5 * (left - right) / (left - 2 * middle + right)
    signed = np.where(i > rows // 2, i - rows, i)
    return (signed + di) / rows, (j + dj) / columns


def _mapped(
    clean: Image, contaminated: Mask, empty: Mask, *, pixel_size_nm: float
) -> tuple[OrientationMap, Grains, NDArray[np.uint8], float]:
    """Make the maps of orientation and classes, at a coarser resolution."""
    step = max(1, int(MAP_NM / pixel_size_nm + 0.25))
    rows, columns = (n // step * step for n in clean.shape)
    shape = (rows // step, columns // step)
    small = cv2.resize(clean[:rows, :columns], shape[::-1], interpolation=cv2.INTER_AREA)
    contaminated = reduce_mask(contaminated[:rows, :columns], shape=shape)
    empty = reduce_mask(empty[:rows, :columns], shape=shape)
    map_nm = step * pixel_size_nm
    found = orientation_map(np.asarray(small, np.float32), pixel_size_nm=map_nm)
    grains = find_grains(found, lattice=~contaminated & ~empty, pixel_size_nm=map_nm)
    classes = classify(grains.boundary, amorphous=contaminated, vacuum=empty, pixel_size_nm=map_nm)
    return found, grains, classes, map_nm


def _with_bonds(grains: Grains, positions: Positions, network: Network, to_map: float) -> Grains:
    """Take the orientation of a grain from its bonds, which tell it more exactly."""
    if not len(network.bonds) or not len(grains.orientation_deg):
        return grains
    middle = positions[network.bonds].mean(axis=1)
    place = np.round((middle + 0.5) * to_map - 0.5).astype(int)
    limit = np.array(grains.labels.shape) - 1
    place = np.clip(place, 0, limit)
    label = grains.labels[place[:, 0], place[:, 1]]
    regular = np.abs(network.length_nm - LATTICE_NM / 3**0.5) < 0.03
    orientation = grains.orientation_deg.copy()
    for n in range(1, len(orientation) + 1):
        angles = network.angle_deg[(label == n) & regular]
        near = angles[np.abs(difference_deg(angles, orientation[n - 1])) < 12.0]
        if near.size >= 30:
            vector = np.exp(6j * np.deg2rad(near)).mean()
            orientation[n - 1] = np.rad2deg(np.angle(vector)) / 6 % 60.0
    first, second = orientation[grains.pairs[:, 0] - 1], orientation[grains.pairs[:, 1] - 1]
    misorientation = np.abs(difference_deg(first, second))
    return replace(grains, orientation_deg=orientation, misorientation_deg=misorientation)


def _on_detector(positions: Positions, ratio: float) -> Positions:
    return (positions + 0.5) * ratio - 0.5


def _scaled(network: Network, ratio: float) -> Network:
    return Network(
        bonds=network.bonds,
        length_nm=network.length_nm,
        angle_deg=network.angle_deg,
        ring_size=network.ring_size,
        ring_centre=_on_detector(network.ring_centre, ratio),
    )
