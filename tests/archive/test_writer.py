import errno
import os
import resource
from dataclasses import replace

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hrtem_stream.archive.encoding import FrameEncoder
from hrtem_stream.archive.journal import JournalledFile, journal_path
from hrtem_stream.archive.reader import open_archive
from hrtem_stream.archive.verify import verify
from hrtem_stream.archive.writer import ArchiveWriter, part_path
from hrtem_stream.errors import ArchiveError
from hrtem_stream.messages import LossRange, SeriesEnd
from hrtem_stream.science.run_length import flatten
from tests.archive.series import (
    archive_of,
    calibrated,
    create,
    mask_of,
    pixels_of,
    rows,
    segmented,
)

ENCODER = FrameEncoder((40, 48), dtype="<u2")


def loss(first, n_frames, reason="gap"):
    return LossRange(
        series="island", series_id="id-1", first=first, n_frames=n_frames, reason=reason
    )


@settings(deadline=None, max_examples=12)
@given(
    n=st.integers(0, 9),
    shape=st.sampled_from(((1, 1), (40, 48), (33, 17))),
    dtype=st.sampled_from(("|u1", "<u2", "<u4", "<i2", "<i4", "<f4", "<f8")),
    codec=st.sampled_from(("deflate", "zstd", "none")),
    keep=st.sampled_from(("graphene", "all")),
)
def test_what_was_appended_is_read_back_by_our_reader_and_by_h5py(
    tmp_path_factory, n, shape, dtype, codec, keep
):
    import hdf5plugin  # noqa: F401

    path = tmp_path_factory.mktemp("archive") / "s.nxs"
    archive_of(path, n, codec=codec, keep=keep, shape=shape, dtype=dtype)
    assert verify(path).differences == ()
    with h5py.File(path) as file, open_archive(path) as archive:
        assert len(archive) == n
        for row in range(n):
            pixels = pixels_of(row, shape=shape, dtype=dtype)
            runs = archive.runs(row)
            flat, value = flatten(pixels, start=runs.start, length=runs.length)
            stored = flat if keep == "graphene" else pixels
            assert archive.frame(row).tobytes() == stored.tobytes()
            assert file["entry/images/image"][row].tobytes() == stored.tobytes()
            assert runs.value.tobytes() == value.tobytes()
            outside = ~archive.mask(row)
            np.testing.assert_array_equal(archive.frame(row)[outside], pixels[outside])


def test_every_name_that_scripts_rely_on_is_there(tmp_path):
    path = archive_of(tmp_path / "s.nxs", 3, start=calibrated())
    with h5py.File(path) as file:
        for name in (
            "title", "start_time", "images/image", "images/frame", "images/y", "images/x",
            "ranked/image", "runs/frame_offset", "runs/start", "runs/length", "runs/value",
            "scores/graphene_fraction", "scores/amorphous_fraction", "scores/vacuum_fraction",
            "scores/beam_off_fraction", "scores/rank", "scores/method", "scores/attempt",
            "scores/latency", "scores/digest", "scores/stored_digest", "scores/sequence",
            "scores/ordinal", "scores/name", "scores/fault", "scores/acquired_ns",
            "scores/received_ns", "scores/archived_ns", "illumination/coefficients",
            "thumbnails/image", "vacuum/bits", "beam_off/bits", "set_aside/bytes",
            "ledger/lost/first", "ledger/lost/n_frames", "ledger/lost/reason", "process/version",
            "calibration/pixel_size_nm",
        ):  # fmt: skip
            assert f"/entry/{name}" in file, name
        entry = file["entry"]
        assert entry["scores/method"].asstr()[:].tolist() == ["bragg"] * 3
        assert entry["scores/name"].asstr()[2] == "frame 2 ångström"
        np.testing.assert_allclose(entry["scores/latency"][:], [1, 0.999, 0.998])
        assert entry["images/x"].attrs["units"] == "nm"
        np.testing.assert_allclose(entry["images/x"][:3], [0, 0.02, 0.04])
        assert entry["runs/frame_offset"].dtype == np.uint64
        assert entry["runs/value"].dtype == entry["images/image"].dtype
        assert entry["start_time"].asstr()[()] == "2001-09-09T01:46:40+00:00"


