"""Hands blocks to workers, and joins what they made: one new archive beside each old one."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from hrtem_stream.archive.joining import Original, join
from hrtem_stream.archive.reader import open_archive
from hrtem_stream.errors import ArchiveError, HrtemError, SettingsError
from hrtem_stream.reprocess.block import Done, work_on
from hrtem_stream.reprocess.plan import Block, Job
from hrtem_stream.settings import Settings
from hrtem_stream.sources.archive_files import is_archive

logger = logging.getLogger(__name__)

SCHEDULER_GONE = "the scheduler is gone: what is done stays, the same command goes on"
SAMPLE_FRAMES = 8
SHARES_AHEAD = 4
"""Tasks given to the scheduler for each worker at once; all of 10^6 frames would be a burden."""

Progress: TypeAlias = Callable[[int], None]
Do: TypeAlias = Callable[[Iterable[Block]], Iterator[tuple[Block, Done]]]
"""Does blocks, in whatever order, and gives each back with what came of it."""


@dataclass(slots=True, kw_only=True)
class Result:
    """What came of one series."""

    source: str
    output: str
    archived: int = 0
    lost: int = 0
    was_there: bool = False
    """Whether an earlier run had made the archive already."""
    n_blocks_there: int = 0
    """Blocks that an earlier run had made."""
    problems: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Give it for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a run would take."""

    n_series: int
    n_frames: int
    n_blocks: int
    core_hours: float
    output_bytes: int
    free_bytes: int
    """On the disk of the output."""


def reprocess(
    jobs: Sequence[Job],
    do: Do,
    *,
    command: str,
    overwrite: bool = False,
    progress: Progress = lambda n_frames: None,
) -> list[Result]:
    """Work on series, and join each when all of its blocks are there.

    Parameters
    ----------
    jobs
        From `plan`.
    do
        What does the blocks.
    command
        For the record in the archives.
    overwrite
        Whether an archive that was made otherwise is replaced.
    progress
        Told of frames that are done.

    Raises
    ------
    SettingsError
        An output exists that was not made from this, like this.
    """
    results = {job.key: Result(source=job.source, output=str(job.output)) for job in jobs}
    waiting = {}
    for job in jobs:
        if _is_made(job, overwrite=overwrite):
            _note_made(results[job.key], job)
            progress(job.n_frames)
        else:
            waiting[job.key] = job
    job_of = {block.output: job for job in waiting.values() for block in job.blocks}
    left = {job.key: len(job.blocks) for job in waiting.values()}
    blocks = (block for job in waiting.values() for block in job.blocks)
    for block, done in do(blocks):
        job = job_of[block.output]
        result = results[job.key]
        result.n_blocks_there += done.was_there
        if done.problem:
            result.problems.append(f"block {block.share}: {done.problem}")
        progress(block.n_frames)
        left[job.key] -= 1
        if not left[job.key] and not result.problems:
            _join(job, result, command=command, overwrite=overwrite)
    return list(results.values())


def in_this_process(blocks: Iterable[Block]) -> Iterator[tuple[Block, Done]]:
    """Do blocks one after the other, here."""
    for block in blocks:
        yield block, work_on(block)


