import h5py
import numpy as np
import pytest

from hrtem_stream import open_archive
from hrtem_stream.archive.encoding import FrameEncoder
from hrtem_stream.archive.writer import part_path
from hrtem_stream.errors import ArchiveError
from hrtem_stream.messages import LossRange, SeriesEnd
from tests.archive.series import archive_of, calibrated, create, rows


@pytest.mark.parametrize("n", [0, 1, 2])
def test_small_archives_can_be_read(tmp_path, n):
    with open_archive(archive_of(tmp_path / "s.nxs", n)) as archive:
        assert len(archive) == len(list(archive)) == n
        assert archive.shape == (40, 48)
        assert archive.dtype == np.uint16
        assert sorted(archive.ranking()) == sorted(archive.ranks()) == list(range(n))
        assert all(len(values) == n for values in archive.scores.values())
        assert archive.ledger.balanced
        assert archive.is_complete


def test_rows_count_from_the_end_and_stop_there(tmp_path):
    with open_archive(archive_of(tmp_path / "s.nxs", 3)) as archive:
        np.testing.assert_array_equal(archive.frame(-1), archive.frame(2))
        for read in (archive.frame, archive.runs, archive.mask, archive.vacuum, archive.thumbnail):
            with pytest.raises(IndexError, match="row must be below 3"):
                read(3)
            with pytest.raises(IndexError, match="row must be below 3"):
                read(-4)


def test_what_the_feed_said_comes_back(tmp_path):
    with open_archive(archive_of(tmp_path / "s.nxs", 1, start=calibrated())) as archive:
        assert archive.calibration.pixel_size_nm == 0.02
        assert archive.calibration.voltage_kv is None
        assert archive.header.start == calibrated()
        assert archive.header.provenance == {"version": "1"}


def test_zstd_is_read_without_the_plugin(tmp_path):
    path = archive_of(tmp_path / "s.nxs", 2, codec="zstd")
    with open_archive(path) as archive:
        assert archive.frame(1).any()
        assert archive.score("stored_bytes").sum() < archive.score("raw_bytes").sum()


def test_a_part_can_be_read_while_it_is_written(tmp_path):
    encoder = FrameEncoder((40, 48), dtype="<u2")
    writer = create(tmp_path / "s.nxs")
    writer.append(rows(0, 2, encoder=encoder), archived_ns=10**18)
    loss = LossRange(series="island", series_id="id-1", first=1, n_frames=3, reason="gap")
    writer.declare_loss(loss, ordinal=5)
    with open_archive(part_path(writer.path)) as archive:
        assert len(archive) == 2
        assert not archive.is_complete
        assert archive.ledger.lost == 2
        assert archive.ranks().tolist() == [-1, -1]
        assert archive.frame(1).any()
    writer.append(rows(2, 1, encoder=encoder), archived_ns=10**18)
    with open_archive(part_path(writer.path)) as archive:
        assert len(archive) == 3
    writer.close(SeriesEnd(n_received=4))


def test_what_is_no_archive_is_named(tmp_path):
    with pytest.raises(ArchiveError, match="there is no archive"):
        open_archive(tmp_path / "absent.nxs")
    with pytest.raises(ArchiveError, match="there is no archive"):
        open_archive(tmp_path)
    (tmp_path / "text.nxs").write_text("text")
    with pytest.raises(ArchiveError, match=r"text\.nxs cannot be opened"):
        open_archive(tmp_path / "text.nxs")
    with h5py.File(tmp_path / "other.nxs", "w") as file:
        file["entry/x"] = 1
    with pytest.raises(ArchiveError, match="is not an archive of hrtem_stream"):
        open_archive(tmp_path / "other.nxs")
    (tmp_path / "s.nxs.part").write_bytes(b"")
    with pytest.raises(ArchiveError, match=r"s\.nxs\.part"):
        open_archive(tmp_path / "s.nxs.part")


def test_a_file_that_grows_while_it_is_read_shows_as_many_frames_everywhere(tmp_path):
    encoder = FrameEncoder((40, 48), dtype="<u2", codec="deflate", keep="graphene")
    writer = create(tmp_path / "s.nxs")
    writer.append(rows(0, 3, encoder=encoder), archived_ns=10**18)
    with open_archive(tmp_path / "s.nxs.part") as archive:
        writer.append(rows(3, 4, encoder=encoder), archived_ns=10**18)
        assert len(archive) == len(archive.rows) == len(archive.score("graphene_fraction")) == 3
        np.testing.assert_array_equal(archive.frame(2).shape, (40, 48))
    with open_archive(tmp_path / "s.nxs.part") as archive:
        assert len(archive) == len(archive.score("method")) == 7
    writer.abandon()
