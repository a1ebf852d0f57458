"""What commands share: reading values, refusing paths, printing."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hrtem_stream.errors import ArchiveError, SettingsError

if TYPE_CHECKING:
    from hrtem_stream.settings import Settings


def settings_of(config: Path | None, flags: dict[str, Any]) -> Settings:
    """Load the settings that a command runs with."""
    from hrtem_stream.settings import load_settings

    return load_settings(config, flags)


def parse_values(assignments: list[str] | None) -> dict[str, Any]:
    """Read KEY=VALUE, the value as JSON where it is, else as text."""
    values: dict[str, Any] = {}
    for assignment in assignments or []:
        key, sign, text = assignment.partition("=")
        if not sign:
            raise SettingsError(f"--set needs KEY=VALUE, got {assignment!r}")
        try:
            values[key.strip()] = json.loads(text)
        except ValueError:
            values[key.strip()] = text
    return values


def require_paths(paths: list[str]) -> None:
    """Refuse paths that do not exist."""
    for path in paths:
        if not absolute(path.partition("::")[0]).exists():
            raise SettingsError(f"{path} does not exist")


def absolute(path: str) -> Path:
    """Make a path absolute, without following links."""
    return Path.cwd() / Path(path).expanduser()


def require_writable(output: Path, overwrite: bool) -> None:
    """Refuse an output that exists or lies where nothing can be written."""
    if output.exists() and not overwrite:
        raise SettingsError(f"output {output} exists; --overwrite replaces it")
    if not output.parent.is_dir() or not os.access(output.parent, os.W_OK):
        raise SettingsError(f"output folder {output.parent} is missing or not writable")


@contextlib.contextmanager
def output_errors(output: Path) -> Iterator[None]:
    """Turn a failing write into an `ArchiveError`, leaving no half file.

    Raises
    ------
    ArchiveError
        The file cannot be written.
    """
    try:
        yield
    except OSError as error:
        output.unlink(missing_ok=True)
        raise ArchiveError(f"{output} cannot be written: {error.strerror}") from error


def require_torch() -> None:
    """Refuse to go on without torch.

    Raises
    ------
    SettingsError
        It is not installed.
    """
    from importlib.util import find_spec

    if find_spec("torch") is None:
        raise SettingsError("torch is not installed; pip install 'hrtem-stream[unet]'")


def count_methods(methods: list[str]) -> dict[str, int]:
    """Count frames by method."""
    return {name: methods.count(name) for name in ("unet", "bragg", "none")}


def print_json(content: dict[str, Any]) -> None:
    """Print one object on stdout; a number that is none, which JSON does not know, as null."""
    print(json.dumps(_finite(content), default=str))


def print_failure(message: str, exit_code: int, **more: Any) -> None:
    """Print on stdout, as one object, why a command that was asked for JSON has failed."""
    print_json({"error": message, "exit_code": exit_code, **more})


def say(text: str) -> None:
    """Print a sentence on stderr."""
    print(f"hrtem-stream: {text}", file=sys.stderr)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