@contextlib.contextmanager
def on_workers(*, scheduler: str = "", n_workers: int = 1) -> Iterator[Do]:
    """Do blocks on dask workers: those of a scheduler, or processes of this host's own.

    Raises
    ------
    SettingsError
        dask.distributed is not installed, or the scheduler does not answer.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise SettingsError("pip install 'hrtem-stream[cluster]' for --workers") from None
    with contextlib.ExitStack() as stack:
        if scheduler:
            try:
                client = stack.enter_context(_untyped(Client)(scheduler, timeout="20s"))
            except (OSError, TimeoutError, ValueError) as error:
                raise SettingsError(f"scheduler {scheduler} does not answer: {error}") from None
        else:
            cluster = stack.enter_context(
                _untyped(LocalCluster)(
                    n_workers=n_workers, threads_per_worker=1, processes=True, host="127.0.0.1",
                    dashboard_address=None, silence_logs=logging.ERROR,
                )
            )  # fmt: skip
            client = stack.enter_context(_untyped(Client)(cluster))
        yield lambda blocks: _submit(client, iter(blocks))


def _untyped(thing: Any) -> Any:
    """Let a thing of dask be called, which has no types."""
    return thing


def _submit(client: Any, blocks: Iterator[Block]) -> Iterator[tuple[Block, Done]]:
    """Keep the workers busy, with a few blocks each on the way.

    Raises
    ------
    HrtemError
        The scheduler is gone.
    """
    from distributed import CancelledError, as_completed

    under_way: Any = _untyped(as_completed)([])
    by_key: dict[str, Block] = {}

    def feed() -> None:
        try:
            n_workers = len(client.nthreads())
        except OSError:
            raise HrtemError(SCHEDULER_GONE) from None
        n_wanted = SHARES_AHEAD * max(1, n_workers)
        while len(by_key) < n_wanted:
            block = next(blocks, None)
            if block is None:
                return
            future = client.submit(work_on, block, key=f"block-{block.output}", pure=False)
            by_key[future.key] = block
            under_way.add(future)

    feed()
    for future in under_way:
        block = by_key.pop(future.key)
        try:
            error = future.exception()
            if isinstance(error, CancelledError):
                raise error
            done = future.result() if error is None else None
        except (CancelledError, OSError):
            raise HrtemError(SCHEDULER_GONE) from None
        if done is not None:
            yield block, done
        else:  # it killed its worker again and again
            words = f"{type(error).__name__}: {error}"
            yield block, Done(output=block.output, n_frames=0, seconds=0.0, problem=words[:500])
        future.release()
        feed()


def estimate(jobs: Sequence[Job], settings: Settings, output: Path) -> Estimate:
    """Time a sample of frames, and say what all would take."""
    import tempfile
    from dataclasses import replace

    from hrtem_stream.share import Share

    n_frames = sum(job.n_frames for job in jobs)
    seconds, n_bytes, n_sampled = 0.0, 0, 0
    for job in jobs[:4]:
        n_shares = max(1, job.n_frames // SAMPLE_FRAMES)
        with tempfile.TemporaryDirectory() as folder:
            block = replace(
                job.blocks[0], share=Share(n_shares // 2 + 1, n_shares),
                output=f"{folder}/sample.nxs", settings=settings.model_dump_json(),
            )  # fmt: skip
            work_on(replace(block, output=f"{folder}/warm.nxs"))  # compiled, loaded
            began_s = time.process_time()
            done = work_on(block)
            if done.problem:
                raise SettingsError(f"{job.source}: {done.problem}")
            seconds += time.process_time() - began_s
            with open_archive(done.output) as archive:
                n_sampled += len(archive)
            n_bytes += Path(done.output).stat().st_size
    while not output.exists():
        output = output.parent
    return Estimate(
        n_series=len(jobs), n_frames=n_frames, n_blocks=sum(len(job.blocks) for job in jobs),
        core_hours=seconds / max(1, n_sampled) * n_frames / 3600,
        output_bytes=round(n_bytes / max(1, n_sampled) * n_frames),
        free_bytes=shutil.disk_usage(output).free,
    )  # fmt: skip


def _is_made(job: Job, *, overwrite: bool) -> bool:
    if not job.output.exists():
        return False
    with contextlib.suppress(ArchiveError, ValueError, KeyError), open_archive(job.output) as made:
        if json.loads(made.header.provenance["reprocessed"])["key"] == job.key:
            return True
    if overwrite:
        return False
    raise SettingsError(f"{job.output} exists, made otherwise; --overwrite replaces it")


def _note_made(result: Result, job: Job) -> None:
    with open_archive(job.output) as archive:
        ledger = archive.ledger
    result.archived, result.lost, result.was_there = ledger.archived, ledger.lost, True


def _join(job: Job, result: Result, *, command: str, overwrite: bool) -> None:
    told = {
        "key": job.key, "source": job.source, "source_digest": job.source_digest,
        "command": command, "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "n_blocks": len(job.blocks),
    }  # fmt: skip
    try:
        ledger = join(
            [Path(block.output) for block in job.blocks], job.output, overwrite=overwrite,
            provenance={"reprocessed": json.dumps(told)}, original=_original(job),
        )  # fmt: skip
    except ArchiveError as error:
        result.problems.append(str(error))
        return
    result.archived, result.lost = ledger.archived, ledger.lost
    shutil.rmtree(job.folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        job.folder.parent.rmdir()


def _original(job: Job) -> Original | None:
    """Give numbers and losses of the series, if it lies in an archive of ours."""
    path = Path(job.source)
    if path.suffix not in (".nxs", ".part") or not is_archive(path):
        return None
    with open_archive(path) as archive:
        sequences = np.asarray(archive.score("sequence"), np.int64)
        return Original(sequences=sequences, losses=archive.ledger.losses)
