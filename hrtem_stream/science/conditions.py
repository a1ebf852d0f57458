"""The conditions under which a physical frame is taken, and how they are drawn at random.

They vary over more than a session ever shows: networks trained on the frames extrapolate badly,
in scale above all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hrtem_stream.science import phase_object

TYPICAL_EDGE_PX = 256
"""Edge of a working image, which gives the area over which adatoms are spread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """All that was chosen at random for a frame, but for the places of the atoms."""

    pixel_size_nm: float
    """Size of a detector pixel."""
    optics: phase_object.Optics
    dose_e_per_nm2: float
    """In the middle of the beam."""
    n_grains: int
    coverage: str
    """none, full, islands, patches, sheet or strands; empty: vacuum and nothing else."""
    thickness_nm: float
    """Mean thickness of the contaminant."""
    order: float
    """See `contaminant.atoms_per_pixel`."""
    n_holes: int
    n_adatoms: int
    n_vacancies: int
    second_layer: bool
    """A patch has a second layer of graphene, which counts as graphene."""
    fall_off: float
    """Illumination in the darkest corner over that in the brightest, 0 to 1."""
    beam_edge: bool
    """The edge of the beam lies in the frame."""
    mtf_nyquist: float
    """Modulation transfer at the Nyquist frequency, 0 to 1."""
    noise_blur_px: float
    """Standard deviation in detector pixels over which one electron's counts are spread."""
    gain: float
    """Counts per electron."""
    offset: float
    """Counts without electrons."""
    read_noise: float
    """Standard deviation in counts."""
    quadrant_step: float
    """Relative standard deviation of the gain of the four quadrants."""
    hot_share: float
    """Share of pixels that read far too much."""


def draw_conditions(*, reduction: int, rng: np.random.Generator) -> Conditions:
    """Choose the conditions of a frame; `reduction` is detector pixels per working pixel."""
    kinds = ("none", "full", "islands", "patches", "sheet", "strands", "empty")
    # Frames without and with nothing but contaminant are the hardest to tell apart: many of both.
    coverage = str(rng.choice(kinds, p=(0.14, 0.20, 0.27, 0.17, 0.12, 0.06, 0.04)))
    thin = 0.7 if coverage == "full" else 0.3
    working_pixel_nm = log_uniform(0.026, 0.08, rng=rng)
    area_nm2 = (TYPICAL_EDGE_PX * working_pixel_nm) ** 2
    return Conditions(
        pixel_size_nm=working_pixel_nm / reduction,
        optics=draw_optics(rng=rng),
        dose_e_per_nm2=log_uniform(7e4, 2e6, rng=rng),
        n_grains=1 if rng.random() < 0.55 else int(rng.integers(2, 6)),
        coverage=coverage,
        thickness_nm=log_uniform(thin, 6.0, rng=rng),
        order=float(rng.choice((0.0, 0.5, 0.9))),
        n_holes=int(rng.integers(1, 4)) if rng.random() < 0.25 else 0,
        n_adatoms=1 + int(area_nm2 * rng.uniform(0, 0.15)) if rng.random() < 0.35 else 0,
        n_vacancies=int(rng.integers(1, 8)) if rng.random() < 0.3 else 0,
        second_layer=bool(rng.random() < 0.05),
        fall_off=float(rng.uniform(0.12, 1.0)),
        beam_edge=bool(rng.random() < 0.15),
        mtf_nyquist=float(rng.uniform(0.1, 0.8)),
        noise_blur_px=float(rng.uniform(0.2, 1.3)) if rng.random() < 0.4 else 0.0,
        gain=log_uniform(0.5, 20.0, rng=rng),
        offset=float(rng.uniform(0, 60)) if rng.random() < 0.5 else 0.0,
        read_noise=float(rng.uniform(0, 4)),
        quadrant_step=float(rng.choice((0.0, 0.004, 0.02))),
        hot_share=float(rng.choice((0.0, 1e-5, 1e-4, 4e-4))),
    )


def draw_optics(*, rng: np.random.Generator) -> phase_object.Optics:
    """Choose an 80 kV lens: half of all defocus values lie below 9.5 nm, of both signs."""
    defocus = rng.uniform(1.0, 9.5) if rng.random() < 0.55 else rng.uniform(9.5, 30.0)
    return phase_object.Optics(
        voltage_kv=80.0,
        C10_nm=float(defocus * rng.choice((-1.0, 1.0))),
        C12_nm=float(rng.exponential(1.2)),
        phi12=float(rng.uniform(0, np.pi)),
        C21_nm=float(rng.exponential(60.0)),
        phi21=float(rng.uniform(0, 2 * np.pi)),
        C30_nm=float(rng.normal(0, 8e3)),
        focal_spread_nm=float(rng.uniform(0.8, 4.5)),
        semi_convergence_rad=float(rng.uniform(0, 4e-4)),
        vibration_nm=float(rng.uniform(0.005, 0.045)),
    )


def log_uniform(low: float, high: float, *, rng: np.random.Generator) -> float:
    """Draw a number whose logarithm is evenly distributed."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
