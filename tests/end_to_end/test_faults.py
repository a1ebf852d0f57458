"""Processes that are killed, feeds that lose frames, users that press Ctrl-C, disks that fill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import h5py
import msgpack
import numpy as np
import pytest
import zmq

from hrtem_stream import open_archive
from hrtem_stream.archive.verify import verify
from hrtem_stream.runtime.heart import read_beat
from hrtem_stream.runtime.readings import read_process
from tests.end_to_end.command import Session, call_json, first_on_path, simulated_frames

pytestmark = pytest.mark.processes


N_REPEATS = 30


@pytest.fixture(scope="module")
def undisturbed(frames: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Archive of a replay in which nothing was killed, by the number of its process."""
    path = tmp_path_factory.mktemp("undisturbed") / "undisturbed.nxs"
    session = Session(
        "replay", frames, "--segmenter", "bragg", "--output", path, "--repeat", N_REPEATS
    )
    session.finish()
    return path.rename(path.with_stem(str(session.process.pid)))


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("frames") / "frames.npz"
    return simulated_frames(path, n_frames=10, size=256)


def _n_archived(session: Session) -> int:
    """Frames that the present `sort` of a replay has archived."""
    heart = Path(f"/tmp/hrtem-{os.getuid()}/replay-{session.process.pid}/sort.heart")
    return read_beat(heart).n_done


def _content(path: Path) -> dict[str, list]:
    """Give pixels, masks, ranking and ledger: what must not depend on who was killed."""
    with open_archive(path) as archive:
        scores, ledger = archive.scores, archive.ledger
        names = ("sequence", "digest", "stored_digest", "rank", "graphene_fraction", "method")
        return {name: scores[name].tolist() for name in names} | {
            "pixels": [archive.frame(row).tobytes() for row in range(len(archive))],
            "masks": [archive.mask(row).tobytes() for row in range(len(archive))],
            "ledger": [
                ledger.received, ledger.archived, ledger.lost, ledger.losses, ledger.repeated,
                ledger.end_reason, ledger.complete,
            ],
        }  # fmt: skip


@pytest.mark.parametrize(
    "victims",
    [
        pytest.param(["segment-0"], marks=pytest.mark.slow),  # the drill kills them, too
        pytest.param(["normalise"], marks=pytest.mark.slow),
        ["sort"],
        ["ingest"],
        ["segment-1", "sort"],
    ],
)
def test_a_killed_stage_costs_no_frame(
    frames: Path, undisturbed: Path, tmp_path: Path, victims: list[str]
) -> None:
    output = tmp_path / "out.nxs"
    session = Session(
        "replay",
        frames,
        "--segmenter",
        "bragg",
        "--output",
        output,
        "--repeat",
        N_REPEATS,
        "--rate",
        60,
        "--workers",
        2,
        "--json",
    )
    for _ in range(2):
        session.wait_for(lambda: _n_archived(session) > 20)
        for victim in victims:
            if (process := session.children().get(victim)) is not None:
                process.kill()
    report = json.loads(session.finish()[0])
    assert (report["received"], report["archived"], report["lost"]) == (
        10 * N_REPEATS,
        10 * N_REPEATS,
        0,
    )
    assert verify(output).differences == ()
    assert _content(output) == _content(undisturbed)


