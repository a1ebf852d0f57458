"""The Merlin feed: receives what `merlin_wire` describes, over TCP.

The detector neither ends an acquisition nor tells that it was aborted: after the last frame that
was announced the series ends by itself, an aborted one when the next begins, the connection is
closed, or the detector has been silent for `ingest.idle_end_s`.
"""

from __future__ import annotations

import logging
import math
import select
import socket
import time
from collections import deque
from typing import Final

from hrtem_stream.errors import WireError
from hrtem_stream.messages import (
    Calibration,
    FeedFrame,
    FeedItem,
    FeedPosition,
    FeedReject,
    SeriesEnd,
    SeriesStart,
)
from hrtem_stream.sources.merlin_framing import Framing
from hrtem_stream.sources.merlin_wire import (
    MAX_HEADER_BYTES,
    AcquisitionHeader,
    MerlinFrame,
    decode_payload,
)
from hrtem_stream.sources.native_wire import FeedLimits
from hrtem_stream.sources.tcp_address import tcp_address

logger = logging.getLogger(__name__)

FEED: Final = "merlin"
_CONNECT_S: Final = 0.25
"""On a local network a detector answers within milliseconds; `ingest` has other work."""
_RETRY_S: Final = 0.5
_RECEIVE_BUFFER_BYTES: Final = 8 << 20


class MerlinSource:
    """Receives frames from the data socket of a Merlin detector, and connects again if need be."""

    can_wait = True

    def __init__(self, endpoint: str, *, limits: FeedLimits | None = None) -> None:
        """Note where the detector is.

        Parameters
        ----------
        endpoint
            Address of the data socket, such as tcp://merlin:6342.
        limits
            Largest frame accepted.

        Raises
        ------
        SettingsError
            When the endpoint is malformed.
        """
        self._address = tcp_address(endpoint)
        self._endpoint = endpoint
        self._limits = limits or FeedLimits()
        self._socket: socket.socket | None = None
        self._tried_s = -math.inf
        self._framing = self._new_framing()
        self._pending: deque[FeedItem] = deque()
        self._acquisition = _Acquisition()

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection."""
        return self._socket is not None

    def open(self, position: FeedPosition | None) -> None:
        """Try to connect; a detector that is not there yet is tried again by `receive`."""
        if position is not None:
            self._acquisition = _Acquisition(
                is_under_way=True, n_frames=position.n_expected, n_seen=position.next_sequence
            )
        self._connect(0.0)

    def receive(self, timeout_s: float) -> FeedItem | None:
        """Return the next item, None when none came within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while not self._pending:
            left_s = max(0.0, deadline - time.monotonic())
            if self._socket is None and not self._connect(left_s):
                return None
            if not self._fill(left_s):
                break
        return self._pending.popleft() if self._pending else None

    def close(self) -> None:
        """Close the connection; a second call does nothing."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self, timeout_s: float) -> bool:
        """Connect if it is time to try, and tell whether there is a connection."""
        wait_s = self._tried_s + _RETRY_S - time.monotonic()
        if wait_s > 0:
            time.sleep(min(wait_s, timeout_s))
            return False
        self._tried_s = time.monotonic()
        try:
            connection = socket.create_connection(self._address, timeout=_CONNECT_S)
        except OSError as error:
            logger.debug("%s cannot be reached: %s", self._endpoint, error)
            return False
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._socket = connection
        self._framing = self._new_framing()
        return True

    def _fill(self, timeout_s: float) -> bool:
        """Receive once, and tell whether anything came."""
        if self._socket is None:
            return False
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if not poll.poll(1000 * timeout_s):
            return False
        try:
            n_bytes = self._socket.recv_into(self._framing.room())
        except BlockingIOError:
            return False
        except OSError as error:
            self._lose_connection(f"the connection broke: {error}")
            return True
        if n_bytes == 0:
            self._lose_connection("the detector closed the connection")
            return True
        for payload in self._framing.received(n_bytes):
            if isinstance(payload, FeedReject):
                self._pending.append(payload)
            else:
                self._take(payload)
        return True

    def _new_framing(self) -> Framing:
        return Framing(self._limits.max_frame_bytes + MAX_HEADER_BYTES)

    def _lose_connection(self, reason: str) -> None:
        """End the series under way, and keep what came of a frame."""
        self.close()
        if self._framing.n_bytes:
            message = f"{reason}, {self._framing.n_bytes} bytes into a message"
            self._pending.append(FeedReject(reason="framing", message=message))
        if self._acquisition.is_under_way:
            self._pending.append(self._acquisition.ended(reason))
            self._acquisition = _Acquisition()

    def _take(self, payload: memoryview) -> None:
        try:
            found = decode_payload(payload, limits=self._limits)
        except WireError as error:
            self._pending.append(FeedReject(reason=error.reason, message=str(error)))
            return
        if isinstance(found, AcquisitionHeader):
            if self._acquisition.is_under_way:
                self._pending.append(self._acquisition.ended("another acquisition began"))
            self._acquisition = _Acquisition(header=found, n_frames=found.n_frames)
            return
        self._take_frame(found)

    def _take_frame(self, frame: MerlinFrame) -> None:
        acquisition = self._acquisition
        if not acquisition.is_under_way:
            self._pending.append(acquisition.begun(frame))
        acquisition.note_frame(frame.sequence)
        self._pending.append(
            FeedFrame(
                sequence=frame.sequence,
                pixels=frame.pixels.pixels,
                name=f"frame {frame.sequence + 1}",
                acquired_ns=frame.acquired_ns,
                fault=frame.pixels.fault,
            )
        )
        if acquisition.is_complete:
            self._pending.append(acquisition.ended(""))
            self._acquisition = _Acquisition()


class _Acquisition:
    """What is known of the acquisition under way."""

    def __init__(
        self,
        *,
        header: AcquisitionHeader | None = None,
        n_frames: int | None = None,
        is_under_way: bool = False,
        n_seen: int = 0,
    ) -> None:
        self.is_under_way = is_under_way
        self._metadata = header.metadata if header else {}
        self._n_frames = n_frames
        self._n_seen = n_seen
        """One more than the highest number that came."""

    @property
    def is_complete(self) -> bool:
        """Whether the last frame that was announced is there."""
        return self._n_frames is not None and self._n_seen >= self._n_frames

    def begun(self, frame: MerlinFrame) -> SeriesStart:
        """Describe the beginning; the exposure is only told with the first frame."""
        self.is_under_way = True
        return SeriesStart(
            series="",
            n_expected=self._n_frames,
            feed=FEED,
            calibration=Calibration(exposure_s=frame.exposure_s),
            metadata=self._metadata,
        )

    def note_frame(self, sequence: int) -> None:
        """Note that a frame came."""
        if self._n_frames is None or sequence < self._n_frames:
            self._n_seen = max(self._n_seen, sequence + 1)

    def ended(self, reason: str) -> SeriesEnd:
        """Describe the end."""
        if reason and self._n_frames is not None:
            reason = f"{reason} after frame {self._n_seen} of {self._n_frames}"
        return SeriesEnd(n_frames=self._n_seen, reason=reason)
