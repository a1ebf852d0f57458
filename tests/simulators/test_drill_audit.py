"""The audit must find whatever is wrong: a drill that cannot fail proves nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from hrtem_stream.archive.encoding import FrameEncoder
from hrtem_stream.messages import LossRange, SeriesEnd
from hrtem_stream.simulators.drill_audit import Account, audit_series, is_closed
from hrtem_stream.simulators.drill_book import SentFrame, SentSeries, payload_digest
from tests.archive.series import archive_of, create, pixels_of, rows, segmented, start

N = 5


def _sent(n_frames: int = N, *, may_lose: bool = False) -> SentSeries:
    frames = {n: SentFrame(float(n), [payload_digest(pixels_of(n))]) for n in range(n_frames)}
    return SentSeries("island", may_lose, frames)


def _archive(folder: Path) -> None:
    archive_of(folder / "island.nxs", N, keep="all")


def _audit(
    series: SentSeries, folder: Path, may_lose: Callable[[float], bool] = lambda sent_s: False
) -> Account:
    account = Account()
    audit_series(account, series, folder, may_lose=may_lose)
    return account


def test_a_series_that_is_whole_is_sound(tmp_path: Path) -> None:
    _archive(tmp_path)
    assert is_closed(tmp_path, "island")
    account = Account()
    places = audit_series(account, _sent(), tmp_path, may_lose=lambda sent_s: False)
    assert account.is_sound
    assert (account.sent, account.archived, account.n_lost) == (N, N, 0)
    assert [place.ordinal for place in places] == [n + 1 for n in range(N)]
    assert {place.log_id for place in places} == {7}


def test_a_frame_that_is_nowhere_is_unaccounted(tmp_path: Path) -> None:
    _archive(tmp_path)
    account = _audit(_sent(N + 1), tmp_path)
    assert (account.archived, account.unaccounted, account.is_sound) == (N, 1, False)
    assert "neither archived nor declared lost" in account.findings[0]


def test_other_pixels_than_were_sent_are_a_mismatch(tmp_path: Path) -> None:
    _archive(tmp_path)
    series = _sent()
    series.frames[2].digests = [payload_digest(b"something else")]
    account = _audit(series, tmp_path)
    assert (account.mismatched, account.unaccounted, account.is_sound) == (1, 1, False)


def test_a_frame_in_two_files_is_duplicated(tmp_path: Path) -> None:
    _archive(tmp_path)
    archive_of(tmp_path / "island-2.nxs", 1, keep="all")
    account = _audit(_sent(), tmp_path)
    assert (account.archived, account.duplicated, account.is_sound) == (N, 1, False)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    import h5py

    _archive(tmp_path)
    with h5py.File(tmp_path / "island.nxs", "r+") as file:
        file["entry/scores/digest"][1] ^= 1
    account = _audit(_sent(), tmp_path)
    assert account.broken_archives == 1
    assert not account.is_sound


def _with_loss(folder: Path) -> None:
    """Archive frames 0, 1, 2 and 4, and declare 3 lost."""
    encoder = FrameEncoder((40, 48), dtype="<u2", codec="deflate", keep="all")
    writer = create(folder / "island.nxs", keep="all", start=start())
    writer.append(rows(0, 3, encoder=encoder), archived_ns=10**18)
    late = segmented(3, pixels=pixels_of(4), sequence=4)
    writer.append([(late, encoder.encode(pixels_of(4), late.amorphous))], archived_ns=10**18)
    loss = LossRange(series="island", series_id="id-1", first=3, n_frames=1, reason="missing")
    writer.declare_loss(loss, ordinal=5)
    writer.close(SeriesEnd(n_received=5), ordinal=6)


def test_a_loss_is_excused_where_the_feed_withheld_the_frame_or_could_not_wait(
    tmp_path: Path,
) -> None:
    _with_loss(tmp_path)
    withheld = _sent()
    withheld.frames[3].digests = []
    for series in (withheld, _sent(may_lose=True)):
        account = _audit(series, tmp_path)
        assert account.is_sound
        assert account.lost == {"missing": 1}
        assert account.sent == account.archived + account.n_lost


def test_a_loss_is_excused_only_around_the_death_of_ingest(tmp_path: Path) -> None:
    _with_loss(tmp_path)
    assert _audit(_sent(), tmp_path, lambda sent_s: sent_s == 3.0).is_sound
    account = _audit(_sent(), tmp_path, lambda sent_s: sent_s == 2.0)
    assert account.lost_without_cause == 1
    assert not account.is_sound


def test_a_second_payload_under_one_number_is_a_frame_of_its_own(tmp_path: Path) -> None:
    _archive(tmp_path)
    series = _sent()
    series.frames[1].digests.append(payload_digest(np.zeros(3)))
    account = _audit(series, tmp_path)
    assert (account.sent, account.archived, account.unaccounted) == (N + 1, N, 1)
    assert _audit(series, tmp_path, lambda sent_s: True).is_sound
