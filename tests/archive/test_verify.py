import functools
import json
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hrtem_stream.archive.encoding import FrameEncoder
from hrtem_stream.archive.reader import open_archive
from hrtem_stream.archive.summary import summary
from hrtem_stream.archive.verify import verify
from hrtem_stream.archive.writer import part_path
from hrtem_stream.errors import ArchiveError
from hrtem_stream.messages import LossRange, SeriesEnd
from tests.archive.series import archive_of, calibrated, create, pixels_of, rows, segmented


def put(path, name, index, value):
    with h5py.File(path, "r+") as file:
        dataset = file["entry"][name]
        values = dataset[:]
        values[index] = value
        attributes = dict(dataset.attrs)
        del file["entry"][name]
        file["entry"][name] = values
        file["entry"][name].attrs.update(attributes)


@pytest.mark.parametrize("codec", ["deflate", "zstd", "none"])
@pytest.mark.parametrize("keep", ["graphene", "all"])
def test_an_untouched_archive_has_no_differences(tmp_path, codec, keep):
    report = verify(archive_of(tmp_path / "s.nxs", 9, codec=codec, keep=keep))
    assert report.differences == ()
    assert report.n_frames == 9
    assert report.ledger["received"] == report.ledger["archived"] == 9
    assert report.ledger["balanced"]


def test_an_archive_with_a_frame_set_aside_has_no_differences_until_a_byte_changes(tmp_path):
    writer = create(tmp_path / "s.nxs")
    small = pixels_of(0, shape=(3, 3))
    writer.append_set_aside(segmented(0, pixels=small), small, archived_ns=10**18)
    writer.close(SeriesEnd(n_received=1))
    assert verify(writer.path).differences == ()
    put(writer.path, "set_aside/bytes", 3, 77)
    assert any("bytes set aside" in one for one in verify(writer.path).differences)


