"""Physical frames with labels: raw detector counts of contaminated polycrystalline graphene.

A frame is drawn in three steps: `draw_conditions` chooses optics, dose, specimen and detector at
random; `specimen` places the atoms; `expose` forms the image
and reads the detector. `simulate` does all three. Lengths in nm, doses in electrons per nm².
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hrtem_stream.science import contaminant, phase_object, polycrystal
from hrtem_stream.science.conditions import Conditions, draw_conditions, log_uniform

Float = NDArray[np.float32]
Mask = NDArray[np.bool_]
Pixel = TypeVar("Pixel", bound=np.generic)

MARGIN_SHARE = 16
"""One sixteenth of the frame is simulated beyond each edge and cut off: the grid wraps around."""
SLICE_NM = 1.5
"""Thickness of contaminant in one slice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhysicalFrame:
    """A raw frame and what covers each of its pixels, all (n, n)."""

    pixels: NDArray[np.uint16]
    amorphous: Mask
    """Contaminant, be it on graphene or over vacuum."""
    vacuum: Mask
    """Neither graphene nor contaminant."""
    boundary: Mask
    """Clean graphene within 0.3 nm of a grain boundary."""
    beam_off: Mask
    """Illumination below 5 % of the brightest place; the other masks hold there too."""
    conditions: Conditions


@dataclass(frozen=True, slots=True, kw_only=True)
class Specimen:
    """Atoms per pixel in slices along the beam, and the masks that follow from them."""

    slices: list[Float]
    amorphous: Mask
    vacuum: Mask
    boundary: Mask


