"""What systemd is told of a service: that it is ready, that it stops, that it lives.

Protocol: sd_notify(3), a datagram to the socket that `NOTIFY_SOCKET` names. Without systemd nothing
is told.
"""

from __future__ import annotations

import contextlib
import os
import socket


def notify(state: str, *, environment: dict[str, str] | None = None) -> bool:
    """Send a state such as `READY=1`; tell whether there was somebody to hear it."""
    address = (os.environ if environment is None else environment).get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.sendto(state.encode(), address.replace("@", "\0", 1))
        return True
    return False
