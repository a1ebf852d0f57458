"""The report of a series: one HTML file that needs nothing beside it, to be kept and printed."""

from __future__ import annotations

import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hrtem_stream.archive.layout import iso_time
from hrtem_stream.archive.ledger import Loss
from hrtem_stream.archive.marks import Marks, is_kept, marks_of
from hrtem_stream.archive.reader import Archive, open_archive
from hrtem_stream.errors import ArchiveError, HrtemError
from hrtem_stream.web.charts import histogram, timeline
from hrtem_stream.web.pictures import (
    AMORPHOUS_WORD,
    VACUUM_WORD,
    colour_jpeg,
    data_url,
    scale_bar,
    tinted,
)

N_BEST, N_WORST, N_STARRED = 8, 4, 24
N_LOSSES = 50
OPACITY = 0.4
METHOD_WORDS = {"unet": "U-Net", "bragg": "Bragg filter", "none": "not analysed"}


def write_reports(paths: Sequence[Path]) -> list[Path]:
    """Write a report beside the archives of each series; give where.

    Raises
    ------
    ArchiveError, OSError
        An archive cannot be read, or a report not be written.
    """
    of_series: dict[str, list[Path]] = {}
    for path in paths:
        with open_archive(path) as archive:
            of_series.setdefault(archive.header.start.series_id, []).append(path)
    reports = []
    for files in of_series.values():
        reports.append(report_path(files))
        write_report(files, reports[-1])
    return reports


def report_path(files: Sequence[Path]) -> Path:
    """Say where the report of a series lies: beside its first file, under the name of that."""
    return files[0].with_name(f"{files[0].name.partition('.nxs')[0]}.html")


def write_report(files: Sequence[Path], output: Path) -> None:
    """Write the report of one series.

    Parameters
    ----------
    files
        Its archives, in order.
    output
        The HTML file.

    Raises
    ------
    ArchiveError
        An archive cannot be read, or they are of several series.
    OSError
        The report cannot be written.
    """
    with ExitStack() as stack:
        archives = [stack.enter_context(open_archive(path)) for path in files]
        if len({archive.header.start.series_id for archive in archives}) != 1:
            raise ArchiveError("a report is of one series, but these archives are of several")
        text = _Report(archives).html()
    beside = output.with_name(f".{output.name}")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(output)
    finally:
        beside.unlink(missing_ok=True)


