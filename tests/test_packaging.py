"""What is shipped, and how fast the command line answers."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from hrtem_stream.version import __version__

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "scipy", "skimage", "h5py", "cv2", "numba", "zmq", "nicegui", "numpy", "dask")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, contextlib, io\n"
        "from hrtem_stream.cli import app\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "    app(['--help'])\n"
        f"print([name for name in {HEAVY} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_version_changes_and_citation_agree() -> None:
    assert f"## {__version__} " in (ROOT / "CHANGELOG.md").read_text()
    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_all_takes_every_extra_of_users_but_that_under_the_gpl() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    (everything,) = extras["all"]
    named = set(everything.removeprefix("hrtem-stream[").removesuffix("]").split(","))
    assert named == set(extras) - {"all", "dev", "peers", "viewers", "formats"}


def test_a_script_shows_how_an_archive_is_looked_at(tmp_path: Path) -> None:
    from hrtem_stream.archive.encoding import FrameEncoder
    from hrtem_stream.messages import SeriesEnd
    from tests.archive import series

    writer = series.create(tmp_path / "s.nxs")
    encoder = FrameEncoder((40, 48), dtype="<u2")
    writer.append(series.rows(0, 4, encoder=encoder), archived_ns=10**18 + 10**9)
    writer.close(SeriesEnd(n_received=4), ordinal=5)
    script = ROOT / "docs" / "look_at_an_archive.py"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script, tmp_path / "s.nxs"],
        capture_output=True, text=True, check=False,
        env={"MPLBACKEND": "agg", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "archived=4" in done.stdout
    assert (tmp_path / "s.png").stat().st_size > 10_000


def test_examples_are_copied_and_never_replaced(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hrtem_stream", "config", "copy", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "live.toml").read_bytes() == (ROOT / "config" / "live.toml").read_bytes()
    (tmp_path / "live.toml").write_text("# mine\n")
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "live.toml exists and is left as it is" in done.stdout
    assert (tmp_path / "live.toml").read_text() == "# mine\n"


def test_the_picture_of_the_architecture_is_that_of_the_code() -> None:
    code = "import runpy; print(runpy.run_path('docs/architecture.py')['draw'](), end='')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["feed", "segmenter", "stage"])
def test_what_is_added_takes_under_forty_lines(name: str) -> None:
    text = (ROOT / "tests" / "extending" / f"test_a_{name}.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 40


@pytest.mark.slow
def test_the_wheel_has_weights_examples_and_the_page(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", tmp_path, ROOT]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        names = set(content.namelist())
    for name in (
        "py.typed", "unet/weights/fast.safetensors", "config/live.toml", "web/page.js",
        "config/grafana/dashboards/hrtem_stream.json",
    ):  # fmt: skip
        assert f"hrtem_stream/{name}" in names, name
    assert not any(name.startswith("tests/") for name in names)