def test_ctrl_c_drains_and_closes_the_file(frames: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.nxs"
    session = Session(
        "replay",
        frames,
        "--segmenter",
        "bragg",
        "--output",
        output,
        "--repeat",
        100_000,
        "--rate",
        100,
        "--json",
    )
    session.wait_for(lambda: _n_archived(session) > 20)
    session.process.send_signal(signal.SIGINT)
    report = json.loads(session.finish()[0])
    assert report["received"] == report["archived"] > 0
    assert report["lost"] == 0
    assert report["end_reason"] == "stopped by the user"
    assert verify(output).differences == ()


def test_a_second_ctrl_c_leaves_a_file_that_opens_and_can_be_recovered(
    frames: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.nxs"
    part = Path(f"{output}.part")
    session = Session(
        "replay",
        frames,
        "--segmenter",
        "bragg",
        "--output",
        output,
        "--repeat",
        100_000,
        "--rate",
        100,
        "--json",
    )
    session.wait_for(lambda: _n_archived(session) > 0)
    stopped = session.children()["normalise"]
    stopped.suspend()
    session.process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    session.process.send_signal(signal.SIGINT)
    session.finish(code=1)
    with h5py.File(part) as file:
        n_frames = len(file["entry/images/image"])
    recovered = call_json("recover", part)
    assert recovered["archived"] == n_frames > 0
    assert verify(output).differences == ()


def test_nothing_is_left_behind_in_shared_memory_or_among_processes(undisturbed: Path) -> None:
    name = f"replay-{undisturbed.stem}"
    assert not Path(f"/dev/shm/hrtem-{os.getuid()}-{name}").exists()
    assert not (Path(f"/tmp/hrtem-{os.getuid()}") / name).exists()


class Camera:
    """A feed that a test writes message by message."""

    def __init__(self, folder: Path, *, pattern: str = "push") -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.PUSH if pattern == "push" else zmq.XPUB)
        port = self.socket.bind_to_random_port("tcp://127.0.0.1")
        self.session = f"test-{os.getpid()}-{folder.name[:20]}"
        self.config = folder / "camera.toml"
        self.config.write_text(
            f"""
[session]
name = "{self.session}"
[feed]
kind = "native"
[feed.native]
endpoint = "tcp://127.0.0.1:{port}"
pattern = "{pattern}"
[frame_log]
capacity_mib = 64
[segment]
segmenter = "bragg"
[archive]
directory = "{folder}/runs"
"""
        )

    def header(self, kind: str, **fields: object) -> bytes:
        return msgpack.packb({"version": 1, "type": kind, "series": "s", **fields})

    def wait_for_a_listener(self) -> None:
        """Wait until somebody has subscribed; a PUB socket could not tell."""
        assert self.socket.poll(60_000), "nobody listens"
        self.socket.recv()

    def start(self, **fields: object) -> None:
        self.socket.send(self.header("start", **fields))

    def frame(self, sequence: int, pixels: np.ndarray, *, series: str = "s") -> None:
        header = self.header(
            "frame", sequence=sequence, shape=list(pixels.shape), dtype=pixels.dtype.str,
            series=series,
        )  # fmt: skip
        self.socket.send_multipart([header, pixels.tobytes()])

    def end(self, n_frames: int) -> None:
        self.socket.send(self.header("end", n_frames=n_frames))

    def close(self) -> None:
        self.socket.close(linger=0)
        self._context.term()


def _noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).poisson(200, (256, 256)).astype(np.uint16)


def test_a_feed_that_does_everything_wrong_is_accounted_for_frame_by_frame(
    tmp_path: Path,
) -> None:
    camera = Camera(tmp_path)
    session = Session("run", camera.config, "--json")
    camera.start(n_frames=12, pixel_size_nm=0.03)
    truncated = camera.header("frame", sequence=0, shape=[256, 256], dtype="<u2")
    camera.socket.send_multipart([truncated, b"x" * 1000])
    camera.frame(1, _noise(1))
    camera.frame(2, _noise(2))
    camera.frame(2, _noise(2))  # repeated
    camera.frame(2, _noise(99))  # repeated, but another one
    camera.socket.send(b"\xc1 nonsense")
    camera.socket.send_multipart([msgpack.packb({"version": 9, "type": "frame"}), b""])
    camera.socket.send_multipart([b"x" * 100_000, b""])
    camera.frame(6, _noise(6))  # 3, 4, 5 are missing
    camera.frame(5, _noise(5))  # late
    camera.frame(7, np.zeros((256, 256), np.uint16))
    camera.frame(8, np.full((256, 256), 65535, np.uint16))
    camera.frame(9, _noise(9)[:100])
    camera.end(12)  # 10, 11 are missing
    archive = tmp_path / "runs" / "s.nxs"
    session.wait_for(lambda: archive.exists())
    session.process.send_signal(signal.SIGINT)
    out, err = session.finish(code=3)
    camera.close()
    (report,) = json.loads(out)["archives"]
    assert (report["received"], report["archived"], report["lost"]) == (13, 9, 4)
    assert report["repeated"] == 1
    assert "malformed" in err or "not understood" in err or "dropped" in err
    with open_archive(archive) as opened:
        sequences = opened.scores["sequence"].tolist()
        assert sequences == [0, 1, 2, 2, 6, 5, 7, 8, 9]
        lost = [
            n
            for loss in opened.ledger.losses
            for n in range(loss.first, loss.first + loss.n_frames)
        ]
        assert lost == [3, 4, 10, 11]
        assert opened.set_aside(0).payload == b"x" * 1000
        assert np.array_equal(opened.frame(4), opened.frame(4))
        faults = opened.scores["fault"].tolist()
        assert [bool(fault) for fault in faults] == [1, 0, 0, 1, 0, 0, 1, 1, 1]
        assert opened.calibration.pixel_size_nm == pytest.approx(0.03)
    assert verify(archive).differences == ()


