"""PNG and TIFF."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hrtem_stream.errors import FrameError
from hrtem_stream.sources.stack import (
    DECODE_ERRORS,
    MAX_SIDE,
    FramePixels,
    FrameStack,
    Read,
    damaged,
    damaged_file,
    indexed_names,
    raw_stack,
    single_frame,
    stack_shape,
    supported,
)
from hrtem_stream.sources.tiff_calibration import tiff_calibration

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage


def png_stack(path: Path) -> FrameStack:
    """Describe a PNG; it is not opened before its frame is read."""
    return single_frame(path, decode=_decode_png)


def tiff_stack(path: Path) -> FrameStack:
    """Describe a TIFF of one or more pages.

    Raises
    ------
    FeedError
        When its frames are not 2-D.
    FrameError
        When it cannot be read as TIFF.
    """
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            return _described(path, tiff)
    except tifffile.TiffFileError as error:
        raise FrameError(f"cannot read {path.name}: {error}") from error


def _described(path: Path, tiff: TiffFile) -> FrameStack:
    pages = _image_pages(tiff)
    if not pages:
        raise FrameError(f"cannot read {path.name}: it has no page")
    said = tiff_calibration(tiff, pages[0])
    n_claimed = _n_claimed(tiff, pages)
    if len(pages) == 1 and n_claimed > 1 and pages[0].is_final and pages[0].ndim == 2:
        # ImageJ writes one page and all further frames behind its pixels.
        M, N = pages[0].shape
        dtype = np.dtype(pages[0].dtype).newbyteorder(tiff.byteorder)
        offset = pages[0].dataoffsets[0]
        return raw_stack(
            path,
            offset=offset,
            shape=(n_claimed, M, N),
            dtype=dtype,
            calibration=said.calibration,
            notes=said.notes,
        )
    if len(pages) == 1:
        stack_shape(pages[0].shape[:2], path=path)

    @contextmanager
    def reader() -> Iterator[Read]:
        with type(tiff)(path) as opened:
            image_pages = _image_pages(opened)
            yield lambda index: _read_page(path, image_pages[index], is_single=len(pages) == 1)

    return FrameStack(
        path=path,
        n_frames=len(pages),
        n_missing=max(0, n_claimed - len(pages)),
        reader=reader,
        name=indexed_names(path.stem, shape=(0,) * (2 if n_claimed == 1 else 3)),
        calibration=said.calibration,
        notes=said.notes,
    )


def _image_pages(tiff: TiffFile) -> list[Any]:
    """Return the pages without those that are reduced copies of another."""
    return [page for page in tiff.pages if not page.is_reduced]


def _n_claimed(tiff: TiffFile, pages: list[Any]) -> int:
    """Return how many frames the file says it has, which may be more than its pages."""
    claimed = (tiff.imagej_metadata or {}).get("images", 1)
    n_claimed = claimed if isinstance(claimed, int) else 1
    if len(tiff.pages) < 2 and n_claimed > 1:
        return n_claimed
    # A chain of pages that leads out of the file: it is cut, and at least one page is gone.
    layout = tiff.tiff
    handle = tiff.filehandle
    offset = tiff.pages[-1].offset
    handle.seek(offset)
    (n_tags,) = struct.unpack(layout.tagnoformat, handle.read(layout.tagnosize))
    handle.seek(offset + layout.tagnosize + n_tags * layout.tagsize)
    (following,) = struct.unpack(layout.offsetformat, handle.read(layout.offsetsize))
    return max(n_claimed, len(pages) + (1 if following else 0))


def _read_page(path: Path, page: TiffPage, *, is_single: bool) -> FramePixels:
    try:
        if max(page.shape[:2], default=0) > MAX_SIDE:
            raise FrameError(f"sides must be 1 to {MAX_SIDE}, got {page.shape}")
        return supported(_decode_page(path, page))
    except DECODE_ERRORS as error:
        fault = f"cannot read page {page.index} of {path.name}: {error}"
        return damaged_file(path, fault=fault) if is_single else damaged(b"", fault=fault)


def _decode_page(path: Path, page: TiffPage) -> NDArray[Any]:
    from PIL.TiffImagePlugin import TiffImageFile

    try:
        return np.asarray(page.asarray())
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
    # Pillow decodes LZW and others for which tifffile needs a further package.
    with path.open("rb") as file, TiffImageFile(file) as image:
        image.seek(page.index)
        return np.asarray(image)


def _decode_png(path: Path) -> NDArray[Any]:
    from PIL.PngImagePlugin import PngImageFile

    with path.open("rb") as file:
        _check_png_header(file.read(29))
        file.seek(0)
        # Not Image.open, which warns of 89 megapixels; the sides are checked above.
        with PngImageFile(file) as image:
            if image.mode in ("P", "PA", "LA"):
                return np.asarray(image.convert("RGBA"))
            return np.asarray(image.convert("L") if image.mode == "1" else image)


def _check_png_header(header: bytes) -> None:
    if len(header) < 29 or not header.startswith(b"\x89PNG\r\n\x1a\n"):
        raise FrameError("it is no PNG")
    N, M, n_bits, colour = struct.unpack(">IIBB", header[16:26])
    if not (1 <= M <= MAX_SIDE and 1 <= N <= MAX_SIDE):
        raise FrameError(f"sides must be 1 to {MAX_SIDE}, got {(M, N)}")
    if n_bits == 16 and colour != 0:
        raise FrameError("16-bit PNG must be grey: its colours would be cut to 8 bits")
