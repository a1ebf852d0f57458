"""A session among hostile peers: on the feed's socket, and on one between the stages."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import zmq

from hrtem_stream import open_archive
from hrtem_stream.archive.verify import verify
from hrtem_stream.runtime.heart import read_beat
from hrtem_stream.simulators.native import NativeSender, encode_frame, encode_start
from tests.end_to_end.command import Session
from tests.fuzz import spoilt
from tests.hostile_wire import FAULTY, REJECTED
from tests.stages.frames import normalised, raw, segmented

pytestmark = pytest.mark.processes

N_FRAMES = 40
MOST_BYTES = 1 << 30


@pytest.fixture
def ports() -> list[int]:
    with socket.socket() as a, socket.socket() as b:
        for probe in (a, b):
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in (a, b)]


@pytest.fixture
def stranger(ports: list[int]) -> Iterator[zmq.Socket[bytes]]:
    """Give a publisher that talks to the socket on which `sort` listens."""
    with zmq.Context() as context, context.socket(zmq.PUB) as made:
        made.linger = 0
        made.connect(f"tcp://127.0.0.1:{ports[1]}")
        yield made


def test_a_session_among_hostile_peers_archives_what_is_sound(
    tmp_path: Path, ports: list[int], stranger: zmq.Socket[bytes]
) -> None:
    config = tmp_path / "hostile.toml"
    name = f"hostile-{os.getpid()}"
    config.write_text(
        f"""
[session]
name = "{name}"
[feed]
kind = "native"
[feed.native]
endpoint = "tcp://127.0.0.1:{ports[0]}"
max_frame_mib = 1
[endpoints]
segmented = "tcp://127.0.0.1:{ports[1]}"
[frame_log]
capacity_mib = 32
[segment]
segmenter = "bragg"
[metrics]
port = 0
[page]
enabled = false
[archive]
directory = "{tmp_path}/runs"
"""
    )
    rng = np.random.default_rng(3)
    heart = Path(f"/tmp/hrtem-{os.getuid()}/{name}/sort.heart")
    session = Session("run", config, "--json")
    with NativeSender(f"tcp://127.0.0.1:{ports[0]}") as feed:
        feed.send(encode_start("S1", n_frames=None))
        hostile = [parts for _, parts in REJECTED.values() if parts]
        torn = [FAULTY["too few bytes"], FAULTY["a large frame of a few bytes"]]
        talk = [
            [bytes(part) for part in m] for m in map(_encoded, (raw(), normalised(), segmented()))
        ]
        for sequence in range(N_FRAMES):
            image = rng.poisson(100, (128, 128)).astype("<u2")
            feed.send(encode_frame("S1", sequence=sequence + 10, image=image))
            for parts in (hostile[sequence % len(hostile)], torn[sequence % 2]):
                feed.send(parts)
            stranger.send_multipart([b"0000:", b"\xdd\xff\xff\xff\xff", bytes(70_000)])
            stranger.send_multipart(talk[sequence % 3])
            stranger.send_multipart(spoilt([_cut(segmented())], rng) or [b""])
            if sequence == 5:
                session.wait_for(lambda: read_beat(heart).n_done > 0, timeout_s=100)
        session.wait_for(lambda: read_beat(heart).n_done >= N_FRAMES)
        pids = {stage: child.pid for stage, child in session.children().items()}
        for child in session.children().values():
            assert child.memory_info().rss - child.memory_info().shared < MOST_BYTES
        # Too large a part breaks the connection, and the feed goes on after it.
        feed.send([bytes(4 << 20)])
        session.wait_for(lambda: _is_connected(ports[0]))
    assert pids.keys() >= {"ingest", "normalise", "segment-0", "sort"}
    session.process.send_signal(signal.SIGINT)
    out, err = session.finish(code=3)  # what the refused messages may have held is declared lost
    assert "is started again" not in err
    (report,) = json.loads(out)["archives"]
    assert report["received"] == report["archived"] + report["lost"]
    (archive,) = (tmp_path / "runs").glob("*.nxs")
    assert verify(archive).differences == ()
    with open_archive(archive) as opened:
        sequences = opened.scores["sequence"][opened.scores["fault"] == ""]
        assert set(range(10, 10 + N_FRAMES)) <= set(sequences.tolist())


def _encoded(message: object) -> list[bytes]:
    from hrtem_stream.transport.wire import encode

    return [bytes(part) for part in encode(message)]  # type: ignore[arg-type]


def _cut(message: object) -> list[bytes]:
    """Give a message that lacks its envelope's end, so that nothing sound comes of it."""
    parts = _encoded(message)
    return [parts[0], parts[1][:-3], *parts[2:]]


def _is_connected(port: int) -> bool:
    return any(
        link.status == psutil.CONN_ESTABLISHED and link.laddr.port == port
        for link in psutil.net_connections("tcp")
    )
