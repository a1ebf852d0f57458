"""Archives that hold parts of a series, made into one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hrtem_stream import open_archive
from hrtem_stream.archive.encoding import FrameEncoder
from hrtem_stream.archive.joining import join
from hrtem_stream.archive.verify import verify
from hrtem_stream.errors import ArchiveError
from hrtem_stream.messages import LossRange, SeriesEnd
from hrtem_stream.share import Share
from tests.archive import series

N_FRAMES = 7


def _share(folder: Path, number: int, n_shares: int = 3, **changes: object) -> Path:
    """Write the archive of a share, as `replay --shard` does; frame 5 of the whole is lost."""
    share = Share(number, n_shares)
    first, end = share.bounds(N_FRAMES)
    path = folder / f"{number}.nxs"
    start = series.start(series_id=f"id-{number}", metadata=share.metadata(N_FRAMES))
    writer = series.create(path, start=start, **changes)
    encoder = FrameEncoder((40, 48), dtype="<u2")
    batch = []
    kept = [n for n in range(first, end) if n != 5]
    for row, n in enumerate(kept):
        frame = series.segmented(n)
        header = replace(frame.header, row=row, sequence=n - first, series_id=f"id-{number}")
        encoded = encoder.encode(series.pixels_of(n), frame.amorphous)
        batch.append((replace(frame, header=header), encoded))
    writer.append(batch, archived_ns=10**18 + 10**9)
    if first <= 5 < end:
        loss = LossRange(series="island", series_id=f"id-{number}", first=5 - first, n_frames=1,
                         reason="gap")  # fmt: skip
        writer.declare_loss(loss, ordinal=50)
    writer.close(SeriesEnd(n_received=end - first), ordinal=60)
    return path


def test_shares_in_any_order_make_the_series(tmp_path: Path) -> None:
    paths = [_share(tmp_path, number) for number in (3, 1, 2)]
    ledger = join(paths, tmp_path / "all.nxs")
    assert (ledger.received, ledger.archived, ledger.lost) == (7, 6, 1)
    assert (ledger.losses[0].first, ledger.losses[0].reason) == (5, "gap")
    with open_archive(tmp_path / "all.nxs") as archive:
        assert archive.score("sequence").tolist() == [0, 1, 2, 3, 4, 6]
        for row, n in enumerate([0, 1, 2, 3, 4, 6]):
            mask = archive.mask(row)
            np.testing.assert_array_equal(
                archive.frame(row)[~mask], series.pixels_of(n)[~mask], strict=True
            )
        assert "share" not in archive.header.start.metadata
        assert "1.nxs" in archive.header.provenance["joined"]
    assert verify(tmp_path / "all.nxs").differences == ()


def test_a_missing_share_or_one_there_twice_is_named(tmp_path: Path) -> None:
    one, two = _share(tmp_path, 1), _share(tmp_path, 2)
    with pytest.raises(ArchiveError, match="1 of 3 shares are missing: 3/3"):
        join([one, two], tmp_path / "all.nxs")
    with pytest.raises(ArchiveError, match=r"is share 1/3, as 1\.nxs"):
        join([one, one, two], tmp_path / "all.nxs")
    assert not (tmp_path / "all.nxs").exists()
    assert not (tmp_path / "all.nxs.part").exists()


def test_what_was_analysed_otherwise_is_not_joined(tmp_path: Path) -> None:
    paths = [_share(tmp_path, 1), _share(tmp_path, 2), _share(tmp_path, 3, keep="all")]
    with pytest.raises(ArchiveError, match=r"keep must be graphene as in 1\.nxs, is all"):
        join(paths, tmp_path / "all.nxs")


def test_an_unfinished_part_is_refused(tmp_path: Path) -> None:
    series.create(tmp_path / "a.nxs").abandon()
    with pytest.raises(ArchiveError, match="is not finished"):
        join([tmp_path / "a.nxs.part"], tmp_path / "all.nxs")
