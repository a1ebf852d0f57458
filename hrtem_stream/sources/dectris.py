"""The DECTRIS feed: receives what `dectris_wire` describes, over ZeroMQ.

A message with several channels (energy thresholds) gives one frame for each, numbered
image x channels + channel, unless one channel is chosen. The detector does not say at a series'
end how many images it sent: where the series has a count and the control unit is asked, its
counter tells images that were dropped from those that were never taken.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

from hrtem_stream.errors import SettingsError, WireError
from hrtem_stream.messages import (
    FeedFrame,
    FeedGap,
    FeedItem,
    FeedPosition,
    FeedReject,
    SeriesEnd,
    SeriesStart,
)
from hrtem_stream.sources.dectris_wire import (
    DetectorEnd,
    DetectorImage,
    DetectorStart,
    decode_detector_message,
)
from hrtem_stream.sources.feed_socket import FeedSocket
from hrtem_stream.sources.native_wire import FeedLimits
from hrtem_stream.sources.stack import damaged
from hrtem_stream.transport.guard import OPEN

FEED: Final = "dectris"
DROPPED: Final = "dropped by the control unit"
MAX_JUMP: Final = 1_000_000
"""An image number further ahead than this is not believed."""
NO_CHANNEL: Final = "channel missing in its message"


class DroppedCounter(Protocol):
    """Tells how many images the control unit dropped since the series was armed."""

    def at_least(self, n_images: int) -> bool:
        """Tell whether so many were dropped, by a reading of just now."""

    def read(self) -> int | None:
        """Ask now; None when there is no answer."""

    def close(self) -> None:
        """Stop asking."""


class DectrisSource:
    """Receives the stream of a DECTRIS detector from its control unit's PUSH socket."""

    can_wait = True

    def __init__(
        self,
        endpoint: str,
        *,
        channel: str = "",
        limits: FeedLimits | None = None,
        dropped: DroppedCounter | None = None,
        n_buffered: int = 64,
    ) -> None:
        """Note where the detector is.

        Parameters
        ----------
        endpoint
            ZeroMQ address of the control unit, such as tcp://detector:31001.
        channel
            The one channel that becomes frames; empty: all.
        limits
            Largest message accepted.
        dropped
            The control unit's counter, None where it is not asked.
        n_buffered
            Messages that ZeroMQ holds for us.

        Raises
        ------
        SettingsError
            When the package that decompresses is not installed.
        """
        try:
            import dectris.compression  # noqa: F401
        except ImportError:
            raise SettingsError(
                "feed.kind = dectris needs dectris-compression: pip install 'hrtem-stream[dectris]'"
            ) from None
        self._limits = limits or FeedLimits()
        self._channel = channel
        self._dropped = dropped
        self._socket = FeedSocket(
            endpoint,
            pattern="push",
            bind=False,
            max_parts=1,
            max_part_bytes=2 * self._limits.max_frame_bytes,
            n_buffered=n_buffered,
            guard=OPEN,
        )
        self._pending: deque[FeedItem] = deque()
        self._series = _DetectorSeries()

    @property
    def is_connected(self) -> bool:
        """Whether the detector was there when `receive` last returned None."""
        return self._socket.is_connected

    def open(self, position: FeedPosition | None) -> None:
        """Connect; the detector cannot go back, so a series goes on with what comes next.

        Raises
        ------
        FeedError
            When the endpoint is malformed.
        """
        if position is not None:
            self._series = _DetectorSeries(name=position.series, is_resumed=True)
        self._socket.open()

    def receive(self, timeout_s: float) -> FeedItem | None:
        """Return the next item, None when none came within `timeout_s`."""
        if self._pending:
            return self._pending.popleft()
        parts = self._socket.receive(timeout_s)
        if parts is None or isinstance(parts, FeedReject):
            return parts
        try:
            message = decode_detector_message(parts[0], limits=self._limits)
        except WireError as error:
            return FeedReject(reason=error.reason, message=str(error))
        match message:
            case DetectorStart():
                self._begin(message)
            case DetectorImage():
                self._take(message, parts[0])
            case DetectorEnd():
                self._end(message)
        return self._pending.popleft() if self._pending else None

    def close(self) -> None:
        """Close the socket, and ask the control unit no more."""
        self._socket.close()
        if self._dropped is not None:
            self._dropped.close()

    def _begin(self, start: DetectorStart) -> None:
        if self._series.is_under_way:
            self._pending.append(self._series.ended("another series was armed", None))
        channels = (self._channel,) if self._channel else start.channels
        self._series = _DetectorSeries(
            name=start.series, channels=channels, n_images=start.n_images, is_under_way=True
        )
        n_frames = start.n_images and start.n_images * max(1, len(channels))
        self._pending.append(
            SeriesStart(
                series=start.series,
                n_expected=n_frames,
                feed=FEED,
                calibration=start.calibration,
                metadata=start.metadata,
            )
        )

    def _take(self, image: DetectorImage, message: memoryview) -> None:
        """Queue the frames of a message, after the gap that its number shows."""
        series = self._series
        if image.series != series.name:
            series = self._series = _DetectorSeries(name=image.series)
        found = image.channels
        if self._channel:
            found = {name: one for name, one in found.items() if name == self._channel}
        channels = series.channels or ((self._channel,) if self._channel else tuple(found)) or ("",)
        if not image.fault:  # a message that was cut short does not tell how many there are
            series.channels = channels
        n_channels = len(channels)
        first_missing = series.n_images_seen
        n_missing = series.note_image(image.image_id)
        if n_missing and self._are_dropped(series):
            gap = FeedGap(
                first=first_missing * n_channels, n_frames=n_missing * n_channels, reason=DROPPED
            )
            self._pending.append(gap)
        for name in found.keys() - set(channels):
            said = f"image {image.image_id} has a channel that was not announced: {name!a:.80}"
            self._pending.append(FeedReject(reason="bad_field", message=said))
        fault = image.fault or f"{NO_CHANNEL}: it has {', '.join(image.channels)}"
        kept = False
        for index, name in enumerate(channels):
            frame = found.get(name)
            if frame is None and not kept:  # the first that is missing keeps the message
                frame, kept = damaged(bytes(message), fault=fault), True
            sequence = image.image_id * n_channels + index
            if frame is None:
                gap = FeedGap(first=sequence, n_frames=1, reason=NO_CHANNEL)
                self._pending.append(gap)
                continue
            self._pending.append(
                FeedFrame(
                    sequence=sequence,
                    pixels=frame.pixels,
                    name=f"image {image.image_id}{f' {name}' if n_channels > 1 else ''}",
                    acquired_ns=image.acquired_ns,
                    fault=frame.fault,
                    series=image.series,
                )
            )

    def _are_dropped(self, series: _DetectorSeries) -> bool:
        """Ask whether the control unit dropped what is missing; else nobody knows the reason."""
        if self._dropped is None or series.is_resumed:
            return False
        return self._dropped.at_least(series.n_missing)

    def _end(self, end: DetectorEnd) -> None:
        series = self._series
        if end.series != series.name:  # of a series that ended before
            self._pending.append(SeriesEnd(series=end.series))
            return
        n_dropped = self._dropped.read() if self._dropped is not None else None
        self._pending.append(series.ended("", n_dropped))
        self._series = _DetectorSeries()


