"""Checks of the machine and the settings before a session."""

from __future__ import annotations

import os
import shutil
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hrtem_stream.errors import SettingsError
from hrtem_stream.settings import Settings

LEAST_DISK_GIB = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    check: str
    is_ok: bool
    text: str


def examine(settings: Settings) -> list[Finding]:
    """Look at memory, disk, ports and processors, and say what would stand in the way."""
    return [
        _processors(settings),
        _frame_log(settings),
        _disk(settings),
        _metrics(settings),
        _security(settings),
        _camera(settings),
        _segmenter(settings),
    ]


def _processors(settings: Settings) -> Finding:
    n_processors = len(os.sched_getaffinity(0))
    text = f"{n_processors} for {3 + settings.segment.workers} stage processes"
    return Finding("processors", n_processors >= 2, text)


def _frame_log(settings: Settings) -> Finding:
    folder = _existing(settings.frame_log_path.parent)
    free = shutil.disk_usage(folder).free / 2**20
    wished = settings.frame_log.capacity_mib
    text = f"{min(wished, free / 2):.0f} of {wished:.0f} MiB can be had in {folder}"
    return Finding("frame log", free / 2 >= wished, text)


def _disk(settings: Settings) -> Finding:
    archive = settings.archive
    folder = _existing(Path(archive.file).parent if archive.file else Path(archive.directory))
    free = shutil.disk_usage(folder).free / 2**30
    writable = os.access(folder, os.W_OK)
    text = f"{free:.0f} GiB free in {folder}{'' if writable else ', not writable'}"
    return Finding("disk", writable and free >= LEAST_DISK_GIB, text)


def _metrics(settings: Settings) -> Finding:
    host, first = settings.metrics.host, settings.metrics.port
    if not settings.metrics.enabled or first == 0:
        return Finding("metrics ports", True, "any free ones" if first == 0 else "switched off")
    ports = [*range(first, first + 4), *range(first + 10, first + 10 + settings.segment.workers)]
    taken = [port for port in ports if not _is_free(host, port)]
    text = f"taken: {taken}, others will be used" if taken else f"from {first} on are free"
    return Finding("metrics ports", not taken, text)


def _security(settings: Settings) -> Finding:
    from hrtem_stream.pipeline import stage_processes
    from hrtem_stream.pipeline.security import check_access

    try:
        check_access(settings, {name for name, _ in stage_processes(settings)})
    except SettingsError as error:
        return Finding("security", False, str(error))
    open_to_all = settings.security.insecure
    if open_to_all != "nothing":
        return Finding("security", True, f"{open_to_all} may leave this host unprotected, as told")
    return Finding("security", True, "what leaves this host is encrypted, or asks for a token")


def _camera(settings: Settings) -> Finding:
    from hrtem_stream.pipeline.camera import make_camera

    wanted = settings.normalise
    try:
        make_camera(settings)
    except SettingsError as error:
        return Finding("camera", False, str(error))
    used = [name for name in ("dark", "gain", "bad_pixels") if getattr(wanted, name)]
    text = f"corrected by {', '.join(used)}" if used else "frames are analysed as they come"
    if wanted.binning > 1:
        text += f", binned by {wanted.binning}"
    if wanted.sum_frames > 1:
        text += f", each summed with the {wanted.sum_frames - 1} before it"
    return Finding("camera", True, text)


def _segmenter(settings: Settings) -> Finding:
    from hrtem_stream.pipeline import make_segmenter

    reasons: list[str] = []
    size = settings.normalise.working_size
    image = np.random.default_rng(0).standard_normal((1, size, size), np.float32)
    try:
        segmenter = make_segmenter(settings.segment, working_size=size, note_switch=reasons.append)
        segmenter.warm_up(image)
        began = time.perf_counter()
        method = segmenter.segment(image).method
    except SettingsError as error:
        return Finding("segmenter", False, str(error))
    took_ms = (time.perf_counter() - began) * 1e3
    why = f" (the U-Net is out: {', '.join(reasons)})" if reasons else ""
    return Finding("segmenter", True, f"{method}, {took_ms:.0f} ms an image{why}")


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