@pytest.mark.parametrize("codec", ["deflate", "zstd", "none"])
def test_a_flipped_bit_in_the_pixels_is_found_and_its_frame_named(tmp_path, codec):
    path = archive_of(tmp_path / "s.nxs", 4, codec=codec)
    with h5py.File(path) as file:
        place = file["entry/images/image"].id.get_chunk_info_by_coord((2, 0, 0))
    rotten = bytearray(path.read_bytes())
    rotten[place.byte_offset + place.size // 2] ^= 16
    path.write_bytes(rotten)
    differences = verify(path).differences
    assert differences
    assert all("row 2" in one or "frame 2" in one for one in differences)
    with open_archive(path) as archive:
        assert len(archive.frame(1))
        with pytest.raises(ArchiveError, match="frame 2"):
            archive.frame(2)


@pytest.mark.parametrize(
    ("name", "index", "value", "match"),
    [
        ("scores/rank", 0, 99, "scores/rank"),
        ("scores/stored_digest", 1, 1, "row 1: the pixels"),
        ("scores/amorphous_fraction", 2, 0.9, "row 2: the runs cover"),
        ("scores/amorphous_fraction", 2, np.nan, "row 2: the runs cover"),
        ("runs/length", 0, 10_000, "row 0: "),
        ("runs/length", 0, 0, "row 0: the runs are not in order"),
        ("runs/value", 0, 60_000, "row 0: the pixels in the runs"),
        ("runs/frame_offset", 1, 10**6, "frame_offset"),
        ("images/frame", 1, 5, "images/frame"),
        ("ledger/lost/first", 0, 2, "sequence 2 is archived and lost"),
        ("ledger/lost/n_frames", 0, 9, "its ranges do not"),
        ("scores/latency", 1, 0.5, "scores/latency is not what was written"),
        ("scores/name", 1, b"another", "scores/name is not what was written"),
        ("scores/acquired_ns", 2, 7, "scores/acquired_ns is not what was written"),
        ("ledger/declared/reason", 0, b"none", "ledger/declared/reason is not what was written"),
        ("ledger/lost/reason", 0, b"none", "ledger/lost/reason is not what was written"),
        ("thumbnails/image", (1, 3, 3), 77, "row 1: thumbnail, masks, coefficients or runs"),
        ("vacuum/bits", (2, 5), 255, "row 2: thumbnail, masks, coefficients or runs"),
        ("beam_off/bits", (3, 5), 255, "row 3: thumbnail, masks, coefficients or runs"),
        ("illumination/coefficients", (0, 1, 1), 9.5, "row 0: thumbnail, masks, coefficients"),
    ],
)
def test_a_changed_value_in_a_table_is_found(tmp_path, name, index, value, match):
    writer = create(tmp_path / "s.nxs")
    writer.append(rows(0, 4, encoder=FrameEncoder((40, 48), dtype="<u2")), archived_ns=10**18)
    loss = LossRange(series="island", series_id="id-1", first=9, n_frames=1, reason="gap")
    writer.declare_loss(loss, ordinal=9)
    writer.close(SeriesEnd(n_received=5))
    assert verify(writer.path).differences == ()
    put(writer.path, name, index, value)
    assert any(match in one for one in verify(writer.path).differences)


def test_a_changed_count_in_the_ledger_is_found(tmp_path):
    path = archive_of(tmp_path / "s.nxs", 3)
    with h5py.File(path, "r+") as file:
        file["entry/ledger"].attrs["archived"] = 2
        file["entry/ledger"].attrs["lost"] = 2
    text = " ".join(verify(path).differences)
    assert "does not balance" in text
    assert "counts 2 frames" in text
    assert "counts 2 lost" in text


@settings(deadline=None, max_examples=25)
@given(place=st.floats(0, 1), n=st.integers(1, 300), seed=st.integers(0, 2**31))
def test_a_damaged_file_gives_differences_or_an_archive_error(tmp_path_factory, place, n, seed):
    path = tmp_path_factory.mktemp("rot") / "s.nxs"
    path.write_bytes(_whole())
    rotten = bytearray(_whole())
    at = int(place * (len(rotten) - 1))
    rotten[at : at + n] = np.random.default_rng(seed).bytes(len(rotten[at : at + n]))
    path.write_bytes(rotten)
    try:
        verify(path)
        summary(path)
    except ArchiveError as error:
        assert "s.nxs" in str(error)


@functools.cache
def _whole():
    with tempfile.TemporaryDirectory() as folder:
        return archive_of(Path(folder) / "s.nxs", 3).read_bytes()


def test_an_unfinished_archive_differs_from_a_finished_one(tmp_path):
    create(tmp_path / "s.nxs").abandon()
    report = verify(part_path(tmp_path / "s.nxs"))
    assert report.differences == ("the archive was not closed",)


def test_the_summary_is_plain_values(tmp_path):
    path = archive_of(tmp_path / "s.nxs", 12, start=calibrated())
    found = json.loads(json.dumps(summary(path), allow_nan=False))
    assert found["shape"] == [40, 48]
    assert found["dtype"] == "<u2"
    assert found["n_frames"] == 12
    assert found["methods"] == {"unet": 0, "bragg": 12, "none": 0}
    assert found["raw_bytes"] == 12 * 40 * 48 * 2
    assert 0 < found["stored_bytes"] < found["raw_bytes"]
    assert found["complete"] is True
    assert found["ledger"]["balanced"] is True
    assert found["calibration"]["pixel_size_nm"] == 0.02
    assert 0.9 < found["latency_s"]["p50"] <= found["latency_s"]["p99"] <= 1
    with open_archive(path) as archive:
        assert [one["row"] for one in found["best"]] == archive.ranking()[:10].tolist()


def test_the_summary_of_nothing_has_no_latency(tmp_path):
    found = summary(archive_of(tmp_path / "s.nxs", 0))
    assert found["latency_s"] == {"p50": None, "p99": None}
    assert found["best"] == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda whole: whole[: len(whole) // 2],
        lambda whole: b"no HDF5",
        lambda whole: bytes(8) + whole[8:],
        lambda whole: b"",
    ],
)
def test_a_file_that_is_no_archive_any_more_differs(tmp_path, spoil):
    path = archive_of(tmp_path / "s.nxs", 3)
    path.write_bytes(spoil(path.read_bytes()))
    (difference,) = verify(path).differences
    assert "s.nxs cannot be opened" in difference


def test_where_there_is_no_file_there_is_nothing_to_verify(tmp_path):
    for path in (tmp_path, tmp_path / "none.nxs"):
        with pytest.raises(ArchiveError, match="there is no archive"):
            verify(path)


SMALL = (
    "title", "start_time", "process/program", "process/version", "process/settings",
    "calibration/pixel_size_nm", "calibration/exposure_s", "images/x", "images/y",
    "ranked/rank", "ranked/row", "ranked/graphene_fraction", "scores/rank",
)  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_a_flipped_bit_in_a_small_dataset_is_found_and_named(tmp_path, name):
    provenance = {"version": "9.8.7", "settings": "{of the session}"}
    path = archive_of(tmp_path / "s.nxs", 4, start=calibrated(), provenance=provenance)
    with h5py.File(path) as file:
        dataset = file["entry"][name]
        offset = dataset.id.get_offset() if dataset.dtype.kind != "O" else None
        text = b"" if offset else dataset[()]
    rotten = bytearray(path.read_bytes())
    place = offset if offset is not None else rotten.index(text)
    rotten[place] ^= 1
    path.write_bytes(rotten)
    assert any(name in one for one in verify(path).differences)
