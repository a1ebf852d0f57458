"""ZeroMQ sockets as the pipeline uses them: publishers and subscribers with bounded buffers."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zmq

from hrtem_stream.addresses import leaves_host
from hrtem_stream.errors import SettingsError
from hrtem_stream.transport.guard import LOOPBACK_ONLY, Guard
from hrtem_stream.transport.link import RECONNECT_MS, Link, prepare_for_network
from hrtem_stream.transport.parts import Part
from hrtem_stream.transport.wire import MAX_SIDE

logger = logging.getLogger(__name__)

HEADER_HIGH_WATER = 8192
SUMMARY_HIGH_WATER = 128
"""Four flushes of `sort`, each of which tells up to 32 frames at once: a watcher that keeps up
misses none, and one that stands still costs 10 MiB."""
COPY_BELOW_BYTES = 1 << 20
"""Below this size a copy costs less than pyzmq's thread that frees what was sent without one."""
MAX_MESSAGE_BYTES = 64 << 20
"""Of a part, where working images are the largest."""
MAX_PIXEL_BYTES = MAX_SIDE * MAX_SIDE * 8
"""Of a part, where the pixels of a frame travel, too."""
MAX_SUBSCRIPTION_BYTES = 1024
"""Of what a subscriber may say to a publisher."""

# As plain numbers: sums of pyzmq's flags take longer than a part.
_AT_ONCE, _MORE, _LAST = int(zmq.NOBLOCK), int(zmq.SNDMORE), 0


class Publisher:
    """A PUB socket.

    Parameters
    ----------
    endpoint
        Address, `ipc://` or `tcp://`.
    bind
        Whether we bind it or connect to it.
    high_water
        Messages buffered for each subscriber. It must lie above the window: then PUB never has a
        reason to drop.
    guard
        Says whether the socket may leave this host, and encrypts it.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        endpoint: str,
        *,
        bind: bool,
        high_water: int,
        guard: Guard = LOOPBACK_ONLY,
    ) -> None:
        self._socket = _socket(context, zmq.PUB, high_water)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_SUBSCRIPTION_BYTES)
        self._line = _Line(self._socket, endpoint, bind=bind, guard=guard)

    def send(self, parts: Sequence[Part]) -> None:
        """Send a message; never blocks."""
        self._line.mend()
        _send_parts(self._socket, parts, copy=sum(map(len, parts)) < COPY_BELOW_BYTES)

    def close(self, *, linger_s: float = 0.0) -> None:
        """Close the socket; what has not left after `linger_s` is dropped (the log has it).

        The context waits for it when it is terminated.
        """
        self._line.close()
        self._socket.close(linger=round(linger_s * 1000))


class Announcer:
    """A publisher that knows whether anybody listens, so that nothing is made for nobody.

    Parameters
    ----------
    topics
        What may be asked about; `send` takes others as well.
    context, endpoint, bind, high_water, guard
        As for `Publisher`; here the high-water mark may lie lower, and slow listeners lose.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        endpoint: str,
        *,
        bind: bool,
        topics: Sequence[bytes],
        high_water: int,
        guard: Guard = LOOPBACK_ONLY,
    ) -> None:
        self._topics = tuple(topics)
        self._wanted: set[bytes] = set()
        """Beginnings of our topics that somebody subscribed to."""
        self._socket = _socket(context, zmq.XPUB, high_water)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_SUBSCRIPTION_BYTES)
        self._line = _Line(self._socket, endpoint, bind=bind, guard=guard)

    def is_heard(self, topic: bytes) -> bool:
        """Tell whether anybody has subscribed to a topic."""
        while True:
            try:
                told = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                break
            self._note(told[:1], told[1:])
        return any(topic.startswith(beginning) for beginning in self._wanted)

    def send(self, parts: Sequence[Part]) -> None:
        """Send a message to who listens; never blocks."""
        self._line.mend()
        _send_parts(self._socket, parts, copy=True)

    def close(self) -> None:
        """Close the socket."""
        self._line.close()
        self._socket.close()

    def _note(self, change: bytes, beginning: bytes) -> None:
        """Take in the first subscription to a beginning, or the end of the last one."""
        if not any(topic.startswith(beginning) for topic in self._topics):
            return  # whoever asks for what there is not must not fill the memory
        if change == b"\x01":
            self._wanted.add(beginning)
        elif change == b"\x00":
            self._wanted.discard(beginning)


