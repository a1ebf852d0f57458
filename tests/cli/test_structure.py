"""analyse and rank, on an archive of two frames with a lattice and one without."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from hrtem_stream.archive.encoding import FrameEncoder
from hrtem_stream.archive.reader import open_archive
from hrtem_stream.cli import app
from hrtem_stream.cli.console import print_json
from hrtem_stream.errors import ArchiveError
from hrtem_stream.messages import SeriesEnd
from hrtem_stream.science.classes import GRAPHENE
from tests.archive import series
from tests.science.test_lattice_scale import counted, honeycomb

SHAPE = (160, 200)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    encoder = FrameEncoder(SHAPE, dtype="<u2")
    writer = series.create(tmp_path / "s.nxs", shape=SHAPE)
    batch = []
    for row, size in enumerate((0.03, 0.0, 0.025)):
        contrast = honeycomb(SHAPE, pixel_size_nm=size, outer=0.6) if size else np.zeros(SHAPE)
        pixels = counted(contrast, dose=2000.0, seed=row)
        nothing = np.zeros(series.WORKING_SHAPE, np.bool_)
        frame = series.segmented(
            row, pixels=pixels, amorphous=nothing, vacuum=nothing, beam_off=nothing,
            graphene_fraction=1.0 - 0.1 * row, amorphous_fraction=0.0,
        )  # fmt: skip
        batch.append((frame, encoder.encode(pixels, nothing)))
    writer.append(batch, archived_ns=10**18 + 10**9)
    writer.close(SeriesEnd(n_received=3), ordinal=4)
    return tmp_path / "s.nxs"


def _run(*arguments: object) -> dict[str, object]:
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    content: dict[str, object] = json.loads(result.stdout)
    return content


def test_an_archive_is_analysed_exported_drawn_and_ranked(archive: Path, tmp_path: Path) -> None:
    xyz, tables, pictures = tmp_path / "a.xyz", tmp_path / "csv", tmp_path / "png"
    report = _run("analyse", archive, "--csv", tables, "--xyz", xyz, "--overlays", pictures)
    assert (report["n_frames"], report["n_without_structure"]) == (3, 1)
    assert int(str(report["n_atoms"])) > 1000
    assert xyz.read_text().splitlines()[2].startswith("C ")
    assert (tables / "atoms.csv").is_file()
    assert not (tables / "maps.csv").exists()
    kinds = [f"000000_{kind}.png" for kind in ("atoms", "classes", "grains")]
    assert sorted(p.name for p in pictures.iterdir())[:3] == kinds
    with open_archive(archive) as opened, opened.structure() as structures:
        assert (structures.maps(0)["class"] == GRAPHENE).all()
    ranked = _run("rank", archive, "--by", "n_atoms")["frames"]
    assert isinstance(ranked, list)
    assert [line["row"] for line in ranked] == [0, 2, 1]
    assert ranked[0]["n_atoms"] > ranked[1]["n_atoms"] > ranked[2]["n_atoms"] == 0
    by_graphene = _run("rank", archive, "--best", 1)["frames"]
    assert isinstance(by_graphene, list)
    assert [line["row"] for line in by_graphene] == [0]


def test_a_calibration_that_is_off_is_doubted(archive: Path) -> None:
    command = ["analyse", str(archive), "--best", "1", "--pixel-size-nm", "0.028", "--json"]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    report = json.loads(result.stdout)
    assert report["lattice_parameter_nm"] == pytest.approx(0.246 * 0.028 / 0.03, rel=2e-3)
    assert report["lattice_spread_nm"] == 0.0
    assert "the pixels are 1.07" in result.stderr


def test_a_calibration_that_is_wrong_is_refused_with_the_right_one(archive: Path) -> None:
    command = ["analyse", str(archive), "--best", "1", "--pixel-size-nm", "0.042"]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert "got 0.0420 nm, and by the lattice it is 0.030" in result.stderr
    assert "1 frames, 0 atoms" in result.stdout


def test_ranking_by_structure_asks_for_the_analysis(archive: Path) -> None:
    with pytest.raises(ArchiveError, match="run: hrtem-stream analyse"):
        CliRunner().invoke(app, ["rank", str(archive), "--by", "n_atoms"], catch_exceptions=False)


def test_only_the_best_frames_are_analysed_when_asked(archive: Path) -> None:
    assert _run("analyse", archive, "--best", 1)["n_frames"] == 1


def test_a_number_that_is_none_is_null_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"frames": [{"graphene_fraction": float("nan"), "rank": 0}, (float("inf"), 1.5)]})
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "frames": [{"graphene_fraction": None, "rank": 0}, [None, 1.5]]
    }
