"""Other people's simulated detectors, where they are installed: `make peers`."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrtem_stream import open_archive
from hrtem_stream.simulators.camera import SimulatedCamera
from hrtem_stream.simulators.merlin import acquisition_header, frame
from hrtem_stream.sources.merlin_wire import decode_payload
from hrtem_stream.sources.native_wire import FeedLimits
from tests.end_to_end.test_feeds import Attached, assert_holds, free_port

pytestmark = [pytest.mark.peers, pytest.mark.processes]

BIN = Path(sys.executable).parent


def require(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: make peers")


@contextmanager
def running(*command: object, cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a peer, its words in a file, until the block ends."""
    with (cwd / "peer.log").open("w") as log:
        peer = subprocess.Popen([*map(str, command)], stdout=log, stderr=log, cwd=cwd)
        try:
            yield peer
        finally:
            peer.kill()
            peer.wait()


def write_mib(folder: Path, images: list[Any], n_frames: int) -> Path:
    """Write frames as the detector does: a header file, and frames one behind the other."""
    frames = [frame(images[n % len(images)], sequence=n + 1) for n in range(n_frames)]
    (folder / "scan.mib").write_bytes(b"".join(frames))
    header = folder / "scan.hdr"
    said = acquisition_header(n_frames=n_frames, depth=12)
    header.write_bytes(said.replace(b"Trigger (Number):\t1", b"Trigger (Number):\t4"))
    return header


def test_a_merlin_detector_as_libertem_live_plays_it(tmp_path: Path) -> None:
    require("libertem_live")
    images = [one.pixels for one in SimulatedCamera(n_frames=4, size=256, seed=3)]
    header = write_mib(tmp_path, images, n_frames=12)
    port = free_port()
    command = [
        BIN / "libertem-live-mib-sim", header, "--host", "127.0.0.1", "--data-port", port,
        "--control-port", free_port(), "--trigger-port", free_port(), "--dwelltime", 20_000,
    ]  # fmt: skip
    with running(*command, cwd=tmp_path):
        attached = Attached(tmp_path, f"merlin tcp://127.0.0.1:{port}")
        # It compiles first, and begins anew after the last frame.
        attached.wait_for_archives(2, timeout_s=150)
        attached.stop(code=0)
    assert attached.ledgers(2) == [(12, 0, ""), (12, 0, "")]
    assert_holds(attached.runs / "series.nxs", images, n_faulty=0)


@pytest.mark.parametrize("bits", [1, 6, 12])
def test_raw_pixels_as_libertem_packs_them(bits: int) -> None:
    require("libertem")
    from libertem.io.dataset import mib

    image = np.random.default_rng(0).integers(0, 1 << bits, (64, 128)).astype(np.uint16)
    packed = np.zeros((64, {1: 16, 6: 128, 12: 256}[bits]), np.uint8)
    {1: mib.encode_r1, 6: mib.encode_r6, 12: mib.encode_r12}[bits](image, packed)
    ours = frame(image, sequence=1, depth=f"R{bits}")  # type: ignore[arg-type]
    assert ours[384:] == packed.tobytes()
    found = decode_payload(memoryview(ours), limits=FeedLimits())
    np.testing.assert_array_equal(found.pixels.pixels, image)  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_direct_electron_camera_as_its_twin_plays_it(tmp_path: Path) -> None:
    require("de_twin")
    port = free_port()
    command = [
        BIN / "de-twin", "serve", "--host", "127.0.0.1", "--soap", free_port(), "--deapi", port,
        "--camera", "DESim", "--specimen", "Au thin film 20 nm",
    ]  # fmt: skip
    prepare = (
        "import deapi, sys, time\n"
        "client = deapi.Client()\n"
        "client.usingMmf = False\n"
        "for _ in range(240):\n"
        "    try:\n"
        f"        client.connect('127.0.0.1', {port})\n"
        "        break\n"
        "    except OSError:\n"
        "        time.sleep(0.5)\n"
        "client['Simulator Auto References'] = 'Off'\n"
        "client.set_hw_roi(0, 0, 256, 256)\n"
        "client['Frames Per Second'] = 40\n"
        "client['Grabbing - Frames Per Buffer'] = 8\n"
    )
    with running(*command, cwd=tmp_path):
        subprocess.run([sys.executable, "-c", prepare], check=True, timeout=150, env=os.environ)
        attached = Attached(
            tmp_path, f"direct_electron tcp://127.0.0.1:{port}",
            "feed.direct_electron.start=true", "feed.direct_electron.n_frames=20",
            "ingest.idle_end_s=0",
        )  # fmt: skip
        attached.session.finish(code=0)
    assert attached.ledgers() == [(20, 0, "")]
    with open_archive(attached.runs / "series.nxs") as archive:
        assert list(archive.scores["sequence"]) == list(range(20))
        assert archive.calibration.voltage_kv == 200.0
        assert archive.calibration.pixel_size_nm == 0.5
        assert archive.calibration.exposure_s == pytest.approx(1 / 40)
