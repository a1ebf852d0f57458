"""The archives that `sort` has open, one for each series under way."""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrtem_stream.archive.blank import BlankArchive
from hrtem_stream.archive.encoding import (
    EncodedFrame,
    FrameEncoder,
    SetAsideFrame,
    checked_dtype,
    checked_shape,
    set_aside,
)
from hrtem_stream.archive.journal import remove_stillborn
from hrtem_stream.archive.layout import ArchiveHeader, CommonHeader
from hrtem_stream.archive.reader import open_archive
from hrtem_stream.archive.recovery import reopen
from hrtem_stream.archive.rotation import (
    CONTINUED,
    ELSEWHERE,
    PART,
    SeriesArchive,
    file_path,
    files_of,
    indices,
    unfinished,
)
from hrtem_stream.errors import ArchiveError
from hrtem_stream.messages import (
    Delivery,
    FrameHeader,
    LossRange,
    SegmentedFrame,
    SeriesEnd,
    SeriesStart,
    SeriesStatus,
)
from hrtem_stream.science.illumination import DEGREE
from hrtem_stream.science.ranking import LiveRanking
from hrtem_stream.settings import ArchiveSettings
from hrtem_stream.version import __version__

logger = logging.getLogger(__name__)

PLACEHOLDER = ((1, 1), "|u1")
"""Shape and dtype of an archive that has to be made before any image came."""

Row = tuple[SegmentedFrame, EncodedFrame | SetAsideFrame]


@dataclass(frozen=True, slots=True)
class _Done:
    """How far the closed files of a series reach."""

    next_row: int
    last_ordinal: int