class Subscriber:
    """A SUB socket.

    Parameters
    ----------
    topics
        Beginnings of the topics to hear; an empty one hears everything.
    guard
        Says whether the socket may leave this host, and encrypts it.
    max_part_bytes
        The connection breaks on a larger part, before anything is allocated for it.
    """

    def __init__(
        self,
        context: zmq.Context[Any],
        endpoint: str,
        *,
        bind: bool,
        topics: Sequence[bytes],
        high_water: int,
        guard: Guard = LOOPBACK_ONLY,
        max_part_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self._socket = _socket(context, zmq.SUB, high_water)
        self._socket.setsockopt(zmq.MAXMSGSIZE, max_part_bytes)
        for beginning in topics:
            self._socket.subscribe(beginning)
        self._line = _Line(self._socket, endpoint, bind=bind, guard=guard)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)

    def also_wake_on(self, descriptor: int) -> None:
        """Let `wait` return when this file descriptor becomes readable, too."""
        self._poller.register(descriptor, zmq.POLLIN)

    def wait(self, timeout_s: float) -> bool:
        """Wait until there may be something to receive; tell whether there is."""
        self._line.mend()
        return bool(self._poller.poll(max(0, round(timeout_s * 1000))))

    def receive(self) -> list[Part] | None:
        """Give the next message without waiting, None when there is none."""
        try:
            frame = self._socket.recv(_AT_ONCE, copy=False)
        except zmq.Again:
            return None
        parts: list[Part] = [frame.buffer]
        while frame.more:
            frame = self._socket.recv(_AT_ONCE, copy=False)
            parts.append(frame.buffer)
        return parts

    def close(self) -> None:
        """Close the socket."""
        self._line.close()
        self._socket.close()


class _Line:
    """A socket's one endpoint, watched over where it connects over a network."""

    def __init__(self, socket: zmq.Socket[Any], endpoint: str, *, bind: bool, guard: Guard) -> None:
        self._endpoint = endpoint
        self._link: Link | None = None
        try:
            guard.secure(socket, endpoint, bind=bind)
            if leaves_host(endpoint):
                prepare_for_network(socket)
            if endpoint.startswith("tcp://") and not bind:
                self._link = Link(socket)
            _attach(socket, endpoint, bind=bind)
        except SettingsError:
            self.close()
            socket.close()
            raise

    def mend(self) -> None:
        if self._link is not None and self._link.mend(self._endpoint):
            logger.warning("%s: connected again", self._endpoint)

    def close(self) -> None:
        if self._link is not None:
            self._link.close()


def make_context() -> zmq.Context[Any]:
    """Make the ZeroMQ context of a process."""
    return zmq.Context()


def _send_parts(socket: zmq.Socket[Any], parts: Sequence[Part], *, copy: bool) -> None:
    for part in parts[:-1]:
        socket.send(part, _MORE, copy=copy)
    socket.send(parts[-1], _LAST, copy=copy)


def _socket(context: zmq.Context[Any], kind: int, high_water: int) -> zmq.Socket[Any]:
    socket: zmq.Socket[Any] = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, high_water)
    socket.setsockopt(zmq.RCVHWM, high_water)
    socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
    return socket


def _attach(socket: zmq.Socket[Any], endpoint: str, *, bind: bool) -> None:
    if endpoint.startswith("ipc://"):
        folder = Path(endpoint.removeprefix("ipc://")).parent
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not os.access(folder, os.W_OK):
            raise SettingsError(f"endpoint {endpoint}: folder {folder} is not writable")
    try:
        socket.bind(endpoint) if bind else socket.connect(endpoint)
    except zmq.ZMQError as error:
        raise SettingsError(f"endpoint {endpoint} cannot be used: {error}") from None
