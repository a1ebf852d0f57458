"""normalise: evens out the illumination of each frame, at the size of the working image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from hrtem_stream.messages import FrameHeader, NormalisedFrame, Pixels, RawFrame
from hrtem_stream.runtime.stage import Stage
from hrtem_stream.science.compiled import compiled
from hrtem_stream.science.illumination import DEGREE, normalise_frame, standardise
from hrtem_stream.science.working_scale import (
    NOT_FOUND,
    SPECTRUM,
    Scaling,
    WorkingScale,
    resized,
)
from hrtem_stream.stages.camera import Camera, CorrectedCamera

THUMBNAIL_DEVIATIONS = 3.0
MEASURE_EVERY_FRAMES = 64
"""Finding the scale in a spectrum takes as long as all the rest, and changes with the magnification
alone."""


class PixelReader(Protocol):
    """Where the pixels of a frame are had from."""

    def pixels(
        self, log_id: int, ordinal: int, offset: int, dtype: str, shape: tuple[int, int]
    ) -> NDArray[Any]:
        """Give the pixels of a frame, read-only."""


class _KnownScale(NamedTuple):
    """What the spectrum of a frame told of its series."""

    whose: tuple[str, tuple[int, ...]]
    sequence: int
    scale: WorkingScale

    def serves(self, sequence: int) -> bool:
        """Tell whether a frame comes soon enough after it."""
        return 0 <= sequence - self.sequence < MEASURE_EVERY_FRAMES


class Normalise(Stage[RawFrame, NormalisedFrame]):
    """The stage.

    Parameters
    ----------
    reader
        Gives the pixels of a frame.
    working_size
        Height and width of thumbnails, and of the working image as published, in pixels.
    camera
        Turns received pixels into those that are analysed; None: they are the same.
    passes_pixels
        Whether pixels that came in the message go on in it, for a `sort` on another host.
    scaling
        Chooses the size of the working image of a frame; None: always as published.
    follow_log
        Has the reader open a log, by its identity.
    """

    name = "normalise"

    def __init__(
        self,
        reader: PixelReader,
        *,
        working_size: int,
        camera: Camera | None = None,
        passes_pixels: bool = False,
        scaling: Scaling | None = None,
        follow_log: Callable[[int], None] = lambda log_id: None,
    ) -> None:
        self._reader = reader
        self._camera = camera or CorrectedCamera()
        self._passes_pixels = passes_pixels
        self._shape = (working_size, working_size)
        self._scaling = scaling or partial(resized, size=working_size)
        self._follow_log = follow_log
        self._known: _KnownScale | None = None

    def warm_up(self) -> None:
        """Compile for the usual dtypes, or load what was compiled before."""
        rng = np.random.default_rng(0)
        noise = rng.poisson(100, (2 * self._shape[0], 2 * self._shape[1]))
        for dtype in (np.uint8, np.uint16, np.float32):
            frame = noise.astype(dtype)
            frame.flags.writeable = False  # as in the log: the compiler takes it for another type
            self._scaling(frame, 0.0)
            normalise_frame(frame, shape=self._shape)
        # A lattice with a hole beside, so that the search for vacuum runs to its end as well.
        rows, columns = np.indices((4 * self._shape[0], 4 * self._shape[1]))
        wave = np.cos(0.4 * rows) * np.cos(0.25 * columns)
        contrast = np.where(columns < 3 * columns.shape[1] // 4, 0.2 * wave, 0.0)
        lattice = rng.poisson(2000.0 * (1.0 + contrast)).astype(np.uint16)
        lattice.flags.writeable = False
        self._scaling(lattice, 0.0)
        thumbnail(normalise_frame(lattice, shape=self._shape).image)

    def follow_log(self, log_id: int) -> None:
        """Have the log opened: to map its pages takes as long as a dozen frames."""
        self._follow_log(log_id)

    def process(self, batch: Sequence[RawFrame]) -> list[NormalisedFrame]:
        """Normalise each frame; one that cannot be analysed gets its fault in the header.

        Raises
        ------
        LogError
            A frame has been overwritten in the log: it was archived before.
        """
        return [self._normalise(frame) for frame in batch]

    def pass_on(self, frame: RawFrame, reason: str) -> NormalisedFrame:
        """Give a frame without a working image."""
        none = np.zeros(self._shape, np.bool_)
        return NormalisedFrame(
            delivery=frame.delivery,
            header=replace(frame.header, fault=frame.header.fault or reason),
            image=np.zeros(self._shape, np.float32),
            coefficients=np.zeros((DEGREE + 1, DEGREE + 1), np.float32),
            vacuum=none,
            beam_off=none,
            thumbnail=np.zeros(self._shape, np.uint8),
            pixels=self._passed(frame),
        )

    def _normalise(self, frame: RawFrame) -> NormalisedFrame:
        delivery, header = frame.delivery, frame.header
        if header.fault:
            return self.pass_on(frame, header.fault)
        pixels = frame.pixels
        if pixels is None:
            pixels = self._reader.pixels(
                delivery.log_id, delivery.ordinal, delivery.offset, header.dtype, header.shape
            )
        try:
            counts = self._camera.analysed(header, pixels)
            binned = header.shape[0] / counts.shape[0]
            scale = self._scale(header, counts, binned * header.pixel_size_nm)
            normalised = normalise_frame(counts, shape=scale.shape)
        except ValueError as error:
            return self.pass_on(frame, str(error))
        return NormalisedFrame(
            delivery=delivery,
            header=header,
            image=normalised.image,
            coefficients=normalised.coefficients,
            vacuum=normalised.vacuum,
            beam_off=normalised.beam_off,
            thumbnail=thumbnail(shrunk(normalised.image, shape=self._shape)),
            reflections=normalised.reflections,
            scale=scale.source,
            working_pixel_nm=scale.pixel_size_nm,
            pixels=self._passed(frame),
        )

    def _scale(
        self, header: FrameHeader, counts: NDArray[Any], pixel_size_nm: float
    ) -> WorkingScale:
        """Choose the working size; what the spectrum of one frame tells serves those after it.

        Only where that is the size as published: a process that has just begun chooses the same.
        """
        known, whose = self._known, (header.series_id, counts.shape)
        is_known = known is not None and known.whose == whose and bool(header.series_id)
        if pixel_size_nm > 0.0:
            return self._scaling(counts, pixel_size_nm)
        if known is not None and is_known and known.serves(header.sequence):
            return known.scale
        scale = self._scaling(counts, 0.0)
        if scale.source == SPECTRUM and scale.shape == self._shape:
            self._known = _KnownScale(whose, header.sequence, scale)
        elif known is not None and is_known and scale.source == NOT_FOUND:
            return known.scale
        return scale

    def _passed(self, frame: RawFrame) -> Pixels | None:
        return frame.pixels if self._passes_pixels else None


def shrunk(image: NDArray[np.float32], *, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Bring a standardised image to the size of the thumbnails, and standardise it anew."""
    if image.shape == shape:
        return image
    small = np.asarray(cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA), np.float32)
    return standardise(small, beam_off=np.zeros(shape, np.bool_))


def thumbnail(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Map a standardised image from -3 to +3 deviations onto 0 to 255."""
    small = np.empty(image.shape, np.uint8)
    _to_bytes(np.ascontiguousarray(image, np.float32).ravel(), small.ravel())
    return small


@compiled
def _to_bytes(values: NDArray[np.float32], levels: NDArray[np.uint8]) -> None:
    lowest = np.float32(-THUMBNAIL_DEVIATIONS)
    scale, highest = np.float32(255 / (2 * THUMBNAIL_DEVIATIONS)), np.float32(255)
    for i in range(values.size):
        scaled = (values[i] - lowest) * scale
        levels[i] = np.uint8(min(max(scaled, np.float32(0)), highest))