class Encoders:
    """Encoders by shape and dtype; for many threads."""

    def __init__(self, codec: Any, keep: Any) -> None:
        self._codec = codec
        self._keep = keep
        self._encoders: dict[tuple[tuple[int, int], str], FrameEncoder] = {}
        self._lock = threading.Lock()

    def warm_up(self) -> None:
        """Compile for the usual dtype, or load what was compiled before: a second, or twenty."""
        side = 256
        pixels = np.random.default_rng(0).poisson(200, (side, side)).astype(np.uint16)
        amorphous = np.zeros((side, side), np.bool_)
        amorphous[side // 4 : side // 2, side // 4 : side // 2] = True
        encoder = FrameEncoder((side, side), dtype="<u2", codec=self._codec, keep=self._keep)
        encoder.encode(pixels, amorphous)

    def encode(
        self, frame: SegmentedFrame, pixels: NDArray[Any], *, helper: Executor | None = None
    ) -> EncodedFrame | SetAsideFrame:
        """Encode a frame: flattened where it is amorphous, or as received if it has a fault.

        `helper` is what `FrameEncoder.encode` may give a part of the work to.
        """
        header = frame.header
        if header.shape[1] == 0:
            return set_aside(pixels, shape=header.shape, dtype=header.dtype, reason=header.fault)
        with self._lock:
            encoder = self._encoders.get((header.shape, header.dtype))
            if encoder is None:
                encoder = FrameEncoder(
                    header.shape, dtype=header.dtype, codec=self._codec, keep=self._keep
                )
                self._encoders[header.shape, header.dtype] = encoder
        if header.fault or frame.method == "none":
            return encoder.encode_as_received(pixels)
        return encoder.encode(pixels, frame.amorphous, helper=helper)


class SortedSeries:
    """Opens, resumes, feeds and closes archives.

    Parameters
    ----------
    archive
        Where files go, and how they are written.
    settings_json
        The settings of the session, kept in each file.
    closed
        File to which the path of each closed archive is added.
    working_size
        Height and width of the masks in pixels.
    """

    def __init__(
        self, *, archive: ArchiveSettings, settings_json: str, closed: Path, working_size: int
    ) -> None:
        self.codec = archive.codec
        self.keep = archive.keep
        self._archive = archive
        self._frames_per_file = archive.frames_per_file or None
        self._closed = closed
        self._common = CommonHeader(
            provenance={"version": __version__, "settings": settings_json},
            working_shape=(working_size, working_size),
            coefficients_shape=(DEGREE + 1, DEGREE + 1),
        )
        self._blanks: list[BlankArchive] = []
        """At most one, for the next series."""
        self._open: dict[str, SeriesArchive] = {}
        self._done: dict[str, _Done] = {}
        """Series whose archives are closed."""

    def is_known(self, series_id: str) -> bool:
        """Tell whether the archive of a series is open, or closed already."""
        return series_id in self._open or series_id in self._done

    @property
    def is_prepared(self) -> bool:
        """Whether the next archive is laid out as far as it can be."""
        return bool(self._blanks)

    def prepare(self) -> None:
        """Lay out what the next archive has in common with all, unless that is done."""
        if not self._blanks:
            self._blanks.append(BlankArchive(self._common))

    def resume(self, series: str, series_id: str) -> bool:
        """Take up the archive of a series that an earlier process began; tell if there is one.

        One that is closed already is known then, too: its frames are there.
        """
        for path in self._paths_there(series):
            files = self._files_at(path, series_id)
            if not files:
                continue
            if files[-1].suffix == PART or self._is_continued(files[-1]):
                self._open[series_id] = SeriesArchive.resume(
                    path, frames_per_file=self._frames_per_file, overwrite=self._archive.overwrite
                )
                self._done.pop(series_id, None)
                logger.info("series %s: resumed", series)
                return True
            with open_archive(files[-1]) as archive:
                next_row = archive.header.first_row + len(archive)
                reach = _Done(next_row, archive.last_ordinal)
            self._done[series_id] = max(
                reach, self._done.get(series_id, reach), key=lambda done: done.last_ordinal
            )
            self._note_closed(files)
        return series_id in self._done

    @property
    def open_ids(self) -> list[str]:
        """Identities of the series under way."""
        return list(self._open)

    def status(self, series_id: str) -> SeriesStatus:
        """Say how a series stands.

        Raises
        ------
        KeyError
            It is not open.
        """
        archive = self._open[series_id]
        start = archive.header.start
        losses = archive.losses
        return SeriesStatus(
            series=start.series, series_id=series_id, n_expected=start.n_expected,
            pixel_size_nm=start.calibration.pixel_size_nm, n_archived=archive.next_row,
            n_lost=sum(loss.n_frames for loss in losses),
            lost_reason=losses[-1].reason if losses else "",
            archive=str(archive.path.absolute()), is_closed=False,
        )  # fmt: skip

    def reopen(self, series: str, series_id: str) -> bool:
        """Go on with the file of a series that was closed before its end; tell if there is one.

        Raises
        ------
        ArchiveError
            It is damaged.
        """
        last = None
        for path in self._paths_there(series):
            files = self._files_at(path, series_id)
            if files:
                last = path, files[-1]
        if last is None or not reopen(last[1]):
            return False
        return self.resume(series, series_id)

    def create(
        self,
        start: SeriesStart,
        delivery: Delivery,
        *,
        shape: tuple[int, int],
        dtype: str,
        first_row: int = 0,
    ) -> None:
        """Make the archive of a series.

        Parameters
        ----------
        first_row
            Of the first frame that is to come, if the file with the earlier ones is gone.

        Raises
        ------
        ArchiveError
            It cannot be written.
        """
        header = ArchiveHeader(
            start=start, shape=checked_shape(shape), dtype=checked_dtype(dtype).str,
            codec=self.codec, keep=self.keep, log_id=delivery.log_id, ordinal=delivery.ordinal,
            first_row=first_row, **self._common.fields(),
        )  # fmt: skip
        self._create(header)

    def ranking(self, series_id: str) -> LiveRanking:
        """Rank what is archived of a series that is under way."""
        archive = self._open.get(series_id)
        if archive is None:
            return LiveRanking()
        return LiveRanking.of(archive.fractions(), first_row=archive.base_row)

    def last_ordinal(self, series_id: str) -> int:
        """Give the ordinal of the last record of a series that is archived, -1 for none."""
        reach = self._open.get(series_id) or self._done.get(series_id)
        return reach.last_ordinal if reach else -1

    def numbered(self, frames: Sequence[Row]) -> list[Row]:
        """Drop the frames of a series that are archived, and give the others their rows.

        Rows count what is archived: where a frame was lost in the log, they close up.
        """
        series_id = frames[0][0].header.series_id
        last_ordinal = self.last_ordinal(series_id)
        new = [row for row in frames if row[0].delivery.ordinal > last_ordinal]
        reach = self._open.get(series_id) or self._done.get(series_id)
        if reach is None:
            return new
        return [
            (_in_row(frame, row), encoded)
            for row, (frame, encoded) in enumerate(new, reach.next_row)
        ]

    def append(self, frames: Sequence[Row], archived_ns: int) -> None:
        """Archive frames of one series that `numbered` gave, in order.

        Raises
        ------
        ArchiveError
            They cannot be written; nothing is lost, and the same call may be tried again.
        """
        first = frames[0][0]
        archive = self._open.get(first.header.series_id) or self._continue_elsewhere(first)
        archive.append(frames, archived_ns=archived_ns)

    def is_placeholder_for(self, image: FrameHeader) -> bool:
        """Tell whether the archive of an image was made for torn frames alone, and cannot hold it.

        A detector may send images of one pixel, such as a shutter test: these fit.
        """
        archive = self._open.get(image.series_id)
        if archive is None:
            return False
        return (archive.header.shape, archive.header.dtype) == PLACEHOLDER and not self.fits(image)

    def replace_placeholder(self, frame: SegmentedFrame) -> None:
        """Close an archive of torn frames, and go on with the first image in another."""
        series_id = frame.header.series_id
        self.close(SeriesEnd(series_id=series_id, reason=ELSEWHERE), -1, 0)
        self._continue_elsewhere(frame)

    def fits(self, header: FrameHeader) -> bool:
        """Tell whether a frame has the shape and dtype of its series."""
        archive = self._open.get(header.series_id)
        if archive is None:
            return True
        return (header.shape, header.dtype) == (archive.header.shape, archive.header.dtype)

    def set_aside(self, frame: SegmentedFrame, pixels: NDArray[Any]) -> SetAsideFrame:
        """Keep the bytes of a frame that is unlike its series."""
        return self._open[frame.header.series_id].set_aside(frame, pixels)

    def declare_loss(self, loss: LossRange, ordinal: int) -> None:
        """Note a loss in its archive."""
        if loss.series_id in self._open and ordinal > self.last_ordinal(loss.series_id):
            self._open[loss.series_id].declare_loss(loss, ordinal=ordinal)

    def close(self, end: SeriesEnd, ordinal: int, n_duplicates: int) -> int:
        """Close an archive; give what is wrong with its ledger, 0 always.

        Raises
        ------
        ArchiveError
            It cannot be written; the same call may be tried again.
        """
        archive = self._open.get(end.series_id)
        if archive is None:
            return 0
        reach = _Done(archive.next_row, max(archive.last_ordinal, ordinal))
        imbalance = self._close(archive, end, ordinal, n_duplicates)
        self._done[end.series_id] = reach
        return imbalance

    def seal(self, reason: str) -> None:
        """Close every archive as it is."""
        for series_id in list(self._open):
            self.close(SeriesEnd(series_id=series_id, reason=reason), -1, 0)

    def abandon(self) -> None:
        """Let go of every archive; each can be resumed."""
        for archive in self._open.values():
            archive.abandon()
        self._open.clear()
        while self._blanks:
            self._blanks.pop().close()

    def _candidates(self, series: str) -> Iterator[Path]:
        """Give the paths that a series may have, in order."""
        file = self._archive.file
        first = Path(file) if file else Path(self._archive.directory) / f"{series}.nxs"
        yield first
        for number in itertools.count(2):
            yield _numbered(first, number)

    def _paths_there(self, series: str) -> Iterator[Path]:
        """Give those of the candidates of which there are files, in order.

        One that was moved away does not hide those that follow it.
        """
        first = next(self._candidates(series))
        counter = "" if self._frames_per_file is None else r"_\d{4,}"
        name = re.compile(
            rf"{re.escape(first.stem)}(?:-([1-9]\d*))?{counter}{re.escape(first.suffix)}(?:\.part)?"
        )
        names = [path.name for path in first.parent.iterdir()] if first.parent.is_dir() else []
        found = filter(None, map(name.fullmatch, names))
        numbers = {int(match[1] or 1) for match in found if match[1] != "1"}
        for number in sorted(numbers):
            yield first if number == 1 else _numbered(first, number)

    def _create(self, header: ArchiveHeader) -> SeriesArchive:
        series = header.start.series
        path = next(path for path in self._candidates(series) if self._is_free(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        archive = SeriesArchive.create(
            path,
            header=header,
            frames_per_file=self._frames_per_file,
            overwrite=self._archive.overwrite,
            blank=self._blanks.pop() if self._blanks else None,
        )
        self._open[header.start.series_id] = archive
        logger.info("series %s: archived in %s", series, path)
        return archive

    def _continue_elsewhere(self, frame: SegmentedFrame) -> SeriesArchive:
        """Make a further archive for frames of a series whose file is closed already."""
        frame_header, delivery = frame.header, frame.delivery
        shape, dtype = frame_header.shape, frame_header.dtype
        if not shape[1]:
            shape, dtype = PLACEHOLDER
        header = ArchiveHeader(
            start=SeriesStart(series=frame_header.series, series_id=frame_header.series_id),
            shape=checked_shape(shape), dtype=checked_dtype(dtype).str, codec=self.codec,
            keep=self.keep, log_id=delivery.log_id, ordinal=delivery.ordinal,
            first_row=frame_header.row, **self._common.fields(),
        )  # fmt: skip
        logger.warning("series %s goes on in another file", frame_header.series)
        self._done.pop(frame_header.series_id, None)
        return self._create(header)

    def _close(
        self, archive: SeriesArchive, end: SeriesEnd, ordinal: int, n_duplicates: int
    ) -> int:
        if archive.base_row:
            end = replace(end, n_received=0)  # this file has a part of the series only
        ledger = archive.close(end, ordinal=ordinal, duplicates=n_duplicates)
        del self._open[end.series_id]
        self._note_closed(archive.paths)
        logger.info(
            "series %s: received %d = archived %d + lost %d",
            ledger.series, ledger.received, ledger.archived, ledger.lost,
        )  # fmt: skip
        return abs(ledger.received - ledger.archived - ledger.lost)

    def _note_closed(self, paths: Sequence[Path]) -> None:
        known = self._closed_paths()
        with self._closed.open("a", encoding="utf-8") as file:
            file.writelines(f"{path}\n" for path in paths if str(path) not in known)

    def _files_at(self, path: Path, series_id: str) -> list[Path]:
        """List the files of a series that have a path, in order, the unfinished one last.

        There are none where they cannot be read.
        """
        self._remove_stillborn(path)
        try:
            found = files_of(path, frames_per_file=self._frames_per_file, series_id=series_id)
            return list(found.values())
        except ArchiveError as error:
            logger.warning("%s", error)
            return []

    def _remove_stillborn(self, path: Path) -> None:
        """Remove what a process left that was killed while it made a file."""
        if path in {archive.path for archive in self._open.values()}:
            return
        for part in unfinished(path, frames_per_file=self._frames_per_file):
            with contextlib.suppress(ArchiveError):  # another process writes it: it is taken
                if remove_stillborn(part):
                    logger.info("%s was begun and never written: removed", part)

    def _is_free(self, path: Path) -> bool:
        """Tell whether a new series may have this path.

        An unfinished archive is never overwritten: whose it is may only not be known just now.
        """
        own = {archive.path for archive in self._open.values()}
        first = file_path(path, 0, frames_per_file=self._frames_per_file)
        closed = self._closed_paths()
        if path in own or str(first) in closed or str(path) in closed:
            return False
        self._remove_stillborn(path)
        if unfinished(path, frames_per_file=self._frames_per_file):
            return False
        is_there = bool(indices(path, frames_per_file=self._frames_per_file)) or path.exists()
        return self._archive.overwrite or not is_there

    def _is_continued(self, file: Path) -> bool:
        """Tell whether a finished file is not the last one of its series."""
        if self._frames_per_file is None:
            return False
        with open_archive(file) as archive:
            return archive.ledger.end_reason == CONTINUED

    def _closed_paths(self) -> set[str]:
        if not self._closed.exists():
            return set()
        return set(self._closed.read_text(encoding="utf-8").splitlines())


def _numbered(first: Path, number: int) -> Path:
    """Give the name of a further archive of a series."""
    return first.with_name(f"{first.stem}-{number}{first.suffix}")


def _in_row(frame: SegmentedFrame, row: int) -> SegmentedFrame:
    """Give a frame its row, which is nearly always the one it has."""
    if frame.header.row == row:
        return frame
    return replace(frame, header=replace(frame.header, row=row))
