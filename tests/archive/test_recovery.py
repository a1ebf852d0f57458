import os
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest

from hrtem_stream.archive.encoding import FrameEncoder
from hrtem_stream.archive.reader import open_archive
from hrtem_stream.archive.recovery import recover
from hrtem_stream.archive.verify import verify
from hrtem_stream.archive.writer import ArchiveWriter, part_path
from hrtem_stream.errors import ArchiveError
from hrtem_stream.messages import SeriesEnd
from tests.archive.series import archive_of, create, pixels_of, rows

WRITER = """
import sys, itertools
from pathlib import Path
from hrtem_stream.archive.encoding import FrameEncoder
from hrtem_stream.archive.writer import ArchiveWriter, part_path
from hrtem_stream.messages import LossRange, SeriesEnd
from tests.archive.series import create, pixels_of, rows, segmented

path = Path(sys.argv[1])
encoder = FrameEncoder((40, 48), dtype="<u2")
writer = ArchiveWriter.resume(path) if part_path(path).exists() else create(path)
print(writer.next_row, flush=True)
for row in itertools.count(writer.next_row, 3):
    writer.append(rows(row, 3, encoder=encoder), archived_ns=10**18)
    print(writer.next_row, flush=True)
    if row % 4 == 0:
        loss = LossRange(series="s", series_id="id-1", first=10**6 + row, n_frames=1, reason="gap")
        writer.declare_loss(loss, ordinal=10**6 + row)
"""


@pytest.mark.processes
def test_a_writer_killed_at_any_moment_loses_nothing_that_it_committed(tmp_path):
    path = tmp_path / "s.nxs"
    rng = np.random.default_rng()
    n_committed = 0
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        resumed_at = int(process.stdout.readline())
        assert resumed_at >= n_committed
        time.sleep(rng.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        lines = process.stdout.read().split()
        process.wait()
        process.stdout.close()
        n_committed = max([resumed_at, *(int(line) for line in lines)])
        with h5py.File(part_path(path)) as file:
            assert file["entry/images/image"].shape[0] >= n_committed
        with open_archive(part_path(path)) as archive:
            assert len(archive) >= n_committed
    ledger = recover(part_path(path))
    assert ledger.archived >= n_committed > 0
    assert ledger.end_reason == "recovered"
    assert verify(path).differences == ()
    with open_archive(path) as archive:
        last = len(archive) - 1
        outside = ~archive.mask(last)
        np.testing.assert_array_equal(archive.frame(last)[outside], pixels_of(last)[outside])
    assert sorted(one.name for one in tmp_path.iterdir()) == ["s.nxs"]


class StoppingDisk:
    """In place of `os.pwrite`: from some moment on, nothing reaches the disk any more."""

    def __init__(self):
        self.n_writes = 0
        self.n_left = None
        self._write = os.pwrite

    def __call__(self, descriptor, payload, offset):
        if self.n_left is not None and self.n_writes >= self.n_left:
            return len(payload)
        self.n_writes += 1
        return self._write(descriptor, payload, offset)


def test_a_writer_stopped_between_any_two_writes_leaves_its_last_commit(tmp_path, monkeypatch):
    """Stop the disk, not the process: so every moment of an append can be tried."""
    encoder = FrameEncoder((40, 48), dtype="<u2")
    batches = [rows(first, 3, encoder=encoder) for first in (0, 3, 6)]
    disk = StoppingDisk()
    monkeypatch.setattr(os, "pwrite", disk)

    def stopped_after(path, n_writes):
        writer = create(path)
        writer.append(batches[0], archived_ns=10**18)
        disk.n_writes, disk.n_left = 0, n_writes
        writer.append(batches[1], archived_ns=10**18)
        writer.abandon()
        disk.n_left = None

    stopped_after(tmp_path / "whole.nxs", None)
    n_all = disk.n_writes
    assert n_all > 10
    found = set()
    for n_writes in range(n_all + 1):
        path = tmp_path / f"{n_writes}.nxs"
        stopped_after(path, n_writes)
        with h5py.File(part_path(path)) as file:  # as another program does, without the journal
            acknowledged = [file["entry/images/image"][:3]]
            acknowledged += [table[:3] for table in file["entry/scores"].values()]
            assert all(len(table) == 3 for table in acknowledged)
        writer = ArchiveWriter.resume(path)
        found.add(writer.next_row)
        for batch in batches[writer.next_row // 3 :]:
            writer.append(batch, archived_ns=10**18)
        writer.close(SeriesEnd(n_received=9))
        assert verify(path).differences == ()
    assert found == {3, 6}


def test_recovering_finishes_an_archive(tmp_path):
    writer = create(tmp_path / "s.nxs")
    encoder = FrameEncoder((40, 48), dtype="<u2")
    writer.append(rows(0, 5, encoder=encoder), archived_ns=10**18)
    writer.abandon()
    ledger = recover(part_path(writer.path))
    assert (ledger.received, ledger.archived, ledger.balanced) == (5, 5, True)
    assert verify(writer.path).differences == ()


def test_recovering_replaces_no_archive_unless_asked(tmp_path):
    path = archive_of(tmp_path / "s.nxs", 1)
    create(path, overwrite=True).abandon()
    with pytest.raises(ArchiveError, match="exists already"):
        recover(part_path(path))
    assert recover(part_path(path), overwrite=True).archived == 0


def test_only_a_part_can_be_recovered(tmp_path):
    with pytest.raises(ArchiveError, match=r"ends in \.part"):
        recover(archive_of(tmp_path / "s.nxs", 1))
    with pytest.raises(ArchiveError, match="No such file"):
        recover(tmp_path / "absent.nxs.part")