def test_the_ranked_view_shows_the_best_frame_first_and_nan_last(tmp_path):
    writer = create(tmp_path / "s.nxs")
    batch = rows(0, 5, encoder=ENCODER)
    fractions = [0.5, np.nan, 0.9, 0.5, 0.1]
    batch = [
        (replace(frame, graphene_fraction=fraction), encoded)
        for (frame, encoded), fraction in zip(batch, fractions, strict=True)
    ]
    writer.append(batch, archived_ns=10**18)
    writer.close(SeriesEnd(n_received=5))
    with h5py.File(tmp_path / "s.nxs") as file:
        assert file["entry/scores/rank"][:].tolist() == [1, 4, 0, 2, 3]
        assert file["entry/ranked/row"][:].tolist() == [2, 0, 3, 4, 1]
        shown = file["entry/ranked/image"][:]
        np.testing.assert_array_equal(shown, file["entry/images/image"][:][[2, 0, 3, 4, 1]])


def test_an_archive_without_frames_has_a_ledger_and_no_default_plot(tmp_path):
    writer = create(tmp_path / "s.nxs")
    writer.declare_loss(loss(0, 4), ordinal=1)
    ledger = writer.close(SeriesEnd(n_received=4), ordinal=2)
    assert (ledger.received, ledger.archived, ledger.lost, ledger.balanced) == (4, 0, 4, True)
    with h5py.File(tmp_path / "s.nxs") as file:
        assert "default" not in file["entry"].attrs
        assert "ranked" not in file["entry"]
        assert file["entry/ledger"].attrs["lost"] == 4
    assert verify(tmp_path / "s.nxs").differences == ()


def test_the_default_plot_is_named_with_the_first_frame(tmp_path):
    writer = create(tmp_path / "s.nxs")
    writer.append(rows(0, 1, encoder=ENCODER), archived_ns=10**18)
    with h5py.File(part_path(writer.path)) as file:
        assert file.attrs["default"] == "entry"
        assert file["entry"].attrs["default"] == "images"
        assert file["entry/images"].attrs["signal"] == "image"
        assert file["entry/images"].attrs["interpretation"] == "image"
        assert file["entry/images/image"].attrs["interpretation"] == "image"
    writer.abandon()


def test_a_frame_that_came_after_it_was_declared_lost_is_not_lost(tmp_path):
    writer = create(tmp_path / "s.nxs")
    writer.declare_loss(loss(0, 6), ordinal=1)
    writer.declare_loss(loss(5, 2, "full"), ordinal=2)
    writer.declare_loss(loss(5, 2, "full"), ordinal=2)
    writer.append(rows(0, 3, encoder=ENCODER), archived_ns=10**18)
    ledger = writer.close(
        SeriesEnd(n_received=7, n_repeated=2, n_republished=3), ordinal=9, duplicates=4
    )
    assert [(one.first, one.n_frames, one.reason) for one in ledger.losses] == [
        (3, 3, "gap"),
        (6, 1, "full"),
    ]
    with h5py.File(tmp_path / "s.nxs") as file:
        attributes = dict(file["entry/ledger"].attrs)
        assert file["entry/ledger/lost/first"][:].tolist() == [3, 6]
        assert file["entry/ledger/lost/reason"].asstr()[:].tolist() == ["gap", "full"]
    expected = {"received": 7, "archived": 3, "lost": 4, "repeated": 2, "republished": 3}
    expected |= {"duplicates": 4, "balanced": True, "first_ordinal": 0, "end_ordinal": 9}
    expected |= {"log_id": 7, "series_id": "id-1", "end_reason": "", "complete": True}
    assert {name: attributes[name] for name in expected} == expected


