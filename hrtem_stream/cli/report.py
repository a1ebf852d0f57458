"""What commands tell of finished archives: the report, the ranked table and picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hrtem_stream.errors import ArchiveError

if TYPE_CHECKING:
    from hrtem_stream.runtime.profile import StageProfile


def report_of(archives: list[Path]) -> dict[str, Any]:
    """Sum up the archives of one series, under the names of the contract."""
    from hrtem_stream.archive.summary import summary

    parts = [summary(path) for path in archives]
    if not parts:
        raise ArchiveError("no archive was written")
    with_frames = [part for part in parts if part["n_frames"]] or parts
    latency_s = with_frames[0]["latency_s"]
    ledgers = [part["ledger"] for part in parts]
    duration_s = session_s(archives)
    archived = sum(ledger["archived"] for ledger in ledgers)
    raw_bytes = sum(part["raw_bytes"] for part in parts)
    methods = {
        method: sum(part["methods"].get(method, 0) for part in parts)
        for method in ("unet", "bragg", "none")
    }
    return {
        "received": sum(ledger["received"] for ledger in ledgers),
        "archived": archived,
        "lost": sum(ledger["lost"] for ledger in ledgers),
        "duplicates": sum(ledger["duplicates"] for ledger in ledgers),
        "republished": sum(ledger["republished"] for ledger in ledgers),
        "repeated": sum(ledger["repeated"] for ledger in ledgers),
        "frames_per_s": archived / duration_s if duration_s else 0.0,
        "gigabytes_per_s": raw_bytes / duration_s / 1e9 if duration_s else 0.0,
        "latency_s": latency_s,
        "methods": methods,
        "raw_bytes": raw_bytes,
        "stored_bytes": sum(part["stored_bytes"] for part in parts),
        "archive": str(archives[0]),
        "archives": [str(path) for path in archives],
        "end_reason": ledgers[-1]["end_reason"],
    }


def session_s(archives: list[Path]) -> float:
    """Give the time from the first frame received to the last one archived, in seconds.

    0 where the clock of the host was set back meanwhile.
    """
    from hrtem_stream import open_archive

    received, archived = [], []
    for path in archives:
        with open_archive(path) as opened:
            received += opened.score("received_ns")[:1].tolist()
            archived += opened.score("archived_ns")[-1:].tolist()
    return max(0.0, (archived[-1] - received[0]) / 1e9) if received else 0.0


def print_report(report: dict[str, Any]) -> None:
    """Print the report for people."""
    latency = report["latency_s"]
    print(
        f"ledger    received {report['received']} = archived {report['archived']} "
        f"+ lost {report['lost']}"
        + (f"   ({report['end_reason']})" if report["end_reason"] else "")
    )
    rate = f"{report['frames_per_s']:.1f} frames/s, {report['gigabytes_per_s']:.2f} GB/s"
    if latency["p50"] is not None:  # of no frame there is none
        rate += f", latency p50 {latency['p50'] * 1e3:.0f} ms, p99 {latency['p99'] * 1e3:.0f} ms"
    print(f"rate      {rate}")
    shares = ", ".join(f"{name} {count}" for name, count in report["methods"].items() if count)
    print(f"method    {shares or 'none'}")
    if report["raw_bytes"]:
        share = report["stored_bytes"] / report["raw_bytes"]
        print(
            f"stored    {report['stored_bytes'] / 1e6:.1f} MB of {report['raw_bytes'] / 1e6:.1f} MB"
            f" ({share:.0%})"
        )
    print(f"archive   {', '.join(report['archives'])}")


def print_ranked(archive: Path) -> None:
    """Print the ten best frames of an archive."""
    from hrtem_stream import open_archive

    with open_archive(archive) as opened:
        scores = opened.scores
        print(" rank  frame  graphene  amorphous  vacuum  method")
        for place, row in enumerate(opened.ranking()[:10], 1):
            print(
                f"{place:5d} {row:6d} {scores['graphene_fraction'][row]:9.1%}"
                f" {scores['amorphous_fraction'][row]:10.1%}"
                f" {scores['vacuum_fraction'][row]:7.1%}  {scores['method'][row]}"
            )


def draw_ranked(archive: Path, picture: Path) -> None:
    """Draw a contact sheet of the best and the worst frames."""
    from PIL import Image

    from hrtem_stream import open_archive
    from hrtem_stream.science.picture import contact_sheet, overlay

    with open_archive(archive) as opened:
        order = opened.ranking()
        shown = [*order[:12], *order[-4:]] if len(order) > 16 else list(order)
        fractions = opened.scores["graphene_fraction"]
        pictures = [
            overlay(
                opened.thumbnail(row), amorphous=_small_mask(opened, row), vacuum=opened.vacuum(row)
            )
            for row in shown
        ]
        captions = [
            f"{place + 1 if place < 12 else len(order) - len(shown) + place + 1}: "
            f"frame {row}, graphene {fractions[row]:.1%}"
            for place, row in enumerate(shown)
        ]
    if pictures:
        Image.fromarray(contact_sheet(pictures, captions, n_columns=4)).save(picture)


def _small_mask(opened: Any, row: int) -> Any:
    """Give the mask at the size of the thumbnail."""
    import cv2

    rows, columns = opened.thumbnail(row).shape
    mask = opened.mask(row).astype("uint8")
    return cv2.resize(mask, (columns, rows), interpolation=cv2.INTER_NEAREST).astype(bool)


def profile_of(profiles: Sequence[StageProfile]) -> dict[str, Any]:
    """Sum up where the time of a session went: seconds of each stage, and what it hung on."""
    from hrtem_stream.runtime.profile import bottleneck

    return {
        "profile": {one.name: {**asdict(one), "busy": one.busy} for one in profiles},
        "bottleneck": bottleneck(profiles, n_processors=os.cpu_count() or 1),
    }


def print_profile(split: dict[str, Any]) -> None:
    """Print what `profile_of` gave, in milliseconds a frame."""
    if not split:
        return
    print("profile   ms a frame:  processor      wait      copy      work   busy")
    for name, one in split["profile"].items():
        parts = [
            1e3 * one[part] / max(1, one["n_frames"])
            for part in ("cpu_s", "wait_s", "copy_s", "work_s")
        ]
        numbers = "".join(f"{value:10.2f}" for value in parts)
        print(f"          {name:12s}{numbers} {one['busy']:6.0%}")
    print(f"bottleneck {split['bottleneck']}")
