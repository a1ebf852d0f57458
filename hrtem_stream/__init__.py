"""Live segmentation, ranking and archiving of HRTEM frames of graphene."""

from typing import TYPE_CHECKING, Any

from hrtem_stream.version import __version__

if TYPE_CHECKING:
    from hrtem_stream.archive.reader import open_archive as open_archive

__all__ = ["__version__", "open_archive"]


def __getattr__(name: str) -> Any:
    """Import the reader only when it is asked for: `ingest` must start fast."""
    if name == "open_archive":
        from hrtem_stream.archive.reader import open_archive

        return open_archive
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
