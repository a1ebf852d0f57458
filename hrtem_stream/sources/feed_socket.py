"""The ZeroMQ socket on which a feed is heard, and how its connection fares."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import zmq

from hrtem_stream.errors import FeedError
from hrtem_stream.messages import FeedReject
from hrtem_stream.transport.guard import LOOPBACK_ONLY, Guard
from hrtem_stream.transport.link import Link, prepare_for_network

Pattern: TypeAlias = Literal["push", "pub"]


class FeedSocket:
    """Receives messages from a PUSH or a PUB socket, each part bounded in size."""

    def __init__(
        self,
        endpoint: str,
        *,
        pattern: Pattern,
        bind: bool,
        max_parts: int,
        max_part_bytes: int,
        n_buffered: int,
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
        max_parts
            A message of more parts is refused.
        max_part_bytes
            ZeroMQ closes the connection on a larger part, with all that waits in it.
        n_buffered
            Messages that ZeroMQ holds for us; with the frame's size, this bounds the memory.
        guard
            Says whether the socket may leave this host, and encrypts it.
        """
        self._endpoint = endpoint
        self._bind = bind
        self._max_parts = max_parts
        self._max_part_bytes = max_part_bytes
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(
            zmq.PULL if pattern == "push" else zmq.SUB
        )
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.RCVHWM, n_buffered),
            (zmq.MAXMSGSIZE, max_part_bytes),
        ):
            self._socket.setsockopt(option, value)
        prepare_for_network(self._socket)
        _keep_while_waiting(self._socket)
        if pattern == "pub":
            self._socket.subscribe(b"")
        self._guard = guard
        self._link = Link(self._socket)

    @property
    def is_connected(self) -> bool:
        """Whether a feed was there when `receive` last returned None."""
        return self._link.is_connected

    def open(self) -> None:
        """Connect or bind.

        Raises
        ------
        FeedError
            When the endpoint is malformed, or cannot be bound. A feed that is not there is no
            error to ZeroMQ: `receive` then returns None and `is_connected` is False.
        SettingsError
            When the endpoint leaves this host and there are no keys.
        """
        self._guard.secure(self._socket, self._endpoint, bind=self._bind)
        try:
            if self._bind:
                self._socket.bind(self._endpoint)
            else:
                self._socket.connect(self._endpoint)
        except zmq.ZMQError as error:
            verb = "bind" if self._bind else "connect to"
            raise FeedError(f"cannot {verb} {self._endpoint}: {error}") from error

    def receive(self, timeout_s: float) -> list[memoryview] | FeedReject | None:
        """Return the parts of the next message, None when none came within `timeout_s`."""
        if not self._socket.poll(max(0, math.ceil(timeout_s * 1000))):
            return self._look_after_link()
        parts = []
        n_parts = 0
        more = True
        while more:
            part = self._socket.recv(copy=False)
            more = part.more
            n_parts += 1
            if n_parts <= self._max_parts:
                parts.append(part.buffer)
        if n_parts > self._max_parts:
            allowed = " or ".join(str(number) for number in range(1, self._max_parts + 1))
            noun = "part" if self._max_parts == 1 else "parts"
            return FeedReject(
                reason="n_parts", message=f"message must have {allowed} {noun}, has {n_parts}"
            )
        return parts

    def close(self) -> None:
        """Close the socket; a second call does nothing."""
        self._link.close()
        self._socket.close()
        self._guard.close()

    def _look_after_link(self) -> FeedReject | None:
        """Connect again where ZeroMQ has given up, which loses what was on its way."""
        if self._bind or not self._link.is_given_up():
            return None
        self._socket.disconnect(self._endpoint)
        self._socket.connect(self._endpoint)
        return FeedReject(
            reason="connection_broken",
            message=(
                f"{self._endpoint} sent a part of more than {self._max_part_bytes} bytes, "
                "or speaks no ZeroMQ; connected again"
            ),
        )


def _keep_while_waiting(socket: zmq.Socket[bytes]) -> None:
    """Notice a feed whose host went away by TCP's own means, not by ZeroMQ's heartbeats.

    While we make a feed wait ZeroMQ reads nothing, the answer to a heartbeat neither. It would end
    the connection after seconds, and with it go the frames that wait in the feed's socket.
    """
    for option, value in (
        (zmq.HEARTBEAT_IVL, 0),
        (zmq.TCP_KEEPALIVE, 1),
        (zmq.TCP_KEEPALIVE_IDLE, 5),
        (zmq.TCP_KEEPALIVE_INTVL, 2),
        (zmq.TCP_KEEPALIVE_CNT, 3),
    ):
        socket.setsockopt(option, value)
