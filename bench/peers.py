"""Other programs on the same job, in the same run: transport, writers, plain scientific Python.

They are installed into `build/peers`, an environment of their own, the first time; what cannot be
had is skipped with its reason. What is like for like, and what is not:

- pvaPy: area detector server and two consumers with its no-op processor, each of which hands the
  image on over PV Access, against our feed, no-op stage and settling stage. Both take the image
  through; theirs copies it over sockets, which also works between hosts, ours maps shared memory.
  Theirs has no acknowledgement or digest. A rate counts as held if nothing was missed and at
  least 97 % of it was published.
- Writers: all keep every pixel; ours beside them does as well (`keep = all`), in one thread.
- scikit-image: the same published equations, written down with its functions.
- LiberTEM-live and similar frameworks reduce scan positions of diffraction patterns; there is no
  job in common, so they are left out. The paper's network in plain torch is in `unet`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import numpy as np

from bench import bragg, normalise
from bench.archive import islands
from bench.row import Row, in_turns, row
from bench.transport import SIDES, hold
from hrtem_stream.archive.encoding import FrameEncoder
from hrtem_stream.science.bragg import bragg_mask_published
from hrtem_stream.science.illumination import normalise_frame, normalise_published
from hrtem_stream.science.reduction import reduce_frame
from hrtem_stream.science.synthetic import SyntheticSeries

PLACE = Path(__file__).parents[1] / "build" / "peers"
PACKAGES = ("numpy", "h5py", "hdf5plugin", "blosc2", "zarr", "pvapy")
RATES = {512: (250, 500, 1000, 1500, 2000, 3000, 4000), 4096: (5, 10, 20, 30, 50, 75, 100)}
HELD_SHARE = 0.97
NO_OP = "pvapy.hpc.adImageProcessor.AdImageProcessor"


def measure(seconds: float) -> list[Row]:
    """Compare; each transport rate is held for 60 s unless told otherwise."""
    rows = [*_scientific_rows()]
    missing = _install()
    if "pvapy" not in missing:
        for side in SIDES:
            rows += _transport_rows(side, seconds or 60.0)
    return [*rows, *_writer_rows()]


def _install() -> list[str]:
    """Make the environment, package by package; give what cannot be had."""
    if not (PLACE / "bin" / "python").exists():
        venv.create(PLACE, with_pip=True)
    missing = []
    for package in PACKAGES:
        done = subprocess.run(
            [PLACE / "bin" / "python", "-m", "pip", "install", "--quiet", package],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            missing.append(package)
            print(f"skipped: {package}: {done.stderr.strip()[-300:]}", file=sys.stderr)
    return missing


def _transport_rows(side: int, seconds: float) -> list[Row]:
    held = 0.0
    for rate in RATES[side]:
        if not _pvapy_holds(side, rate, seconds):
            break
        held = float(rate)
    if not held:
        print(f"pvaPy holds none of {RATES[side]} frames/s at {side}²", file=sys.stderr)
    fastest, _ = hold(side, rate=None, seconds=min(seconds, 10.0))
    offered = 3 * held or 0.5 * float(np.median(fastest))
    rates, n_missed = hold(side, rate=offered, seconds=seconds)
    title = f"transport, no-op stages, {side}² uint8"
    return [
        row(
            f"{title}, as fast as it goes (reference: highest rate that pvaPy holds {seconds:g} s)",
            fastest, "frames/s", reference=held or None,
        ),
        row(
            f"{title}, {offered:.0f} frames/s offered for {seconds:g} s, missed {n_missed} "
            "(reference: highest rate that pvaPy holds)",
            rates, "frames/s", reference=held or None,
        ),
    ]  # fmt: skip


def _pvapy_holds(side: int, rate: float, seconds: float) -> bool:
    """Run server and two consumers; tell whether all that was published came through both."""
    place = {
        **os.environ,
        "EPICS_PVA_ADDR_LIST": "127.0.0.1", "EPICS_PVA_AUTO_ADDR_LIST": "NO",
        "EPICS_PVAS_INTF_ADDR_LIST": "127.0.0.1", "EPICS_PVAS_BEACON_ADDR_LIST": "127.0.0.1",
        "EPICS_PVAS_AUTO_BEACON_ADDR_LIST": "NO",
    }  # fmt: skip
    queue = "1000" if side < 2048 else "100"
    runtime = seconds + 25
    common = ["-cc", "_", "-sc", "_", "-pc", NO_OP, "-rqs", queue, "-sqs", queue, "-dc"]
    report = ["-rp", "100000", "-rs", "all", "-rt", str(runtime)]
    consumers = [
        _start(place, "pvapy-hpc-consumer", "-id", "2", "-ic", "pvapy:consumer:1:output", *common,
               *report),
        _start(place, "pvapy-hpc-consumer", "-id", "1", "-ic", "pvapy:image", "-oc", "_", *common,
               *report),
    ]  # fmt: skip
    server = _start(
        place, "pvapy-ad-sim-server", "-cn", "pvapy:image", "-dt", "uint8", "-nx", str(side),
        "-ny", str(side), "-fps", str(rate), "-nf", "20", "-cs", "20", "-rt", str(seconds),
        "-std", "10", "-shd", "3", "-rp", "100000", "-dc",
    )  # fmt: skip
    published = server.communicate()[0]
    second, first = (consumer.communicate()[0] for consumer in consumers)
    shown = re.search(r"Published frames:\s*(\d+) @ ([\d.]+)", published)
    if shown is None:
        return False
    n_published, real_rate = int(shown[1]), float(shown[2])
    through = all(
        _number(text, "nMissed") == 0 and _number(text, "lastObjectId") == n_published
        for text in (first, second)
    )
    print(f"pvaPy {side}² {rate} frames/s: {real_rate:.0f} published, through {through}",
          file=sys.stderr)  # fmt: skip
    return through and real_rate >= HELD_SHARE * rate


def _start(place: dict[str, str], *command: str) -> subprocess.Popen[str]:
    words = [str(PLACE / "bin" / command[0]), *command[1:]]
    return subprocess.Popen(
        words, env=place, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def _number(text: str, name: str) -> int:
    found = re.findall(rf"'{name}': (\d+)", text)
    return int(found[-1]) if found else -1


def _writer_rows() -> list[Row]:
    rng = np.random.default_rng(0)
    frames = rng.poisson(200, (8, 2048, 2048)).astype("<u2")
    everything = FrameEncoder(frames.shape[1:], dtype="<u2", codec="zstd", keep="all")
    amorphous = islands(rng)
    ours_ms = in_turns({"": lambda: everything.encode(frames[0], amorphous)}, seconds=2.0)[""]
    ours_bytes = everything.encode(frames[0], amorphous).stored_bytes
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "frames.npy"
        np.save(source, frames)
        script = Path(__file__).with_name("peer_writers.py")
        done = subprocess.run(
            [PLACE / "bin" / "python", script, source], capture_output=True, text=True, check=False
        )
    if done.returncode:
        print(f"skipped: writers: {done.stderr.strip()[-500:]}", file=sys.stderr)
        return []
    return _compared(json.loads(done.stdout), ours_ms, ours_bytes, frames[0].nbytes)


def _compared(found: dict[str, Any], ours_ms: Any, ours_bytes: int, n_bytes: int) -> list[Row]:
    rows = []
    for name, values in found.items():
        if "skipped" in values:
            print(f"skipped: {name}: {values['skipped']}", file=sys.stderr)
            continue
        rows.append(
            row(
                f"lossless frames, poisson 200, 2048² uint16, zstd of ours (reference: {name})",
                n_bytes / 1e6 / ours_ms, "GB/s",
                reference=n_bytes / 1e9 / float(np.median(values["seconds"])),
            )
        )  # fmt: skip
        rows.append(
            row(
                f"lossless frames, size, the same (reference: {name})",
                ours_bytes / 1e6, "MB", reference=values["bytes"] / 1e6,
            )
        )  # fmt: skip
    return rows


def _scientific_rows() -> list[Row]:
    frame = SyntheticSeries(shape=(2048, 2048), seed=1).frame(14).pixels
    image = normalise_frame(frame).image
    times = in_turns(
        {
            "normalise": lambda: normalise_published(reduce_frame(frame)),
            "skimage normalise": lambda: skimage_normalise(frame),
            "plain normalise": lambda: normalise.plain(frame),
            "bragg": lambda: bragg_mask_published(image, peak_threshold=2.0, mask_threshold=0.8),
            "skimage bragg": lambda: skimage_bragg(image),
            "plain bragg": lambda: bragg.plain(image),
        },
        seconds=4.0,
    )
    return [
        row(
            f"{what}, published steps, one thread (reference: {title})",
            times[what], "ms", reference=float(np.median(times[f"{which} {what}"])),
        )
        for what in ("normalise", "bragg")
        for which, title in (("plain", "NumPy and SciPy"), ("skimage", "scikit-image"))
    ]  # fmt: skip


def skimage_normalise(frame: Any) -> Any:
    from skimage.transform import downscale_local_mean

    factors = frame.shape[0] // 256, frame.shape[1] // 256
    return normalise_published(downscale_local_mean(frame, factors).astype(np.float32))


def skimage_bragg(image: Any, *, n_peaks: int = 24, aperture: float = 0.0156) -> Any:
    from skimage.feature import peak_local_max
    from skimage.filters import gaussian, window

    g_row, g_column = (np.fft.fftshift(np.fft.fftfreq(n)) for n in image.shape)
    g = np.hypot(g_row[:, None], g_column[None, :])
    spectrum = np.fft.fftshift(np.fft.fft2(image * window("hann", image.shape)))
    power = gaussian(g * np.abs(spectrum), 2.0) * ((g > 0.1) & (g < 0.5))
    peaks = peak_local_max(power, min_distance=3, threshold_abs=2 * power.mean(), num_peaks=n_peaks)
    apertures = np.zeros_like(power)
    for i, j in peaks:
        squared = np.square(g_row - g_row[i])[:, None] + np.square(g_column - g_column[j])
        apertures = np.maximum(apertures, np.exp(-0.5 * squared / aperture**2))
    lattice = np.fft.ifft2(np.fft.fft2(image) * np.fft.ifftshift(apertures)).real
    return gaussian(np.abs(image - lattice), 5.0) > 0.8