class _Report:
    """The scores of a series, and its text."""

    def __init__(self, archives: Sequence[Archive]) -> None:
        self._archives = archives
        names = ("graphene_fraction", "method", "fault", "latency", "received_ns", "archived_ns",
                 "raw_bytes", "stored_bytes", "confidence", "agreement", "name")  # fmt: skip
        self._scores: dict[str, NDArray[Any]] = {
            name: np.concatenate([archive.score(name) for archive in archives]) for name in names
        }
        self._rows = np.concatenate([archive.rows for archive in archives])
        self._starts = list(itertools.accumulate((len(a) for a in archives), initial=0))
        self._start = archives[0].header.start
        self._marks = self._all_marks()

    def html(self) -> str:
        """Give the whole file."""
        style = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
        fractions = self._scores["graphene_fraction"]
        threshold = self._marks.threshold or None
        body = "".join(
            (
                self._heading(),
                self._losses(),
                f'<div class="columns"><div>{self._account()}</div><div>{self._work()}</div></div>',
                "<h2>Graphene fraction</h2>",
                f"<p>{self._kept()}</p>",
                f'<div class="columns"><div>{timeline(fractions, threshold=threshold)}</div>'
                f"<div>{histogram(fractions, threshold=threshold)}</div></div>",
                self._frames(),
                self._settings(),
            )
        )
        title = escape(self._start.series)
        return (
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
            f"<title>{title}: report of a series</title><style>{style}</style></head>"
            f"<body>{body}</body></html>\n"
        )

    def _all_marks(self) -> Marks:
        """Take the marks of all files together; beside the first they may be of the series."""
        found = [marks_of(archive) for archive in self._archives]
        frames = {row: mark for marks in reversed(found) for row, mark in marks.frames.items()}
        threshold = max(marks.threshold for marks in found)
        return Marks(series_id=self._start.series_id, threshold=threshold, frames=frames)

    def _heading(self) -> str:
        start, archive = self._start, self._archives[0]
        began = (
            iso_time(start.started_ns)[:19].replace("T", " ") + " UTC" if start.started_ns else ""
        )
        names = ", ".join(escape(archive.path.name) for archive in self._archives)
        size = f"{archive.shape[0]} × {archive.shape[1]} pixels, {archive.dtype.name}"
        return (
            f"<h1>{escape(start.series)}</h1>"
            f'<p class="faint">{began}, {len(self._rows)} frames of {size}; {names}</p>'
        )

    def _losses(self) -> str:
        losses = _all_losses(self._archives)
        if not losses:
            return ""
        shown = "".join(
            f"<tr><td>{loss.first}–{loss.first + loss.n_frames - 1}</td>"
            f'<td class="number">{loss.n_frames}</td><td>{escape(loss.reason)}</td></tr>'
            for loss in losses[:N_LOSSES]
        )
        more = f"<p>and {len(losses) - N_LOSSES} further ranges</p>" if losses[N_LOSSES:] else ""
        n_lost = sum(loss.n_frames for loss in losses)
        return (
            f'<div class="lost"><b>{n_lost} frames of this series are not in the archive.</b>'
            f"<table><tr><th>sequence</th><th>frames</th><th>reason</th></tr>{shown}</table>"
            f"{more}</div>"
        )

    def _account(self) -> str:
        ledgers = [archive.ledger for archive in self._archives]
        n_archived = sum(ledger.archived for ledger in ledgers)
        n_lost = sum(loss.n_frames for loss in _all_losses(self._archives))
        calibration = self._archives[0].calibration
        size_nm = calibration.pixel_size_nm
        field = size_nm and " × ".join(f"{side * size_nm:.4g}" for side in self._archives[0].shape)
        counted = "" if all(ledger.complete for ledger in ledgers) else " so far"
        return "<h2>Ledger</h2>" + _table(
            (
                ("received", f"{n_archived + n_lost}{counted}"),
                ("archived", str(n_archived)),
                ("lost", str(n_lost)),
                ("sent twice, dropped", str(sum(ledger.repeated for ledger in ledgers))),
                ("set aside", str(sum(len(a.set_aside_rows) for a in self._archives))),
                ("end", ledgers[-1].end_reason or ("regular" if not counted else "not ended")),
                ("pixel size", f"{size_nm:g} nm, field {field} nm" if size_nm else "not known"),
                ("exposure", _known(calibration.exposure_s, "s")),
                ("dose", _known(calibration.dose_e_per_nm2, "electrons/nm²")),
                ("voltage", _known(calibration.voltage_kv, "kV")),
            )
        )

    def _work(self) -> str:
        scores = self._scores
        n = len(self._rows)
        counts = Counter(scores["method"].tolist())
        span_s = (scores["archived_ns"][-1] - scores["received_ns"][0]) / 1e9 if n else 0.0
        raw, stored = (int(scores[name].sum()) for name in ("raw_bytes", "stored_bytes"))
        methods = [
            (METHOD_WORDS.get(str(name), str(name)), f"{count} ({count / n:.1%})")
            for name, count in counts.most_common()
        ]
        latency = (
            [f"{np.percentile(scores['latency'], p) * 1e3:.0f} ms" for p in (50, 99)] if n else []
        )
        agreement = scores["agreement"][~np.isnan(scores["agreement"])]
        return "<h2>Work</h2>" + _table(
            (
                ("frames a second", f"{n / span_s:.1f} over {span_s:.1f} s" if span_s > 0 else "–"),
                ("latency, p50 and p99", " and ".join(latency) or "–"),
                ("pixels a second", f"{raw / span_s / 1e6:.1f} MB/s" if span_s > 0 else "–"),
                ("stored", f"{stored / 1e6:.1f} of {raw / 1e6:.1f} MB" if raw else "–"),
                *methods,
                ("faults", str(int(np.count_nonzero(scores["fault"] != "")))),
                ("U-Net and Bragg filter agree",
                 f"{agreement.mean():.1%} of pixels in {agreement.size} frames"
                 if agreement.size else "not compared"),
            )
        )  # fmt: skip

    def _kept(self) -> str:
        fractions = self._scores["graphene_fraction"]
        known = fractions[~np.isnan(fractions)]
        kept = is_kept(
            fractions, rows=self._rows, threshold=self._marks.threshold,
            rejected=self._marks.rejected,
        )  # fmt: skip
        middle = f"mean {known.mean():.1%}, median {np.median(known):.1%}. " if known.size else ""
        return (
            f"{middle}Threshold {self._marks.threshold:.0%}: {np.count_nonzero(kept)} frames kept, "
            f"{np.count_nonzero(~kept)} rejected, {len(self._marks.rejected)} of them by hand."
        )

    def _frames(self) -> str:
        fractions = self._scores["graphene_fraction"]
        ranking = np.argsort(-fractions, kind="stable")
        ranks = {int(index): place for place, index in enumerate(ranking, 1)}
        best = ranking[:N_BEST].tolist()
        rest = ranking[N_BEST:]
        worst = rest[~np.isnan(fractions[rest])][-N_WORST:].tolist()
        starred = [
            index for index, row in enumerate(self._rows.tolist()) if self._marks.of(row).star
        ][:N_STARRED]
        legend = (
            f'<p class="faint">Amorphous is tinted {AMORPHOUS_WORD}, vacuum {VACUUM_WORD}; '
            "working images, evened out.</p>"
        )
        parts = [f"<h2>Best frames</h2>{legend}{self._figures(best, ranks)}"]
        if worst:
            parts.append(f"<h2>Worst frames</h2>{self._figures(worst, ranks)}")
        if starred:
            parts.append(f"<h2>Starred frames</h2>{self._figures(starred, ranks)}")
        return "".join(parts)

    def _figures(self, indices: Iterable[int], ranks: dict[int, int]) -> str:
        return f'<div class="frames">{"".join(self._figure(i, ranks[i]) for i in indices)}</div>'

    def _figure(self, index: int, place: int) -> str:
        number = next(n for n, start in enumerate(self._starts[1:]) if index < start)
        archive, here = self._archives[number], index - self._starts[number]
        thumbnail = archive.thumbnail(here)
        size = (thumbnail.shape[1], thumbnail.shape[0])
        mask = cv2.resize(
            archive.mask(here).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST
        ).astype(np.bool_)
        colour = tinted(thumbnail, amorphous=mask, vacuum=archive.vacuum(here), opacity=OPACITY)
        size_nm = archive.calibration.pixel_size_nm
        bar = ""
        if size_nm:
            length, share = scale_bar(archive.shape[1], pixel_size_nm=size_nm)
            n_columns = round(share * size[0])
            colour[-14:-8, 10 : 10 + n_columns] = 255
            bar = f"; bar {length:g} nm"
        row, fraction = int(self._rows[index]), self._scores["graphene_fraction"][index]
        mark = self._marks.of(row)
        said = ("★ " if mark.star else "") + ("✕ rejected " if mark.reject else "")
        note = f"<br>{escape(mark.note)}" if mark.note else ""
        method = METHOD_WORDS.get(str(self._scores["method"][index]), "")
        shape = f"aspect-ratio: {archive.shape[1]} / {archive.shape[0]}"
        return (
            f'<figure><img alt="frame {row}" style="{shape}" src="{data_url(colour_jpeg(colour))}">'
            f"<figcaption>{said}{place}: frame {row}, graphene {fraction:.1%}, {method}{bar}{note}"
            "</figcaption></figure>"
        )

    def _settings(self) -> str:
        provenance = dict(self._archives[0].header.provenance)
        settings = provenance.pop("settings", "")
        try:
            settings = json.dumps(json.loads(settings), indent=1)
        except ValueError:
            settings = str(settings)
        feed = self._start.metadata | {"feed": self._start.feed}
        return (
            f"<h2>Settings</h2>{_table(sorted((provenance | feed).items()))}"
            f"<pre>{escape(settings)}</pre>"
        )


def _all_losses(archives: Sequence[Archive]) -> list[Loss]:
    """List what is lost of a series, file by file."""
    losses = {(loss.first, loss.n_frames): loss for a in archives for loss in a.ledger.losses}
    return [losses[key] for key in sorted(losses)]


def _table(lines: Iterable[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><th>{escape(a)}</th><td>{escape(b)}</td></tr>" for a, b in lines)
    return f"<table>{cells}</table>"


def _known(value: float | None, unit: str) -> str:
    return "not known" if value is None else f"{value:g} {unit}"


def _main(arguments: Sequence[str]) -> int:
    try:
        write_reports([Path(argument) for argument in arguments])
    except (HrtemError, OSError) as error:
        print(f"hrtem-stream: report: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
