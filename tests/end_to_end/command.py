"""Running `hrtem-stream` as a user would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import psutil

from hrtem_stream.simulators.camera import SimulatedCamera

COMMAND = [sys.executable, "-m", "hrtem_stream"]
TIMEOUT_S = 150
ALONE = {"HRTEM_PAGE__ENABLED": "false", "HRTEM_ARCHIVE__REPORT": "false"}
"""A test that wants page or report says so; others need not wait for them."""


def first_on_path(folder: Path) -> dict[str, str]:
    """Give an environment in which Python looks for modules in a folder first."""
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def call(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=TIMEOUT_S,
        cwd=cwd, check=False, env={**ALONE, **os.environ},
    )  # fmt: skip


def call_json(*arguments: object, code: int = 0) -> dict[str, Any]:
    """Run a command with --json, check its exit code, and give the one object on stdout."""
    done = call(*arguments, "--json")
    assert done.returncode == code, f"exit {done.returncode}: {done.stderr[-3000:]}"
    content: dict[str, Any] = json.loads(done.stdout)
    return content


def simulated_frames(path: Path, *, n_frames: int, size: int) -> Path:
    """Write what `simulate` would, without a process of its own."""
    camera = SimulatedCamera(n_frames=n_frames, size=size, seed=0)
    np.savez(path, images=np.stack([frame.pixels for frame in camera]))
    return path


class Session:
    """A session that runs while a test does something to it."""

    running: ClassVar[list[Session]] = []
    """Those that a test has begun; `end_all` ends what a failed test leaves."""

    def __init__(self, *arguments: object, prefix: Sequence[str] = ()) -> None:
        self.running.append(self)
        self.process = subprocess.Popen(
            [*prefix, *COMMAND, *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**ALONE, **os.environ},
        )  # fmt: skip

    @classmethod
    def end_all(cls) -> None:
        """End every session that is left."""
        for session in cls.running:
            if session.process.poll() is None:
                session.process.kill()
                session.process.communicate()
        cls.running.clear()

    def children(self) -> dict[str, psutil.Process]:
        """Give the stage processes by name, such as segment-0."""
        found = {}
        for child in psutil.Process(self.process.pid).children():
            try:
                words = child.cmdline()
            except psutil.Error:
                continue
            if "hrtem_stream.pipeline" in words:
                at = words.index("hrtem_stream.pipeline")
                name, index = words[at + 1], words[at + 2]
                found[f"{name}-{index}" if name == "segment" else name] = child
        return found

    def wait_for(self, is_so: Callable[[], bool], timeout_s: float = 120.0) -> None:
        """Wait until something is so, while the session runs."""
        deadline = time.monotonic() + timeout_s
        while not is_so():
            if self.process.poll() is not None:
                raise AssertionError(f"the session ended: {self.process.communicate()[1][-3000:]}")
            if time.monotonic() > deadline:
                self.process.kill()
                raise AssertionError(f"it never was so: {self.process.communicate()[1][-3000:]}")
            time.sleep(0.02)

    def finish(self, *, code: int = 0) -> tuple[str, str]:
        """Wait for the end, check the exit code, and give stdout and stderr."""
        out, err = self.process.communicate(timeout=TIMEOUT_S)
        assert self.process.returncode == code, f"exit {self.process.returncode}: {err[-3000:]}"
        return out, err
