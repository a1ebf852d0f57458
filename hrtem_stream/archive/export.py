"""Writes frames of an archive as TIFF, MRC or PNG, one file each, with their pixel size.

TIFF and MRC hold detector counts as they are stored in the archive: graphene pixels as received,
amorphous runs as their mean. PNG is a picture: eight bits between two percentiles of the graphene.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import mrcfile
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from hrtem_stream.archive.marks import Marks, is_kept
from hrtem_stream.archive.reader import Archive

Format: TypeAlias = Literal["tiff", "mrc", "png"]
PICTURE_PERCENTILES = (0.5, 99.5)
_TOLD = ("graphene_fraction", "sequence", "method", "name", "digest")
"""Scores that each file tells of its frame."""
_ENDINGS: dict[Format, str] = {"tiff": "tif", "mrc": "mrc", "png": "png"}


@dataclass(frozen=True, slots=True)
class Exported:
    """One file that was written."""

    path: Path
    row: int
    graphene_fraction: float


def kept_rows(archive: Archive, marks: Marks) -> NDArray[np.int64]:
    """Return the indices of the frames that are kept, highest graphene fraction first.

    Frames that could not be analysed have no graphene fraction and are left out, as are those
    that were set aside.
    """
    fractions = archive.score("graphene_fraction")
    kept = is_kept(fractions, rows=archive.rows, threshold=marks.threshold, rejected=marks.rejected)
    kept &= ~np.isnan(fractions)
    kept[archive.set_aside_rows] = False
    ranking = archive.ranking()
    return ranking[kept[ranking]]


def export_frames(
    archive: Archive, indices: NDArray[np.int64], *, folder: Path, form: Format
) -> Iterator[Exported]:
    """Write frames, best first: the file's name begins with the place, from 1.

    Parameters
    ----------
    archive
        Where the frames are.
    indices
        Frames of the archive, in the order of their places.
    folder
        Made where it is not there.

    Raises
    ------
    OSError
        A file cannot be written.
    ArchiveError
        A frame is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write = _WRITERS[form]
    scores = {name: archive.score(name) for name in _TOLD} | {"row": archive.rows}
    n_digits = max(4, len(str(len(indices))))
    for place, index in enumerate(indices.tolist(), 1):
        told = {name: str(values[index]) for name, values in scores.items()}
        told["digest"] = f"{int(told['digest']):016x}"
        told["series"] = archive.header.start.series
        told["series_id"] = archive.header.start.series_id
        row = int(scores["row"][index])
        path = folder / f"{place:0{n_digits}d}_row{row:06d}.{_ENDINGS[form]}"
        beside = path.with_name(f".{path.name}")
        try:
            write(beside, archive, index, told)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        yield Exported(path, row, float(scores["graphene_fraction"][index]))


def picture(frame: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Stretch a frame to eight bits between two percentiles of what is not masked.

    Parameters
    ----------
    frame
        (M, N) counts.
    mask
        (M, N) bool, left out of the percentiles unless it covers all.

    Returns
    -------
    (M, N) uint8.
    """
    seen = frame[~mask] if not mask.all() else frame
    low, high = np.percentile(seen.astype(np.float32), PICTURE_PERCENTILES)
    span = max(float(high - low), 1e-9)
    stretched = (frame.astype(np.float32) - np.float32(low)) * np.float32(255 / span)
    shown: NDArray[np.uint8] = np.clip(np.nan_to_num(stretched), 0, 255).round().astype(np.uint8)
    return shown


def _write_tiff(path: Path, archive: Archive, index: int, told: dict[str, str]) -> None:
    """Write an ImageJ TIFF: Fiji shows the pixel size in nm."""
    frame = archive.frame(index)
    size_nm = archive.calibration.pixel_size_nm
    text = "\n".join(f"{name}={value}" for name, value in told.items())
    # ImageJ knows these types only; others go into a plain TIFF, which has no unit below cm.
    if frame.dtype in (np.uint8, np.uint16, np.float32):
        tifffile.imwrite(
            path,
            frame,
            imagej=True,
            resolution=(1 / size_nm, 1 / size_nm) if size_nm else None,
            metadata={"axes": "YX", "Info": text} | ({"unit": "nm"} if size_nm else {}),
        )
        return
    tifffile.imwrite(
        path,
        frame,
        resolution=(1e7 / size_nm, 1e7 / size_nm) if size_nm else None,
        resolutionunit="CENTIMETER" if size_nm else "NONE",
        description=text.encode("ascii", "replace").decode(),
        metadata=None,
    )


def _write_mrc(path: Path, archive: Archive, index: int, told: dict[str, str]) -> None:
    """Write an MRC2014 file, voxel size in ångström; types that MRC lacks become float32."""
    frame = archive.frame(index)
    if frame.dtype == np.uint8:
        frame = frame.astype(np.int16)  # MRC's bytes are signed
    elif frame.dtype not in (np.int16, np.uint16, np.float32):
        frame = frame.astype(np.float32)
    size_nm = archive.calibration.pixel_size_nm
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(frame)
        if size_nm:
            file.voxel_size = 10 * size_nm
        for name, value in told.items():
            file.add_label(f"{name}={value}".encode("ascii", "replace").decode()[:80])


def _write_png(path: Path, archive: Archive, index: int, told: dict[str, str]) -> None:
    text = PngImagePlugin.PngInfo()
    for name, value in told.items():
        text.add_itxt(name, value)
    size_nm = archive.calibration.pixel_size_nm
    if size_nm:  # as text, because PNG's own unit, 32 bits of pixels a metre, ends at 0.23 nm
        text.add_itxt("pixel_size_nm", f"{size_nm:g}")
    image = Image.fromarray(picture(archive.frame(index), archive.mask(index)))
    image.save(path, format="PNG", pnginfo=text)


_WRITERS: dict[Format, Callable[[Path, Archive, int, dict[str, str]], None]] = {
    "tiff": _write_tiff,
    "mrc": _write_mrc,
    "png": _write_png,
}
