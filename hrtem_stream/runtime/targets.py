"""The list of metrics ports that Prometheus finds by itself (file_sd)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path


class TargetFile:
    """A file that names the metrics ports of a session while it runs.

    A session that ends in order takes its file away; one whose supervisor was killed leaves it, and
    Prometheus says that its stages are down.

    Parameters
    ----------
    path
        The file; it lies in a folder that Prometheus looks through.
    session
        Name of the session, a label of all its metrics.
    """

    def __init__(self, path: Path, *, session: str) -> None:
        self._path = path
        self._session = session
        self._written: dict[str, str] = {}

    def write(self, addresses: Mapping[str, str]) -> None:
        """Write the addresses by process, if they have changed.

        A process that is being started again has no address for a moment: it keeps its last one.
        """
        known = {**self._written, **addresses}
        if known == self._written:
            return
        groups = [
            {"targets": [address], "labels": {"session": self._session, "process": process}}
            for process, address in sorted(known.items())
        ]
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        fresh = self._path.with_name(f".{self._path.name}.new")
        fresh.write_text(json.dumps(groups, indent=2), encoding="utf-8")
        fresh.replace(self._path)
        self._written = known

    def remove(self) -> None:
        """Take the file away."""
        with contextlib.suppress(OSError):
            self._path.unlink()
