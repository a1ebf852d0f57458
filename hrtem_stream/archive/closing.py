"""What is added to an archive when its series ends: ranks, ranked view, ledger, marks, links."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import xxhash
from numpy.typing import NDArray

from hrtem_stream.archive.column import digest_of
from hrtem_stream.archive.layout import BULK, TEXT_BYTES, ArchiveHeader, printable, texts_of
from hrtem_stream.archive.ledger import Ledger
from hrtem_stream.archive.marks import add_marks
from hrtem_stream.archive.structure import add_links
from hrtem_stream.science.ranking import order, rank

N_RANKED_MAX = 10_000
"""Images in the ranked view: making it takes a time that grows with the square, 0.4 s here."""

HEADER = "process/header"
"""Name of the header among the digests: an attribute."""
COUNTS = ("received", "archived", "lost", "repeated", "republished", "duplicates")


def add_ranking(entry: h5py.Group, fractions: NDArray[np.float64]) -> None:
    """Write the ranks and, if there is a frame, the view of the images in their order."""
    rows = order(fractions)
    ranks = entry["scores"].create_dataset("rank", data=rank(fractions))
    ranks.attrs["long_name"] = "place by graphene fraction, 0 is the best"
    if not rows.size:
        return
    shown = rows[:N_RANKED_MAX]
    ranked = entry.create_group("ranked")
    ranked.attrs["NX_class"] = "NXdata"
    ranked.attrs["signal"] = "image"
    ranked.attrs["axes"] = ["rank", "y", "x"]
    ranked.attrs["interpretation"] = "image"
    ranked.attrs["n_frames"] = rows.size
    ranked.attrs["n_shown"] = shown.size
    ranked.attrs["note"] = f"the best {shown.size} of {rows.size} frames; scores/rank ranks all"
    ranked["rank"] = np.arange(shown.size)
    ranked["row"] = shown
    ranked["graphene_fraction"] = fractions[shown]
    for axis in "yx":
        ranked[axis] = entry["images"][axis]
    _add_view(ranked, entry["images/image"], shown)
    ranked["image"].attrs["interpretation"] = "image"
    ranked["image"].attrs["long_name"] = "images, highest graphene fraction first"


def _add_view(ranked: h5py.Group, image: h5py.Dataset, rows: NDArray[np.int64]) -> None:
    """Create a virtual dataset; by h5py's low level, which takes 5 µs an image."""
    one = (1, *image.shape[1:])
    target = h5py.h5s.create_simple((rows.size, *image.shape[1:]))
    source = h5py.h5s.create_simple(image.shape)
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    for i, row in enumerate(rows.tolist()):
        target.select_hyperslab((i, 0, 0), one)
        source.select_hyperslab((row, 0, 0), one)
        plist.set_virtual(target, b".", image.name.encode(), source)
    target.select_all()
    h5py.h5d.create(ranked.id, b"image", image.id.get_type(), target, plist)


def add_ledger(entry: h5py.Group, ledger: Ledger, whole_series: Ledger | None) -> None:
    """Write the account and the ranges that were lost in the end."""
    group = entry["ledger"]
    for name in (*COUNTS, "end_ordinal", "balanced", "complete"):
        group.attrs[name] = getattr(ledger, name)
    group.attrs["end_reason"] = printable(ledger.end_reason)
    if whole_series is not None:
        for name in (*COUNTS, "balanced"):
            group.attrs[f"series_{name}"] = getattr(whole_series, name)
    lost = group.create_group("lost")
    lost.attrs["NX_class"] = BULK
    lost["first"] = np.array([loss.first for loss in ledger.losses], "<i8")
    lost["n_frames"] = np.array([loss.n_frames for loss in ledger.losses], "<i8")
    reasons = texts_of([loss.reason for loss in ledger.losses], TEXT_BYTES)
    lost["reason"] = reasons.astype(h5py.string_dtype("utf-8", TEXT_BYTES))


def add_digests(entry: h5py.Group, digests: dict[str, int]) -> None:
    """Write the digests of the tables, with those of all small datasets, and of the header.

    What is of one frame has its digest among the scores, and a view none of its own.
    """
    found = dict(digests)

    def note(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if name not in found and isinstance(item, h5py.Dataset) and not _has_its_own(name, item):
            found[name] = digest_of(item)

    entry.visititems(note)
    found[HEADER] = xxhash.xxh3_64_intdigest(entry["process"].attrs["header"].encode())
    entry["process"].attrs["digests"] = json.dumps(found)


def _has_its_own(name: str, dataset: h5py.Dataset) -> bool:
    """Tell whether another digest covers a dataset: frames', in the scores, or of a view."""
    return dataset.is_virtual or dataset.chunks is not None


def add_neighbours(entry: h5py.Group, *, path: Path, header: ArchiveHeader, n_rows: int) -> None:
    """Take in what lies beside the file: a copy of the marks, links to the structures."""
    add_marks(entry, path=path, header=header, n_rows=n_rows)
    add_links(entry, path)


def reopen(entry: h5py.Group) -> None:
    """Take away what closing added, from a file whose writer died before it was renamed."""
    for name in ("ranked", "scores/rank", "ledger/lost", "marks", "structure"):
        if name in entry:
            del entry[name]
    entry["process"].attrs.pop("digests", None)
    entry["ledger"].attrs["complete"] = False
