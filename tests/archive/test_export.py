"""Export: what other programs read in the files."""

import mrcfile
import numpy as np
import pytest
import tifffile
from PIL import Image

from hrtem_stream.archive.export import export_frames, kept_rows, picture
from hrtem_stream.archive.marks import Mark, Marks
from hrtem_stream.archive.reader import open_archive
from tests.archive.series import archive_of, calibrated


@pytest.fixture
def archive(tmp_path):
    with open_archive(archive_of(tmp_path / "series.nxs", 9, start=calibrated())) as opened:
        yield opened


def test_kept_frames_are_those_above_the_threshold_best_first_without_the_rejected(archive):
    fractions = archive.score("graphene_fraction")
    best = int(archive.ranking()[0])
    threshold = float(np.median(fractions))
    marks = Marks(series_id="id-1", threshold=threshold, frames={best: Mark(reject=True)})
    wanted = [i for i in np.argsort(-fractions, kind="stable") if fractions[i] >= threshold]
    assert kept_rows(archive, marks).tolist() == wanted[1:]


def test_a_tiff_holds_the_counts_and_the_pixel_size_as_imagej_writes_it(archive, tmp_path):
    (made, *_) = export_frames(archive, archive.ranking()[:2], folder=tmp_path / "out", form="tiff")
    assert made.path.name == f"0001_row{made.row:06d}.tif"
    with tifffile.TiffFile(made.path) as file:
        np.testing.assert_array_equal(file.asarray(), archive.frame(made.row))
        assert file.imagej_metadata["unit"] == "nm"
        numerator, denominator = file.pages[0].tags["XResolution"].value
        assert denominator / numerator == pytest.approx(0.02)
        assert f"row={made.row}" in file.imagej_metadata["Info"]


def test_an_mrc_holds_the_counts_and_the_voxel_size_in_angstrom(archive, tmp_path):
    (made,) = export_frames(archive, archive.ranking()[:1], folder=tmp_path / "out", form="mrc")
    with mrcfile.open(made.path) as file:
        np.testing.assert_array_equal(file.data, archive.frame(made.row))
        assert float(file.voxel_size.x) == pytest.approx(0.2)


def test_a_png_is_a_picture_that_tells_its_pixel_size(archive, tmp_path):
    (made,) = export_frames(archive, archive.ranking()[:1], folder=tmp_path / "out", form="png")
    with Image.open(made.path) as image:
        assert image.mode == "L"
        assert image.size == archive.shape[::-1]
        assert float(image.text["pixel_size_nm"]) == 0.02
    assert [path.name for path in (tmp_path / "out").iterdir()] == [made.path.name]


@pytest.mark.parametrize("dtype", ["|u1", "<u2", "<u4", "<f4"])
@pytest.mark.parametrize("form", ["tiff", "mrc", "png"])
def test_every_dtype_can_be_exported_without_a_pixel_size(tmp_path, dtype, form):
    with open_archive(archive_of(tmp_path / "series.nxs", 1, dtype=dtype)) as archive:
        (made,) = export_frames(archive, np.arange(1), folder=tmp_path / "out", form=form)
        if form == "tiff":
            np.testing.assert_array_equal(tifffile.imread(made.path), archive.frame(0))
        if form == "mrc":
            with mrcfile.open(made.path) as file:
                np.testing.assert_array_equal(file.data, archive.frame(0))


def test_a_picture_stretches_what_is_not_masked():
    frame = np.tile(np.arange(100, dtype=np.uint16), (100, 1))
    mask = np.zeros(frame.shape, bool)
    mask[:, 50:] = True
    shown = picture(frame, mask)
    assert shown[0, 0] == 0
    assert (shown[:, 50:] == 255).all()
    assert picture(frame, np.ones_like(mask))[0, 99] == 255
