"""Stages on two hosts, with keys, over a cable that is slow or pulled out."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hrtem_stream.archive.verify import verify
from hrtem_stream.runtime.heart import read_beat
from hrtem_stream.transport.keys import allow, generate_keys
from tests.end_to_end.command import Session, simulated_frames
from tests.end_to_end.network import Cable, Host, NoNamespacesError, two_hosts

pytestmark = [pytest.mark.processes, pytest.mark.namespaces]

CONFIG = Path(__file__).parents[2] / "config" / "two-hosts"
N_FRAMES = 150


@pytest.fixture(scope="module")
def network() -> Iterator[tuple[Host, Host, Cable]]:
    try:
        with two_hosts() as made:
            yield made
    except NoNamespacesError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("frames") / "frames.npz"
    return simulated_frames(path, n_frames=10, size=256)


@pytest.fixture
def keys(tmp_path: Path, network: tuple[Host, Host, Cable]) -> dict[str, Path]:
    """Folders of keys: each host knows the other."""
    folders = {name: tmp_path / f"keys-{name}" for name in ("microscope", "gpu")}
    pairs = {name: generate_keys(folder, overwrite=False) for name, folder in folders.items()}
    allow(folders["microscope"], "gpu", pairs["gpu"].public.decode())
    allow(folders["gpu"], network[0].address, pairs["microscope"].public.decode())
    return folders


def _session(host: Host, name: str, keys: Path, **values: object) -> Session:
    """Start a session with the worked example of that name, on a host."""
    given = {
        "session.name": f"{name}-{os.getpid()}",
        "security.directory": str(keys),
        "metrics.port": 0,
        "page.enabled": False,
        **values,
    }
    options = [
        word for key, value in given.items() for word in ("--set", f"{key}={json.dumps(value)}")
    ]
    return Session("run", CONFIG / f"{name}.toml", *options, "--json", prefix=host.prefix)


def _n_done(name: str, stage: str) -> int:
    return read_beat(Path(f"/tmp/hrtem-{os.getuid()}/{name}-{os.getpid()}/{stage}.heart")).n_done


@pytest.mark.parametrize("away", ["segment", "normalise and segment"])
def test_every_frame_arrives_over_a_slow_cable_that_is_pulled_out(
    network: tuple[Host, Host, Cable],
    keys: dict[str, Path],
    frames: Path,
    tmp_path: Path,
    away: str,
) -> None:
    microscope, gpu, cable = network
    ports = {"frames": 5600, "normalised": 5601, "segmented": 5602}
    here, there, pixels_to = ["ingest", "normalise", "sort"], ["segment"], "nobody"
    crossing = ["normalised", "segmented"]
    if away != "segment":
        here, there, pixels_to = ["ingest", "sort"], ["normalise", "segment"], "normalise"
        crossing = ["frames", "segmented"]
    local = {f"endpoints.{name}": "" for name in ports}
    common = {**local, "frame_log.pixels_to": pixels_to, "frame_log.capacity_mib": 64}
    cable.slow_down("60mbit")
    other = _session(
        gpu, "gpu", keys["gpu"],
        **common
        | {"session.stages": there, "segment.segmenter": "bragg"}
        | {f"endpoints.{name}": f"tcp://{microscope.address}:{ports[name]}" for name in crossing},
    )  # fmt: skip
    session = _session(
        microscope, "microscope", keys["microscope"],
        **common
        | {"session.stages": here, "archive.file": str(tmp_path / "out.nxs")}
        | {"feed.kind": "replay", "feed.replay.paths": [str(frames)]}
        | {"feed.replay.rate": 30.0, "feed.replay.repeat": N_FRAMES // 10}
        | {f"endpoints.{name}": f"tcp://0.0.0.0:{ports[name]}" for name in crossing},
    )  # fmt: skip
    session.wait_for(lambda: _n_done("microscope", "sort") > 20, timeout_s=120)
    cable.pull()
    time.sleep(1.0)
    n_cut = _n_done("microscope", "sort")
    time.sleep(1.5)
    assert _n_done("microscope", "sort") <= n_cut + 1, "frames came without a cable"
    cable.plug()
    report = json.loads(session.finish()[0])["archives"][0]
    assert (report["received"], report["archived"], report["lost"]) == (N_FRAMES, N_FRAMES, 0)
    assert verify(tmp_path / "out.nxs").differences == ()
    other.process.send_signal(signal.SIGINT)
    other.finish()
