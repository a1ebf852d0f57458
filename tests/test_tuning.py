import json
import subprocess
import sys

import pytest

from hrtem_stream.errors import SettingsError
from hrtem_stream.pipeline.tuning import Timings, choose, time_stages
from hrtem_stream.settings import load_settings


def timings(*, normalise=2.0, segment=1.0, deflate=5.0, zstd=3.0):
    return Timings(
        normalise=normalise, segment=segment, encode={"deflate": deflate, "zstd": zstd},
        segmenter="bragg",
    )  # fmt: skip


def test_the_codec_that_opens_everywhere_is_kept_where_it_costs_little():
    assert choose(timings(deflate=3.2), n_processors=4).codec == "deflate"
    assert choose(timings(deflate=9.0), n_processors=4).codec == "zstd"


def test_no_stage_gets_more_processors_than_there_are():
    choice = choose(timings(segment=200.0), n_processors=2)
    assert (choice.workers, choice.threads) == (2, 1)


def test_a_stage_that_cannot_be_shared_limits_the_rate():
    assert choose(timings(normalise=10.0), n_processors=64).frames_per_s == 100.0


def test_slow_stages_get_as_many_processors_as_the_rate_needs():
    choice = choose(timings(normalise=1.0, segment=10.0, deflate=5.0, zstd=5.0), n_processors=32)
    assert choice.frames_per_s == 1000.0
    assert (choice.workers, choice.threads) == (10, 5)


def test_the_file_is_one_that_a_session_takes(tmp_path):
    path = tmp_path / "tuned.toml"
    path.write_text(choose(timings(), n_processors=2).as_toml(), encoding="utf-8")
    settings = load_settings(path)
    assert settings.segment.segmenter == "bragg"
    assert settings.archive.codec == "zstd"


def test_the_command_times_this_machine(tmp_path):
    path = tmp_path / "tuned.toml"
    command = [sys.executable, "-m", "hrtem_stream", "tune", str(path), "--size", "256",
               "--segmenter", "bragg", "--json"]  # fmt: skip
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert found["timings_ms"]["segment"] > 0
    assert load_settings(path).sort.threads == found["choice"]["threads"]


def test_a_size_that_no_camera_has_is_refused():
    with pytest.raises(SettingsError, match="size must be from 64 to 8192 pixels, got 3"):
        time_stages(3, segmenter="bragg")
