"""The U-Net in the pipeline, and the Bragg filter in its place."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hrtem_stream import open_archive
from hrtem_stream.archive.verify import verify
from tests.end_to_end.command import call_json, first_on_path, simulated_frames

pytest.importorskip("torch")
pytestmark = pytest.mark.processes


def test_a_replay_of_the_real_frames_through_the_network_is_exact(
    real_frames: Path, tmp_path: Path
) -> None:
    output = tmp_path / "real.nxs"
    report = call_json("replay", real_frames, "--output", output, "--segmenter", "unet")
    assert (report["received"], report["archived"], report["lost"]) == (104, 104, 0)
    assert report["methods"]["unet"] == 104
    with open_archive(output) as archive:
        confidence = archive.scores["confidence"]
        agreement = archive.scores["agreement"]
        assert ((confidence > 0.5) & (confidence <= 1)).all()
        assert np.count_nonzero(~np.isnan(agreement)) == 3, "one frame in fifty is compared"
        assert np.nanmin(agreement) > 0.8
    assert verify(output).differences == ()


def test_the_network_beats_the_published_one_on_the_real_frames(real_frames: Path) -> None:
    """They are its training frames: this tells that the weights are whole, not how good."""
    report = call_json("evaluate", real_frames, "--segmenter", "unet")
    assert report["methods"]["unet"] == 104
    assert report["jaccard"] > 0.86
    assert report["off_edge_2px"]["jaccard"] > 0.92


def test_error_maps_show_what_was_right_and_wrong(real_frames: Path, tmp_path: Path) -> None:
    names = sorted(real_frames.glob("*_LABEL.png"))[:2]
    folder = tmp_path / "frames"
    folder.mkdir()
    for label in names:
        for path in (label, label.with_name(label.name.replace("_LABEL", ""))):
            (folder / path.name).write_bytes(path.read_bytes())
    call_json("evaluate", folder, "--error-maps", tmp_path / "maps")
    assert len(list((tmp_path / "maps").glob("*.png"))) == 2


def test_a_network_that_fails_in_the_middle_hands_over_and_says_so(tmp_path: Path) -> None:
    frames = tmp_path / "frames.npz"
    simulated_frames(frames, n_frames=10, size=256)
    (tmp_path / "sitecustomize.py").write_text(
        """
import sys
if "hrtem_stream.pipeline" in " ".join(sys.orig_argv) and "segment" in sys.orig_argv:
    import torch
    import hrtem_stream.unet.inference as inference
    plain = inference.UNetSegmenter._log_odds
    n_calls = 0
    def log_odds(self, images):
        global n_calls
        n_calls += 1
        if n_calls > 20:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return plain(self, images)
    inference.UNetSegmenter._log_odds = log_odds
"""
    )
    output = tmp_path / "out.nxs"
    command = [sys.executable, "-m", "hrtem_stream", "replay", str(frames)]
    done = subprocess.run(
        [*command, "--output", str(output), "--repeat", "8", "--segmenter", "unet", "--json"],
        env=first_on_path(tmp_path),
        capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert (report["received"], report["archived"], report["lost"]) == (80, 80, 0)
    assert report["methods"]["unet"] > 0
    assert report["methods"]["bragg"] > 0
    assert "illegal memory access" in done.stderr
    with open_archive(output) as archive:
        assert set(archive.scores["method"].tolist()) == {"unet", "bragg"}
