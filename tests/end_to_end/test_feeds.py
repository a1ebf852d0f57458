"""Every detector's feed from its simulator or peer to a verified archive, its losses included."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrtem_stream import open_archive
from hrtem_stream.archive.verify import verify
from hrtem_stream.simulators.camera import SimulatedCamera
from hrtem_stream.simulators.merlin import MerlinSender
from hrtem_stream.simulators.programme import Programme, play
from tests.end_to_end.command import Session, call, call_json

pytestmark = pytest.mark.processes

RECORDED = Path(__file__).parents[3] / "shared" / "data" / "dectris-stream2"
FAULTY = Programme(n_frames=20, gaps=frozenset({5, 6}), damaged=frozenset({9}))
ABORTED = Programme(n_frames=20, abort_after=6)


@pytest.fixture(scope="module")
def images() -> list[Any]:
    return [frame.pixels for frame in SimulatedCamera(n_frames=4, size=256, seed=3)]


class Attached:
    """A session that is attached to a feed by one line of settings."""

    def __init__(self, folder: Path, feed: str, *more: str) -> None:
        self.runs = folder / "runs"
        config = folder / "feed.toml"
        config.write_text(f'feed = "{feed}"\n')
        values = (
            f"session.runtime_directory={folder / 'rt'}", f"frame_log.path={folder / 'frames.log'}",
            f"archive.directory={self.runs}", "frame_log.capacity_mib=64",
            "segment.segmenter=bragg", "metrics.enabled=false", *more,
        )  # fmt: skip
        self.session = Session("run", config, *(word for v in values for word in ("--set", v)))

    def wait_for_archives(self, n_archives: int, *, timeout_s: float = 90.0) -> None:
        """Wait until so many series are closed."""
        self.session.wait_for(
            lambda: len(list(self.runs.glob("*.nxs"))) >= n_archives, timeout_s=timeout_s
        )

    def stop(self, *, code: int) -> None:
        """End the session as Ctrl-C does."""
        self.session.process.send_signal(signal.SIGINT)
        self.session.finish(code=code)

    def ledgers(self, n_archives: int | None = None) -> list[tuple[int, int, str]]:
        """Verify the first archives, and give archived, lost and the reason of the end of each."""
        found = []
        paths = sorted(self.runs.glob("*.nxs"), key=lambda path: path.stat().st_mtime_ns)
        for path in paths[:n_archives]:
            assert verify(path).differences == ()
            with open_archive(path) as archive:
                assert archive.ledger.received == len(archive) + archive.ledger.lost
                found.append((len(archive), archive.ledger.lost, archive.ledger.end_reason))
        return found


def assert_holds(path: Path, images: list[Any], *, n_faulty: int) -> None:
    """Check pixels bit for bit, outside of what is flattened, and what is set aside."""
    with open_archive(path) as archive:
        faults = [str(fault) for fault in archive.scores["fault"]]
        assert sum(bool(fault) for fault in faults) == n_faulty
        for row, sequence in enumerate(archive.scores["sequence"]):
            if faults[row]:
                continue
            mask = archive.mask(row)
            np.testing.assert_array_equal(
                archive.frame(row)[~mask], images[int(sequence) % len(images)][~mask]
            )


@contextmanager
def sending(work: Callable[[], object]) -> Iterator[None]:
    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join(60)
    assert not thread.is_alive()


def test_a_dectris_detector(images: list[Any], tmp_path: Path) -> None:
    pytest.importorskip("dectris.compression")
    from hrtem_stream.simulators.dectris import DectrisSender

    recorded = sorted((RECORDED / "r500k_bm_bslz4_16bit").glob("*.cbor"))
    with tempfile.TemporaryDirectory() as folder, DectrisSender(f"ipc://{folder}/feed") as sender:

        def send() -> None:
            play(FAULTY, sender, images)
            play(ABORTED, sender, images)
            for path in recorded:
                sender.send_bytes(path.read_bytes())

        attached = Attached(tmp_path, f"dectris {sender.endpoint}")
        with sending(send):
            attached.wait_for_archives(3 if recorded else 2)
        attached.stop(code=3)
    ledgers = attached.ledgers()
    assert ledgers[0] == (18, 2, "")
    assert ledgers[1][:2] == (6, 0)
    assert ledgers[1][2].startswith("ended by the detector after 6 of 20 images")
    first = min(attached.runs.glob("series-1-SIM*.nxs"), key=lambda path: path.stat().st_mtime_ns)
    assert_holds(first, images, n_faulty=1)
    assert ledgers[2:] == [(9, 0, "")][: len(recorded)]  # which may not be there


def test_a_merlin_detector(images: list[Any], tmp_path: Path) -> None:
    with MerlinSender("tcp://127.0.0.1:0", client_within_s=60) as sender:

        def send() -> None:
            play(FAULTY, sender, images)
            play(ABORTED, sender, images)

        attached = Attached(tmp_path, f"merlin {sender.endpoint}", "ingest.idle_end_s=1")
        with sending(send):
            attached.wait_for_archives(2)  # the second one, after a second of silence
        attached.stop(code=3)
    assert attached.ledgers() == [(18, 2, ""), (6, 0, "the feed was silent for 1 s")]
    assert_holds(attached.runs / "series.nxs", images, n_faulty=1)
    with open_archive(attached.runs / "series.nxs") as archive:
        assert archive.calibration.exposure_s == 0.001
        assert archive.header.start.metadata["Counter Depth (number)"] == "12"


SERVER = """
import sys
from deapi.simulated_server import fake_server, initialize_server

