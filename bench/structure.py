"""Atoms, orientation and boundaries against simulated frames whose atoms are known.

Run:  python -m bench.structure [--seeds 0 1] [--json bench/results/structure.json]

Three tables: precision, recall and error of atoms in clean graphene, against pixel size, dose and
focus; false atoms on contaminated frames with the mask of the U-Net, of the Bragg filter, and with
none; a bicrystal's orientations, boundary and rings. At the end the time a frame, and on the same
frame, with the contrast given, what scikit-image's peak and blob detection find.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from hrtem_stream.pipeline import make_scaling, make_segmenter
from hrtem_stream.science import contaminant, phase_object, polycrystal
from hrtem_stream.science.phase_object import Optics
from hrtem_stream.science.run_length import mask_of_runs, runs_of_mask
from hrtem_stream.science.structure import Structure, analyse_frame
from hrtem_stream.settings import NormaliseSettings, SegmentSettings
from hrtem_stream.stages.offline import segment_frames

FIELD_NM = 16.0
MARGIN_NM = 1.0
MATCH_NM = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A simulated frame with its truth; positions in pixels of the detector."""

    pixels: NDArray[np.uint16]
    positions: NDArray[np.float64]
    amorphous: NDArray[np.bool_]
    pixel_size_nm: float
    line: tuple[float, float, float] | None = None
    """Of a bicrystal: the boundary is where row·a + column·b = c, in nm."""
    orientation_deg: tuple[float, ...] = ()
    """Of the grains, modulo 60°, as direction of the bonds."""


def simulated(
    *,
    pixel_size_nm: float,
    dose_e_per_a2: float,
    defocus_nm: float,
    seed: int,
    covered: bool = False,
    bicrystal: bool = False,
) -> Known:
    """Simulate a frame of one or two grains, on request with contaminant."""
    rng = np.random.default_rng((seed, 7))
    n = round((FIELD_NM + 2 * MARGIN_NM) / pixel_size_nm)
    field = n * pixel_size_nm
    angles = [float(rng.uniform(0, 60))]
    atoms = polycrystal.honeycomb(
        field_nm=field, angle=np.deg2rad(angles[0]), offset_nm=tuple(rng.uniform(0, 0.2, 2))
    )
    line = None
    if bicrystal:
        angles.append((angles[0] + float(rng.uniform(12, 28))) % 60)
        turn = float(rng.uniform(0, np.pi))
        line = (np.cos(turn), np.sin(turn), field / 2 * (np.cos(turn) + np.sin(turn)))
        atoms = _joined(atoms, angles[1], line, field, rng)
    n_slices = 3 if covered else 1
    slices = [_deposited(atoms, n, pixel_size_nm)]
    amorphous = np.zeros((n, n), np.bool_)
    if covered:
        amorphous = contaminant.islands(n, rng=rng)
        height = contaminant.thickness(amorphous, pixel_size_nm=pixel_size_nm, mean_nm=2.0, rng=rng)
        for _ in range(n_slices - 1):
            density = height * contaminant.texture(n, pixel_size_nm=pixel_size_nm, rng=rng)
            density *= np.float32(contaminant.CARBON_PER_NM3 * pixel_size_nm**2 / (n_slices - 1))
            slices.append(
                contaminant.atoms_per_pixel(
                    density, pixel_size_nm=pixel_size_nm, order=0.5, rng=rng
                )
            )
    optics = Optics(C10_nm=defocus_nm, focal_spread_nm=1.0, vibration_nm=0.015)
    wave = phase_object.exit_wave(
        slices, pixel_size_nm=pixel_size_nm, voltage_kv=80.0, thermal_nm=0.006, slice_nm=1.0
    )
    intensity = phase_object.image_intensity(wave, pixel_size_nm=pixel_size_nm, optics=optics)
    margin = round(MARGIN_NM / pixel_size_nm)
    inside = slice(margin, n - margin)
    lit = ndimage.gaussian_filter(intensity, 0.4, mode="wrap")[inside, inside]
    ramp = np.linspace(1.0, 0.7, lit.shape[0], dtype=np.float32)[:, None]
    electrons = rng.poisson(lit * ramp * (100 * dose_e_per_a2 * pixel_size_nm**2))
    counts = 4.0 * electrons + rng.normal(0, 1, electrons.shape)
    positions = atoms / pixel_size_nm - margin
    within = ((positions > -0.5) & (positions < lit.shape[0] - 0.5)).all(axis=1)
    return Known(
        pixels=np.clip(np.rint(counts), 0, 65535).astype(np.uint16),
        positions=positions[within],
        amorphous=amorphous[inside, inside],
        pixel_size_nm=pixel_size_nm,
        line=None
        if line is None
        else (line[0], line[1], line[2] - margin * pixel_size_nm * sum(line[:2])),
        orientation_deg=tuple(angles),
    )


