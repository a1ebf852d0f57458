"""Cuts what comes over a TCP connection into payloads, as `merlin_wire` frames them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from hrtem_stream.messages import FeedReject
from hrtem_stream.sources.merlin_wire import PREFIX, PREFIX_BYTES, payload_bytes

_SEARCH_BYTES: Final = 65_536


class Framing:
    """Holds the message that is being received; never more than one of bounded size.

    What is not framed is skipped up to the next prefix, and told as one `FeedReject`.
    """

    def __init__(self, max_bytes: int) -> None:
        """Note the largest payload that is believed; a prefix that announces more is none."""
        self._max_bytes = max_bytes
        self._n_filled = 0
        self._n_skipped = 0
        self._is_payload = False
        self._buffer = bytearray(PREFIX_BYTES)

    @property
    def n_bytes(self) -> int:
        """Bytes of a message that is not complete."""
        return self._n_filled + (PREFIX_BYTES if self._is_payload else 0)

    def room(self) -> memoryview:
        """Return where the next bytes are to be received."""
        return memoryview(self._buffer)[self._n_filled :]

    def received(self, n_bytes: int) -> Iterator[memoryview | FeedReject]:
        """Take note of bytes received into `room`, and give the payload that is complete."""
        self._n_filled += n_bytes
        if self._n_filled < len(self._buffer):
            if self._n_skipped and not self._is_payload:
                yield from self._search()
            return
        if self._is_payload:
            payload = memoryview(self._buffer).toreadonly()
            self._expect(PREFIX_BYTES, is_payload=False)
            yield payload
        elif self._n_skipped:
            yield from self._search()
        else:
            yield from self._take_prefix(bytes(self._buffer))

    def _take_prefix(self, prefix: bytes) -> Iterator[memoryview | FeedReject]:
        n_bytes = payload_bytes(prefix)
        if n_bytes is None or n_bytes > self._max_bytes:
            self._begin_search(prefix)
        elif n_bytes == 0:
            self._expect(PREFIX_BYTES, is_payload=False)
            yield FeedReject(reason="framing", message="a message of no bytes")
        else:
            self._expect(n_bytes, is_payload=True)

    def _begin_search(self, received: bytes) -> None:
        """Look for the next prefix behind the first byte of what was taken for one."""
        self._n_skipped = 1
        self._buffer = bytearray(_SEARCH_BYTES)
        self._n_filled = len(received) - 1
        self._buffer[: self._n_filled] = received[1:]

    def _search(self) -> Iterator[memoryview | FeedReject]:
        received = bytes(self._buffer[: self._n_filled])
        for found in PREFIX.finditer(received):
            n_bytes = payload_bytes(found[0]) or 0
            if 0 < n_bytes <= self._max_bytes:
                n_skipped = self._n_skipped + found.start()
                yield FeedReject(reason="framing", message=f"{n_skipped} bytes without a frame")
                yield from self._go_on(received[found.end() :], n_bytes)
                return
        n_kept = min(len(received), PREFIX_BYTES - 1)  # in which a prefix may begin
        self._n_skipped += len(received) - n_kept
        self._n_filled = n_kept
        self._buffer[:n_kept] = received[len(received) - n_kept :]

    def _go_on(self, rest: bytes, n_bytes: int) -> Iterator[memoryview | FeedReject]:
        """Take what was received beyond the prefix that was found."""
        self._n_skipped = 0
        self._expect(n_bytes, is_payload=True)
        while rest:
            room = self.room()
            taken = rest[: len(room)]
            room[: len(taken)] = taken
            rest = rest[len(taken) :]
            yield from self.received(len(taken))

    def _expect(self, n_bytes: int, *, is_payload: bool) -> None:
        # A new buffer each time: the last one is an image now.
        self._buffer = bytearray(n_bytes)
        self._is_payload = is_payload
        self._n_filled = 0
