import pytest

from hrtem_stream.archive.encoding import FrameEncoder
from hrtem_stream.archive.layout import ArchiveHeader
from hrtem_stream.archive.reader import open_archive
from hrtem_stream.archive.rotation import CONTINUED, SeriesArchive, files_of
from hrtem_stream.archive.verify import verify
from hrtem_stream.archive.writer import ArchiveWriter
from hrtem_stream.errors import ArchiveError
from hrtem_stream.messages import LossRange, SeriesEnd
from tests.archive.series import WORKING_SHAPE, rows, start

ENCODER = FrameEncoder((40, 48), dtype="<u2")


def header(series_id="id-1"):
    return ArchiveHeader(
        start=start(series_id=series_id),
        shape=(40, 48),
        dtype="<u2",
        codec="deflate",
        keep="graphene",
        provenance={},
        log_id=7,
        ordinal=0,
        first_row=0,
        working_shape=WORKING_SHAPE,
        coefficients_shape=(3, 3),
    )


def loss(first, n_frames):
    return LossRange(series="island", series_id="id-1", first=first, n_frames=n_frames, reason="g")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_without_rotation_there_is_one_file_of_the_given_name(tmp_path):
    series = SeriesArchive.create(tmp_path / "s.nxs", header=header())
    series.append(rows(0, 5, encoder=ENCODER), archived_ns=10**18)
    series.close(SeriesEnd(n_received=5))
    assert names(tmp_path) == ["s.nxs"]
    assert verify(tmp_path / "s.nxs").differences == ()


def test_each_row_lies_in_the_file_that_its_number_says(tmp_path):
    series = SeriesArchive.create(tmp_path / "s.nxs", header=header(), frames_per_file=4)
    frames = rows(0, 11, encoder=ENCODER)
    series.append(frames[:3], archived_ns=10**18)
    series.append(frames[3:], archived_ns=10**18)
    assert names(tmp_path)[:2] == ["s_0001.nxs", "s_0002.nxs"]
    ledger = series.close(SeriesEnd(n_received=11), ordinal=99)
    assert (ledger.received, ledger.archived, ledger.balanced) == (11, 11, True)
    assert names(tmp_path) == ["s_0001.nxs", "s_0002.nxs", "s_0003.nxs"]
    for index, n in enumerate((4, 4, 3)):
        path = tmp_path / f"s_000{index + 1}.nxs"
        assert verify(path).differences == ()
        with open_archive(path) as archive:
            assert archive.rows.tolist() == list(range(4 * index, 4 * index + n))
            assert archive.score("sequence").tolist() == archive.rows.tolist()
            assert archive.ledger.end_reason == ("" if index == 2 else CONTINUED)


def test_a_series_that_ends_with_a_full_file_has_no_empty_one(tmp_path):
    series = SeriesArchive.create(tmp_path / "s.nxs", header=header(), frames_per_file=4)
    series.append(rows(0, 8, encoder=ENCODER), archived_ns=10**18)
    series.close(SeriesEnd(n_received=8))
    assert names(tmp_path) == ["s_0001.nxs", "s_0002.nxs"]


@pytest.mark.parametrize("stopped_at", range(1, 10))
def test_resuming_goes_on_in_the_right_file(tmp_path, stopped_at):
    series = SeriesArchive.create(tmp_path / "s.nxs", header=header(), frames_per_file=3)
    frames = rows(0, 10, encoder=ENCODER)
    series.declare_loss(loss(20, 2), ordinal=50)
    series.append(frames[:stopped_at], archived_ns=10**18)
    series.abandon()
    again = SeriesArchive.resume(tmp_path / "s.nxs", frames_per_file=3)
    assert again.next_row == stopped_at
    assert again.last_ordinal == 50
    again.declare_loss(loss(20, 2), ordinal=50)
    again.append(frames, archived_ns=10**18)
    ledger = again.close(SeriesEnd(n_received=12))
    assert (ledger.archived, ledger.lost, ledger.balanced) == (10, 2, True)
    assert names(tmp_path) == [f"s_000{n}.nxs" for n in (1, 2, 3, 4)]
    assert all(verify(path).differences == () for path in tmp_path.iterdir())


def test_a_stop_between_two_files_is_resumed_in_the_second(tmp_path, monkeypatch):
    series = SeriesArchive.create(tmp_path / "s.nxs", header=header(), frames_per_file=3)
    frames = rows(0, 5, encoder=ENCODER)

    def fails(*args, **kwargs):
        raise ArchiveError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(ArchiveWriter, "create_from", fails)
        with pytest.raises(ArchiveError, match="no room"):
            series.append(frames, archived_ns=10**18)
    assert names(tmp_path) == ["s_0001.nxs"]
    assert series.next_row == 3
    series.abandon()
    again = SeriesArchive.resume(tmp_path / "s.nxs", frames_per_file=3)
    assert again.next_row == 3
    again.append(frames, archived_ns=10**18)
    again.close(SeriesEnd(n_received=5))
    assert names(tmp_path) == ["s_0001.nxs", "s_0002.nxs"]


def test_rotation_that_failed_for_a_full_disk_is_made_up_for(tmp_path, monkeypatch):
    series = SeriesArchive.create(tmp_path / "s.nxs", header=header(), frames_per_file=3)
    frames = rows(0, 5, encoder=ENCODER)

    def fails(*args, **kwargs):
        raise ArchiveError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(ArchiveWriter, "create_from", fails)
        for _ in range(2):
            with pytest.raises(ArchiveError, match="no room"):
                series.append(frames, archived_ns=10**18)
    series.append(frames, archived_ns=10**18)
    assert series.last_ordinal == 5
    series.close(SeriesEnd(n_received=5))
    assert all(verify(path).differences == () for path in tmp_path.iterdir())


