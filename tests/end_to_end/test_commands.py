"""The other commands, their keys and their exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hrtem_stream.archive.verify import verify
from tests.end_to_end.command import call, call_json

pytestmark = pytest.mark.processes

SCORES = {"accuracy", "balanced_accuracy", "jaccard", "f1", "precision", "recall", "per_image"}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("simulated") / "frames.npz"
    assert (
        call("simulate", "--frames", 3, "--size", 256, "--seed", 4, "--output", path).returncode
        == 0
    )
    return path


def test_simulated_frames_depend_on_the_seed_alone(simulated: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.npz"
    call_json("simulate", "--frames", 3, "--size", 256, "--seed", 4, "--output", again)
    one, two = np.load(simulated), np.load(again)
    assert one["images"].dtype == np.uint16
    assert one["images"].shape == (3, 256, 256)
    assert one["labels"].shape[0] == 3
    assert np.array_equal(one["images"], two["images"])


def test_segment_writes_masks_of_the_working_image(simulated: Path, tmp_path: Path) -> None:
    output = tmp_path / "masks.npz"
    call_json("segment", simulated, "--output", output, "--segmenter", "bragg")
    found = np.load(output)
    assert found["masks"].shape == found["vacuum"].shape == (3, 256, 256)
    assert found["masks"].dtype == found["vacuum"].dtype == np.uint8
    assert not (found["masks"] & found["vacuum"]).any()
    graphene = 1 - (found["masks"] | found["vacuum"]).mean(axis=(1, 2))
    assert np.allclose(found["graphene_fraction"], graphene)
    assert len(found["names"]) == 3


def test_evaluate_counts_pixels_as_scikit_learn_does(tmp_path: Path) -> None:
    from sklearn.metrics import f1_score, jaccard_score

    rng = np.random.default_rng(0)
    labels = []
    for number in range(2):
        image = rng.normal(128, 20, (256, 256)).clip(0, 255).astype(np.uint8)
        label = np.zeros((256, 256), np.uint8)
        label[:, : 60 * (number + 1)] = 255
        Image.fromarray(image).save(tmp_path / f"a{number}.png")
        Image.fromarray(label).save(tmp_path / f"a{number}_LABEL.png")
        labels.append(label > 0)
    report = call_json("evaluate", tmp_path, "--segmenter", "bragg")
    assert set(report) >= SCORES
    masks_file = tmp_path / "masks.npz"
    call_json("segment", tmp_path, "--output", masks_file, "--segmenter", "bragg")
    masks = np.load(masks_file)["masks"].ravel()
    truth = np.stack(labels).ravel()
    assert report["f1"] == pytest.approx(f1_score(truth, masks))
    assert report["jaccard"] == pytest.approx(jaccard_score(truth, masks))


def test_the_bragg_filter_passes_its_published_score_on_the_real_frames(real_frames: Path) -> None:
    report = call_json("evaluate", real_frames, "--segmenter", "bragg")
    assert report["accuracy"] >= 0.956
    assert report["jaccard"] >= 0.688
    assert report["f1"] >= 0.791


def test_verify_finds_what_was_changed(simulated: Path, tmp_path: Path) -> None:
    import h5py

    output = tmp_path / "out.nxs"
    call_json("replay", simulated, "--output", output, "--segmenter", "bragg")
    with h5py.File(output, "r+") as file:
        frame = file["entry/images/image"][1]
        frame[7, 9] ^= 1
        file["entry/images/image"][1] = frame
    report = call_json("verify", output, code=5)
    assert not report["ok"]
    assert any("1" in difference for difference in report["differences"])
    output.write_bytes(b"not HDF5")
    assert call_json("verify", output, code=5)["n_frames"] == 0


def test_demo_leaves_an_archive_and_a_picture(tmp_path: Path) -> None:
    done = call("demo", "--frames", 20, "--size", 256, "--output", tmp_path / "demo")
    assert done.returncode == 0, done.stderr
    assert "received 20 = archived 20 + lost 0" in done.stdout
    assert "frames/s" in done.stdout
    with Image.open(tmp_path / "demo" / "ranked.png") as picture:
        assert picture.size[0] > 1000
    assert verify(tmp_path / "demo" / "series.nxs").differences == ()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["replay", "nowhere", "--output", "x.nxs"], 2, "nowhere does not exist"),
        (["replay", ".", "--output", "x.nxs", "--segmenter", "bragg"], 4, "has no file that ends"),
        (["replay", ".", "--output", "/proc/none/x.nxs"], 2, "/proc/none"),
        (["replay", ".", "--output", "x.nxs", "--set", "segment.wrkers=2"], 2, "segment.workers"),
        (["replay", ".", "--output", "x.nxs", "--rate", "fast"], 2, "frames per second"),
        (["replay", ".", "--output", "x.nxs", "--codec", "gzip"], 2, "deflate"),
        (["run", "none.toml"], 2, "none.toml cannot be read"),
        (["info", "none.nxs"], 1, "none.nxs"),
        (["verify", "none.nxs"], 1, "none.nxs"),
        (["evaluate", "."], 4, "_LABEL"),
        (["segment", "empty.npz", "--output", "m.npz"], 4, "empty.npz"),
    ],
)
def test_wrong_use_is_answered_with_a_sentence_and_a_code(
    tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    np.savez(tmp_path / "empty.npz", images=np.zeros((0, 8, 8), np.uint16))
    done = call(*arguments, cwd=tmp_path)
    assert words in " ".join(done.stderr.split()), done.stderr
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_config_show_tells_values_and_origins(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text("[segment]\nworkers = 2\n")
    done = call("config", "show", path, "--origin")
    assert f"segment.workers = 2   # file {path}" in done.stdout
    assert call_json("config", "show", path)["segment.workers"] == 2


def test_doctor_looks_at_the_machine() -> None:
    report = json.loads(call("doctor", "--set", "segment.segmenter=bragg", "--json").stdout)
    checks = {"processors", "frame log", "disk", "metrics ports", "segmenter"}
    assert checks <= set(report["checks"])


def test_a_session_does_not_leave_the_host_without_keys(tmp_path: Path) -> None:
    config = tmp_path / "open.toml"
    config.write_text(
        f"[endpoints]\nsummaries = 'tcp://0.0.0.0:0'\n[security]\ndirectory = '{tmp_path}/keys'\n"
        "[segment]\nsegmenter = 'bragg'\n"
    )
    refused = call("run", config)
    assert refused.returncode == 2
    assert "tcp://0.0.0.0:0 leaves this host" in refused.stderr
    assert "hrtem-stream keys generate" in refused.stderr
    assert "--insecure" in refused.stderr
    doubted = call("doctor", config, "--json")
    assert not json.loads(doubted.stdout)["checks"]["security"]["ok"]


def test_keys_are_made_shown_allowed_and_forgotten(tmp_path: Path) -> None:
    config = tmp_path / "keys.toml"
    config.write_text(f"[security]\ndirectory = '{tmp_path}/keys'\n")
    public = call("keys", "generate", "--config", config).stdout.strip()
    assert call("keys", "generate", "--config", config).returncode == 2
    assert call("keys", "allow", "gpu", public, "--config", config).returncode == 0
    shown = call_json("keys", "show", "--config", config)
    assert shown == {"folder": f"{tmp_path}/keys", "public": public, "allowed": {"gpu": public}}
    assert call("keys", "forget", "gpu", "--config", config).returncode == 0
    assert call_json("keys", "show", "--config", config)["allowed"] == {}
    token = call("keys", "show", "--token", "--config", config).stdout.strip()
    assert (tmp_path / "keys" / "token").read_text().strip() == token
