"""Works on one block, in a worker: reads its frames in place, analyses them, archives them."""

from __future__ import annotations

import functools
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash

from hrtem_stream.errors import HrtemError
from hrtem_stream.reprocess.plan import Block
from hrtem_stream.settings import Settings, settings_from_json

if TYPE_CHECKING:
    from hrtem_stream.stages.solitary import Analysis


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What came of a block."""

    output: str
    n_frames: int
    seconds: float
    was_there: bool = False
    """Whether an earlier run had made it."""
    problem: str = ""
    """Why there is no result; empty if there is one."""


def work_on(block: Block) -> Done:
    """Make the archive of a block, unless it is there; never raises an error of ours.

    The archive appears under its name when it is whole: two workers that do the same, as when one
    was thought dead, do no harm.
    """
    began_s = time.monotonic()
    output = Path(block.output)
    if output.exists():
        return Done(output=block.output, n_frames=block.n_frames, seconds=0.0, was_there=True)
    scratch = None
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f"{output.stem}-", dir=output.parent))
        made = _archive(block, scratch)
        made.replace(output)
    except (HrtemError, OSError) as error:
        return Done(output=block.output, n_frames=0, seconds=0.0, problem=str(error))
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
    return Done(output=block.output, n_frames=block.n_frames, seconds=time.monotonic() - began_s)


def _archive(block: Block, scratch: Path) -> Path:
    from hrtem_stream.sources.replay import ReplaySource
    from hrtem_stream.stages.series import SortedSeries
    from hrtem_stream.stages.solitary import archive_feed

    settings = settings_from_json(block.settings)
    made = scratch / "block.nxs"
    archive = settings.archive.model_copy(
        update={"file": str(made), "directory": str(scratch), "frames_per_file": 0}
    )
    feed = ReplaySource(
        [block.source], series=block.series, rate="max", memory_bytes=0, share=block.share
    )
    series = SortedSeries(
        archive=archive, settings_json=block.settings, closed=scratch / "closed",
        working_size=settings.normalise.working_size,
    )  # fmt: skip
    identity = f"{block.source} {block.share} {block.output}"
    try:
        archive_feed(
            feed, series, analyse=_analysis(block.settings), folder=scratch,
            series_id=xxhash.xxh3_64_hexdigest(identity.encode()), n_threads=1,
        )  # fmt: skip
    finally:
        series.abandon()  # nothing is open any more, unless something went wrong
    return made


@functools.lru_cache(maxsize=2)
def _analysis(settings_json: str) -> Analysis:
    """Give the stages, made once in a worker: loading the network takes longer than a frame."""
    from hrtem_stream.pipeline.analysis import make_analysis

    settings: Settings = settings_from_json(settings_json)
    return make_analysis(settings)
