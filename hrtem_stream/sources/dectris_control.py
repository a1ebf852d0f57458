"""The counter of dropped images, read from a DECTRIS control unit's web interface (SIMPLON)."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
import urllib.error
import urllib.request
from typing import Final

logger = logging.getLogger(__name__)

_VERSION_PATH: Final = "/stream/api/version/"
_DROPPED_PATH: Final = "/stream/api/{version}/status/dropped"
_DEFAULT_VERSION: Final = "1.8.0"
_INTERVAL_S: Final = 2.0
_RECENT_S: Final = 0.5
_TIMEOUT_S: Final = 1.0
_MAX_ANSWER_BYTES: Final = 65_536


class ControlUnit:
    """Asks, in a thread, how many images were dropped since the series was armed.

    The feed waits for it only where images are missing, and at the end of a series.
    """

    def __init__(self, address: str, *, interval_s: float = _INTERVAL_S) -> None:
        """Begin to ask the control unit at `address`, such as http://detector."""
        self._address = address.rstrip("/")
        self._interval_s = interval_s
        # A proxy of the environment is never meant for an instrument on its own network.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._version = ""
        self._latest = 0
        self._read_s = -math.inf
        self._is_answering = True
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._ask_again_and_again, daemon=True)
        self._thread.start()

    @property
    def last(self) -> int:
        """The number last read."""
        return self._latest

    def at_least(self, n_images: int) -> bool:
        """Tell whether so many were dropped, by a reading of just now or not long ago."""
        if self._latest < n_images and time.monotonic() - self._read_s > _RECENT_S:
            self.read()
        return self._latest >= n_images

    def read(self) -> int | None:
        """Ask now, at most for a second or two; None when there is no usable answer."""
        with self._lock:
            return self._read()

    def _read(self) -> int | None:
        self._read_s = time.monotonic()
        try:
            if not self._version:
                version = self._get(_VERSION_PATH, missing_ok=True)
                usable = isinstance(version, str) and version.replace(".", "").isdigit()
                self._version = version if usable else _DEFAULT_VERSION  # type: ignore[assignment]
            value = self._get(_DROPPED_PATH.format(version=self._version))
        except (OSError, ValueError) as error:
            if self._is_answering:
                logger.warning("control unit %s does not answer: %s", self._address, error)
            self._is_answering = False
            return None
        self._is_answering = True
        if type(value) is not int or not 0 <= value < 2**63:
            return None
        if value > self._latest:
            logger.error("the control unit has dropped %d images", value)
        self._latest = value
        return value

    def close(self) -> None:
        """Stop asking."""
        self._closed.set()
        self._thread.join(2 * _TIMEOUT_S + 1)

    def _ask_again_and_again(self) -> None:
        while not self._closed.wait(self._interval_s):
            self.read()

    def _get(self, path: str, *, missing_ok: bool = False) -> object:
        """Read the value at a path of the interface.

        Raises
        ------
        OSError, ValueError
            When it cannot be reached, or does not answer with a value.
        """
        try:
            with self._opener.open(self._address + path, timeout=_TIMEOUT_S) as answer:
                content = json.loads(answer.read(_MAX_ANSWER_BYTES))
        except urllib.error.HTTPError:
            if missing_ok:
                return None
            raise
        return content.get("value") if isinstance(content, dict) else None
