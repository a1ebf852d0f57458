"""Takes frames out of an archive just as they were put in, to be appended to another.

Nothing is decoded and nothing is analysed anew: the chunks of pixels go over as they lie in the
file, so a frame costs little more than reading and writing its bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from hrtem_stream.archive.bounds import stored_size
from hrtem_stream.archive.encoding import Chunk, EncodedFrame, SetAsideFrame
from hrtem_stream.archive.reader import Archive
from hrtem_stream.archive.tables import Row
from hrtem_stream.errors import ArchiveError
from hrtem_stream.messages import Delivery, FrameHeader, SegmentedFrame

SCORE_NAMES = (
    "sequence", "ordinal", "attempt", "digest", "stored_digest", "acquired_ns", "received_ns",
    "name", "fault", "method", "scale", "working_pixel", "working_rows", "working_columns",
    "graphene_fraction", "amorphous_fraction", "vacuum_fraction", "beam_off_fraction",
    "confidence", "agreement",
)  # fmt: skip
"""What of a frame is read from the scores; the others follow from the rest, or are of writing."""

BATCH_FRAMES = 32


def batches_of(archive: Archive) -> Iterator[tuple[int, list[Row]]]:
    """Give the frames of an archive in order, those together that were archived at one time.

    Returns
    -------
    iterator
        Time of archiving in nanoseconds since 1970, and at most `BATCH_FRAMES` frames, ready to
        be appended. `amorphous` has the size of the working image and says nothing: the writer
        takes the mask from the runs.

    Raises
    ------
    ArchiveError
        The archive is damaged.
    """
    scores = {name: archive.score(name) for name in SCORE_NAMES}
    aside = set(archive.set_aside_rows)
    archived_ns = archive.score("archived_ns")

    def row(place: int) -> Row:
        one = {name: scores[name][place] for name in SCORE_NAMES}
        encoded = archive.set_aside(place) if place in aside else _encoded(archive, place, one)
        return _segmented(archive, place, one, encoded), encoded

    for time_ns, places in itertools.groupby(range(len(archive)), key=archived_ns.__getitem__):
        while batch := [row(place) for place in itertools.islice(places, BATCH_FRAMES)]:
            yield int(time_ns), batch


def _segmented(
    archive: Archive, place: int, one: dict[str, Any], encoded: EncodedFrame | SetAsideFrame
) -> SegmentedFrame:
    is_aside = isinstance(encoded, SetAsideFrame)
    start = archive.header.start
    header = FrameHeader(
        series=start.series, series_id=start.series_id, sequence=int(one["sequence"]),
        row=archive.header.first_row + place,
        shape=encoded.shape if isinstance(encoded, SetAsideFrame) else archive.shape,
        dtype=encoded.dtype if isinstance(encoded, SetAsideFrame) else archive.dtype.str,
        received_ns=int(one["received_ns"]), digest=int(one["digest"]),
        acquired_ns=int(one["acquired_ns"]), name=str(one["name"]), fault=str(one["fault"]),
    )  # fmt: skip
    shape = (int(one["working_rows"]), int(one["working_columns"]))
    return SegmentedFrame(
        delivery=Delivery(
            log_id=archive.header.log_id, ordinal=int(one["ordinal"]), offset=0, pub=0, shard=0,
            floor=0, attempt=int(one["attempt"]),
        ),
        header=header,
        amorphous=np.broadcast_to(np.False_, shape),
        vacuum=archive.vacuum(place),
        beam_off=archive.beam_off(place),
        coefficients=archive.coefficients(place),
        thumbnail=archive.thumbnail(place),
        method="none" if is_aside else str(one["method"]),
        graphene_fraction=float(one["graphene_fraction"]),
        amorphous_fraction=float(one["amorphous_fraction"]),
        vacuum_fraction=float(one["vacuum_fraction"]),
        beam_off_fraction=float(one["beam_off_fraction"]),
        confidence=float(one["confidence"]),
        agreement=float(one["agreement"]),
        scale=str(one["scale"]),
        working_pixel_nm=float(one["working_pixel"]),
    )  # fmt: skip


def _encoded(archive: Archive, place: int, one: dict[str, Any]) -> EncodedFrame:
    chunks = tuple(_chunks(archive, place))
    runs = archive.runs(place)
    return EncodedFrame(
        chunks=chunks, start=runs.start, length=runs.length, value=runs.value,
        digest=int(one["digest"]), stored_digest=int(one["stored_digest"]),
        raw_bytes=archive.shape[0] * archive.shape[1] * archive.dtype.itemsize,
        stored_bytes=sum(len(chunk.payload) for chunk in chunks),
    )  # fmt: skip


def _chunks(archive: Archive, place: int) -> Iterator[Chunk]:
    """Give the chunks of a frame as they lie in the file."""
    image = archive.images
    for top in range(0, archive.shape[0], image.chunks[1]):
        corner = (place, top, 0)
        try:
            if stored_size(image, corner) is None:
                raise ArchiveError("it is not there")
            filter_mask, payload = image.id.read_direct_chunk(corner)
        except (OSError, RuntimeError, ValueError, ArchiveError) as error:
            raise ArchiveError(
                f"{archive.path.name}: chunk of frame {place}, pixel row {top}: {error}"
            ) from error
        yield Chunk(corner=(top, 0), filter_mask=filter_mask, payload=payload)
