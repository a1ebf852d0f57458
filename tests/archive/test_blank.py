"""Blank archives: what becomes of one is as what is made at once, and none leaves a file."""

from pathlib import Path

import h5py
import pytest

from hrtem_stream.archive.blank import BlankArchive
from hrtem_stream.archive.encoding import FrameEncoder
from hrtem_stream.archive.layout import ArchiveHeader, CommonHeader
from hrtem_stream.archive.verify import verify
from hrtem_stream.archive.writer import ArchiveWriter, part_path
from hrtem_stream.errors import ArchiveError
from hrtem_stream.messages import SeriesEnd, SeriesStart
from tests.archive.series import WORKING_SHAPE, rows

COMMON = CommonHeader(
    provenance={"version": "1"}, working_shape=WORKING_SHAPE, coefficients_shape=(3, 3)
)


def _header(dtype: str = "<u2") -> ArchiveHeader:
    return ArchiveHeader(
        start=SeriesStart(series="s", series_id="id", metadata={"camera": "K2"}), shape=(40, 48),
        dtype=dtype, codec="deflate", keep="graphene", log_id=7, ordinal=0, first_row=0,
        **COMMON.fields(),
    )  # fmt: skip


def _content(path: Path) -> dict[str, object]:
    """List all that an archive holds, by name."""
    found: dict[str, object] = {}

    def note(name: str, item: h5py.Group | h5py.Dataset) -> None:
        found[name] = {key: str(value) for key, value in item.attrs.items()}
        if isinstance(item, h5py.Dataset):
            values = item[()].tobytes() if item.shape else str(item[()])
            found[name] = (found[name], item.dtype, item.shape, item.chunks, values)

    with h5py.File(path) as file:
        file.visititems(note)
    return found


@pytest.mark.parametrize("dtype", ["<u2", "<f4"])
def test_an_archive_made_of_a_blank_is_as_one_that_is_made_at_once(
    tmp_path: Path, dtype: str
) -> None:
    encoder = FrameEncoder((40, 48), dtype=dtype, codec="deflate")
    contents = []
    for name, blank in (("a", None), ("b", BlankArchive(COMMON))):
        path = tmp_path / name / "s.nxs"
        path.parent.mkdir()
        writer = ArchiveWriter.create_from(path, header=_header(dtype), blank=blank)
        writer.append(rows(0, 3, encoder=encoder), archived_ns=10**18)
        writer.abandon()
        writer = ArchiveWriter.resume(path)
        writer.append(rows(3, 2, encoder=encoder), archived_ns=10**18)
        writer.close(SeriesEnd(n_received=5))
        assert not verify(path).differences
        contents.append(_content(path))
    assert contents[0] == contents[1]


def test_a_blank_is_used_up_where_the_archive_cannot_be_created(tmp_path: Path) -> None:
    path = tmp_path / "s.nxs"
    part_path(path).mkdir()
    blank = BlankArchive(COMMON)
    with pytest.raises(ArchiveError, match="cannot be created"):
        ArchiveWriter.create_from(path, header=_header(), overwrite=True, blank=blank)
    assert not blank.file.id.valid
    part_path(path).rmdir()
    ArchiveWriter.create_from(path, header=_header(), overwrite=True).abandon()
