from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import h5py
import mrcfile
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from hrtem_stream.errors import FeedError
from hrtem_stream.sources import stack as stack_module
from hrtem_stream.sources.files import ReadFrame, labelled_pairs, open_frames, read_frames
from hrtem_stream.sources.stack import supported
from tests.archive.series import archive_of, create, pixels_of, segmented

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "graphene-u-net"


def ramp(*shape: int, dtype: str = "<u2") -> NDArray[Any]:
    return (np.arange(np.prod(shape)).reshape(shape) % 251).astype(dtype)


def read(*paths: Path | str) -> list[ReadFrame]:
    return list(read_frames(paths))


def assert_frames(frames: list[ReadFrame], images: Any, names: list[str]) -> None:
    assert [frame.name for frame in frames] == names
    assert [frame.fault for frame in frames] == [""] * len(names)
    for frame, image in zip(frames, images, strict=True):
        assert not frame.pixels.flags.writeable
        np.testing.assert_array_equal(frame.pixels, image)


@pytest.mark.parametrize("dtype", ["|u1", "<u2"])
def test_a_folder_gives_its_images_by_name_without_the_labels(tmp_path: Path, dtype: str) -> None:
    images = [ramp(20, 30, dtype=dtype) + k for k in range(3)]
    for name, image in zip(("b", "a", "c"), images, strict=True):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    tifffile.imwrite(tmp_path / "bb.tif", images[0])
    Image.fromarray(images[0]).save(tmp_path / "a_LABEL.png")
    (tmp_path / "notes.txt").write_text("no frame")
    (tmp_path / "masks.npy").write_bytes(b"no frame")
    (tmp_path / ".hidden.png").write_bytes(b"no frame")
    frames = read(tmp_path)
    assert_frames(frames, [images[1], images[0], images[0], images[2]], ["a", "b", "bb", "c"])
    assert frames[0].pixels.dtype.str == dtype


def test_a_label_without_its_image_is_a_frame(tmp_path: Path) -> None:
    Image.fromarray(ramp(4, 5, dtype="|u1")).save(tmp_path / "a_LABEL.png")
    assert [frame.name for frame in read(tmp_path)] == ["a_LABEL"]


