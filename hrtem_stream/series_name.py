"""Which names a series may have: archives are named after it, so a name must not leave a folder."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final

MAX_CHARACTERS: Final = 128
MAX_BYTES: Final = 200
"""In UTF-8: file systems allow 255, and the archive adds its own endings."""

_FORBIDDEN: Final = frozenset('/\\:*?"<>|')
"""Separators of paths, and what common file systems refuse."""


@lru_cache(maxsize=16)  # asked for each frame of a series, at each hop
def series_name_fault(name: str) -> str:
    """Say what keeps `name` from naming a series, in words; empty when it may.

    A name between our stages that breaks the rule is refused: one of a feed was mended before.
    """
    if not 1 <= len(name) <= MAX_CHARACTERS:
        return f"series name must have 1 to {MAX_CHARACTERS} characters, has {len(name)}"
    if not name.isprintable():
        return f"series name must be printable, got {name!a}"
    if len(name.encode()) > MAX_BYTES:
        return f"series name must have at most {MAX_BYTES} bytes, has {len(name.encode())}"
    forbidden = sorted(_FORBIDDEN.intersection(name))
    if forbidden:
        return f"series name must not contain {' '.join(forbidden)}, got {name!a}"
    if ".." in name or name[0] in " .-~" or name[-1] in " .":
        return (
            "series name must not contain '..', begin with space . - ~ or end with space or ., "
            f"got {name!a}"
        )
    return ""


@lru_cache(maxsize=16)  # asked for each frame of a series
def series_name_of_feed(text: str) -> str:
    """Name a series as its feed does where that may be, else as nearly as may be.

    A digest of the feed's name follows what was mended, so that names that differ stay different
    and their frames are not mixed in one archive.
    """
    if not text or not series_name_fault(text):
        return text
    digest = hashlib.blake2b(text.encode(errors="replace"), digest_size=4).hexdigest()
    return f"{series_name_from(text)[: MAX_CHARACTERS - 9]}-{digest}"


def series_name_from(text: str) -> str:
    """Make a series name of a file's name, which is ours to choose and stands for one path."""
    kept = "".join(c if c.isprintable() and c not in _FORBIDDEN else "_" for c in text)
    kept = kept.encode(errors="replace")[:MAX_CHARACTERS].decode(errors="ignore")
    kept = kept.replace("..", "_").lstrip(" .-~").rstrip(" .")
    return kept or "series"
