"""A series on several hosts, to which segment workers come, and from which they go."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hrtem_stream.archive.verify import verify
from hrtem_stream.runtime.heart import read_beat
from hrtem_stream.transport.keys import allow, generate_keys
from tests.end_to_end.camera import Camera
from tests.end_to_end.command import COMMAND, Session, call
from tests.end_to_end.network import Cable, Host, NoNamespacesError, star_of_hosts

pytestmark = [pytest.mark.processes, pytest.mark.namespaces]

CONFIG = Path(__file__).parents[2] / "config" / "several-gpus"


@pytest.fixture(scope="module")
def network() -> Iterator[tuple[Host, list[Cable]]]:
    try:
        with star_of_hosts(2) as made:
            yield made
    except NoNamespacesError as error:
        pytest.skip(str(error))


class Site:
    """The hosts' settings, keys and output."""

    def __init__(self, folder: Path, hub: Host, cables: list[Cable]) -> None:
        self.folder, self.hub, self.cables = folder, hub, cables
        pair = generate_keys(folder / "microscope", overwrite=False)
        for number, cable in enumerate(cables):
            keys = folder / f"gpu{number}"
            public = generate_keys(keys, overwrite=False).public.decode()
            allow(folder / "microscope", f"gpu{number}", public)
            allow(keys, cable.address, pair.public.decode())

    def options(self, name: str, **values: object) -> list[str]:
        given = {
            "session.name": f"{name}-{os.getpid()}",
            "session.runtime_directory": str(self.folder / f"run-{name}"),
            "security.directory": str(self.folder / name),
            "metrics.port": 0,
            "page.enabled": False,
            **values,
        }
        return [
            word for key, value in given.items() for word in ("--set", f"{key}={json.dumps(value)}")
        ]

    def microscope(self, feed: str) -> Session:
        options = self.options(
            "microscope",
            **{"archive.file": str(self.folder / "out.nxs"), "frame_log.capacity_mib": 64},
            **{"feed.kind": "native", "feed.native.endpoint": feed},
        )
        config = CONFIG / "microscope.toml"
        return Session("run", config, *options, "--json", prefix=self.hub.prefix)

    def worker(self, host: int, index: int, *, supervised: bool) -> Session:
        cable = self.cables[host]
        options = self.options(
            f"gpu{host}",
            **{"segment.here": [index], "segment.segmenter": "bragg"},
            **{"endpoints.normalised": f"tcp://{cable.address}:5601"},
            **{"endpoints.segmented": f"tcp://{cable.address}:5602"},
        )
        words = ["run"] if supervised else ["stage", "segment", "--index", index]
        return Session(*words, CONFIG / "gpu.toml", *options, prefix=cable.ends[1].prefix)

    def n_done(self, host: int, index: int) -> int:
        """Frames done by a worker, as its heart says."""
        return read_beat(self.folder / f"run-gpu{host}" / f"segment-{index}.heart").n_done

    def workers(self) -> list[tuple[int, bool]]:
        """Give number of each worker, and whether it leaves, as the microscope's host hears."""
        environment = {
            "HRTEM_SESSION__NAME": f"microscope-{os.getpid()}",
            "HRTEM_SESSION__RUNTIME_DIRECTORY": str(self.folder / "run-microscope"),
            "HRTEM_SECURITY__DIRECTORY": str(self.folder / "microscope"),
        }
        done = subprocess.run(
            [*self.hub.prefix, *COMMAND, "status", str(CONFIG / "microscope.toml"), "--json"],
            capture_output=True, text=True, timeout=60, check=False,
            env={**os.environ, **environment},
        )  # fmt: skip
        heard = json.loads(done.stdout)["sessions"][0]["elsewhere"]
        return [(station["index"], station["is_leaving"]) for station in heard]


def test_workers_join_leave_and_die_in_a_series_and_every_frame_is_archived(
    network: tuple[Host, list[Cable]], tmp_path: Path
) -> None:
    frames = list(np.random.default_rng(7).poisson(100, (10, 256, 256)).astype(np.uint16))
    camera = Camera(frames, rate=20.0, endpoint=f"ipc://{tmp_path}/feed")
    camera.start()
    site = Site(tmp_path, *network)
    first = site.worker(0, 0, supervised=True)
    session = site.microscope(camera.endpoint)
    session.wait_for(lambda: site.n_done(0, 0) > 20)
    second = site.worker(1, 1, supervised=False)
    session.wait_for(lambda: site.n_done(1, 1) > 10)
    assert site.workers() == [(0, False), (1, False)]
    first.process.send_signal(signal.SIGINT)
    first.finish()
    third = site.worker(0, 2, supervised=True)
    session.wait_for(lambda: site.n_done(0, 2) > 10)
    second.process.kill()
    second.process.communicate()
    camera.end()
    session.wait_for((tmp_path / "out.nxs").exists)
    session.process.send_signal(signal.SIGINT)
    report = json.loads(session.finish()[0])["archives"][0]
    assert camera.n_sent > 50
    assert (report["received"], report["lost"]) == (camera.n_sent, 0)
    assert report["archived"] == camera.n_sent
    assert verify(tmp_path / "out.nxs").differences == ()
    third.process.send_signal(signal.SIGINT)
    third.finish()


def test_a_worker_without_a_shard_is_told_so() -> None:
    done = call("stage", "segment", CONFIG / "gpu.toml", "--index", 16, "--insecure")
    assert done.returncode == 2
    assert "--index must be below segment.workers = 16, got 16" in done.stderr