def test_a_count_that_does_not_add_up_shows_as_an_imbalance(tmp_path):
    writer = create(tmp_path / "s.nxs")
    writer.append(rows(0, 2, encoder=ENCODER), archived_ns=10**18)
    assert not writer.close(SeriesEnd(n_received=3)).balanced
    assert any("does not balance" in one for one in verify(tmp_path / "s.nxs").differences)


def test_frames_that_do_not_fit_are_set_aside_byte_for_byte_and_take_a_row(tmp_path):
    writer = create(tmp_path / "s.nxs")
    small = pixels_of(0, shape=(3, 5))
    torn = np.arange(100, dtype=np.uint8)
    blank = np.zeros((40, 48), "<u2")
    first = segmented(0, pixels=small)
    second = segmented(1, pixels=torn, fault="truncated", method="none")
    third = segmented(2, pixels=blank, fault="blank", method="none")
    writer.append_set_aside(first, small, archived_ns=10**18)
    writer.append(
        [
            (second, writer.set_aside(second, torn.tobytes())),
            (third, ENCODER.encode_as_received(blank)),
            *rows(3, 1, encoder=ENCODER),
        ],
        archived_ns=10**18,
    )
    writer.close(SeriesEnd(n_received=4))
    assert verify(writer.path).differences == ()
    with open_archive(writer.path) as archive:
        assert archive.set_aside_rows == [0, 1]
        aside = archive.set_aside(0)
        assert np.frombuffer(aside.payload, aside.dtype).reshape(aside.shape).tolist() == (
            small.tolist()
        )
        assert "(3, 5) <u2" in aside.reason
        assert archive.set_aside(1).payload == torn.tobytes()
        assert archive.set_aside(1).shape == (100, 0)
        assert not archive.frame(0).any()
        scores = archive.scores
        assert scores["method"].tolist() == ["none", "none", "none", "bragg"]
        assert scores["fault"].tolist() == [aside.reason, "truncated", "blank", ""]
        assert np.isnan(scores["graphene_fraction"][:2]).all()
        assert archive.ranking().tolist()[2:] == [0, 1]
        with pytest.raises(KeyError):
            archive.set_aside(2)


def test_a_frame_passed_on_without_work_may_come_without_masks(tmp_path):
    writer = create(tmp_path / "s.nxs")
    nothing = np.zeros((0, 0), bool)
    frame = segmented(
        0,
        method="none",
        amorphous=nothing,
        vacuum=nothing,
        beam_off=nothing,
        thumbnail=np.zeros((0, 0), np.uint8),
        coefficients=np.zeros((0, 0), np.float32),
        graphene_fraction=np.nan,
        amorphous_fraction=np.nan,
    )
    writer.append([(frame, ENCODER.encode_as_received(pixels_of(0)))], archived_ns=10**18)
    writer.close(SeriesEnd(n_received=1))
    assert verify(writer.path).differences == ()
    with open_archive(writer.path) as archive:
        assert np.isnan(archive.coefficients(0)).all()
        assert not archive.vacuum(0).any()


def test_masks_thumbnails_and_coefficients_come_back(tmp_path):
    path = archive_of(tmp_path / "s.nxs", 3)
    with open_archive(path) as archive:
        np.testing.assert_array_equal(archive.vacuum(2), mask_of(1002))
        np.testing.assert_array_equal(archive.beam_off(2), mask_of(2002))
        assert (archive.thumbnail(1) == 1).all()
        assert (archive.coefficients(2) == 2).all()


def test_texts_that_are_too_long_end_in_an_ellipsis(tmp_path):
    writer = create(tmp_path / "s.nxs")
    frame = segmented(0, name="å" * 200)
    writer.append([(frame, ENCODER.encode(pixels_of(0), mask_of(0)))], archived_ns=10**18)
    writer.close(SeriesEnd(n_received=1))
    with open_archive(writer.path) as archive:
        assert archive.score("name")[0] == "å" * 126 + "…"


def test_texts_with_nul_or_half_characters_do_not_stop_the_archive(tmp_path):
    odd = calibrated()
    odd = replace(odd, series="a\0b\ud800", metadata={"k\0\ud800": "v\0\ud800", "": "x"})
    path = archive_of(tmp_path / "s.nxs", 1, start=odd, provenance={"set/tings": "a\0b"})
    assert verify(path).differences == ()


