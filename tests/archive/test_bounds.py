"""Archives that claim, inflate or point elsewhere: refused, before anything is allocated."""

from __future__ import annotations

import resource
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import zstandard

from hrtem_stream.archive.codec import ZSTD, decode_chunk
from hrtem_stream.archive.journal import JournalledFile, journal_path
from hrtem_stream.archive.reader import open_archive
from hrtem_stream.archive.verify import verify
from hrtem_stream.errors import ArchiveError
from tests.archive.series import archive_of

MOST_MORE_BYTES = 512 << 20


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive_of(tmp_path_factory.mktemp("sound") / "s.nxs", 3)


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Let this process have only half a gigabyte more than it has."""
    n_pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    most = n_pages * resource.getpagesize() + MOST_MORE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def _replace(file: h5py.File, name: str, **fields: object) -> None:
    del file[name]
    file.create_dataset(name, **fields)


def _huge(name: str, dtype: str = "<f8", rest: tuple[int, ...] = ()) -> Callable[[h5py.File], None]:
    shape = (10**11, *rest)
    chunks = (512, *rest)
    return lambda file: _replace(file, f"entry/{name}", shape=shape, dtype=dtype, chunks=chunks)


def _bomb(name: str, dtype: str) -> Callable[[h5py.File], None]:
    """Give a table of three rows whose chunk inflates to a gigabyte."""

    def spoil(file: h5py.File) -> None:
        _replace(
            file, f"entry/{name}", shape=(3,), maxshape=(None,), dtype=dtype, chunks=(512,),
            compression="gzip",
        )  # fmt: skip
        press = zlib.compressobj(9)
        block = bytes(1 << 20)
        stream = b"".join([*(press.compress(block) for _ in range(1024)), press.flush()])
        file[f"entry/{name}"].id.write_direct_chunk((0,), stream)

    return spoil


def _external_link(file: h5py.File) -> None:
    del file["entry/scores"]
    file["entry/scores"] = h5py.ExternalLink("/etc/passwd", "/")


def _external_bytes(file: h5py.File) -> None:
    _replace(
        file, "entry/set_aside/bytes", shape=(100,), dtype="u1",
        external=[("/etc/passwd", 0, 100)],
    )  # fmt: skip


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=(3,), dtype="f8")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", shape=(3,))
    del file["entry/scores/latency"]
    file.create_virtual_dataset("entry/scores/latency", layout)


def _header(old: str, new: str) -> Callable[[h5py.File], None]:
    def spoil(file: h5py.File) -> None:
        attributes = file["entry/process"].attrs
        assert old in attributes["header"]
        attributes["header"] = attributes["header"].replace(old, new)

    return spoil


HOSTILE: dict[str, Callable[[h5py.File], None]] = {
    "a score of a hundred thousand million rows": _huge("scores/latency"),
    "rows that are not counted": _huge("images/frame", "<i8"),
    "offsets without end": _huge("runs/frame_offset", "<u8"),
    "images without end": _huge("images/image", "<u2", (40, 48)),
    "images of a million sides": lambda file: _replace(
        file, "entry/images/image", shape=(3, 10**6, 10**6), dtype="u2", chunks=(1, 64, 64)
    ),
    "a chunk of four gigabytes": lambda file: _replace(
        file, "entry/images/image", shape=(3, 40, 48), maxshape=(None, None, None), dtype="u2",
        chunks=(1, 2**15, 2**15),
    ),
    "chunks across frames": lambda file: _replace(
        file, "entry/images/image", shape=(3, 40, 48), dtype="u2", chunks=(3, 40, 48)
    ),
    "a bomb among the scores": _bomb("scores/digest", "<u8"),
    "a bomb among the runs": _bomb("runs/start", "<u4"),
    "values of other lengths": lambda file: _replace(
        file, "entry/runs/value", shape=(1,), maxshape=(None,), dtype="<u2", chunks=(512,)
    ),
    "runs of text": lambda file: _replace(
        file, "entry/runs/start", shape=(9,), maxshape=(None,), dtype="S4", chunks=(512,)
    ),
    "texts of any length": lambda file: _replace(
        file, "entry/scores/name", shape=(3,), dtype=h5py.string_dtype()
    ),
    "scores in another file": _external_link,
    "bytes of another file": _external_bytes,
    "a view of another file": _virtual,
    "a group in place of a table": lambda file: (
        file.__delitem__("entry/scores/method"), file.create_group("entry/scores/method"),
    ),
    "a table less": lambda file: file.__delitem__("entry/vacuum/bits"),
    "a scalar": lambda file: _replace(file, "entry/scores/latency", data=1.0),
    "sides that are not whole": _header('"working_shape": [16, 16]', '"working_shape": [16.5]'),
    "masks of another size": _header('"working_shape": [16, 16]', '"working_shape": [9999, 999]'),
    "a header of numbers": _header('"series": "island"', '"series": 7'),
    "a codec that is none": _header('"codec": "deflate"', '"codec": ["deflate"]'),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.usefixtures("little_memory")
def test_a_hostile_archive_is_refused_in_little_memory(
    sound: Path, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "hostile.nxs"
    shutil.copy(sound, path)
    with h5py.File(path, "r+") as file:
        HOSTILE[name](file)
    with pytest.raises(ArchiveError), open_archive(path) as archive:
        archive.ledger  # noqa: B018
        archive.scores  # noqa: B018
        for row in range(len(archive)):
            archive.frame(row)
            archive.mask(row)
            archive.vacuum(row)
    assert verify(path).differences


@pytest.mark.usefixtures("little_memory")
def test_a_chunk_that_states_a_terabyte_is_refused() -> None:
    compressor = zstandard.ZstdCompressor()
    stream = compressor.compress(bytes(1 << 20))
    with pytest.raises(ArchiveError, match="chunk must hold 8 bytes"):
        decode_chunk(stream, filter_mask=0, filters=(ZSTD,), dtype=np.dtype("u1"), n_values=8)
    lying = stream[:4] + bytes([0xE0]) + struct.pack("<Q", 1 << 40) + stream[4 + 6 :]
    with pytest.raises(ArchiveError):
        decode_chunk(lying, filter_mask=0, filters=(ZSTD,), dtype=np.dtype("u1"), n_values=8)


@pytest.mark.usefixtures("little_memory")
def test_a_journal_without_end_is_no_journal(sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "s.nxs.part"
    shutil.copy(sound, path)
    n_pages = 1 << 28
    with journal_path(path).open("wb") as journal:
        journal.write(struct.pack("<8sQQ", b"HRTEMJ01", n_pages, 0))
        journal.truncate(24 + n_pages * (8 + 4096))
    file = JournalledFile.for_reading(path)
    assert file.read(8) == b"\x89HDF\r\n\x1a\n"
    file.close()