def score(found: NDArray[np.float64], known: Known, *, edge_nm: float = 0.3) -> dict[str, float]:
    """Match atoms one to one within 0.05 nm, away from borders and contaminant."""
    pixel = known.pixel_size_nm
    clean = ndimage.distance_transform_edt(~known.amorphous) * pixel > edge_nm
    margin = int(np.ceil(edge_nm / pixel))
    clean[:margin] = clean[-margin:] = False
    clean[:, :margin] = clean[:, -margin:] = False
    tree = cKDTree(known.positions)
    distance, nearest = tree.query(found) if len(found) else (np.zeros(0), np.zeros(0, int))
    order = np.argsort(distance)
    _, unique = np.unique(nearest[order], return_index=True)
    hit = np.zeros(len(found), np.bool_)
    hit[order[unique]] = distance[order[unique]] * pixel < MATCH_NM
    counts_found = clean[_pixel(found, clean)]
    counts_known = clean[_pixel(known.positions, clean)]
    met = np.zeros(len(known.positions), np.bool_)
    met[nearest[hit]] = True
    error = distance[hit & counts_found] * pixel * 1e3
    n_found = int(counts_found.sum())
    return {
        "precision": float((hit & counts_found).sum() / max(1, n_found)),
        "recall": float((met & counts_known).sum() / max(1, counts_known.sum())),
        "rms_pm": float(np.sqrt(np.mean(error**2))) if error.size else float("nan"),
    }


def clean_table(seeds: list[int]) -> list[dict[str, Any]]:
    """Score atoms in clean graphene against pixel size, dose and contrast."""
    rows = []
    print(
        f"{'nm/px':>6}{'e/Å²':>7}{'C10 nm':>7}{'precision':>11}{'recall':>8}"
        f"{'RMS pm':>8}{'angle°':>8}{'contrast':>9}"
    )
    for pixel in (0.02, 0.04, 0.06):
        for dose in (1000, 2500, 5000, 10000):
            for defocus in (-2.5, 2.5, -6.0):
                scores, angles, contrasts = [], [], []
                for seed in seeds:
                    known = simulated(
                        pixel_size_nm=pixel, dose_e_per_a2=dose, defocus_nm=defocus, seed=seed
                    )
                    result = _analysed(known, known.amorphous)
                    scores.append(score(result.positions, known))
                    angles.append(_angle_error(result, known))
                    contrasts.append(result.contrast)
                row = {
                    "pixel_size_nm": pixel, "dose": dose, "C10_nm": defocus,
                    **{key: float(np.mean([s[key] for s in scores])) for key in scores[0]},
                    "angle_deg": float(np.max(angles)), "contrast": contrasts,
                }  # fmt: skip
                rows.append(row)
                print(
                    f"{pixel:6.2f}{dose:7}{defocus:7.1f}{row['precision']:11.3f}"
                    f"{row['recall']:8.3f}{row['rms_pm']:8.1f}{row['angle_deg']:8.2f}  {contrasts}",
                    flush=True,
                )
    return rows