class DroppingServer(fake_server.FakeServer):
    # The maker's own simulated server, but that it loses frames 4 and 5 of 16.
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self["Scan - Enable"] = "Off"
        self["Grabbing - Frames Per Buffer"] = 2

    def _fake_get_movie_buffer(self, command):
        if self.current_movie_index == 4:
            self.current_movie_index = 6
        return super()._fake_get_movie_buffer(command)

initialize_server.FakeServer = DroppingServer
sys.argv = ["server", "--port", sys.argv[1]]
initialize_server.main()
"""


def test_a_direct_electron_camera(tmp_path: Path) -> None:
    pytest.importorskip("deapi")
    port = free_port()
    log = tmp_path / "server.log"
    with log.open("w") as said:
        server = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(port)], stdout=said, stderr=subprocess.DEVNULL
        )
    try:
        attached = Attached(
            tmp_path, f"direct_electron tcp://127.0.0.1:{port}", "feed.direct_electron.start=true"
        )  # which tries until the server is there
        attached.session.finish(code=3)
    finally:
        server.kill()
        server.wait()
    ((n_archived, n_lost, _),) = attached.ledgers()
    assert (n_archived, n_lost) == (14, 2)
    with open_archive(attached.runs / "series.nxs") as archive:
        assert list(archive.scores["sequence"]) == [0, 1, 2, 3, *range(6, 16)]
        assert archive.shape == (1024, 1024)


def test_a_server_that_is_not_there_is_said_to_be_unreachable(tmp_path: Path) -> None:
    attached = Attached(
        tmp_path, f"merlin tcp://127.0.0.1:{free_port()}", "ingest.first_item_s=0.5"
    )
    attached.session.finish(code=4)


def test_doctor_looks_at_a_feed(tmp_path: Path) -> None:
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    simulator = Session(
        "simulate", "--feed", "merlin", "--endpoint", endpoint, "--frames", 400, "--rate", 100,
        "--size", 64, "--gaps", "3-4", "--stay", 20,
    )  # fmt: skip
    config = tmp_path / "feed.toml"
    config.write_text(f'feed = "merlin {endpoint}"\n')
    report = call_json("doctor", config, "--feed", "--wait", 30, "--seconds", 0.5, code=1)
    simulator.process.kill()
    simulator.process.communicate()
    checks = report["checks"]
    assert [name for name, check in checks.items() if not check["ok"]] == ["feed losses"]
    assert "2 missing" in checks["feed losses"]["finding"]
    assert checks["first frame"]["finding"].startswith("64 x 64 uint16")
    assert "series of 400 frames" in checks["feed"]["finding"]
    assert 20 < float(checks["feed rate"]["finding"].split()[0]) < 200


def test_doctor_says_that_a_feed_does_not_answer(tmp_path: Path) -> None:
    config = tmp_path / "feed.toml"
    config.write_text(f'feed = "dectris tcp://127.0.0.1:{free_port()}"\n')
    done = call("doctor", config, "--feed", "--wait", 0.3)
    assert done.returncode == 4
    assert "does not answer within 0.3 s" in done.stdout


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
