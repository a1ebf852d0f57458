"""What there is to do: series, and the blocks in which they are worked on.

A block is a share of a series. Its result is an archive of its own, whose name tells from what it
was made and how; so whoever comes again, after whatever death, finds it and does not repeat it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import xxhash

from hrtem_stream.errors import FeedError, SettingsError
from hrtem_stream.settings import Settings
from hrtem_stream.share import Share
from hrtem_stream.sources.files import open_frames
from hrtem_stream.sources.replay import series_of
from hrtem_stream.version import __version__

BLOCKS_FOLDER = ".blocks"
ANALYSIS_TABLES = ("normalise", "segment")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One task; as it travels to a worker it is names and numbers, never pixels."""

    source: str
    """Absolute, as `replay` takes it."""
    series: str
    share: Share
    n_frames: int
    output: str
    """Of the archive of this share."""
    settings: str
    """JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One series."""

    source: str
    series: str
    n_frames: int
    key: str
    """Digest of all on which the result depends."""
    source_digest: str
    output: Path
    blocks: tuple[Block, ...]

    @property
    def folder(self) -> Path:
        """Where its blocks lie until they are joined."""
        return Path(self.blocks[0].output).parent


def plan(
    sources: Sequence[str], output: Path, settings: Settings, *, block_frames: int
) -> list[Job]:
    """Divide series into blocks.

    Parameters
    ----------
    sources
        A file or folder each, as `replay` takes it.
    output
        Folder of the new archives.
    settings
        With which the frames are analysed.
    block_frames
        Frames of a block, at most.

    Raises
    ------
    FeedError
        A source cannot be read or has no frame.
    SettingsError
        Two series would have one output, a series would replace its own source, or `output` is no
        folder.
    """
    if output.exists() and not output.is_dir():
        raise SettingsError(f"--output {output} must be a folder, and is a file")
    jobs = [_job(source, output, settings, block_frames) for source in sources]
    by_output: dict[Path, Job] = {}
    for job in jobs:
        if job.output in by_output:
            raise SettingsError(
                f"{job.source} and {by_output[job.output].source} would both become {job.output}"
            )
        if job.output.resolve() == Path(job.source).resolve():
            raise SettingsError(f"--output {output} holds {job.source} itself; name another folder")
        by_output[job.output] = job
    return jobs


def analysis_of(settings: Settings) -> dict[str, object]:
    """Give what masks and scores depend on."""
    whole = settings.model_dump(mode="json")
    analysis: dict[str, object] = {name: whole[name] for name in ANALYSIS_TABLES}
    weights = settings.segment.weights
    if weights:
        analysis["weights"] = xxhash.xxh3_128_hexdigest(Path(weights).read_bytes())
    return analysis


def _job(source: str, output: Path, settings: Settings, block_frames: int) -> Job:
    path, separator, dataset = source.partition("::")
    source = f"{Path(path).absolute()}{separator}{dataset}"
    files = open_frames([source])
    n_frames = files.n_frames
    files.close()
    n_shares = -(-n_frames // block_frames)
    source_digest = _identity(source)
    asked = {
        "version": __version__, "analysis": analysis_of(settings), "n_shares": n_shares,
        "codec": settings.archive.codec, "keep": settings.archive.keep, "source": source_digest,
    }  # fmt: skip
    key = xxhash.xxh3_64_hexdigest(json.dumps(asked, sort_keys=True).encode())
    series = series_of([source])
    folder = output / BLOCKS_FOLDER / f"{series}-{key}"
    blocks = tuple(
        Block(
            source=source, series=series, share=share, settings=settings.model_dump_json(),
            n_frames=share.bounds(n_frames)[1] - share.bounds(n_frames)[0],
            output=str(folder / f"{share.number:06d}-of-{n_shares:06d}.nxs"),
        )
        for share in (Share(number, n_shares) for number in range(1, n_shares + 1))
    )  # fmt: skip
    return Job(
        source=source, series=series, n_frames=n_frames, key=key, source_digest=source_digest,
        output=output / f"{series}.nxs", blocks=blocks,
    )  # fmt: skip


def _identity(source: str) -> str:
    """Give a digest of names, sizes and times of the files behind a source, not of their pixels."""
    state = "\n".join(
        f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in _files(source)
    )
    return xxhash.xxh3_128_hexdigest(f"{source}\n{state}".encode())


def _files(source: str) -> Iterator[Path]:
    path = Path(source.partition("::")[0])
    if not path.exists():
        raise FeedError(f"{path} does not exist")
    if path.is_dir():
        yield from sorted(file for file in path.iterdir() if file.is_file())
    else:
        yield path
