"""What a session does on a host that runs only some of its stages."""

from __future__ import annotations

from pathlib import Path

import pytest

from hrtem_stream.errors import SettingsError
from hrtem_stream.pipeline import stage_processes
from hrtem_stream.pipeline.observation import Observation
from hrtem_stream.pipeline.security import check_access
from hrtem_stream.settings import Settings, load_settings

CONFIG = Path(__file__).parents[1] / "config" / "two-hosts"


def _settings(name: str, folder: Path, **values: object) -> Settings:
    given = {"session.runtime_directory": str(folder), "security.directory": str(folder)}
    return load_settings(CONFIG / f"{name}.toml", {**given, **values})


def test_the_two_hosts_of_the_example_have_every_stage_between_them(tmp_path: Path) -> None:
    microscope, gpu = (_settings(name, tmp_path) for name in ("microscope", "gpu"))
    assert microscope.segment.workers == gpu.segment.workers
    both = {*stage_processes(microscope), *stage_processes(gpu)}
    everything = {*stage_processes(Settings(segment=gpu.segment))}
    assert both == everything
    assert not {*stage_processes(microscope)} & {*stage_processes(gpu)}


@pytest.mark.parametrize("name", ["microscope", "gpu"])
def test_neither_host_of_the_example_starts_without_keys(tmp_path: Path, name: str) -> None:
    settings = _settings(name, tmp_path)
    with pytest.raises(SettingsError, match="hrtem-stream keys generate"):
        check_access(settings, settings.session.stages)
    bold = _settings(name, tmp_path, **{"security.insecure": "everything"})
    check_access(bold, bold.session.stages)


@pytest.mark.parametrize("name", ["microscope", "gpu"])
def test_a_session_is_observed_whatever_stages_it_has(tmp_path: Path, name: str) -> None:
    settings = _settings(name, tmp_path, **{"metrics.enabled": False})
    with Observation(settings, restarts=dict) as observation:
        observation.look()


def test_workers_of_other_hosts_are_not_started_here(tmp_path: Path) -> None:
    further = _settings("gpu", tmp_path, **{"segment.workers": 3, "segment.here": [1, 2]})
    assert stage_processes(further) == [("segment", 1), ("segment", 2)]
    with pytest.raises(SettingsError, match=r"segment\.here must be below segment\.workers = 2"):
        _settings("gpu", tmp_path, **{"segment.here": [2]})
