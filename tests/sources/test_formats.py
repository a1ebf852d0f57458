"""DM3, DM4, SER, TVIPS, EMD, DECTRIS master files, and the calibration of TIFF and MRC."""

from __future__ import annotations

import importlib
import json
import struct
import sys
import warnings
from pathlib import Path
from typing import Any

import h5py
import mrcfile
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from hrtem_stream.errors import FeedError
from hrtem_stream.messages import Calibration
from hrtem_stream.sources.files import FrameFiles, open_frames
from hrtem_stream.sources.rsciio_files import _calibration, _times_of

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "digital-micrograph"
T0_S = 1_700_000_000


def ramp(*shape: int, dtype: str = "<u2") -> NDArray[Any]:
    return (np.arange(np.prod(shape)).reshape(shape) % 251).astype(dtype)


def opened(path: Path) -> FrameFiles:
    return open_frames([path])


def assert_holds(files: FrameFiles, images: NDArray[Any]) -> None:
    assert files.n_frames == len(images)
    for index, image in enumerate(images):
        frame = files.read(index)
        assert frame.fault == ""
        np.testing.assert_array_equal(frame.pixels, image)
    files.close()


# ------------------------------------------------------------------ DigitalMicrograph


@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is absent")
@pytest.mark.parametrize(
    ("name", "shape"), [("F_0_2", (1, 3, 2)), ("F_1_2", (4, 3, 2)), ("T_0_2", (3, 4, 5))]
)
def test_real_dm3_and_dm4_hold_the_same_frames(name: str, shape: tuple[int, ...]) -> None:
    both = []
    for suffix in ("dm3", "dm4"):
        files = opened(REAL / f"ref_{name}.{suffix}")
        assert files.n_frames == shape[0]
        both.append(np.stack([files.read(k).pixels for k in range(shape[0])]))
        files.close()
    assert both[0].shape == shape
    np.testing.assert_array_equal(*both)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is absent")
def test_a_real_dm4_with_odd_units_states_no_pixel_size_and_says_why() -> None:
    files = opened(REAL / "ref_F_1_2.dm4")
    assert files.calibration.pixel_size_nm is None
    assert "pixels are µn by µnn: no pixel size" in files.calibration_notes


@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is absent")
def test_a_spectrum_is_no_frame() -> None:
    with pytest.raises(FeedError, match=r"must hold frames \(M, N\) or \(n, M, N\), holds \(3,\)"):
        opened(REAL / "ref_F_0_1.dm3")


@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is absent")
@pytest.mark.parametrize("suffix", ["dm3", "dm4"])
def test_a_dm_file_cut_anywhere_is_a_fault_and_no_crash(tmp_path: Path, suffix: str) -> None:
    whole = (REAL / f"ref_F_1_2.{suffix}").read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    for n in range(0, len(whole) - 1, 97):
        cut.write_bytes(whole[:n])
        try:
            files = opened(cut)
        except FeedError:
            continue
        for index in range(files.n_frames):
            files.read(index)
        files.close()


def signal(tags: dict[str, Any], unit: str = "nm", scale: float = 0.02) -> dict[str, Any]:
    axis = {"scale": scale, "units": unit, "navigate": False, "name": "x", "offset": 0.0}
    original = {"ImageList": {"TagGroup0": {"ImageTags": tags}}}
    return {"axes": [axis, axis], "metadata": {}, "original_metadata": original}


def test_the_tags_of_digital_micrograph_become_calibration_and_time() -> None:
    dm = signal(
        {
            "Microscope Info": {"Voltage": 80000.0},
            "DataBar": {
                "Exposure Time (s)": 0.5,
                "Acquisition Time (OS)": 116_444_736_000_000_000 + T0_S * 10_000_000,
            },
        }
    )
    said = _calibration(dm)
    assert said.calibration == Calibration(pixel_size_nm=0.02, exposure_s=0.5, voltage_kv=80)
    assert _times_of(dm)(0) == T0_S * 10**9
    assert _times_of(signal({}))(0) == 0


def test_without_the_extra_the_message_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rsciio.digitalmicrograph", None)
    (tmp_path / "a.dm4").write_bytes(b"x")
    with pytest.raises(FeedError, match=r"pip install 'hrtem-stream\[formats\]'"):
        opened(tmp_path / "a.dm4")


# ------------------------------------------------------------------ SER and TVIPS