def test_several_paths_follow_each_other(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", ramp(4, 5))
    np.save(tmp_path / "many.npy", ramp(2, 4, 5))
    assert_frames(
        read(tmp_path / "many.npy", tmp_path / "one.npy"),
        [*ramp(2, 4, 5), ramp(4, 5)],
        ["many[0]", "many[1]", "one"],
    )


@pytest.mark.parametrize("dtype", ["|u1", "<u2", ">u2", "<u4", "<i2", "<i4", "<f4", ">f4", "<f8"])
def test_an_npy_is_read_frame_by_frame_in_little_endian(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "a.npy", ramp(3, 4, 5, dtype=dtype))
    frames = read(tmp_path / "a.npy")
    assert_frames(frames, ramp(3, 4, 5), ["a[0]", "a[1]", "a[2]"])
    assert frames[0].pixels.dtype.str == dtype.replace(">", "<")


@pytest.mark.parametrize(
    ("dtype", "becomes"),
    [("|b1", "|u1"), ("|i1", "<i2"), ("<f2", "<f4"), ("<i8", "<i4"), (">u8", "<u4")],
)
def test_other_dtypes_are_converted_where_that_is_exact(dtype: str, becomes: str) -> None:
    image = (ramp(4, 5) % 100).astype(dtype)
    pixels, fault = supported(image)
    assert (fault, pixels.dtype.str) == ("", becomes)
    np.testing.assert_array_equal(pixels, image)


@pytest.mark.parametrize(
    ("image", "fault"),
    [
        (np.full((2, 3), 2**40), "values do not fit into <i4"),
        (np.ones((2, 3), np.complex64), "dtype must be"),
        (np.ones((2, 3), "M8[s]"), "dtype must be"),
        (np.stack([ramp(2, 3), ramp(2, 3), ramp(2, 3) + 1], axis=-1), "image has colours"),
        (np.ones((2, 3, 5)), "frame must be 2-D"),
        (np.ones(3), "frame must be 2-D"),
        (np.ones((1, 16385), np.uint8), "sides 1 to 16384"),
    ],
)
def test_what_cannot_be_converted_keeps_its_bytes_with_a_fault(
    image: NDArray[Any], fault: str
) -> None:
    pixels, said = supported(image)
    assert fault in said
    assert pixels.dtype == np.uint8
    assert pixels.tobytes() == image.tobytes()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_is_read_by_its_images(tmp_path: Path, save: Any) -> None:
    save(tmp_path / "a.npz", labels=np.zeros(3), images=ramp(3, 40, 50))
    frames = open_frames([tmp_path / "a.npz"])
    for index in (2, 0, 1, 1):
        np.testing.assert_array_equal(frames.read(index).pixels, ramp(3, 40, 50)[index])
    frames.close()


def test_an_npz_without_images_is_refused_by_what_it_has(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", masks=np.zeros(3))
    with pytest.raises(FeedError, match=r"a\.npz: must have an array 'images', has masks"):
        read(tmp_path / "a.npz")


@pytest.mark.parametrize("dtype", ["|i1", "<i2", "<u2", "<f4", "<f2", ">f4"])
def test_an_mrc_gives_its_sections_and_its_pixel_size(tmp_path: Path, dtype: str) -> None:
    volume = (ramp(3, 4, 5) % 100).astype(dtype)
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(volume)
        file.voxel_size = 0.2
    assert_frames(read(tmp_path / "a.mrc"), volume, ["a[0]", "a[1]", "a[2]"])
    assert open_frames([tmp_path / "a.mrc"]).calibration.pixel_size_nm == pytest.approx(0.02)


def test_an_mrc_of_one_angstrom_states_no_pixel_size(tmp_path: Path) -> None:
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(ramp(4, 5))
        file.voxel_size = 1.0
    assert_frames(read(tmp_path / "a.mrc"), [ramp(4, 5)], ["a"])
    assert open_frames([tmp_path / "a.mrc"]).calibration.pixel_size_nm is None


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_tiff_gives_its_pages(tmp_path: Path, compression: str | None) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", ramp(3, 40, 50), compression=compression, photometric="minisblack"
    )
    assert_frames(read(tmp_path / "a.tif"), ramp(3, 40, 50), ["a[0]", "a[1]", "a[2]"])


def test_a_tiff_may_have_pages_of_different_shapes(tmp_path: Path) -> None:
    images = [ramp(20, 30), ramp(10, 8, dtype="<f4"), ramp(7, 7, dtype=">u2")]
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for image in images:
            file.write(image)
    assert_frames(read(tmp_path / "a.tif"), images, ["a[0]", "a[1]", "a[2]"])


def test_a_tiff_in_lzw_is_read(tmp_path: Path) -> None:
    image = Image.fromarray(ramp(40, 50))
    image.save(tmp_path / "a.tif", compression="tiff_lzw", save_all=True, append_images=[image])
    assert_frames(read(tmp_path / "a.tif"), [ramp(40, 50)] * 2, ["a[0]", "a[1]"])


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_a_stack_of_imagej_is_read_with_its_pixel_size(tmp_path: Path, byteorder: Any) -> None:
    path = tmp_path / "a.tif"
    options: dict[str, Any] = {"imagej": True, "resolution": (50, 50), "byteorder": byteorder}
    tifffile.imwrite(path, ramp(4, 20, 30), metadata={"unit": "nm", "axes": "ZYX"}, **options)
    assert_frames(read(path), ramp(4, 20, 30), [f"a[{k}]" for k in range(4)])
    assert open_frames([path]).calibration.pixel_size_nm == pytest.approx(0.02)


def test_dots_per_inch_are_no_pixel_size(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", ramp(4, 5), resolution=(300, 300), resolutionunit="INCH")
    assert open_frames([tmp_path / "a.tif"]).calibration.pixel_size_nm is None


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_a_grey_png_in_colours_is_grey(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(ramp(20, 30, dtype="|u1"))
    image.convert(mode).save(tmp_path / "a.png")
    assert_frames(read(tmp_path / "a.png"), [ramp(20, 30)], ["a"])


def test_a_png_with_colours_is_kept_as_a_fault(tmp_path: Path) -> None:
    colours = np.zeros((4, 5, 3), np.uint8)
    colours[..., 0] = 9
    Image.fromarray(colours).save(tmp_path / "a.png")
    (frame,) = read(tmp_path / "a.png")
    assert "image has colours" in frame.fault
    assert frame.pixels.tobytes() == colours.tobytes()


def test_an_hdf5_dataset_is_named_behind_two_colons(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["run/frames"] = ramp(2, 4, 5)
        file["run/larger"] = ramp(9, 4, 5)
        file["run/series"] = np.arange(5)
    assert_frames(read(f"{tmp_path}/a.h5::/run/frames"), ramp(2, 4, 5), ["a[0]", "a[1]"])
    with pytest.raises(FeedError, match=r"a\.h5: has no dataset /run/none"):
        read(f"{tmp_path}/a.h5::/run/none")
    with pytest.raises(FeedError, match="/run/series must be frames"):
        read(f"{tmp_path}/a.h5::/run/series")


def test_an_hdf5_without_a_default_gives_its_largest_dataset(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["dark"] = ramp(4, 5)
        file["run/frames"] = ramp(2, 4, 5)
        file["long_table"] = np.zeros((1, 90))
        file["text"] = "x" * 900
    assert len(read(tmp_path / "a.h5")) == 2


def test_a_nexus_file_gives_its_default_signal(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.nxs", "w") as file:
        file.attrs["default"] = "entry"
        group = file.create_group("entry/images")
        file["entry"].attrs["default"] = "images"
        group.attrs["signal"] = np.bytes_("image")
        group.create_dataset("image", data=ramp(2, 4, 5), chunks=(2, 2, 2), compression="gzip")
        file["entry/larger"] = ramp(9, 4, 5)
    assert_frames(read(tmp_path / "a.nxs"), ramp(2, 4, 5), ["a[0]", "a[1]"])


def test_defaults_that_lead_in_a_circle_end(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.nxs", "w") as file:
        file.attrs["default"] = "entry"
        file.create_group("entry").attrs["default"] = "/entry"
        file["entry/frames"] = ramp(2, 4, 5)
    assert len(read(tmp_path / "a.nxs")) == 2


def test_an_hdf5_without_frames_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["complex"] = np.ones((3, 4), np.complex64)
        file["empty"] = np.ones((0, 4, 4))
    with pytest.raises(FeedError, match=r"a\.h5: has no dataset of frames"):
        read(tmp_path / "a.h5")


@pytest.mark.parametrize("codec", ["deflate", "zstd", "none"])
def test_an_archive_is_replayed_with_its_names_and_times(tmp_path: Path, codec: Any) -> None:
    path = archive_of(tmp_path / "s.nxs", 3, codec=codec, keep="all")
    frames = open_frames([path])
    assert [frames.acquired_ns(k) for k in range(3)] == [10**18, 10**18 + 1, 10**18 + 2]
    names = [f"frame {k} ångström" for k in range(3)]
    assert_frames(read(path), [pixels_of(k) for k in range(3)], names)


def test_what_an_archive_set_aside_comes_as_it_was_received(tmp_path: Path) -> None:
    writer = create(tmp_path / "s.nxs")
    small, torn = ramp(7, 9, dtype="<f4"), np.frombuffer(b"torn frame", np.uint8)
    for row, pixels in enumerate((small, torn)):
        frame = segmented(row, pixels=pixels, fault="" if row == 0 else "torn")
        writer.append_set_aside(frame, pixels, archived_ns=1)
    with h5py.File(writer.path.with_name("x.h5"), "w"):
        pass
    frames = read(tmp_path / "s.nxs.part")
    np.testing.assert_array_equal(frames[0].pixels, small)
    assert frames[0].fault == ""
    assert (frames[1].pixels.tobytes(), frames[1].fault) == (b"torn frame", "torn")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.png", b""),
        ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(40)),
        ("a.tif", b"II*\0 this is no tiff"),
        ("a.tif", b"II*\0\x08\0\0\0\xff\xff"),
        ("a.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': evil()"),
        ("a.npz", b"PK\x03\x04 cut"),
        ("a.mrc", bytes(100)),
        ("a.mrc", bytes(2000)),
        ("a.h5", b"\x89HDF\r\n\x1a\n" + bytes(100)),
        ("a.h5", b"no hdf5"),
    ],
)
def test_a_damaged_file_is_one_frame_with_a_fault_and_its_bytes(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    (frame,) = read(tmp_path / name)
    assert frame.name == "a"
    assert name in frame.fault
    assert frame.pixels.tobytes() == content


@pytest.mark.parametrize("suffix", [".png", ".tif", ".mrc", ".npy", ".npz", ".h5"])
def test_a_file_cut_anywhere_never_raises(tmp_path: Path, suffix: str) -> None:
    whole = tmp_path / f"whole{suffix}"
    stack = ramp(2, 12, 13)
    if suffix == ".png":
        Image.fromarray(stack[0]).save(whole)
    elif suffix == ".tif":
        tifffile.imwrite(whole, stack, compression="zlib")
    elif suffix == ".mrc":
        mrcfile.write(whole, stack)
    elif suffix == ".npy":
        np.save(whole, stack)
    elif suffix == ".npz":
        np.savez_compressed(whole, images=stack)
    else:
        with h5py.File(whole, "w") as file:
            file["frames"] = stack
    content = whole.read_bytes()
    cut = tmp_path / f"cut{suffix}"
    n_read = n_faults = 0
    for n_bytes in np.unique(np.linspace(0, len(content) - 1, 60).astype(int)):
        cut.write_bytes(content[:n_bytes])
        frames = read(cut)
        assert frames
        n_read += len(frames)
        n_faults += sum(frame.fault != "" for frame in frames)
    assert n_faults >= 30


@pytest.mark.parametrize("suffix", [".png", ".tif", ".mrc", ".npy", ".npz", ".h5"])
def test_a_file_with_changed_bytes_never_crashes(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(5)
    whole = tmp_path / f"whole{suffix}"
    stack = ramp(2, 12, 13)
    if suffix == ".png":
        Image.fromarray(stack[0]).save(whole)
    elif suffix == ".tif":
        tifffile.imwrite(whole, stack)
    elif suffix == ".mrc":
        mrcfile.write(whole, stack)
    elif suffix == ".npy":
        np.save(whole, stack)
    elif suffix == ".npz":
        np.savez(whole, images=stack)
    else:
        with h5py.File(whole, "w") as file:
            file["frames"] = stack
    content = np.frombuffer(whole.read_bytes(), np.uint8)
    changed = tmp_path / f"changed{suffix}"
    for _ in range(60):
        bytes_ = content.copy()
        places = rng.integers(0, min(len(bytes_), 400), 3)
        bytes_[places] = rng.integers(0, 256, 3)
        changed.write_bytes(bytes_.tobytes())
        try:
            frames = open_frames([changed])
        except FeedError as error:
            assert changed.name in str(error)
            continue
        for index in range(min(frames.n_frames, 5)):
            if frames.missing(index) is None:
                frames.read(index)
        frames.close()


def test_frames_that_a_truncated_stack_announces_are_told(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ramp(10, 4, 5))
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content[: 128 + 3 * 40 + 7])
    frames = read(tmp_path / "a.npy")
    assert [frame.fault for frame in frames] == [
        "",
        "",
        "",
        "a.npy is truncated: 7 of 40 bytes",
        "6 frames are missing: a.npy is truncated: announces 10",
    ]
    assert frames[3].pixels.nbytes == 7


def test_a_damaged_image_in_a_folder_does_not_stop_the_others(tmp_path: Path) -> None:
    for name in "abc":
        Image.fromarray(ramp(20, 30)).save(tmp_path / f"{name}.png")
    content = (tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(content[:80])
    (tmp_path / "bb.tif").write_bytes(b"no tiff")
    frames = read(tmp_path)
    assert [bool(frame.fault) for frame in frames] == [False, True, True, False]
    assert frames[1].pixels.tobytes() == content[:80]


def test_of_a_large_damaged_file_the_beginning_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack_module, "MAX_DAMAGED_BYTES", 10)
    (tmp_path / "a.png").write_bytes(bytes(100))
    (frame,) = read(tmp_path / "a.png")
    assert frame.pixels.nbytes == 10
    assert frame.fault.endswith("first 10 of 100 bytes kept")


def test_a_small_file_that_claims_to_be_large_takes_no_memory(tmp_path: Path) -> None:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (2000000000, 16384, 16384), }"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(100)
    (tmp_path / "a.npy").write_bytes(content)
    frames = read(tmp_path / "a.npy")
    assert frames[0].pixels.nbytes == 100
    assert "1999999999 frames are missing" in frames[1].fault


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(5), "frames must be 2-D"),
        (np.zeros((2, 2, 2, 2)), "frames must be 2-D"),
        (np.zeros((2, 0, 3)), "sides must be 1 to 16384"),
        (np.zeros((3, 4), complex), "must hold integers or floats"),
        (np.zeros((3, 4), [("a", "f4")]), "must hold integers or floats"),
        (np.array([[{}]]), "must hold integers or floats"),
        (np.zeros((3, 4, 5), order="F"), "Fortran order"),
        (np.zeros((0, 4, 5)), "there is no frame in"),
    ],
)
def test_an_array_that_is_no_frames_is_refused(
    tmp_path: Path, array: NDArray[Any], message: str
) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(FeedError, match=message) as caught:
        read(tmp_path / "a.npy")
    assert "a.npy" in str(caught.value)


def test_a_path_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    with pytest.raises(FeedError, match=r"none\.npy: does not exist"):
        read(tmp_path / "none.npy")
    with pytest.raises(FeedError, match="has no file that ends with one of"):
        read(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(FeedError, match=r"a\.txt: must be a folder or end with one of"):
        read(tmp_path / "a.txt")
    with pytest.raises(FeedError, match="at least one path"):
        read()


def test_one_file_is_open_at_a_time_and_none_at_the_end(tmp_path: Path) -> None:
    for k in range(3):
        np.savez(tmp_path / f"{k}.npz", images=ramp(2, 4, 5))
    frames = read_frames([tmp_path / f"{k}.npz" for k in range(3)])
    next(frames)
    frames.close()
    assert zipfile.is_zipfile(tmp_path / "0.npz")


def test_labelled_pairs_are_found_by_name(tmp_path: Path) -> None:
    for name in ("b.png", "b_LABEL.png", "a.png", "a_LABEL.png", "c.png", "d_LABEL.png"):
        (tmp_path / name).touch()
    assert [tuple(path.name for path in pair[1:]) for pair in labelled_pairs(tmp_path)] == [
        ("a.png", "a_LABEL.png"),
        ("b.png", "b_LABEL.png"),
    ]
    with pytest.raises(FeedError, match="is no folder"):
        labelled_pairs(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FeedError, match="has no NAME"):
        labelled_pairs(tmp_path / "empty")


@pytest.mark.skipif(not REAL.is_dir(), reason="the real frames are not beside the repository")
def test_the_real_frames_are_read_as_another_program_reads_them() -> None:
    pairs = labelled_pairs(REAL)
    frames = read(REAL)
    assert len(frames) == len(pairs) == 104
    assert [frame.name for frame in frames] == [pair.name for pair in pairs]
    for frame, pair in zip(frames[::20], pairs[::20], strict=True):
        assert frame.pixels.dtype == np.uint8
        np.testing.assert_array_equal(frame.pixels, read_by_opencv(pair.image_path))


def read_by_opencv(path: Path) -> NDArray[Any]:
    import cv2

    return np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