def simulate(n: int, *, working_size: int, rng: np.random.Generator) -> PhysicalFrame:
    """Draw one raw frame of n × n detector pixels.

    Parameters
    ----------
    n : int
        Edge of the frame in detector pixels, at least 64, a multiple of 16.
    working_size : int
        Edge of the working image to which the frame will be reduced; the pixel size there is
        drawn from 0.026 to 0.08 nm.
    rng : numpy.random.Generator
        Source of all random choices.

    Raises
    ------
    ValueError
        If n is below 64, or not a multiple of `working_size` and of 16.
    """
    if n < 64 or n % working_size or n % MARGIN_SHARE:
        rule = f"a multiple of {working_size} and {MARGIN_SHARE}, and at least 64"
        raise ValueError(f"n must be {rule}, got {n}")
    conditions = draw_conditions(reduction=n // working_size, rng=rng)
    return expose(specimen(n, conditions=conditions, rng=rng), conditions=conditions, rng=rng)


def specimen(n: int, *, conditions: Conditions, rng: np.random.Generator) -> Specimen:
    """Place the atoms for an (n, n) frame, with its margin."""
    size = n + 2 * (n // MARGIN_SHARE)
    pixel = conditions.pixel_size_nm
    if conditions.coverage == "empty":
        nothing = np.zeros((size, size), np.bool_)
        return Specimen(
            slices=[nothing.astype(np.float32)],
            amorphous=nothing,
            vacuum=~nothing,
            boundary=nothing,
        )
    hole = np.zeros((size, size), np.bool_)
    for _ in range(conditions.n_holes):
        place = (float(rng.uniform(0, size)), float(rng.uniform(0, size)))
        radius = size * log_uniform(0.02, 0.3, rng=rng)
        hole |= contaminant.blob(size, centre=place, radius=radius, rng=rng)
    height = _contaminant_height(hole, conditions=conditions, rng=rng)
    amorphous = height > 0
    membrane, boundary = _membrane(hole, conditions=conditions, rng=rng)
    slices = [membrane]
    n_slices = max(1, int(np.ceil(np.quantile(height, 0.99) / SLICE_NM)))
    if amorphous.any():
        column = contaminant.texture(size, pixel_size_nm=pixel, rng=rng)
        for _ in range(n_slices):
            own = contaminant.texture(size, pixel_size_nm=pixel, rng=rng)
            density = height * (0.5 * column + 0.5 * own)
            density *= np.float32(contaminant.CARBON_PER_NM3 * pixel**2 / n_slices)
            slices.append(
                contaminant.atoms_per_pixel(
                    density, pixel_size_nm=pixel, order=conditions.order, rng=rng
                )
            )
        if len(slices) == 2:
            slices = [slices[0] + slices[1]]
        elif rng.random() < 0.5:
            slices.reverse()
    return Specimen(
        slices=slices,
        amorphous=amorphous,
        vacuum=hole & ~amorphous,
        boundary=boundary & ~hole & ~amorphous,
    )


def expose(place: Specimen, *, conditions: Conditions, rng: np.random.Generator) -> PhysicalFrame:
    """Form the image of a specimen and read the detector."""
    pixel = conditions.pixel_size_nm
    wave = phase_object.exit_wave(
        place.slices,
        pixel_size_nm=pixel,
        voltage_kv=conditions.optics.voltage_kv,
        thermal_nm=0.006,
        slice_nm=SLICE_NM,
    )
    intensity = phase_object.image_intensity(wave, pixel_size_nm=pixel, optics=conditions.optics)
    intensity = _inside(intensity)
    light = illumination(intensity.shape[0], conditions=conditions, rng=rng)
    return PhysicalFrame(
        pixels=_detected(intensity * light, conditions=conditions, rng=rng),
        amorphous=_inside(place.amorphous),
        vacuum=_inside(place.vacuum),
        boundary=_inside(place.boundary),
        beam_off=light < 0.05 * light.max(),
        conditions=conditions,
    )


def illumination(n: int, *, conditions: Conditions, rng: np.random.Generator) -> Float:
    """Return the relative illumination (n, n): a smooth fall-off, sometimes the beam's edge."""
    axis = np.linspace(-1, 1, n, dtype=np.float32)
    rows, columns = axis[:, None], axis[None, :]
    centre = rng.uniform(-1, 1, 2)
    stretch = np.float32(rng.uniform(0.6, 1.6))
    r2 = (rows - centre[0]) ** 2 * stretch + (columns - centre[1]) ** 2 / stretch
    r2 += np.float32(rng.normal(0, 0.15)) * rows * columns
    r2 -= r2.min()
    light: Float = (conditions.fall_off ** (r2 / r2.max())).astype(np.float32)
    if conditions.beam_edge:
        turn = rng.uniform(0, 2 * np.pi)
        radius = rng.uniform(0.8, 4.0)
        reach = radius - rng.uniform(0.3, 1.2)
        distance = np.hypot(rows + reach * np.sin(turn), columns + reach * np.cos(turn))
        light = light / (1 + np.exp((distance - radius) / np.float32(rng.uniform(0.005, 0.08))))
    return light.astype(np.float32)


def _contaminant_height(hole: Mask, *, conditions: Conditions, rng: np.random.Generator) -> Float:
    size, pixel = hole.shape[0], conditions.pixel_size_nm
    match conditions.coverage:
        case "none":
            return np.zeros(hole.shape, np.float32)
        case "full":
            mask = np.ones(hole.shape, np.bool_)
        case "islands":
            mask = contaminant.islands(size, rng=rng)
        case "patches":
            mask = contaminant.patches(size, pixel_size_nm=pixel, rng=rng)
        case "sheet":
            mask = contaminant.sheet(size, pixel_size_nm=pixel, rng=rng)
        case _:
            mask = contaminant.strands(size, pixel_size_nm=pixel, rng=rng)
    if conditions.n_holes and rng.random() < 0.5:
        distance = ndimage.distance_transform_edt(~hole) * pixel
        rough = contaminant.random_field(size, pixel_size_nm=pixel, length_nm=1.0, rng=rng)
        mask |= distance + 0.4 * rough < rng.uniform(0.3, 2.0)
    if rng.random() < 0.85:
        mask &= ~hole
    # Specks below half a square nanometre are nothing a person would call contaminant.
    labels, n_labels = ndimage.label(mask)
    if n_labels:
        areas = np.bincount(labels.ravel()) * pixel**2
        areas[0] = 0.0
        mask = (areas > 0.5)[labels]
    return contaminant.thickness(
        mask, pixel_size_nm=pixel, mean_nm=conditions.thickness_nm, rng=rng
    )


def _membrane(
    hole: Mask, *, conditions: Conditions, rng: np.random.Generator
) -> tuple[Float, Mask]:
    """Return graphene's atoms per pixel with its defects, and the mask of its boundaries."""
    size, pixel = hole.shape[0], conditions.pixel_size_nm
    field = size * pixel
    atoms, at_boundary = polycrystal.polycrystal(
        field_nm=field, n_grains=conditions.n_grains, rng=rng
    )
    boundary = np.zeros(hole.shape, np.bool_)
    near = np.clip((atoms[at_boundary] / pixel).astype(int), 0, size - 1)
    boundary[near[:, 0], near[:, 1]] = True
    reach = max(1, round(0.2 / pixel))
    boundary = ndimage.binary_dilation(boundary, iterations=reach) if len(near) else boundary
    atoms = polycrystal.without_vacancies(atoms, n_vacancies=conditions.n_vacancies, rng=rng)
    atoms = polycrystal.strained(atoms, field_nm=field, rng=rng)
    places = np.clip((atoms / pixel).astype(int), 0, size - 1)
    kept = atoms[~hole[places[:, 0], places[:, 1]]]
    if conditions.second_layer:
        layer, _ = polycrystal.polycrystal(field_nm=field, n_grains=1, rng=rng)
        patch = contaminant.sheet(size, pixel_size_nm=pixel, rng=rng) & ~hole
        places = np.clip((layer / pixel).astype(int), 0, size - 1)
        kept = np.concatenate([kept, layer[patch[places[:, 0], places[:, 1]]]])
    weights = np.ones(len(kept))
    if conditions.n_adatoms:
        adatoms = _adatoms(conditions.n_adatoms, field_nm=field, rng=rng)
        kept = np.concatenate([kept, adatoms])
        heavy = rng.random() < 0.3
        weights = np.concatenate([weights, np.full(len(adatoms), 2.2 if heavy else 1.0)])
    return _counted(kept, weights=weights, size=size, pixel_size_nm=pixel), boundary


def _adatoms(n_adatoms: int, *, field_nm: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return places of single adatoms, or of strings of them; too few for a contaminant."""
    if rng.random() < 0.4:
        return rng.uniform(0, field_nm, (n_adatoms, 2))
    strings = []
    while n_adatoms > 0:
        length = min(n_adatoms, int(rng.integers(3, 16)))
        headings = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.5, length))
        steps = rng.uniform(0.12, 0.3, length)[:, None]
        walk = np.cumsum(steps * np.stack([np.cos(headings), np.sin(headings)], axis=1), axis=0)
        strings.append(rng.uniform(0, field_nm, 2) + walk)
        n_adatoms -= length
    return np.concatenate(strings)


def _counted(
    atoms: NDArray[np.float64], *, weights: NDArray[np.float64], size: int, pixel_size_nm: float
) -> Float:
    """Share each atom among the four nearest pixels, bilinearly."""
    place = atoms / pixel_size_nm
    corner = np.floor(place).astype(np.int64)
    rest = place - corner
    counted = np.zeros(size * size)
    for row in (0, 1):
        for column in (0, 1):
            share = np.abs(1 - row - rest[:, 0]) * np.abs(1 - column - rest[:, 1]) * weights
            index = (corner[:, 0] + row) % size * size + (corner[:, 1] + column) % size
            counted += np.bincount(index, share, minlength=size * size)
    return counted.reshape(size, size).astype(np.float32)


def _detected(
    intensity: Float, *, conditions: Conditions, rng: np.random.Generator
) -> NDArray[np.uint16]:
    """Blur the electrons' image by the MTF, count them, and add what the detector adds."""
    n = intensity.shape[0]
    sigma = float(np.sqrt(-2.0 * np.log(conditions.mtf_nyquist))) / np.pi
    expected = ndimage.gaussian_filter(intensity, sigma, mode="nearest")
    expected = np.maximum(expected, 0) * (conditions.dose_e_per_nm2 * conditions.pixel_size_nm**2)
    counts = rng.poisson(expected).astype(np.float32) * np.float32(conditions.gain)
    if conditions.noise_blur_px:
        # Light spreads in a scintillator: noise that is not white, yet no contaminant.
        counts = ndimage.gaussian_filter(counts, conditions.noise_blur_px, mode="nearest")
    steps = 1 + rng.normal(0, conditions.quadrant_step, (2, 2))
    counts *= np.kron(steps, np.ones((n // 2, n // 2))).astype(np.float32)
    counts += rng.normal(conditions.offset, conditions.read_noise + 1e-6, counts.shape)
    hot = rng.random(counts.shape) < conditions.hot_share
    counts[hot] = counts[hot] * 2 + rng.uniform(2, 30, int(hot.sum())) * counts.mean()
    pixels: NDArray[np.uint16] = np.clip(np.rint(counts), 0, 65535).astype(np.uint16)
    return pixels


def _inside(padded: NDArray[Pixel]) -> NDArray[Pixel]:
    margin = padded.shape[0] // (MARGIN_SHARE + 2)
    return padded[margin:-margin, margin:-margin]
