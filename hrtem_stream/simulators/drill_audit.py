"""The audit of a drill: what the feed's book says against what the archives hold.

Every pixel is read again from the file and digested; nothing that the pipeline says of itself is
believed, except which frames it declares lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hrtem_stream.archive.reader import Archive, open_archive
from hrtem_stream.archive.rotation import CONTINUED, ELSEWHERE
from hrtem_stream.archive.verify import verify
from hrtem_stream.errors import ArchiveError
from hrtem_stream.simulators.drill_book import SentSeries, payload_digest

MAX_FINDINGS = 50
SECOND_PAYLOAD = "a second payload under one number, missed by nobody"


@dataclass(slots=True)
class Account:
    """What has become of the frames, over all series audited so far."""

    sent: int = 0
    archived: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    """Frames declared lost, by reason."""
    unaccounted: int = 0
    duplicated: int = 0
    mismatched: int = 0
    lost_without_cause: int = 0
    """Declared lost, although the feed sent them, could wait, and `ingest` lived."""
    broken_archives: int = 0
    """Files that fail their own verification, or whose ledger does not balance."""
    findings: list[str] = field(default_factory=list)
    """What is wrong, in words; the first ones."""

    @property
    def n_lost(self) -> int:
        """Frames declared lost."""
        return sum(self.lost.values())

    @property
    def is_sound(self) -> bool:
        """Whether what is promised was kept."""
        return not (
            self.unaccounted
            or self.duplicated
            or self.mismatched
            or self.lost_without_cause
            or self.broken_archives
        )

    def find(self, text: str) -> None:
        """Note what is wrong."""
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(text)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a frame was archived, and when it was sent."""

    sent_s: float
    log_id: int
    ordinal: int


def files_of(folder: Path, series: str) -> list[Path]:
    """List the files of a series, parts included, in order."""
    found = [path for path in folder.glob(f"{series}*.nxs*") if path.suffix in (".nxs", ".part")]
    return sorted(found)


def is_closed(folder: Path, series: str) -> bool:
    """Tell whether the archive of a series is complete."""
    files = files_of(folder, series)
    if not files or any(path.suffix == ".part" for path in files):
        return False
    try:
        for path in files:
            with open_archive(path) as archive:
                goes_on = archive.is_complete and archive.ledger.end_reason in (
                    CONTINUED,
                    ELSEWHERE,
                )
                if archive.is_complete and not goes_on:
                    return True
    except ArchiveError:  # renamed or rotated at this very moment
        return False
    return False


def audit_series(
    account: Account,
    series: SentSeries,
    folder: Path,
    *,
    may_lose: Callable[[float], bool],
) -> list[Place]:
    """Compare a series with its archives; give where its frames are.

    Parameters
    ----------
    account
        Is added to.
    folder
        Of the archives; written with `archive.keep = "all"`, so that every pixel is there.
    may_lose
        Tells whether a frame sent at that moment may be lost, as `ingest` was about to die.
    """
    left = {number: list(frame.digests) for number, frame in series.frames.items()}
    declared: dict[int, str] = {}
    places: list[Place] = []
    account.sent += series.n_payloads
    for path in files_of(folder, series.name):
        try:
            with open_archive(path) as archive:
                places += _audit_rows(account, series, archive, left)
                declared |= _declared(archive)
            _check_file(account, path)
        except ArchiveError as error:
            account.broken_archives += 1
            account.find(f"{path.name}: {error}")
    for number, frame in series.frames.items():
        n_open = len(left[number]) if frame.digests else 1
        if n_open and number in declared:
            account.lost[declared[number]] += n_open
            if frame.digests and not series.may_lose and not may_lose(frame.sent_s):
                account.lost_without_cause += n_open
                account.find(f"{series.name} frame {number}: lost, {declared[number]}")
        elif 0 < n_open < len(frame.digests) and (series.may_lose or may_lose(frame.sent_s)):
            account.lost[SECOND_PAYLOAD] += n_open
        elif n_open:
            account.unaccounted += n_open
            account.find(f"{series.name} frame {number}: neither archived nor declared lost")
        elif number in declared and not n_open:
            account.broken_archives += 1
            account.find(f"{series.name} frame {number}: both archived and declared lost")
    return places


def _audit_rows(
    account: Account, series: SentSeries, archive: Archive, left: dict[int, list[bytes]]
) -> Iterable[Place]:
    """Tick off what an archive holds."""
    aside = set(archive.set_aside_rows)
    ordinals = archive.score("ordinal")
    places = []
    for row, number in enumerate(archive.score("sequence").tolist()):
        digest = payload_digest(
            archive.set_aside(row).payload if row in aside else archive.frame(row)
        )
        frame = series.frames.get(number)
        if frame is None or digest not in frame.digests:
            account.mismatched += 1
            account.find(f"{archive.path.name} row {row}, frame {number}: not what was sent")
        elif digest not in left[number]:
            account.duplicated += 1
            account.find(f"{archive.path.name} row {row}, frame {number}: archived twice")
        else:
            left[number].remove(digest)
            account.archived += 1
            places.append(Place(frame.sent_s, archive.header.log_id, int(ordinals[row])))
    return places


def _declared(archive: Archive) -> dict[int, str]:
    return {
        number: loss.reason
        for loss in archive.ledger.losses
        for number in range(loss.first, loss.first + loss.n_frames)
    }


def _check_file(account: Account, path: Path) -> None:
    differences = verify(path).differences
    if differences:
        account.broken_archives += 1
        account.find(f"{path.name}: {'; '.join(differences[:3])}")


def percentiles(values: Iterable[float]) -> dict[str, float | None]:
    """Give the middle and the 99th percentile of times in seconds, None where there are none."""
    array = np.fromiter(values, np.float64)
    if not array.size:
        return {"p50": None, "p99": None}
    return {"p50": float(np.percentile(array, 50)), "p99": float(np.percentile(array, 99))}