def test_tables_longer_than_a_chunk_are_whole(tmp_path):
    shape = (2, 2)
    encoder = FrameEncoder(shape, dtype="|u1")
    writer = create(tmp_path / "s.nxs", shape=shape, dtype="|u1")
    n = 1300
    pixels = np.zeros(shape, np.uint8)
    encoded = encoder.encode(pixels, np.eye(2, dtype=bool))
    template = segmented(0, pixels=pixels)
    for first in range(0, n, 325):
        batch = [
            (replace(template, header=replace(template.header, row=row, sequence=2 * row)), encoded)
            for row in range(first, first + 325)
        ]
        writer.append(batch, archived_ns=10**18)
    writer.close(SeriesEnd(n_received=n))
    with h5py.File(writer.path) as file:
        assert file["entry/scores/sequence"][:].tolist() == list(range(0, 2 * n, 2))
        assert set(file["entry/scores/name"].asstr()[:]) == {"frame 0 ångström"}
        np.testing.assert_array_equal(file["entry/runs/frame_offset"][:], np.arange(n + 1) * 2)
        assert file["entry/runs/start"][:].tolist() == [0, 3] * n
        assert file["entry/images/image"].shape == (n, 2, 2)


def test_rows_must_follow_on(tmp_path):
    writer = create(tmp_path / "s.nxs")
    batch = rows(0, 4, encoder=ENCODER)
    writer.append(batch[:2], archived_ns=10**18)
    for wrong in (batch[:1], batch[3:], [batch[2], batch[2]]):
        with pytest.raises(ArchiveError, match="must be for row"):
            writer.append(wrong, archived_ns=10**18)
    writer.append(batch[2:], archived_ns=10**18)
    writer.append([], archived_ns=10**18)
    assert writer.n_rows == writer.next_row == 4
    assert writer.last_ordinal == 4
    writer.abandon()


def test_a_frame_of_another_series_shape_is_refused_before_anything_is_written(tmp_path):
    writer = create(tmp_path / "s.nxs")
    good = rows(0, 2, encoder=ENCODER)
    bad = segmented(1, pixels=pixels_of(1, shape=(3, 3)))
    with pytest.raises(ArchiveError, match="frame in row 1 must be"):
        writer.append([good[0], (bad, good[1][1])], archived_ns=10**18)
    odd = replace(good[1][0], vacuum=np.zeros((3, 3), bool))
    with pytest.raises(ArchiveError, match="masks must be"):
        writer.append([good[0], (odd, good[1][1])], archived_ns=10**18)
    odd = replace(good[1][0], coefficients=np.zeros((4, 4), np.float32))
    with pytest.raises(ArchiveError, match=r"coefficients \(3, 3\), got"):
        writer.append([good[0], (odd, good[1][1])], archived_ns=10**18)
    writer.append(good, archived_ns=10**18)
    writer.close(SeriesEnd(n_received=2))
    assert verify(writer.path).differences == ()


def test_an_existing_archive_is_not_overwritten_unless_asked(tmp_path):
    path = archive_of(tmp_path / "s.nxs", 1)
    before = path.read_bytes()
    with pytest.raises(ArchiveError, match="exists already"):
        create(path)
    writer = create(path, overwrite=True)
    assert path.read_bytes() == before
    writer.append(rows(0, 2, encoder=ENCODER), archived_ns=10**18)
    writer.close(SeriesEnd(n_received=2))
    with open_archive(path) as archive:
        assert len(archive) == 2
    assert sorted(one.name for one in tmp_path.iterdir()) == ["s.nxs"]