def write_ser(path: Path, images: NDArray[np.uint16], *, pixel_m: float) -> None:
    """Write what TIA writes: a header, where elements and tags are, then those."""
    n, M, N = images.shape
    header = struct.pack("<HHHIIII", 0x4949, 0x0197, 0x0210, 0x4122, 0x4152, n, n)
    header += struct.pack("<II", 0, 1)
    dimension = struct.pack("<Iddi", n, 0.0, 1.0, 0) + struct.pack("<I", 6) + b"Number"
    dimension += struct.pack("<I", 0)
    content = bytearray(header + dimension)
    struct.pack_into("<I", content, 22, len(content))
    offsets = len(content)
    content += bytes(8 * n)
    for k, image in enumerate(images):
        struct.pack_into("<I", content, offsets + 4 * k, len(content))
        axis = struct.pack("<ddi", 0.0, pixel_m, 0)
        content += axis + axis + struct.pack("<HII", 2, N, M) + image[::-1].tobytes()
        struct.pack_into("<I", content, offsets + 4 * (n + k), len(content))
        content += struct.pack("<HHI", 0x4152, 0, T0_S)
    path.write_bytes(content)


def test_a_ser_gives_its_frames_and_pixel_size(tmp_path: Path) -> None:
    images = ramp(3, 8, 10)
    write_ser(tmp_path / "a.ser", images, pixel_m=2e-11)
    files = opened(tmp_path / "a.ser")
    assert files.calibration.pixel_size_nm == pytest.approx(0.02)
    assert_holds(files, images)


def test_a_tvips_gives_its_frames_with_their_times(tmp_path: Path) -> None:
    images = ramp(4, 16, 16)
    tvips = importlib.import_module("rsciio.tvips")
    axes = [
        {"size": 4, "name": "time", "units": "s", "scale": 0.25, "offset": 0.0, "navigate": True},
        *(
            {"size": 16, "name": name, "units": "nm", "scale": 2.0, "offset": 0.0,
             "navigate": False}
            for name in ("y", "x")
        ),
    ]  # fmt: skip
    for index, axis in enumerate(axes):
        axis["index_in_array"] = index
    metadata = {
        "General": {"date": "2023-11-14", "time": "22:13:20", "time_zone": "UTC"},
        "Acquisition_instrument": {"TEM": {"beam_energy": 80_000}},
        "Signal": {"signal_type": ""},
    }
    with warnings.catch_warnings(action="ignore"):
        tvips.file_writer(
            str(tmp_path / "a_000.tvips"),
            {
                "data": images,
                "axes": axes,
                "metadata": metadata,
                "original_metadata": {},
                "attributes": {"_lazy": False},
            },
            mode=1,
        )
    files = opened(tmp_path / "a_000.tvips")
    assert files.calibration.voltage_kv == 80
    apart_s = (files.acquired_ns(2) - files.acquired_ns(0)) * 1e-9
    assert files.acquired_ns(0) > 0
    assert apart_s == pytest.approx(0.5, abs=0.01)
    assert_holds(files, images)


# ------------------------------------------------------------------ EMD


def write_velox(path: Path, images: NDArray[Any], **document: Any) -> None:
    n = len(images)
    text = json.dumps(document).encode()
    with h5py.File(path, "w") as file:
        group = file.create_group("Data/Image/0f0f")
        group["Data"] = np.moveaxis(images, 0, 2)
        column = np.zeros((len(text) + 10, n), np.uint8)
        column[: len(text)] = np.frombuffer(text, np.uint8)[:, None]
        group["Metadata"] = column
        thumbnail = file.create_group("Data/Image/1111")
        thumbnail["Data"] = ramp(4, 4, 1)


VELOX = {
    "BinaryResult": {
        "PixelSize": {"width": "2e-11", "height": "2e-11"},
        "PixelUnitX": "m",
        "PixelUnitY": "m",
    },
    "Optics": {"AccelerationVoltage": "80000"},
    "Scan": {"FrameTime": "0.5"},
    "Detectors": {"Detector-0": {"DetectorName": "BM-Ceta", "ExposureTime": "0.4"}},
    "Acquisition": {"AcquisitionStartDatetime": {"DateTime": str(T0_S)}},
}