class _DetectorSeries:
    """What is known of the series under way."""

    def __init__(
        self,
        *,
        name: str = "",
        channels: tuple[str, ...] = (),
        n_images: int | None = None,
        is_under_way: bool = False,
        is_resumed: bool = False,
    ) -> None:
        self.name = name
        self.channels = channels
        self.n_images_seen = 0
        """One more than the highest number that came."""
        self.n_missing = 0
        self.is_under_way = is_under_way
        self.is_resumed = is_resumed
        """Whether an earlier process began it, so that what came before is not known here."""
        self._n_images = n_images

    def note_image(self, image_id: int) -> int:
        """Note that an image came, and return how many before it did not."""
        n_missing = image_id - self.n_images_seen
        if self.is_resumed and not self.is_under_way:
            n_missing = 0
        self.is_under_way = True
        if n_missing > MAX_JUMP:
            return 0
        self.n_images_seen = max(self.n_images_seen, image_id + 1)
        self.n_missing += max(0, n_missing)
        return max(0, n_missing)

    def ended(self, reason: str, n_dropped: int | None) -> SeriesEnd:
        """Describe the end, where `n_dropped` images were dropped by the control unit's count."""
        n_channels = max(1, len(self.channels))
        n_after_last = 0 if self.is_resumed else max(0, (n_dropped or 0) - self.n_missing)
        n_sent = self.n_images_seen + n_after_last
        if self._n_images is not None:
            n_sent = min(n_sent, max(self._n_images, self.n_images_seen))
            if n_sent < self._n_images and not reason:
                asked = "" if n_dropped is not None else " (its control unit was not asked)"
                reason = f"ended by the detector after {n_sent} of {self._n_images} images{asked}"
        return SeriesEnd(series=self.name, n_frames=n_sent * n_channels, reason=reason)
