"""Jaccard of the same specimen at several magnifications, working at fixed size or by the lattice.

Run:  python -m bench.lattice [--seeds 0 1 2] [--segmenter unet] [--json bench/results/lattice.json]

A specimen of 82 nm is simulated once, at 0.02 nm a pixel, and read by detectors of 0.01 to 0.08 nm
a pixel: at a full field of at most 4096², and at 1024². Each frame carries no calibration, so the
scale is found in its spectrum; with `--calibrated` it is told. Scores are against the specimen's
true mask, at the resolution of the detector, pooled over the seeds.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from hrtem_stream.pipeline import make_scaling, make_segmenter
from hrtem_stream.science import phase_object, physical
from hrtem_stream.science.conditions import Conditions
from hrtem_stream.science.phase_object import Optics
from hrtem_stream.science.run_length import mask_of_runs, runs_of_mask
from hrtem_stream.science.scores import pooled_scores
from hrtem_stream.settings import NormaliseSettings, SegmentSettings
from hrtem_stream.stages.offline import segment_frames

PIXEL_NM = 0.02
SIDE = 4096
PIXEL_SIZES_NM = (0.01, 0.02, 0.04, 0.08)


def conditions(seed: int) -> Conditions:
    """Give a session of about 5,000 e/Å², with islands of contaminant and a few grains."""
    rng = np.random.default_rng((seed, 1))
    return Conditions(
        pixel_size_nm=PIXEL_NM,
        optics=Optics(C10_nm=float(rng.choice((-8.0, 9.0))), C12_nm=0.8, focal_spread_nm=2.0),
        dose_e_per_nm2=5e5,
        n_grains=3,
        coverage=("islands", "patches", "sheet")[seed % 3],
        thickness_nm=2.0,
        order=0.5,
        n_holes=0,
        n_adatoms=20,
        n_vacancies=6,
        second_layer=False,
        fall_off=0.5,
        beam_edge=False,
        mtf_nyquist=0.4,
        noise_blur_px=0.0,
        gain=4.0,
        offset=0.0,
        read_noise=1.0,
        quadrant_step=0.0,
        hot_share=1e-5,
    )


def specimen_image(seed: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the lit intensity without noise, and the true mask, both at 0.02 nm a pixel."""
    rng = np.random.default_rng((seed, 2))
    under = conditions(seed)
    place = physical.specimen(SIDE, conditions=under, rng=rng)
    wave = phase_object.exit_wave(
        place.slices, pixel_size_nm=PIXEL_NM, voltage_kv=80.0, thermal_nm=0.006, slice_nm=1.5
    )
    intensity = phase_object.image_intensity(wave, pixel_size_nm=PIXEL_NM, optics=under.optics)
    margin = (intensity.shape[0] - SIDE) // 2
    inside = slice(margin, margin + SIDE)
    light = physical.illumination(SIDE, conditions=under, rng=rng)
    return intensity[inside, inside] * light, place.amorphous[inside, inside]


def frames(
    seed: int,
) -> Iterator[tuple[float, int, NDArray[np.uint16], NDArray[np.bool_]]]:
    """Give pixel size, side, detector counts and true mask of each frame of a specimen."""
    image, amorphous = specimen_image(seed)
    for pixel_nm in PIXEL_SIZES_NM:
        expected, truth = _at(image, amorphous, pixel_nm)
        rng = np.random.default_rng((seed, int(1000 * pixel_nm)))
        pixels = _exposed(expected, pixel_nm=pixel_nm, rng=rng)
        for side in sorted({1024, pixels.shape[0]}):
            first = (pixels.shape[0] - side) // 2
            part = slice(first, first + side)
            yield pixel_nm, side, pixels[part, part].copy(), truth[part, part]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--segmenter", choices=("unet", "bragg"), nargs="+", default=["unet"])
    parser.add_argument("--calibrated", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    rows: dict[tuple[str, float, int, str], list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]] = {}
    notes: dict[tuple[str, float, int, str], tuple[tuple[int, int], float]] = {}
    choices = {
        name: make_segmenter(SegmentSettings(segmenter=name), working_size=256)
        for name in options.segmenter
    }
    for seed in options.seeds:
        for pixel_nm, side, pixels, truth in frames(seed):
            for name, choice in choices.items():
                for mode in ("resize", "lattice"):
                    began = time.process_time()
                    (result,) = segment_frames(
                        [("", pixels, "")],
                        choice,
                        working_size=256,
                        scaling=make_scaling(NormaliseSettings(mode=mode)),
                        pixel_size_nm=pixel_nm if options.calibrated else 0.0,
                    )
                    took_s = time.process_time() - began
                    start, length = runs_of_mask(result.amorphous, shape=pixels.shape)
                    mask = mask_of_runs(start, length=length, shape=pixels.shape)
                    key = (name, pixel_nm, side, mode)
                    rows.setdefault(key, []).append((mask, truth))
                    notes[key] = (result.amorphous.shape, took_s)
    report = []
    print(f"{'':<8}{'nm/px':>6}{'side':>6}  {'mode':<9}{'working':>12}{'Jaccard':>9}{'s/frame':>9}")
    for key, pairs in rows.items():
        name, pixel_nm, side, mode = key
        shape, took_s = notes[key]
        score = pooled_scores(pairs).jaccard
        print(
            f"{name:<8}{pixel_nm:6.2f}{side:6}  {mode:<9}{shape[0]:6}x{shape[1]:<5}"
            f"{score:9.3f}{took_s:9.2f}"
        )
        report.append(
            {
                "segmenter": name,
                "pixel_size_nm": pixel_nm,
                "side": side,
                "mode": mode,
                "working_shape": list(shape),
                "jaccard": round(float(score), 4),
                "cpu_s": round(took_s, 3),
            }
        )
    if options.json:
        content = {"seeds": options.seeds, "calibrated": options.calibrated, "rows": report}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _at(
    image: NDArray[np.float32], amorphous: NDArray[np.bool_], pixel_nm: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return image and mask at another pixel size; of a finer one, the middle of the field."""
    if pixel_nm < PIXEL_NM:
        quarter = SIDE // 4
        middle = slice(quarter, 3 * quarter)
        return _refined(image[middle, middle]), np.kron(
            amorphous[middle, middle], np.ones((2, 2), np.bool_)
        )
    step = round(pixel_nm / PIXEL_NM)
    n = SIDE // step
    blocks = image.reshape(n, step, n, step).mean(axis=(1, 3))
    covered = amorphous.reshape(n, step, n, step).mean(axis=(1, 3)) >= 0.5
    return blocks.astype(np.float32), covered


def _refined(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Interpolate to half the pixel size; the lens passes nothing beyond the old Nyquist limit.

    Through the cosine transform, whose grid is that of pixel centres: nothing is displaced.
    """
    n = image.shape[0]
    spectrum = np.zeros((2 * n, 2 * n), np.float32)
    spectrum[:n, :n] = fft.dctn(image, norm="forward")
    return np.asarray(fft.idctn(spectrum, norm="forward"), np.float32)


def _exposed(
    expected: NDArray[np.float32], *, pixel_nm: float, rng: np.random.Generator
) -> NDArray[np.uint16]:
    """Blur by the detector, count electrons, and turn them into counts."""
    blurred = ndimage.gaussian_filter(expected, 0.43, mode="nearest")
    electrons = rng.poisson(np.maximum(blurred, 0) * np.float32(5e5 * pixel_nm**2))
    counts = 4.0 * electrons + rng.normal(0, 1.0, electrons.shape)
    return np.asarray(np.clip(np.rint(counts), 0, 65535), np.uint16)


if __name__ == "__main__":
    main()
