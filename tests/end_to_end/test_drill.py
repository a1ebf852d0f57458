"""The drill itself, short; and what must be said when a session cannot go on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import h5py
import pytest

from hrtem_stream.runtime.heart import read_beat
from hrtem_stream.settings import load_settings
from hrtem_stream.simulators.drill import Drill, Plan, Round
from tests.end_to_end.command import Session, call, call_json

pytestmark = pytest.mark.processes

KEYS = {
    "faults", "sent", "archived", "lost", "unaccounted", "duplicated", "mismatched",
    "recovery_s", "frames_per_s", "latency_s",
}  # fmt: skip


def test_a_short_drill_accounts_for_every_frame() -> None:
    plan = Plan(
        rounds=(Round(pattern="push", undisturbed_s=1.0, disturbed_s=8.0),),
        rate=40.0, size=256, pause_s=0.3, series_s=4.0, seed=11,
    )  # fmt: skip
    settings = load_settings(None, {"segment.segmenter": "bragg"})
    report = Drill(settings, plan).run()
    assert set(report) >= KEYS
    assert report["ok"], report
    assert report["sent"] == report["archived"] + report["lost"] > 50
    assert report["unaccounted"] == report["duplicated"] == report["mismatched"] == 0
    assert report["faults"]["total"] == sum(report["faults"].values()) / 2 > 2
    assert not report["evidence"]


@pytest.mark.slow
def test_it_gives_up_on_a_stage_that_always_dies_and_leaves_a_file_that_opens(
    tmp_path: Path,
) -> None:
    config = tmp_path / "doomed.toml"
    config.write_text(
        f"""
[session]
name = "doomed-{os.getpid()}"
[feed.simulated]
n_frames = 100000
size = 256
rate = 100.0
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
    session = Session("run", config, "--json")
    part = tmp_path / "runs" / "series.nxs.part"
    heart = Path(f"/tmp/hrtem-{os.getuid()}/doomed-{os.getpid()}/sort.heart")
    session.wait_for(lambda: read_beat(heart).n_done > 0)
    while session.process.poll() is None:
        victim = session.children().get("sort")
        if victim is not None:
            victim.kill()
    out, err = session.finish(code=1)
    assert "sort died 8 times in a row" in err
    report = json.loads(out)
    assert report["exit_code"] == 1
    assert "sort died 8 times in a row" in report["error"]
    with h5py.File(part) as file:
        n_frames = len(file["entry/images/image"])
    recovered = call_json("recover", part)
    assert recovered["archived"] == n_frames > 0


def test_a_failing_command_that_was_asked_for_json_prints_an_object(tmp_path: Path) -> None:
    done = call("replay", tmp_path / "nowhere", "--output", tmp_path / "x.nxs", "--json")
    assert done.returncode == 2
    report = json.loads(done.stdout)
    assert report["exit_code"] == 2
    assert "does not exist" in report["error"]
