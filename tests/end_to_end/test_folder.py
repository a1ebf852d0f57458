"""Files of several formats that fall into a watched folder while a session runs."""

from __future__ import annotations

import signal
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import tifffile
from PIL import Image

from hrtem_stream import open_archive
from hrtem_stream.archive.verify import verify
from hrtem_stream.simulators.camera import SimulatedCamera
from tests.end_to_end.command import Session, call_json

pytestmark = pytest.mark.processes

CONFIG = Path(__file__).parents[2] / "config" / "folder.toml"


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    camera = SimulatedCamera(n_frames=8, size=256, seed=0)
    return np.stack([frame.pixels for frame in camera])


def test_files_of_many_kinds_reach_the_archive_once_though_ingest_is_killed(
    images: np.ndarray, tmp_path: Path
) -> None:
    folder, runs = tmp_path / "camera", tmp_path / "runs"
    folder.mkdir()
    session = Session(
        "run", CONFIG, "--json",
        "--set", f"feed.folder.path={folder}",
        "--set", f"archive.directory={runs}",
        "--set", f"session.runtime_directory={tmp_path / 'rt'}",
        "--set", f"frame_log.path={tmp_path / 'frames.log'}",
        "--set", "frame_log.capacity_mib=64",
        "--set", "feed.folder.settle_s=0.3",
        "--set", "feed.folder.give_up_s=1.5",
        "--set", "feed.calibration.pixel_size_nm=0.025",
        "--set", "segment.segmenter=bragg",
        "--set", "metrics.enabled=false",
    )  # fmt: skip

    def n_archived() -> int:
        try:
            with open_archive(runs / "camera.nxs.part") as archive:
                return len(archive)
        except Exception:
            return 0

    tifffile.imwrite(folder / "f0.tif", images[0])
    with mrcfile.new(folder / "f1.mrc") as file:
        file.set_data(images[1:4])
    (folder / "f2.tif").write_bytes((folder / "f0.tif").read_bytes()[:5000])
    (folder / "f3.tif").touch()
    session.wait_for(lambda: n_archived() >= 4)
    session.children()["ingest"].send_signal(signal.SIGKILL)
    np.save(folder / "f4.npy", images[4])
    Image.fromarray(images[5]).save(folder / "f5.png")
    session.wait_for(lambda: n_archived() >= 7)
    session.process.send_signal(signal.SIGINT)
    session.finish(code=3)  # f3.tif is empty: declared lost

    archive_path = runs / "camera.nxs"
    ledger = call_json("info", archive_path)["ledger"]
    assert ledger["balanced"]
    assert (ledger["archived"], ledger["lost"]) == (7, 1)
    assert ledger["losses"][0]["reason"] == "file could not be read (f3.tif: is empty)"
    assert verify(archive_path).differences == ()
    with open_archive(archive_path) as archive:
        names = [str(name) for name in archive.scores["name"]]
        assert sorted(names) == ["f0", "f1[0]", "f1[1]", "f1[2]", "f2", "f4", "f5"]
        assert [str(fault) != "" for fault in archive.scores["fault"]] == [n == "f2" for n in names]
        assert archive.calibration.pixel_size_nm == 0.025
        assert "from the settings" in archive.header.start.metadata["calibration"]
