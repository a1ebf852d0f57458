"""The native feed: receives what `native_wire` describes, over ZeroMQ."""

from __future__ import annotations

from hrtem_stream.messages import FeedItem, FeedPosition, FeedReject
from hrtem_stream.sources.feed_socket import FeedSocket, Pattern
from hrtem_stream.sources.native_wire import FeedLimits, decode_feed_message
from hrtem_stream.transport.guard import LOOPBACK_ONLY, Guard

__all__ = ["FeedLimits", "NativeSource", "Pattern", "decode_feed_message"]


class NativeSource:
    """Receives the native feed from a PUSH or a PUB socket."""

    def __init__(
        self,
        endpoint: str,
        *,
        pattern: Pattern = "push",
        bind: bool = False,
        limits: FeedLimits | None = None,
        n_buffered: int | None = None,
        guard: Guard = LOOPBACK_ONLY,
    ) -> None:
        """Note where the feed is.

        Parameters
        ----------
        endpoint
            ZeroMQ address, such as tcp://camera:5555 or ipc:///tmp/camera.
        pattern
            What the feed's socket is: push waits for us, pub does not.
        bind
            Whether we bind and the feed connects.
        limits
            Largest message accepted.
        n_buffered
            Messages that ZeroMQ holds for us; with the frame's size, this bounds the memory. They
            are lost if this process dies, so of a feed that waits it holds few: 8, else 64.
        guard
            Says whether the socket may leave this host, and encrypts it.
        """
        self.can_wait = pattern == "push"
        self._limits = limits or FeedLimits()
        self._socket = FeedSocket(
            endpoint,
            pattern=pattern,
            bind=bind,
            max_parts=2,
            # What is only a little too large is refused politely, by `decode_feed_message`.
            max_part_bytes=2 * self._limits.max_frame_bytes,
            n_buffered=n_buffered or (8 if self.can_wait else 64),
            guard=guard,
        )

    @property
    def is_connected(self) -> bool:
        """Whether a feed was there when `receive` last returned None."""
        return self._socket.is_connected

    def open(self, position: FeedPosition | None) -> None:
        """Connect or bind; a live feed cannot go back, so `position` is not used.

        Raises
        ------
        FeedError
            When the endpoint is malformed, or cannot be bound.
        SettingsError
            When the endpoint leaves this host and there are no keys.
        """
        self._socket.open()

    def receive(self, timeout_s: float) -> FeedItem | None:
        """Return the next message decoded, None when none came within `timeout_s`."""
        parts = self._socket.receive(timeout_s)
        if parts is None or isinstance(parts, FeedReject):
            return parts
        return decode_feed_message(parts, limits=self._limits)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