def test_an_unfinished_archive_is_not_overwritten_unless_asked(tmp_path):
    create(tmp_path / "s.nxs").abandon()
    with pytest.raises(ArchiveError, match=r"s\.nxs\.part exists already"):
        create(tmp_path / "s.nxs")
    create(tmp_path / "s.nxs", overwrite=True).abandon()


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path):
    writer = create(tmp_path / "s.nxs")
    writer.path.write_text("somebody else's")
    with pytest.raises(ArchiveError, match="exists already"):
        writer.close(SeriesEnd())
    assert writer.path.read_text() == "somebody else's"
    writer.path.unlink()
    writer.close(SeriesEnd())
    assert verify(writer.path).differences == ()


def test_a_place_that_cannot_be_written_is_an_archive_error(tmp_path):
    with pytest.raises(ArchiveError, match="No such file or directory"):
        create(tmp_path / "absent" / "s.nxs")
    (tmp_path / "file").write_text("")
    with pytest.raises(ArchiveError, match="Not a directory"):
        create(tmp_path / "file" / "s.nxs")


def test_a_closed_or_abandoned_writer_refuses_to_go_on(tmp_path):
    writer = create(tmp_path / "s.nxs")
    writer.close(SeriesEnd())
    with pytest.raises(ArchiveError, match="it is closed"):
        writer.append(rows(0, 1, encoder=ENCODER), archived_ns=0)
    writer.abandon()
    other = create(tmp_path / "t.nxs")
    other.abandon()
    other.abandon()
    with pytest.raises(ArchiveError, match="it is abandoned"):
        other.close(SeriesEnd())


def test_two_writers_cannot_have_the_same_file(tmp_path):
    writer = create(tmp_path / "s.nxs")
    with pytest.raises(ArchiveError, match="another process"):
        ArchiveWriter.resume(writer.path)
    with pytest.raises(ArchiveError, match="another process"):
        create(writer.path, overwrite=True)
    writer.append(rows(0, 1, encoder=ENCODER), archived_ns=10**18)
    writer.close(SeriesEnd(n_received=1))
    assert verify(writer.path).differences == ()


