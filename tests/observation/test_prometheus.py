"""Prometheus and Grafana: configuration, alerts and the dashboard, with the real programs."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.end_to_end.command import Session, call

pytestmark = pytest.mark.prometheus

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config" / "prometheus"
DASHBOARD = ROOT / "config" / "grafana" / "dashboards" / "hrtem_stream.json"
RULE_TESTS = Path(__file__).with_name("alerts_test.yml")
SCRAPE_S = 1


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    for program in ("promtool", "prometheus"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def _promtool(*arguments: object, **options: Any) -> str:
    done = subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=60,
        check=False, **options,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def _alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((CONFIG / "alerts.yml").read_text())["groups"]
    return group["rules"]


@pytest.fixture(scope="module")
def configured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the configuration that finds its sessions in a folder of its own, soon."""
    folder = tmp_path_factory.mktemp("prometheus")
    for path in CONFIG.glob("*.yml"):
        shutil.copy(path, folder)
    content = yaml.safe_load((CONFIG / "prometheus.yml").read_text())
    content["global"] = dict.fromkeys(content["global"], f"{SCRAPE_S}s")
    (found,) = content["scrape_configs"][0]["file_sd_configs"]
    (folder / "targets").mkdir()
    found.update(files=[f"{folder}/targets/*.json"], refresh_interval="1s")
    (folder / "prometheus.yml").write_text(yaml.safe_dump(content))
    return folder


def test_the_configuration_and_its_rules_are_valid() -> None:
    assert "SUCCESS" in _promtool("check", "config", CONFIG / "prometheus.yml")


def test_each_alert_fires_where_it_should_and_only_there(tmp_path: Path) -> None:
    for path in (*CONFIG.glob("*.yml"), RULE_TESTS):
        shutil.copy(path, tmp_path)
    _promtool("test", "rules", RULE_TESTS.name, cwd=tmp_path)


def test_each_alert_is_tested_healthy_and_not() -> None:
    healthy, *others = yaml.safe_load(RULE_TESTS.read_text())["tests"]
    names = {rule["alert"] for rule in _alerts()}
    assert {case["alertname"] for case in healthy["alert_rule_test"]} == names
    fires = {c["alertname"] for t in others for c in t["alert_rule_test"] if "exp_alerts" in c}
    assert fires == names


def test_each_alert_has_its_section_in_the_runbook() -> None:
    sections = re.findall(r"^## (\w+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE)
    assert sections == [rule["alert"] for rule in _alerts()]
    for rule in _alerts():
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"


def test_grafana_is_provisioned_with_the_data_source_that_the_dashboard_asks() -> None:
    provisioning = ROOT / "config" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    board = json.loads(DASHBOARD.read_text())
    asked = {panel["datasource"]["uid"] for panel in board["panels"] if "datasource" in panel}
    assert asked == {source["uid"]}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


class Server:
    """A Prometheus server on loopback."""

    def __init__(self, folder: Path) -> None:
        self.address = f"127.0.0.1:{_free_port()}"
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={folder}/prometheus.yml",
             f"--storage.tsdb.path={folder}/data", f"--web.listen-address={self.address}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def ask(self, expression: str) -> list[dict[str, Any]]:
        query = urllib.parse.urlencode({"query": expression})
        try:
            answer = json.loads(_get(f"http://{self.address}/api/v1/query?{query}"))
        except OSError:
            return []
        return answer["data"]["result"]

    def wait_for(self, is_so: Callable[[], object], timeout_s: float = 120) -> None:
        deadline = time.monotonic() + timeout_s
        while not is_so():
            assert time.monotonic() < deadline, "it never was so"
            time.sleep(0.2)


@pytest.fixture(scope="module")
def server(configured: Path) -> Iterator[Server]:
    server = Server(configured)
    yield server
    server.process.terminate()
    server.process.wait(20)


@pytest.fixture(scope="module")
def config(configured: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("session")
    config = root / "live.toml"
    config.write_text(
        f"""
        [session]
        name = "observed"
        runtime_directory = "{root / "rt"}"
        [feed]
        kind = "simulated"
        [feed.simulated]
        n_frames = 100000
        size = 256
        rate = 20
        [frame_log]
        path = "{root / "frames.log"}"
        capacity_mib = 64
        [segment]
        segmenter = "bragg"
        [archive]
        directory = "{root}"
        [metrics]
        port = 0
        targets_directory = "{configured / "targets"}"
        [page]
        enabled = false
        """
    )
    return config


@pytest.fixture(scope="module")
def session(config: Path) -> Iterator[Session]:
    session = Session("run", config)
    yield session
    session.process.terminate()
    session.process.communicate(timeout=60)


def _queries() -> list[str]:
    board = json.loads(DASHBOARD.read_text())
    return [
        target["expr"].replace("$session", ".*")
        for panel in board["panels"]
        for target in panel.get("targets", ())
    ]


@pytest.mark.processes
def test_a_session_is_found_and_every_panel_of_the_dashboard_shows_something(
    server: Server, session: Session, configured: Path
) -> None:
    listed = configured / "targets" / "observed.json"
    session.wait_for(listed.exists)
    server.wait_for(lambda: len(server.ask('up{job="hrtem-stream",session="observed"} == 1')) == 5)
    empty: set[str] = set()

    def all_answer() -> bool:
        empty.clear()
        empty.update(query for query in _queries() if not server.ask(query))
        return not empty

    try:
        server.wait_for(all_answer)
    except AssertionError:
        raise AssertionError(f"no data for {sorted(empty)}") from None
    firing = {
        sample["metric"]["alertname"]
        for sample in server.ask('ALERTS{alertstate="firing"}')
        if sample["metric"]["alertname"] != "HrtemDiskFullSoon"  # may be so on this machine
    }
    assert firing == set()


@pytest.mark.processes
def test_the_metrics_of_each_process_are_clean(session: Session, configured: Path) -> None:
    listed = configured / "targets" / "observed.json"
    session.wait_for(lambda: listed.exists() and len(json.loads(listed.read_text())) == 5, 120)
    processes = set()
    for group in json.loads(listed.read_text()):
        processes.add(group["labels"]["process"])
        (address,) = group["targets"]
        _promtool("check", "metrics", input=_get(f"http://{address}/metrics"))
    assert processes == {"ingest", "normalise", "segment-0", "sort", "supervisor"}


@pytest.mark.processes
def test_status_tells_how_each_stage_does(session: Session, config: Path) -> None:
    def found() -> dict[str, Any]:
        sessions = json.loads(call("status", config, "--json").stdout)["sessions"]
        return sessions[0] if sessions else {}

    session.wait_for(lambda: bool(found().get("archived")), 120)
    told = found()
    assert told["session"] == "observed"
    assert told["lost"] == 0
    assert told["n_expected"] == 100000
    assert [stage["name"] for stage in told["stages"]] == [
        "camera", "ingest", "normalise", "segment", "sort",
    ]  # fmt: skip
    assert told["stages"][3]["method"] == "bragg"
    shown = call("status", config).stdout
    assert "observed: series" in shown


def test_status_without_a_session_says_so(tmp_path: Path) -> None:
    config = tmp_path / "none.toml"
    config.write_text(f'[session]\nruntime_directory = "{tmp_path / "rt"}"\n')
    done = call("status", config)
    assert (done.returncode, done.stdout) == (1, "no session runs\n")


@pytest.mark.processes
def test_a_session_that_ends_takes_its_ports_off_the_list(
    session: Session, configured: Path
) -> None:
    listed = configured / "targets" / "observed.json"
    session.wait_for(listed.exists)
    session.process.terminate()
    session.finish()
    assert not listed.exists()
