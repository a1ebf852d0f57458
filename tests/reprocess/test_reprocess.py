"""Recorded series, analysed again in blocks."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from hrtem_stream import open_archive
from hrtem_stream.archive.verify import verify
from hrtem_stream.archive.writer import ArchiveWriter
from hrtem_stream.errors import HrtemError, SettingsError
from hrtem_stream.messages import LossRange, SeriesEnd
from hrtem_stream.reprocess.block import Done, work_on
from hrtem_stream.reprocess.plan import Block, plan
from hrtem_stream.reprocess.run import in_this_process, on_workers, reprocess
from hrtem_stream.settings import Settings, load_settings
from hrtem_stream.simulators.camera import SimulatedCamera
from hrtem_stream.sources.files import open_frames
from tests.archive import series

N_FRAMES = 24


def _settings(**values: str) -> Settings:
    return load_settings(None, {"segment.segmenter": "bragg", "archive.keep": "all", **values})


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("frames") / "f.npz"
    pixels = [one.pixels for one in SimulatedCamera(n_frames=N_FRAMES, size=256, seed=5)]
    np.savez(path, images=np.stack(pixels))
    return path


def _content(path: Path) -> dict[str, object]:
    with open_archive(path) as archive:
        names = ("sequence", "graphene_fraction", "digest", "stored_digest", "method", "scale")
        return {
            "masks": np.stack([archive.mask(row) for row in range(len(archive))]).tolist(),
            "ranking": archive.ranking().tolist(),
            "losses": archive.ledger.losses,
            **{name: archive.score(name).tolist() for name in names},
        }


@pytest.fixture(scope="module")
def whole(frames: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What one block that holds all gives."""
    folder = tmp_path_factory.mktemp("whole")
    jobs = plan([str(frames)], folder, _settings(), block_frames=N_FRAMES)
    (result,) = reprocess(jobs, in_this_process, command="test")
    assert (result.archived, result.lost, result.problems) == (N_FRAMES, 0, [])
    return _content(folder / "f.nxs")


def test_blocks_joined_are_what_one_block_is(
    frames: Path, whole: dict[str, object], tmp_path: Path
) -> None:
    jobs = plan([str(frames)], tmp_path, _settings(), block_frames=7)
    assert [block.n_frames for block in jobs[0].blocks] == [6, 6, 6, 6]
    done: list[int] = []

    def backwards(blocks: Iterable[Block]) -> Iterator[tuple[Block, Done]]:
        return in_this_process(reversed(list(blocks)))

    reprocess(jobs, backwards, command="hrtem-stream reprocess f.npz", progress=done.append)
    assert sum(done) == N_FRAMES
    assert _content(tmp_path / "f.nxs") == whole
    assert verify(tmp_path / "f.nxs").differences == ()
    assert [path.name for path in tmp_path.iterdir()] == ["f.nxs"], "the blocks are gone"
    files = open_frames([str(frames)])
    with open_archive(tmp_path / "f.nxs") as archive:
        for row in range(N_FRAMES):
            np.testing.assert_array_equal(archive.frame(row), files.read(row).pixels)
        told = json.loads(archive.header.provenance["reprocessed"])
        assert told["source"] == str(frames)
        assert told["command"] == "hrtem-stream reprocess f.npz"
    files.close()


def test_what_was_done_is_not_done_again(
    frames: Path, whole: dict[str, object], tmp_path: Path
) -> None:
    jobs = plan([str(frames)], tmp_path, _settings(), block_frames=8)

    def dies(blocks: Iterable[Block]) -> Iterator[tuple[Block, Done]]:
        yield from zip(blocks, map(work_on, jobs[0].blocks[:2]), strict=False)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reprocess(jobs, dies, command="test")
    (result,) = reprocess(jobs, in_this_process, command="test")
    assert (result.n_blocks_there, result.was_there) == (2, False)
    assert _content(tmp_path / "f.nxs") == whole
    before = (tmp_path / "f.nxs").stat().st_mtime_ns
    (result,) = reprocess(jobs, in_this_process, command="test")
    assert (result.was_there, result.archived) == (True, N_FRAMES)
    assert (tmp_path / "f.nxs").stat().st_mtime_ns == before


def test_other_settings_are_other_work(frames: Path, tmp_path: Path) -> None:
    (one,) = plan([str(frames)], tmp_path, _settings(), block_frames=8)
    (other,) = plan(
        [str(frames)], tmp_path, _settings(**{"normalise.mode": "resize"}), block_frames=8
    )
    assert one.key != other.key
    reprocess([one], in_this_process, command="test")
    with pytest.raises(SettingsError, match="exists, made otherwise; --overwrite"):
        reprocess([other], in_this_process, command="test")
    reprocess([other], in_this_process, command="test", overwrite=True)
    with open_archive(one.output) as archive:
        assert json.loads(archive.header.provenance["reprocessed"])["key"] == other.key