def test_a_feed_of_which_every_message_is_refused_is_not_said_to_be_well(tmp_path: Path) -> None:
    camera = Camera(tmp_path)
    session = Session("run", camera.config, "--json")
    for _ in range(3):
        camera.socket.send(b"\xc1 nonsense")
    heart = Path(f"/tmp/hrtem-{os.getuid()}") / camera.session / "ingest.heart"
    session.wait_for(lambda: "messages_rejected" in read_process(heart).labelled)
    session.process.send_signal(signal.SIGINT)
    out, err = session.finish(code=4)
    camera.close()
    report = json.loads(out)
    assert (report["exit_code"], report["archives"]) == (4, [])
    assert "all that the feed sent was refused" in report["error"]
    assert report["error"] in err


def test_a_new_series_ends_the_one_before_and_silence_ends_the_last(tmp_path: Path) -> None:
    camera = Camera(tmp_path)
    session = Session("run", camera.config, "--set", "ingest.idle_end_s=1.0", "--json")
    camera.start()
    for sequence in range(3):
        camera.frame(sequence, _noise(sequence))
    camera.start()  # the same name again, without an end
    camera.frame(0, _noise(3))
    camera.frame(0, _noise(4), series="other")
    runs = tmp_path / "runs"
    session.wait_for(lambda: all((runs / n).exists() for n in ("s.nxs", "s-2.nxs", "other.nxs")))
    session.process.send_signal(signal.SIGINT)
    session.finish()
    camera.close()
    for name, n_frames, reason in (
        ("s.nxs", 3, "another series"),
        ("s-2.nxs", 1, "another series"),
        ("other.nxs", 1, "silent"),
    ):  # fmt: skip
        with open_archive(runs / name) as archive:
            assert len(archive) == n_frames
            assert reason in archive.ledger.end_reason


def test_a_full_disk_makes_frames_wait_and_then_go_on(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * (16 << 20))
        camera = Camera(tmp_path)
        session = Session(
            "run", camera.config,
            "--set", f"archive.directory={disk}", "--set", "archive.codec=none",
            "--json",
        )  # fmt: skip
        camera.start()
        for sequence in range(40):  # 5 MiB, more than is left beside the room that is asked for
            camera.frame(sequence, _noise(sequence))
        camera.end(40)
        time.sleep(6.0)
        assert not (disk / "s.nxs").exists()
        ballast.unlink()
        session.wait_for(lambda: (disk / "s.nxs").exists())
        session.process.send_signal(signal.SIGINT)
        (report,) = json.loads(session.finish()[0])["archives"]
        camera.close()
        assert (report["received"], report["archived"], report["lost"]) == (40, 40, 0)
        assert verify(disk / "s.nxs").differences == ()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def test_a_feed_that_cannot_wait_loses_what_the_log_cannot_hold_and_says_so(
    tmp_path: Path,
) -> None:
    camera = Camera(tmp_path, pattern="pub")
    session = Session("run", camera.config, "--set", "frame_log.capacity_mib=1.0", "--json")
    session.wait_for(lambda: "normalise" in session.children())
    camera.wait_for_a_listener()
    session.children()["normalise"].suspend()
    camera.start()
    for sequence in range(30):
        camera.frame(sequence, _noise(sequence))
        time.sleep(0.01)
    session.children()["normalise"].resume()
    time.sleep(1.0)
    camera.frame(30, _noise(30))
    camera.end(31)
    archive = tmp_path / "runs" / "s.nxs"
    session.wait_for(lambda: archive.exists())
    session.process.send_signal(signal.SIGINT)
    (report,) = json.loads(session.finish(code=3)[0])["archives"]
    camera.close()
    assert report["received"] == 31 == report["archived"] + report["lost"]
    assert report["lost"] > 10
    with open_archive(archive) as opened:
        assert {loss.reason for loss in opened.ledger.losses} == {"frame log full"}