def mask_table(seeds: list[int]) -> list[dict[str, Any]]:
    """Count atoms found in contaminant, with either segmenter's mask and with none."""
    rows = []
    print("\nfalse atoms in contaminant, per nm² of it, and recall in clean graphene")
    scaling = make_scaling(NormaliseSettings())
    for name in ("unet", "bragg", "none", "truth"):
        densities, recalls = [], []
        for seed in seeds:
            for pixel in (0.02, 0.04):
                known = simulated(
                    pixel_size_nm=pixel, dose_e_per_a2=5000, defocus_nm=-2.5, seed=seed,
                    covered=True,
                )  # fmt: skip
                mask = _mask(known, name, scaling)
                result = _analysed(known, mask)
                inside = known.amorphous[_pixel(result.positions, known.amorphous)]
                area = float(known.amorphous.sum()) * pixel**2
                densities.append(float(inside.sum()) / max(area, 1e-9))
                recalls.append(score(result.positions, known)["recall"])
        row = {
            "mask": name,
            "false_per_nm2": float(np.mean(densities)),
            "recall": float(np.mean(recalls)),
        }
        rows.append(row)
        print(f"{name:<8}{row['false_per_nm2']:8.2f}{row['recall']:8.3f}", flush=True)
    return rows


def boundary_table(seeds: list[int]) -> list[dict[str, Any]]:
    """Compare orientations, boundary and rings of bicrystals with the truth."""
    rows = []
    print("\nbicrystals: orientation error, boundary found within 0.3 nm, rings found/true")
    for seed in seeds:
        for pixel in (0.02, 0.04):
            known = simulated(
                pixel_size_nm=pixel, dose_e_per_a2=5000, defocus_nm=-2.5, seed=seed, bicrystal=True
            )
            result = _analysed(known, known.amorphous)
            row = {"pixel_size_nm": pixel, "seed": seed, **_boundary(result, known)}
            rows.append(row)
            print(
                {k: (round(v, 3) if isinstance(v, float) else v) for k, v in row.items()},
                flush=True,
            )
    return rows