@pytest.fixture
def file_limit():
    """Set how long files may grow, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(n_bytes):
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes or soft, hard))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_when_the_disk_is_full_the_same_frames_can_be_appended_later(tmp_path, file_limit):
    writer = create(tmp_path / "s.nxs")
    batch = rows(0, 12, encoder=ENCODER)
    writer.append(batch[:4], archived_ns=10**18)
    file_limit(part_path(writer.path).stat().st_size)
    for _ in range(2):
        with pytest.raises(ArchiveError, match=r"part cannot be written: .*too large"):
            writer.append(batch[4:], archived_ns=10**18)
        with pytest.raises(ArchiveError, match="cannot be written"):
            writer.declare_loss(loss(20, 1), ordinal=30)
        with pytest.raises(ArchiveError, match="cannot be written"):
            writer.close(SeriesEnd(n_received=13))
    assert writer.next_row == 4
    file_limit(None)
    writer.append(batch[4:], archived_ns=10**18)
    writer.declare_loss(loss(20, 1), ordinal=30)
    writer.close(SeriesEnd(n_received=13))
    assert verify(writer.path).differences == ()


def test_when_the_disk_is_full_nothing_is_created(tmp_path, file_limit):
    file_limit(1000)
    with pytest.raises(ArchiveError, match="cannot be created"):
        create(tmp_path / "s.nxs")
    assert list(tmp_path.iterdir()) == []


def test_a_commit_that_fails_is_made_up_for_by_the_next(tmp_path, monkeypatch):
    writer = create(tmp_path / "s.nxs")
    batch = rows(0, 9, encoder=ENCODER)
    writer.append(batch[:3], archived_ns=10**18)

    def fails(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(JournalledFile, "commit", fails)
        with pytest.raises(ArchiveError, match="No space left"):
            writer.append(batch[3:6], archived_ns=10**18)
        with pytest.raises(ArchiveError, match="No space left"):
            writer.append(batch[3:], archived_ns=10**18)
        assert writer.next_row == 3
        assert writer.last_ordinal == 3
    writer.append(batch[3:], archived_ns=10**18)
    assert writer.next_row == 9
    writer.close(SeriesEnd(n_received=9))
    assert verify(writer.path).differences == ()


def test_a_disk_that_fails_in_the_middle_leaves_what_was_committed(tmp_path, monkeypatch):
    writer = create(tmp_path / "s.nxs")
    batch = rows(0, 9, encoder=ENCODER)
    writer.append(batch[:3], archived_ns=10**18)
    n_written = []

    def fails(self, payload):
        n_written.append(1)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(JournalledFile, "write", fails)
        with pytest.raises(ArchiveError, match="cannot be written"):
            writer.append(batch[3:6], archived_ns=10**18)
    assert n_written
    with pytest.raises(ArchiveError, match="cannot be written"):
        writer.append(batch[3:6], archived_ns=10**18)
    writer.abandon()
    again = ArchiveWriter.resume(writer.path)
    assert again.next_row == 3
    again.append(batch[3:], archived_ns=10**18)
    again.close(SeriesEnd(n_received=9))
    assert verify(writer.path).differences == ()


def test_resuming_goes_on_where_the_last_commit_was(tmp_path):
    writer = create(tmp_path / "s.nxs", start=calibrated())
    batch = rows(0, 20, encoder=ENCODER)
    writer.append(batch[:10], archived_ns=10**18)
    writer.declare_loss(loss(40, 2), ordinal=50)
    writer.abandon()
    again = ArchiveWriter.resume(writer.path)
    assert again.header == writer.header
    assert again.header.start == calibrated()
    assert again.sequences.tolist() == list(range(10))
    assert again.last_ordinal == 50
    again.declare_loss(loss(40, 2), ordinal=50)
    again.append(batch[10:], archived_ns=10**18)
    again.close(SeriesEnd(n_received=22), ordinal=51)
    assert verify(writer.path).differences == ()


def test_a_writer_that_died_while_closing_can_be_resumed(tmp_path, monkeypatch):
    writer = create(tmp_path / "s.nxs")
    writer.append(rows(0, 3, encoder=ENCODER), archived_ns=10**18)
    with monkeypatch.context() as patch:
        patch.setattr(ArchiveWriter, "_release", lambda self: (_ for _ in ()).throw(OSError("x")))
        with pytest.raises(ArchiveError):
            writer.close(SeriesEnd(n_received=3))
    writer.abandon()
    again = ArchiveWriter.resume(writer.path)
    again.append(rows(3, 2, encoder=ENCODER), archived_ns=10**18)
    again.close(SeriesEnd(n_received=5))
    assert verify(writer.path).differences == ()


def test_without_its_journal_an_archive_is_cut_to_what_all_tables_have(tmp_path):
    writer = create(tmp_path / "s.nxs")
    writer.append(rows(0, 20, encoder=ENCODER), archived_ns=10**18)
    small = pixels_of(20, shape=(3, 3))
    writer.append_set_aside(segmented(20, pixels=small), small, archived_ns=10**18)
    writer.abandon()
    part = part_path(writer.path)
    journal_path(part).unlink()
    with h5py.File(part, "r+") as file:
        file["entry/scores/latency"].resize(17, axis=0)
    again = ArchiveWriter.resume(writer.path)
    assert again.next_row == 17
    again.append(rows(17, 2, encoder=ENCODER), archived_ns=10**18)
    again.close(SeriesEnd(n_received=19))
    assert verify(writer.path).differences == ()


@pytest.mark.parametrize("kept", [0, 100, 3000, 9000])
def test_a_damaged_part_is_named(tmp_path, kept):
    writer = create(tmp_path / "s.nxs")
    writer.append(rows(0, 3, encoder=ENCODER), archived_ns=10**18)
    writer.abandon()
    part = part_path(writer.path)
    part.write_bytes(part.read_bytes()[:kept])
    with pytest.raises(ArchiveError, match=str(part)):
        ArchiveWriter.resume(writer.path)
    with pytest.raises(ArchiveError, match=str(part)):
        ArchiveWriter.resume(writer.path)
    with pytest.raises(ArchiveError, match=r"absent\.nxs"):
        ArchiveWriter.resume(tmp_path / "absent.nxs")
