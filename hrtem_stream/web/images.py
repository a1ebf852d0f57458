"""The images of the page, each under an address of its own: /frame/SERIES/ROW.jpg and so on.

A frame is encoded once, whoever asks. Pictures of the latest and best frames are at hand; others
are read from the archive, one at a time.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from fastapi import APIRouter, Response
from numpy.typing import NDArray

from hrtem_stream.errors import ArchiveError
from hrtem_stream.messages import FrameSummary
from hrtem_stream.web.pictures import grey_jpeg, mask_png, screen_image, spectrum
from hrtem_stream.web.structures import Found, structure_of
from hrtem_stream.web.watch import Watch

N_PINNED = 64
N_ENCODED, N_SCREENS = 512, 8
HEADERS = {"Cache-Control": "private, max-age=600"}


@dataclass(frozen=True, slots=True)
class Still:
    """The pictures of one frame: (P, Q) each."""

    row: int
    shape: tuple[int, int] | None
    """(M, N) of the frame; None where it is no image."""
    thumbnail: NDArray[np.uint8]
    amorphous: NDArray[np.bool_]
    vacuum: NDArray[np.bool_]


class Images:
    """Gives pictures of frames, and their encodings.

    Parameters
    ----------
    watch
        Knows the frames.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._pinned: OrderedDict[tuple[str, int], Still] = OrderedDict()
        self._encoded: OrderedDict[tuple[str, str, int], bytes] = OrderedDict()
        self._screens: OrderedDict[tuple[str, int], NDArray[np.uint8]] = OrderedDict()
        self._lock = threading.Lock()
        self._reading = threading.Lock()

    def pin(self, summary: FrameSummary) -> Still:
        """Keep the pictures of a frame that is on show, for a while."""
        still = _of_summary(summary)
        self._put(self._pinned, (summary.series_id, summary.row), still, N_PINNED)
        return still

    def still(self, row: int) -> Still:
        """Give the pictures of a frame of the present series; may read the archive.

        Raises
        ------
        ArchiveError
            They are not to be had.
        """
        view = self._watch.view
        if view is None:
            raise ArchiveError("there is no series yet")
        pinned = self._pinned.get((view.series_id, row))
        if pinned is not None:
            return pinned
        summary = view.summary(row)
        if summary is not None:
            return _of_summary(summary)
        with self._reading, self._watch.open_row(row) as (archive, index):
            thumbnail = archive.thumbnail(index)
            size = (thumbnail.shape[1], thumbnail.shape[0])
            mask = archive.mask(index).astype(np.uint8)
            amorphous = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST).astype(np.bool_)
            still = Still(row, archive.shape, thumbnail, amorphous, archive.vacuum(index))
        self._put(self._pinned, (view.series_id, row), still, N_PINNED)
        return still

    def frame(self, row: int) -> bytes:
        """Give the working image as JPEG."""
        return self._once("frame", row, lambda: grey_jpeg(self.still(row).thumbnail))

    def mask(self, row: int) -> bytes:
        """Give the masks as PNG."""

        def make() -> bytes:
            still = self.still(row)
            return mask_png(still.amorphous, vacuum=still.vacuum)

        return self._once("mask", row, make)

    def spectrum(self, row: int) -> bytes:
        """Give the spectrum as JPEG."""
        return self._once("spectrum", row, lambda: grey_jpeg(spectrum(self.still(row).thumbnail)))

    def full(self, row: int) -> bytes:
        """Give the frame as it is archived, at the size of a screen, as JPEG."""

        def make() -> bytes:
            return grey_jpeg(self.screen(row))

        return self._once("full", row, make)

    def screen(self, row: int) -> NDArray[np.uint8]:
        """Give the frame as it is archived, in grey, at the size of a screen.

        Raises
        ------
        ArchiveError
            It is not to be had.
        """
        view = self._watch.view
        key = (view.series_id if view else "", row)
        grey = self._screens.get(key)
        if grey is None:
            with self._reading, self._watch.open_row(row) as (archive, index):
                grey = screen_image(archive.frame(index))
            self._put(self._screens, key, grey, N_SCREENS)
        return grey

    def structure(self, row: int) -> Found | None:
        """Give the structure of a frame, None if there is none; reads the archive.

        Raises
        ------
        ArchiveError
            It is not to be had.
        """
        view = self._watch.view
        with self._reading, self._watch.open_row(row) as (archive, index):
            found = structure_of(archive, index)
        if found is not None:
            key = ("bonds", view.series_id if view else "", row)
            self._put(self._encoded, key, found.bonds, N_ENCODED)
        return found

    def bonds(self, row: int) -> bytes:
        """Give bonds and boundaries as PNG."""

        def make() -> bytes:
            found = self.structure(row)
            if found is None:
                raise ArchiveError(f"frame {row} was not analysed")
            return found.bonds

        return self._once("bonds", row, make)

    def _once(self, kind: str, row: int, make: Callable[[], bytes]) -> bytes:
        view = self._watch.view
        key = (kind, view.series_id if view else "", row)
        content = self._encoded.get(key)
        if content is None:
            content = make()
            self._put(self._encoded, key, content, N_ENCODED)
        return content

    def _put(self, kept: OrderedDict[Any, Any], key: Any, value: Any, n_max: int) -> None:
        with self._lock:
            kept[key] = value
            kept.move_to_end(key)
            while len(kept) > n_max:
                kept.popitem(last=False)


def image_routes(watch: Watch, images: Images) -> APIRouter:
    """Give the addresses of the images."""
    router = APIRouter()

    def answer(series_id: str, row: int, make: Callable[[int], bytes], kind: str) -> Response:
        view = watch.view
        if view is None or view.series_id != series_id:
            return Response(status_code=404)
        try:
            return Response(make(row), media_type=kind, headers=HEADERS)
        except ArchiveError:
            return Response(status_code=404)

    def add(name: str, make: Callable[[int], bytes], ending: str, kind: str) -> None:
        def get(series_id: str, row: int) -> Response:
            return answer(series_id, row, make, kind)

        router.add_api_route(f"/{name}/{{series_id}}/{{row}}.{ending}", get, methods=["GET"])

    add("frame", images.frame, "jpg", "image/jpeg")
    add("mask", images.mask, "png", "image/png")
    add("bonds", images.bonds, "png", "image/png")
    add("spectrum", images.spectrum, "jpg", "image/jpeg")
    add("full", images.full, "jpg", "image/jpeg")
    return router


def _of_summary(summary: FrameSummary) -> Still:
    shape = summary.shape if summary.shape[1] else None
    return Still(summary.row, shape, summary.thumbnail, summary.amorphous, summary.vacuum)