def test_a_frame_that_comes_after_its_file_was_closed_is_not_lost_in_the_whole(tmp_path):
    series = SeriesArchive.create(tmp_path / "s.nxs", header=header(), frames_per_file=2)
    frames = rows(0, 4, encoder=ENCODER)
    series.declare_loss(loss(3, 2), ordinal=50)
    series.append(frames[:3], archived_ns=10**18)
    series.append(frames[3:], archived_ns=10**18)
    ledger = series.close(SeriesEnd(n_received=5))
    assert (ledger.archived, ledger.lost, ledger.balanced) == (4, 1, True)


def test_a_finished_series_is_not_resumed(tmp_path):
    series = SeriesArchive.create(tmp_path / "s.nxs", header=header(), frames_per_file=2)
    series.append(rows(0, 3, encoder=ENCODER), archived_ns=10**18)
    series.close(SeriesEnd(n_received=3))
    with pytest.raises(ArchiveError, match="finished"):
        SeriesArchive.resume(tmp_path / "s.nxs", frames_per_file=2)
    with pytest.raises(ArchiveError, match="No such file"):
        SeriesArchive.resume(tmp_path / "absent.nxs", frames_per_file=2)
    with pytest.raises(ArchiveError, match="No such file"):
        SeriesArchive.resume(tmp_path / "absent.nxs")


def test_a_changed_number_of_frames_a_file_is_refused(tmp_path):
    series = SeriesArchive.create(tmp_path / "s.nxs", header=header(), frames_per_file=2)
    series.append(rows(0, 3, encoder=ENCODER), archived_ns=10**18)
    series.abandon()
    with pytest.raises(ArchiveError, match="frames_per_file is 3 now"):
        SeriesArchive.resume(tmp_path / "s.nxs", frames_per_file=3)
    with pytest.raises(ValueError, match="at least 1"):
        SeriesArchive.create(tmp_path / "t.nxs", header=header(), frames_per_file=0)


def test_files_of_an_older_series_are_not_taken_for_this_one(tmp_path):
    older = SeriesArchive.create(tmp_path / "s.nxs", header=header("old"), frames_per_file=2)
    older.append(rows(0, 6, encoder=ENCODER), archived_ns=10**18)
    older.close(SeriesEnd(n_received=6))
    series = SeriesArchive.create(
        tmp_path / "s.nxs", header=header("new"), frames_per_file=2, overwrite=True
    )
    frames = rows(0, 5, encoder=ENCODER)
    series.append(frames[:2], archived_ns=10**18)
    series._writer.close(SeriesEnd(reason=CONTINUED))
    again = SeriesArchive.resume(tmp_path / "s.nxs", frames_per_file=2, overwrite=True)
    assert again.next_row == 2
    again.append(frames, archived_ns=10**18)
    again.close(SeriesEnd(n_received=5))
    for path in tmp_path.iterdir():
        with open_archive(path) as archive:
            assert archive.header.start.series_id == "new"


def test_a_series_whose_first_files_were_moved_away_goes_on(tmp_path):
    series = SeriesArchive.create(tmp_path / "s.nxs", header=header(), frames_per_file=2)
    frames = rows(0, 9, encoder=ENCODER)
    series.append(frames[:7], archived_ns=10**18)
    series.abandon()
    (tmp_path / "s_0001.nxs").rename(tmp_path / "kept.nxs")
    again = SeriesArchive.resume(tmp_path / "s.nxs", frames_per_file=2)
    assert (again.base_row, again.next_row) == (2, 7)
    assert again.fractions().size == 5
    again.append(frames, archived_ns=10**18)
    again.close(SeriesEnd())
    assert [path.name for path in again.paths] == [f"s_000{n}.nxs" for n in (2, 3, 4, 5)]
    found = []
    for path in again.paths:
        assert verify(path).differences == ()
        with open_archive(path) as archive:
            found.append(archive.rows.tolist())
    assert found == [[2, 3], [4, 5], [6, 7], [8]]


def test_the_files_of_a_series_end_where_those_of_an_older_one_begin(tmp_path):
    older = SeriesArchive.create(tmp_path / "s.nxs", header=header("old"), frames_per_file=1)
    older.append(rows(0, 4, encoder=ENCODER), archived_ns=10**18)
    older.close(SeriesEnd(n_received=4))
    series = SeriesArchive.create(
        tmp_path / "s.nxs", header=header("new"), frames_per_file=1, overwrite=True
    )
    series.append(rows(0, 2, encoder=ENCODER), archived_ns=10**18)
    part = files_of(tmp_path / "s.nxs", frames_per_file=1)
    assert {n: path.name for n, path in part.items()} == {0: "s_0001.nxs", 1: "s_0002.nxs.part"}
    series._writer.close(SeriesEnd(reason=CONTINUED))
    assert list(files_of(tmp_path / "s.nxs", frames_per_file=1)) == [0, 1]
    assert list(files_of(tmp_path / "s.nxs", frames_per_file=1, series_id="new")) == [0, 1]
    assert files_of(tmp_path / "s.nxs", frames_per_file=1, series_id="old") == {}
    assert files_of(tmp_path / "absent.nxs", frames_per_file=1) == {}