def timing() -> dict[str, float]:
    """Time the analysis of a frame, and peers on the same frame, taking turns."""
    known = simulated(pixel_size_nm=0.02, dose_e_per_a2=5000, defocus_nm=-2.5, seed=0)
    image = cv2.GaussianBlur(known.pixels.astype(np.float32), (0, 0), 1.5)
    contrast = _analysed(known, known.amorphous).contrast
    works: dict[str, Callable[[], Any]] = {
        "analyse_frame": lambda: _analysed(known, known.amorphous)
    }
    try:
        import skimage.feature as peers

        works["skimage peak_local_max"] = lambda: peers.peak_local_max(
            contrast * image, min_distance=3
        )
        small = contrast * (image - image.mean()) / image.std()
        works["skimage blob_log"] = lambda: peers.blob_log(
            small, min_sigma=1.5, max_sigma=3, num_sigma=3, threshold=0.05
        )
    except ImportError:
        pass
    times: dict[str, list[float]] = {name: [] for name in works}
    found: dict[str, Any] = {}
    for _ in range(3):
        for name, work in works.items():
            began = time.process_time()
            found[name] = work()
            times[name].append(time.process_time() - began)
    print(f"\nprocessor time a frame of {known.pixels.shape[0]}² at 0.02 nm, seconds")
    report = {}
    for name, values in times.items():
        result = found[name]
        positions = result.positions if isinstance(result, Structure) else result[:, :2]
        report[name] = float(np.median(values))
        marks = score(np.asarray(positions, float), known)
        print(f"{name:<24}{report[name]:7.2f}  { ({k: round(v, 3) for k, v in marks.items()}) }")
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    report = {
        "seeds": options.seeds,
        "clean": clean_table(options.seeds),
        "masks": mask_table(options.seeds),
        "boundaries": boundary_table(options.seeds),
        "seconds": timing(),
    }
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _joined(
    atoms: NDArray[np.float64],
    angle_deg: float,
    line: tuple[float, float, float],
    field: float,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Put another grain beyond a line, drop clashes, and relax what is near."""
    other = polycrystal.honeycomb(
        field_nm=field, angle=np.deg2rad(angle_deg), offset_nm=tuple(rng.uniform(0, 0.2, 2))
    )
    a, b, c = line
    kept = np.concatenate([atoms[atoms @ (a, b) < c], other[other @ (a, b) >= c]])
    kept = kept[polycrystal._without_clashes(kept)]
    near = np.abs(kept @ (a, b) - c) < 0.6
    return polycrystal._relaxed(kept, movable=near)


def _deposited(atoms: NDArray[np.float64], n: int, pixel_size_nm: float) -> NDArray[np.float32]:
    """Share each atom among four pixels; pixel k has its middle at k."""
    place = atoms / pixel_size_nm
    corner = np.floor(place).astype(np.int64)
    rest = place - corner
    counted = np.zeros((n, n))
    for row in (0, 1):
        for column in (0, 1):
            share = np.abs(1 - row - rest[:, 0]) * np.abs(1 - column - rest[:, 1])
            np.add.at(counted, ((corner[:, 0] + row) % n, (corner[:, 1] + column) % n), share)
    return counted.astype(np.float32)


def _pixel(positions: NDArray[np.float64], mask: NDArray[np.bool_]) -> tuple[Any, Any]:
    place = np.clip(np.round(positions).astype(int), 0, np.array(mask.shape) - 1)
    return place[:, 0], place[:, 1]


def _analysed(known: Known, mask: NDArray[np.bool_]) -> Structure:
    return analyse_frame(
        known.pixels,
        amorphous=mask,
        vacuum=np.zeros_like(mask),
        pixel_size_nm=known.pixel_size_nm,
    )


def _angle_error(result: Structure, known: Known) -> float:
    largest = int(np.argmax(result.grains.area_nm2)) if len(result.grains.area_nm2) else -1
    if largest < 0:
        return float("nan")
    found = result.grains.orientation_deg[largest]
    return min(_apart(found, angle) for angle in known.orientation_deg)


def _apart(a: float, b: float) -> float:
    return abs((a - b + 30) % 60 - 30)


def _mask(known: Known, name: str, scaling: Any) -> NDArray[np.bool_]:
    if name == "none":
        return np.zeros_like(known.amorphous)
    if name == "truth":
        return known.amorphous
    segmenter = make_segmenter(SegmentSettings(segmenter=name), working_size=256)
    (result,) = segment_frames(
        [("", known.pixels, "")], segmenter, working_size=256, scaling=scaling,
        pixel_size_nm=known.pixel_size_nm,
    )  # fmt: skip
    start, length = runs_of_mask(result.amorphous, shape=known.pixels.shape)
    return mask_of_runs(start, length=length, shape=known.pixels.shape)


def _boundary(result: Structure, known: Known) -> dict[str, Any]:
    from hrtem_stream.science.atoms import find_network

    grains = result.grains
    largest = np.argsort(grains.area_nm2)[::-1][:2]
    errors = [
        min(_apart(float(grains.orientation_deg[n]), angle) for angle in known.orientation_deg)
        for n in largest
    ]
    a, b, c = known.line or (1.0, 0.0, 0.0)
    rows, columns = np.nonzero(grains.boundary)
    off = np.abs(
        (rows + 0.5) * result.map_pixel_nm * a + (columns + 0.5) * result.map_pixel_nm * b - c
    )
    true = find_network(known.positions, pixel_size_nm=known.pixel_size_nm)
    edge = 0.4 / known.pixel_size_nm
    side = known.pixels.shape[0]

    def rings(network: Any) -> list[int]:
        inner = ((network.ring_centre > edge) & (network.ring_centre < side - edge)).all(axis=1)
        sizes = network.ring_size[inner]
        return [int((sizes == n).sum()) for n in (5, 6, 7)] + [int((sizes > 7).sum())]

    misorientation = _apart(*known.orientation_deg)
    return {
        "n_grains": len(grains.area_nm2),
        "angle_deg": float(max(errors)) if errors else float("nan"),
        "misorientation_error_deg": float(
            np.abs(grains.misorientation_deg - misorientation).min(initial=99)
        ),
        "within_0.3_nm": float((off < 0.3).mean()) if off.size else 0.0,
        "mean_off_nm": float(off.mean()) if off.size else float("nan"),
        "length_nm": result.boundary_length_nm,
        "rings_found": rings(result.network),
        "rings_true": rings(true),
    }


if __name__ == "__main__":
    main()