def test_a_frame_that_ends_its_stage_twice_is_passed_on_without_work(
    frames: Path, tmp_path: Path
) -> None:
    """A worker that always dies on one frame must not stop the others."""
    poison = tmp_path / "sitecustomize.py"
    poison.write_text(
        """
import sys
if "hrtem_stream.pipeline" in " ".join(sys.orig_argv) and "segment" in sys.orig_argv:
    import os, signal
    import hrtem_stream.stages.segment as segment
    plain = segment.Segment.process
    def process(self, batch):
        if any(frame.header.sequence == 4 for frame in batch):
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(self, batch)
    segment.Segment.process = process
"""
    )
    output = tmp_path / "out.nxs"
    environment = first_on_path(tmp_path)
    done = subprocess.run(
        ["python", "-m", "hrtem_stream", "replay", str(frames), "--output", str(output),
         "--segmenter", "bragg", "--json"],
        env={**environment, "PATH": f"{Path(os.sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert (report["received"], report["archived"], report["lost"]) == (10, 10, 0)
    assert report["methods"]["none"] == 1
    with open_archive(output) as archive:
        assert "ended segment twice" in archive.scores["fault"][4]


def test_a_session_that_was_killed_whole_is_taken_up_by_the_next_one(tmp_path: Path) -> None:
    camera = Camera(tmp_path)
    first = Session("run", camera.config)
    camera.start()
    for sequence in range(20):
        camera.frame(sequence, _noise(sequence))
    part = tmp_path / "runs" / "s.nxs.part"
    first.wait_for(part.exists)
    children = list(first.children().values())
    first.process.kill()
    first.process.communicate()
    deadline = time.monotonic() + 10
    while any(child.is_running() and child.status() != "zombie" for child in children):
        assert time.monotonic() < deadline, "a stage outlived its supervisor"
        time.sleep(0.02)
    second = Session("run", camera.config, "--json")
    for sequence in range(20, 30):
        camera.frame(sequence, _noise(sequence))
    camera.end(30)
    second.wait_for((tmp_path / "runs" / "s.nxs").exists)
    second.process.send_signal(signal.SIGINT)
    out, _ = second.process.communicate(timeout=120)
    camera.close()
    (report,) = json.loads(out)["archives"]
    assert report["received"] == 30 == report["archived"] + report["lost"]
    with open_archive(tmp_path / "runs" / "s.nxs") as archive:
        assert len(set(archive.scores["sequence"].tolist())) == report["archived"]
    assert verify(tmp_path / "runs" / "s.nxs").differences == ()
    assert not Path(f"/dev/shm/hrtem-{os.getuid()}-{camera.session}").exists()


def test_an_ingest_that_dies_after_the_end_of_its_feed_does_not_play_it_again(
    frames: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.nxs"
    session = Session("replay", frames, "--segmenter", "bragg", "--output", output, "--json")
    session.wait_for(lambda: "normalise" in session.children())
    session.children()["normalise"].suspend()
    time.sleep(3.0)  # the feed is through long before, and nothing is archived
    if "ingest" in session.children():
        session.children()["ingest"].kill()
    session.children()["normalise"].resume()
    report = json.loads(session.finish()[0])
    assert (report["received"], report["archived"], report["lost"]) == (10, 10, 0)
    assert len(report["archives"]) == 1


def test_a_window_of_a_few_frames_and_very_many_paths_change_nothing(
    frames: Path, tmp_path: Path
) -> None:
    images = np.load(frames)["images"]
    folder = tmp_path / ("long" * 20)
    folder.mkdir()
    paths = []
    for number in range(300):
        paths.append(folder / f"{'n' * 100}{number:04d}.npy")
        np.save(paths[-1], images[number % 10])
    report = call_json(
        "replay", *paths, "--output", tmp_path / "out.nxs", "--segmenter", "bragg",
        "--set", "ingest.window=4",
    )  # fmt: skip
    assert (report["received"], report["archived"], report["lost"]) == (300, 300, 0)
    assert report["methods"]["bragg"] == 300
    assert call_json("info", tmp_path / "out.nxs")["n_set_aside"] == 0
