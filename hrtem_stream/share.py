"""A share of the frames of a series: what one of n jobs takes of it, `2/8`.

Shares are contiguous, follow from their number alone, and differ by one frame at most.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

MAX_SHARES = 1_000_000
_KEYS = ("share", "share_first", "share_of_frames")
"""Of the metadata of a series that is a share of another."""


@dataclass(frozen=True, slots=True)
class Share:
    """Share `number`, from 1, of `n_shares`."""

    number: int = 1
    n_shares: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.n_shares <= MAX_SHARES:
            raise ValueError(f"a share must be i/n with 1 <= i <= n <= {MAX_SHARES}, got {self}")

    def __str__(self) -> str:
        return f"{self.number}/{self.n_shares}"

    @classmethod
    def parse(cls, text: str) -> Share:
        """Read `i/n`; empty: all.

        Raises
        ------
        ValueError
            It is not that.
        """
        if not text:
            return cls()
        match = re.fullmatch(r"(\d{1,7})/(\d{1,7})", text)
        if match is None:
            raise ValueError(f"a share must be i/n, such as 2/8, got {text!r}")
        return cls(int(match[1]), int(match[2]))

    def bounds(self, n_frames: int) -> tuple[int, int]:
        """Give the first of the frames, and the one after the last."""
        return (
            (self.number - 1) * n_frames // self.n_shares,
            self.number * n_frames // self.n_shares,
        )

    def metadata(self, n_frames: int) -> dict[str, str]:
        """Say in the metadata of a series which share it is of how many frames."""
        values = (str(self), str(self.bounds(n_frames)[0]), str(n_frames))
        return dict(zip(_KEYS, values, strict=True)) if self.n_shares > 1 else {}


@dataclass(frozen=True, slots=True)
class ShareNote:
    """What `Share.metadata` said."""

    share: Share
    first: int
    """Of the frames of the whole series."""
    n_frames: int
    """Of the whole series."""


def share_note(metadata: Mapping[str, str]) -> ShareNote | None:
    """Read which share a series is; None where it is whole.

    Raises
    ------
    ValueError
        The metadata say so, and are not sound.
    """
    if _KEYS[0] not in metadata:
        return None
    share, first, n_frames = (metadata.get(key, "") for key in _KEYS)
    note = ShareNote(Share.parse(share), int(first), int(n_frames))
    if note.first != note.share.bounds(note.n_frames)[0]:
        raise ValueError(f"share {share} of {n_frames} frames cannot begin at {first}")
    return note


def without_share(metadata: Mapping[str, str]) -> dict[str, str]:
    """Give the metadata of the whole series."""
    return {key: text for key, text in metadata.items() if key not in _KEYS}
