"""From files to a verified archive, through real processes."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from hrtem_stream import open_archive
from hrtem_stream.archive.verify import verify
from tests.end_to_end.command import call, call_json, simulated_frames

pytestmark = pytest.mark.processes

REPLAY_KEYS = {
    "received", "archived", "lost", "duplicates", "republished", "frames_per_s",
    "gigabytes_per_s", "latency_s", "methods", "raw_bytes", "stored_bytes", "archive",
}  # fmt: skip


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("series") / "simulated.npz"
    return simulated_frames(path, n_frames=12, size=512)


def _check_archive(path: Path, images: list[np.ndarray]) -> None:
    """Compare an archive with its source: pixels, ranking, fractions, with plain h5py."""
    with h5py.File(path) as file:
        entry = file["entry"]
        offsets = entry["runs/frame_offset"][:]
        fractions = entry["scores/graphene_fraction"][:]
        assert entry["images/image"].shape == (len(images), *images[0].shape)
        for row, image in enumerate(images):
            stored = entry["images/image"][row].reshape(-1)
            outside = np.ones(stored.size, bool)
            here = slice(int(offsets[row]), int(offsets[row + 1]))
            runs = zip(
                entry["runs/start"][here], entry["runs/length"][here], entry["runs/value"][here],
                strict=True,
            )  # fmt: skip
            for start, length, value in runs:
                outside[start : start + length] = False
                assert (stored[start : start + length] == value).all()
            assert np.array_equal(stored[outside], image.reshape(-1)[outside])
            amorphous = 1 - outside.mean()
            assert amorphous == pytest.approx(entry["scores/amorphous_fraction"][row], abs=0.005)
            vacuum = entry["scores/vacuum_fraction"][row] + entry["scores/beam_off_fraction"][row]
            assert fractions[row] == pytest.approx(1 - amorphous - vacuum, abs=0.005)
        order = np.argsort(-fractions, kind="stable")
        assert np.array_equal(np.argsort(entry["scores/rank"][:]), order)
        best = entry["ranked/image"][0]
        assert np.array_equal(best, entry["images/image"][order[0]])


@pytest.mark.parametrize("codec", ["deflate", "none"])
def test_a_replay_archives_every_frame_bit_for_bit(
    series: Path, tmp_path: Path, codec: str
) -> None:
    output = tmp_path / "out.nxs"
    report = call_json(
        "replay", series, "--output", output, "--codec", codec, "--segmenter", "bragg"
    )
    assert set(report) >= REPLAY_KEYS
    assert (report["received"], report["archived"], report["lost"]) == (12, 12, 0)
    assert report["duplicates"] == report["republished"] == 0
    assert report["methods"]["bragg"] + report["methods"]["unet"] == 12
    assert report["latency_s"]["p99"] >= report["latency_s"]["p50"] > 0
    _check_archive(output, list(np.load(series)["images"]))
    assert verify(output).differences == ()
    assert call_json("info", output)["complete"]
    assert not output.with_name("out.nxs.part").exists()


def test_the_real_frames_are_archived_whole_and_opened_by_anyone(
    real_frames: Path, tmp_path: Path
) -> None:
    output = tmp_path / "real.nxs"
    report = call_json("replay", real_frames, "--output", output, "--segmenter", "bragg")
    assert (report["received"], report["archived"], report["lost"]) == (104, 104, 0)
    assert report["methods"]["bragg"] == 104
    names = sorted(p for p in real_frames.glob("*.png") if not p.stem.endswith("_LABEL"))
    _check_archive(output, [np.asarray(Image.open(name)) for name in names])
    with open_archive(output) as archive:
        assert archive.scores["name"].tolist() == [name.stem for name in names]
    assert verify(output).differences == ()


def test_an_archive_can_be_replayed_by_two_workers_several_times(
    series: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.nxs", tmp_path / "second.nxs"
    bragg = ("--segmenter", "bragg")
    call_json("replay", series, "--output", first, "--set", "archive.keep=all", *bragg)
    report = call_json(
        "replay", first, "--output", second, "--repeat", 3, "--workers", 2, "--codec", "zstd",
        *bragg,
    )  # fmt: skip
    assert (report["received"], report["archived"], report["lost"]) == (36, 36, 0)
    with open_archive(first) as one, open_archive(second) as three:
        assert three.scores["sequence"].tolist() == list(range(36))
        for row in range(36):
            assert np.array_equal(one.mask(row % 12), three.mask(row))
    assert verify(second).differences == ()


def test_frames_that_cannot_be_analysed_are_flagged_and_archived_as_they_came(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(1000, 30, (6, 300, 280)).astype(np.float32)
    images[1] = 0
    images[2, 5, 5] = np.nan
    images[3] = 7
    images[4, 0, 0] = np.inf
    source, output = tmp_path / "bad.npy", tmp_path / "bad.nxs"
    np.save(source, images)
    report = call_json("replay", source, "--output", output, "--segmenter", "bragg")
    assert (report["received"], report["archived"], report["lost"]) == (6, 6, 0)
    assert report["methods"]["none"] == 4
    with open_archive(output) as archive:
        faults = archive.scores["fault"].tolist()
        assert [bool(fault) for fault in faults] == [False, True, True, True, True, False]
        assert "finite" in faults[2]
        assert (archive.scores["graphene_fraction"][1:5] == 0).all()
        for row in range(1, 5):
            assert np.array_equal(archive.frame(row), images[row], equal_nan=True)
    assert verify(output).differences == ()


def test_a_folder_with_broken_and_odd_files_loses_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for number in range(4):
        image = rng.integers(50, 200, (256, 256)).astype(np.uint8)
        Image.fromarray(image).save(folder / f"f{number}.png")
    whole = (folder / "f1.png").read_bytes()
    (folder / "f1.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(rng.integers(50, 200, (128, 256)).astype(np.uint8)).save(folder / "f2.png")
    (folder / "f4.png").write_bytes(b"")
    output = tmp_path / "out.nxs"
    report = call_json("replay", folder, "--output", output, "--segmenter", "bragg")
    assert report["received"] == report["archived"] + report["lost"] == 5
    assert report["lost"] == 0
    with open_archive(output) as archive:
        assert archive.set_aside(1).payload == whole[: len(whole) // 2]
        assert archive.set_aside(2).shape == (128, 256)
    assert verify(output).differences == ()


def test_rotation_gives_several_files_each_complete(series: Path, tmp_path: Path) -> None:
    report = call_json(
        "replay",
        series,
        "--output",
        tmp_path / "r.nxs",
        "--set",
        "archive.frames_per_file=5",
        "--segmenter",
        "bragg",
    )
    assert len(report["archives"]) == 3
    assert (report["received"], report["archived"], report["lost"]) == (12, 12, 0)
    lengths = []
    for path in report["archives"]:
        assert verify(path).differences == ()
        with open_archive(path) as archive:
            lengths.append(len(archive))
    assert lengths == [5, 5, 2]


def test_an_existing_output_is_refused_and_left_alone(series: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.nxs"
    output.write_bytes(b"precious")
    done = call("replay", series, "--output", output)
    assert done.returncode == 2
    assert "--overwrite" in done.stderr
    assert output.read_bytes() == b"precious"
    output.rename(tmp_path / "out.nxs.part")
    assert call("replay", series, "--output", output).returncode == 2
    output.write_bytes(b"precious")
    call_json("replay", series, "--output", output, "--overwrite", "--segmenter", "bragg")
    assert sorted(path.name for path in tmp_path.glob("out*.nxs*")) == ["out.nxs"]
    assert verify(output).differences == ()