def test_a_velox_emd_gives_its_largest_image_with_its_calibration(tmp_path: Path) -> None:
    images = ramp(3, 8, 10)
    write_velox(tmp_path / "a.emd", images, **VELOX)
    files = opened(tmp_path / "a.emd")
    expected = Calibration(pixel_size_nm=pytest.approx(0.02), exposure_s=0.4, voltage_kv=80)
    assert files.calibration == expected
    assert files.acquired_ns(0) == T0_S * 10**9
    assert_holds(files, images)


def test_our_velox_reader_agrees_with_rosettasciio(tmp_path: Path) -> None:
    write_velox(tmp_path / "a.emd", ramp(3, 8, 10), **VELOX)
    with h5py.File(tmp_path / "a.emd", "a") as file:
        del file["Data/Image/1111"]
        file["Version"] = np.array([json.dumps({"format": "Velox", "version": "1.0"}).encode()])
    files = opened(tmp_path / "a.emd")
    ours = np.stack([files.read(k).pixels for k in range(3)])
    files.close()
    (theirs,) = importlib.import_module("rsciio.emd").file_reader(str(tmp_path / "a.emd"))
    np.testing.assert_array_equal(ours, theirs["data"])


@pytest.mark.parametrize("document", [b"", b"{", b"[1]", b'{"BinaryResult": 5}', b"\xff" * 9])
def test_a_velox_emd_with_odd_metadata_still_gives_its_frames(
    tmp_path: Path, document: bytes
) -> None:
    write_velox(tmp_path / "a.emd", ramp(2, 8, 10))
    with h5py.File(tmp_path / "a.emd", "a") as file:
        del file["Data/Image/0f0f/Metadata"]
        column = np.zeros((20, 2), np.uint8)
        column[: len(document)] = np.frombuffer(document, np.uint8)[:, None]
        file["Data/Image/0f0f/Metadata"] = column
    files = opened(tmp_path / "a.emd")
    assert files.calibration == Calibration()
    assert_holds(files, ramp(2, 8, 10))


@pytest.mark.parametrize(
    ("names", "order"), [(("n", "y", "x"), (0, 1, 2)), (("x", "y", "n"), (2, 1, 0))]
)
def test_an_ncem_emd_gives_its_frames_by_the_names_of_its_axes(
    tmp_path: Path, names: tuple[str, ...], order: tuple[int, ...]
) -> None:
    images = ramp(3, 8, 10)
    with h5py.File(tmp_path / "a.emd", "w") as file:
        group = file.create_group("data/frames")
        group.attrs["emd_group_type"] = 1
        group["data"] = images.transpose(order)
        for number, name in enumerate(names, start=1):
            n = group["data"].shape[number - 1]
            group[f"dim{number}"] = np.arange(n) * 0.02
            group[f"dim{number}"].attrs["name"] = name
            group[f"dim{number}"].attrs["units"] = "[n_m]"
    files = opened(tmp_path / "a.emd")
    assert files.calibration.pixel_size_nm == pytest.approx(0.02)
    assert_holds(files, images)


# ------------------------------------------------------------------ DECTRIS master files


