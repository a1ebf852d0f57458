"""Any feed, with the calibration checked, completed from the settings, and spoken of."""

from __future__ import annotations

import logging
from dataclasses import replace

from hrtem_stream.messages import Calibration, FeedItem, FeedPosition, SeriesStart
from hrtem_stream.sources.calibration import NOTE, note_text, overruled, stated
from hrtem_stream.sources.source import Source

logger = logging.getLogger(__name__)


class CalibratedSource:
    """A source whose series begin with the best calibration there is.

    Parameters
    ----------
    source
        The feed.
    settings
        What the user states; it goes before what the feed says.
    """

    def __init__(self, source: Source, *, settings: Calibration) -> None:
        self._source = source
        self._settings = settings

    @property
    def can_wait(self) -> bool:
        """Whether the feed holds frames back while the frame log is full."""
        return self._source.can_wait

    @property
    def is_connected(self) -> bool:
        """Whether the feed is there, as far as it can tell; a file always is."""
        return bool(getattr(self._source, "is_connected", True))

    def open(self, position: FeedPosition | None) -> None:
        """Begin to read the feed."""
        self._source.open(position)

    def receive(self, timeout_s: float) -> FeedItem | None:
        """Return what comes next, None when nothing came within `timeout_s` seconds."""
        item = self._source.receive(timeout_s)
        return self._calibrated(item) if isinstance(item, SeriesStart) else item

    def close(self) -> None:
        """Let go of sockets and files."""
        self._source.close()

    def _calibrated(self, start: SeriesStart) -> SeriesStart:
        said = start.calibration
        plausible = stated(
            pixel_size_nm=said.pixel_size_nm,
            exposure_s=said.exposure_s,
            dose_e_per_nm2=said.dose_e_per_nm2,
            voltage_kv=said.voltage_kv,
        )
        calibration, notes = overruled(plausible.calibration, self._settings)
        earlier = [start.metadata[NOTE]] if NOTE in start.metadata else []
        text = note_text([*earlier, *plausible.notes, *notes], calibration=calibration)
        if not text:
            return replace(start, calibration=calibration)
        logger.warning("calibration of series %s: %s", start.series or "without a name", text)
        return replace(start, calibration=calibration, metadata={**start.metadata, NOTE: text})
