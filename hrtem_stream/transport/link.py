"""Keeps a connection over a network: notices one that died, and connects again where needed.

A host that goes away, or a cable that is pulled, shows nowhere in TCP; heartbeats find it. ZeroMQ
then connects again by itself, except after a breach of protocol: a part above MAXMSGSIZE is one, a
peer that refused our key another. There is then a disconnection without the retry that follows
one otherwise, and the socket would stay silent for ever.
"""

from __future__ import annotations

import logging
import math
import struct
import time
from typing import Any, Final

import zmq

logger = logging.getLogger(__name__)

RECONNECT_MS: Final = 20
RECONNECT_MAX_MS: Final = 1000
HEARTBEAT_MS: Final = 1000
HEARTBEAT_TIMEOUT_MS: Final = 6000
"""Longer than a full send buffer takes on a slow link: the answer waits behind it."""
CONNECT_TIMEOUT_MS: Final = 2000
HANDSHAKE_MS: Final = 5000
RETRY_WITHIN_S: Final = 0.5
"""ZeroMQ says that it tries again within milliseconds of a disconnection."""
LOOK_INTERVAL_S: Final = 0.25

_EVENTS: Final = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CONNECT_RETRIED
    | zmq.EVENT_CONNECT_DELAYED
    | zmq.EVENT_CONNECTED
)


def prepare_for_network(socket: zmq.Socket[Any]) -> None:
    """Let a socket notice a connection that died, and not wait long for a new one."""
    for option, value in (
        (zmq.RECONNECT_IVL, RECONNECT_MS),
        (zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS),
        (zmq.HEARTBEAT_IVL, HEARTBEAT_MS),
        (zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS),
        (zmq.CONNECT_TIMEOUT, CONNECT_TIMEOUT_MS),
        (zmq.HANDSHAKE_IVL, HANDSHAKE_MS),
    ):
        socket.setsockopt(option, value)


class Link:
    """Hears from ZeroMQ how the connections of a socket fare.

    Parameters
    ----------
    socket
        Not yet connected.
    """

    def __init__(self, socket: zmq.Socket[Any]) -> None:
        self._socket = socket
        self._monitor = socket.get_monitor_socket(_EVENTS)
        self._n_connected = 0
        self._broken_s = math.inf
        self._looked_s = 0.0
        self._is_refused = False

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, as of the last look."""
        return self._n_connected > 0

    def mend(self, endpoint: str) -> bool:
        """Connect again if ZeroMQ has given up; tell if so. It looks a few times a second only."""
        now_s = time.monotonic()
        if now_s - self._looked_s < LOOK_INTERVAL_S:
            return False
        self._looked_s = now_s
        if not self.is_given_up():
            return False
        self._socket.disconnect(endpoint)
        self._socket.connect(endpoint)
        return True

    def is_given_up(self) -> bool:
        """Hear what happened, and say whether ZeroMQ has given up."""
        while self._monitor.poll(0):
            event, _ = struct.unpack("=hi", self._monitor.recv_multipart()[0])
            self._note(event)
        is_given_up = time.monotonic() - self._broken_s > RETRY_WITHIN_S
        if is_given_up:
            self._broken_s = math.inf
        return is_given_up

    def close(self) -> None:
        """Stop listening."""
        if not self._socket.closed:
            self._socket.disable_monitor()
            self._monitor.close(0)

    def _note(self, event: int) -> None:
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            if not self._is_refused:
                logger.warning("a host refuses our key: run `hrtem-stream keys allow` there")
            self._is_refused = True
            return
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._n_connected += 1
            self._is_refused = False
        elif event == zmq.EVENT_DISCONNECTED:
            self._n_connected = max(0, self._n_connected - 1)
        self._broken_s = time.monotonic() if event == zmq.EVENT_DISCONNECTED else math.inf