def test_a_series_never_replaces_its_source(frames: Path, tmp_path: Path) -> None:
    jobs = plan([str(frames)], tmp_path, _settings(), block_frames=99)
    reprocess(jobs, in_this_process, command="test")
    with pytest.raises(SettingsError, match="name another folder"):
        plan([str(tmp_path / "f.nxs")], tmp_path, _settings(), block_frames=99)
    with pytest.raises(SettingsError, match="would both become"):
        plan([str(frames)] * 2, tmp_path, _settings(), block_frames=99)


def test_the_output_must_be_a_folder(frames: Path) -> None:
    with pytest.raises(SettingsError, match="must be a folder, and is a file"):
        plan([str(frames)], frames, _settings(), block_frames=99)


def test_numbers_and_losses_of_an_archive_are_carried_over(tmp_path: Path) -> None:
    source = tmp_path / "s.nxs"
    writer = series.create(source, shape=(64, 64), keep="all")
    _fill(writer, sequences=[0, 1, 4, 5, 9])
    jobs = plan([str(source)], tmp_path / "again", _settings(), block_frames=2)
    (result,) = reprocess(jobs, in_this_process, command="test")
    assert (result.archived, result.lost, result.problems) == (5, 3, [])
    with open_archive(source) as old, open_archive(jobs[0].output) as new:
        assert new.score("sequence").tolist() == [0, 1, 4, 5, 9]
        assert new.ledger.losses == old.ledger.losses
        assert new.score("digest").tolist() == old.score("digest").tolist()
        assert new.score("name").tolist() == old.score("name").tolist()
        assert new.calibration == old.calibration
    assert verify(jobs[0].output).differences == ()


def _fill(writer: ArchiveWriter, *, sequences: list[int]) -> None:
    from hrtem_stream.archive.encoding import FrameEncoder

    encoder = FrameEncoder((64, 64), dtype="<u2", keep="all")
    batch = []
    for row, sequence in enumerate(sequences):
        pixels = series.pixels_of(row, shape=(64, 64))
        frame = series.segmented(row, pixels=pixels)
        header = replace(frame.header, sequence=sequence)
        batch.append((replace(frame, header=header), encoder.encode(pixels, frame.amorphous)))
    writer.append(batch, archived_ns=10**18 + 10**9)
    loss = LossRange(series="island", series_id="id-1", first=2, n_frames=2, reason="gap")
    writer.declare_loss(loss, ordinal=20)
    writer.declare_loss(replace(loss, first=8, n_frames=1), ordinal=21)
    writer.close(SeriesEnd(n_received=8), ordinal=22)


def test_what_fails_is_named_and_the_other_series_are_done(
    frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "g.npz"
    other.write_bytes(frames.read_bytes())
    jobs = plan([str(frames), str(other)], tmp_path / "out", _settings(), block_frames=12)
    other.unlink()
    results = reprocess(jobs, in_this_process, command="test")
    assert (results[0].archived, results[0].problems) == (N_FRAMES, [])
    assert len(results[1].problems) == 2
    assert "g.npz" in results[1].problems[0]
    assert not jobs[1].output.exists()


@pytest.mark.processes
def test_a_worker_that_is_killed_changes_nothing(
    frames: Path, whole: dict[str, object], tmp_path: Path
) -> None:
    pytest.importorskip("distributed")
    jobs = plan([str(frames)], tmp_path, _settings(), block_frames=3)
    killed: list[int] = []

    def kill_one(n_frames: int) -> None:
        """Kill a worker when the first block is done."""
        if not killed:
            killed.append(_kill_a_worker())

    with on_workers(n_workers=2) as do:
        (result,) = reprocess(jobs, do, command="test", progress=kill_one)
    assert killed
    assert (result.archived, result.problems) == (N_FRAMES, [])
    assert _content(tmp_path / "f.nxs") == whole


def _kill_a_worker() -> int:
    workers = [
        child
        for child in psutil.Process().children(recursive=True)
        if "spawn_main" in " ".join(child.cmdline())
    ]
    os.kill(workers[-1].pid, signal.SIGKILL)
    return workers[-1].pid


@pytest.mark.processes
def test_a_scheduler_that_dies_is_said_so_and_what_is_done_stays(
    frames: Path, whole: dict[str, object], tmp_path: Path
) -> None:
    pytest.importorskip("distributed")
    jobs = plan([str(frames)], tmp_path, _settings(), block_frames=3)
    options = ["--host", "127.0.0.1", "--no-dashboard"]
    address = f"tcp://127.0.0.1:{_free_port()}"
    command = [sys.executable, "-W", "ignore", "-m", "distributed.cli.dask_scheduler", *options]
    scheduler = subprocess.Popen(
        [*command, "--port", address.rpartition(":")[2]],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    worker = subprocess.Popen(
        [
            sys.executable, "-W", "ignore", "-m", "distributed.cli.dask_worker", address,
            "--nthreads", "1", "--no-dashboard", "--no-nanny",
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        with (
            pytest.raises(HrtemError, match="scheduler is gone"),
            on_workers(scheduler=address) as do,
        ):
            reprocess(jobs, do, command="test", progress=lambda n: scheduler.kill())
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.wait()
    (result,) = reprocess(jobs, in_this_process, command="test")
    assert result.n_blocks_there >= 1
    assert _content(tmp_path / "f.nxs") == whole


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