def write_master(path: Path, images: NDArray[Any], *, per_file: int, n_images: int) -> list[Path]:
    parts = []
    with h5py.File(path, "w") as file:
        detector = file.create_group("entry/instrument/detector")
        detector["count_time"] = 0.01
        detector["frame_time"] = 0.02
        detector["detectorSpecific/nimages"] = n_images
        detector["detectorSpecific/ntrigger"] = 1
        detector["detectorSpecific/data_collection_date"] = "2023-11-14T22:13:20+00:00"
        file["entry/instrument/beam/incident_energy"] = 80000.0
        for k in range(-(-len(images) // per_file)):
            part = path.with_name(path.stem.replace("_master", f"_data_{k + 1:06d}") + ".h5")
            with h5py.File(part, "w") as data:
                data["entry/data/data"] = images[k * per_file : (k + 1) * per_file]
            file[f"entry/data/data_{k + 1:06d}"] = h5py.ExternalLink(part.name, "entry/data/data")
            parts.append(part)
    return parts


def test_a_dectris_master_gives_the_frames_of_all_its_files(tmp_path: Path) -> None:
    images = ramp(5, 8, 10)
    write_master(tmp_path / "a_master.h5", images, per_file=2, n_images=5)
    files = opened(tmp_path / "a_master.h5")
    assert files.calibration == Calibration(exposure_s=0.01, voltage_kv=80)
    assert files.acquired_ns(3) == T0_S * 10**9 + 60_000_000
    assert_holds(files, images)


def test_a_dectris_series_that_is_not_all_there_announces_what_is_missing(tmp_path: Path) -> None:
    parts = write_master(tmp_path / "a_master.h5", ramp(5, 8, 10), per_file=2, n_images=7)
    parts[-1].unlink()
    files = opened(tmp_path / "a_master.h5")
    assert files.n_frames == 7
    missing = files.missing(4)
    assert missing is not None
    assert missing.n_frames == 3


def test_a_dectris_file_missing_between_others_is_a_fault(tmp_path: Path) -> None:
    parts = write_master(tmp_path / "a_master.h5", ramp(5, 8, 10), per_file=2, n_images=5)
    parts[1].unlink()
    frame = opened(tmp_path / "a_master.h5").read(0)
    assert "data_000002 is missing between others" in frame.fault


# ------------------------------------------------------------------ TIFF, MRC, NeXus


def test_a_tiff_exported_by_digital_micrograph_has_its_pixel_size(tmp_path: Path) -> None:
    tags = [
        (65003, "s", 0, "nm", True), (65004, "s", 0, "nm", True),
        (65009, "d", 1, 0.02, True), (65010, "d", 1, 0.02, True),
    ]  # fmt: skip
    tifffile.imwrite(tmp_path / "a.tif", ramp(8, 10), extratags=tags, metadata=None)
    files = opened(tmp_path / "a.tif")
    assert files.calibration.pixel_size_nm == pytest.approx(0.02)


def test_an_ome_tiff_has_its_pixel_size(tmp_path: Path) -> None:
    metadata = {
        "axes": "TYX",
        "PhysicalSizeX": 0.02,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 0.02,
        "PhysicalSizeYUnit": "nm",
    }
    tifffile.imwrite(tmp_path / "a.ome.tif", ramp(2, 8, 10), metadata=metadata)
    files = opened(tmp_path / "a.ome.tif")
    assert files.calibration.pixel_size_nm == pytest.approx(0.02)
    assert_holds(files, ramp(2, 8, 10))


def test_dots_per_inch_are_no_calibration(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", ramp(8, 10), resolution=(300, 300), resolutionunit=2)
    files = opened(tmp_path / "a.tif")
    assert (files.calibration, files.calibration_notes) == (Calibration(), ())


def test_the_extended_header_of_an_fei_mrc_is_read(tmp_path: Path) -> None:
    sections = np.zeros(3, mrcfile.dtypes.get_ext_header_dtype(b"FEI1", "<"))
    sections["Metadata size"] = sections.dtype.itemsize
    sections["Pixel size X"] = sections["Pixel size Y"] = 2e-11
    sections["HT"] = 80000
    sections["Integration time"] = 0.4
    sections["Dose"] = 5e23
    sections["Timestamp"] = T0_S / 86400 + 25569 + np.arange(3) / 86400
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(ramp(3, 8, 10))
        file.header.exttyp = b"FEI1"
        file.set_extended_header(sections)
    files = opened(tmp_path / "a.mrc")
    assert files.calibration.pixel_size_nm == pytest.approx(0.02)
    assert files.calibration.voltage_kv == 80
    assert files.calibration.dose_e_per_nm2 == pytest.approx(5e5)
    assert files.acquired_ns(2) * 1e-9 == pytest.approx(T0_S + 2, abs=0.01)
    assert "taken for UTC" in files.calibration_notes[0]
    assert_holds(files, ramp(3, 8, 10))


def test_a_nexus_file_has_the_pixel_size_of_its_axes(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.nxs", "w") as file:
        file.attrs["default"] = "entry"
        entry = file.create_group("entry")
        entry.attrs["default"] = "data"
        data = entry.create_group("data")
        data.attrs["signal"] = "image"
        data.attrs["axes"] = ["frame", "y", "x"]
        data["image"] = ramp(2, 8, 10)
        for name, n in (("frame", 2), ("y", 8), ("x", 10)):
            data[name] = np.arange(n) * 20.0
            data[name].attrs["units"] = "pm"
    files = opened(tmp_path / "a.nxs")
    assert files.calibration.pixel_size_nm == pytest.approx(0.02)
    assert_holds(files, ramp(2, 8, 10))
