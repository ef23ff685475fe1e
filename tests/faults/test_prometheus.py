"""Real programs read the metrics: Prometheus, node_exporter, and promtool the alert rules."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from client import wait_for
from clone import REPOSITORY, Clone
from metrics_service import answers, configured, free_port, service
from need import need
from tasks import metrics

RULES = REPOSITORY / "docs/alerts.yaml"
DASHBOARD = REPOSITORY / "docs/dashboard.json"
NAMES = {*re.findall(r"# TYPE (\w+)", metrics.text([]))}
LAST_RUN = "lighterage_last_run_timestamp_seconds"
LAST_SUCCESS = "lighterage_last_success_timestamp_seconds"
DAY = 24 * 60


def is_ready(port: int, path: str) -> bool:
    """Whether a server answers with success; Prometheus does not while it starts."""
    try:
        return answers(port) and bool(fetched(port, path))
    except urllib.error.HTTPError:
        return False


@contextmanager
def program(port: int, ready: str, *command: str) -> Iterator[None]:
    """Give a program that answers on a port, at the path of `ready`."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: is_ready(port, ready))
            yield
        finally:
            process.kill()


@contextmanager
def prometheus(folder: Path, scraped: int) -> Iterator[int]:
    """Give the port of a Prometheus with the alert rules, which scrapes another port."""
    config = {
        "global": {"scrape_interval": "100ms", "evaluation_interval": "100ms"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {"job_name": "lighterage", "static_configs": [{"targets": [f"127.0.0.1:{scraped}"]}]}
        ],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    port, untested = free_port(), "that it scrapes the service"
    with program(
        port, "/-/ready", need("prometheus", "prometheus", untested),
        f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ):  # fmt: skip
        yield port


def fetched(port: int, path: str) -> str:
    """Return what a server answers."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        text: str = answer.read().decode()
        return text


def values(port: int, expression: str) -> list[tuple[dict[str, str], str]]:
    """Return the labels and the value of each series that Prometheus finds."""
    found = json.loads(fetched(port, f"/api/v1/query?query={quote(expression)}"))
    return [(one["metric"], one["value"][1]) for one in found["data"]["result"]]


def test_prometheus_scrapes_the_service_and_evaluates_the_rules(tmp_path: Path) -> None:
    clone = Clone(tmp_path / "a clone")
    port = free_port()
    configured(clone, port)
    assert clone.stand_in("a.zip").returncode == 0
    with service(clone), prometheus(tmp_path, port) as server:
        expression = 'lighterage_target_bytes{task="9",variant="dev"}'
        wait_for(lambda: bool(values(server, expression)))
        assert [value for _, value in values(server, expression)] == ["12"]
        assert values(server, "up")[0][1] == "1"
        wait_for(lambda: {*json.loads(fetched(server, "/api/v1/metadata"))["data"]} >= NAMES)
        assert clone.stand_in("BusyError").returncode == 9
        exit_code = f"{LAST_RUN.replace('timestamp_seconds', 'exit_code')} == 9"
        wait_for(lambda: bool(values(server, exit_code)))

        def states() -> dict[str, set[str]]:
            groups = json.loads(fetched(server, "/api/v1/rules"))["data"]["groups"]
            return {
                rule["name"]: {alert["state"] for alert in rule["alerts"]}
                for group in groups
                for rule in group["rules"]
                if rule["health"] == "ok"
            }

        wait_for(lambda: len(states()) == len(re.findall("alert:", RULES.read_text())))
        assert not states()["LighterageMetricsAbsent"]


def test_node_exporter_reads_the_file(tmp_path: Path) -> None:
    clone = Clone(tmp_path / "a clone")
    assert clone.stand_in("a.zip", "--metrics-file=metrics/lighterage.prom").returncode == 0
    port = free_port()
    with program(
        port, "/metrics",
        need("prometheus-node-exporter", "prometheus-node-exporter", "that it reads the file"),
        "--collector.disable-defaults", "--collector.textfile",
        f"--collector.textfile.directory={clone.folder / 'metrics'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ):  # fmt: skip
        found = fetched(port, "/metrics")
    assert "\nnode_textfile_scrape_error 0\n" in found
    for line in (clone.folder / "metrics/lighterage.prom").read_text().splitlines():
        if not line.startswith("#"):
            series, value = line.rsplit(" ", 1)
            (other,) = [one for one in found.splitlines() if one.startswith(f"{series} ")]
            assert float(other.rsplit(" ", 1)[1]) == float(value)


def promtool(*words: str) -> str:
    done = subprocess.run(
        [need("promtool", "prometheus", "the alert rules of docs/alerts.yaml"), *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def series(name: str, value: str, task: str = "2") -> dict[str, str]:
    return {"series": f'{name}{{task="{task}", variant="prod"}}', "values": value}


# The series, the minute at which to look, and the alerts that fire then, each by task or instance.
HEALTHY = [series(LAST_RUN, "60x3000"), series(LAST_SUCCESS, "60x3000")]
CASES = {
    "all is well": (HEALTHY, 600, set()),
    "the last run failed": (
        [series(LAST_RUN, "7200x3000"), series(LAST_SUCCESS, "60x3000")],
        600, {"LighterageFailing"},
    ),
    "a failure that the next run makes up for": (
        [series(LAST_RUN, "7200x3000"), series(LAST_SUCCESS, "60x10 7200x3000")], 600, set(),
    ),
    "no run has ever succeeded": ([series(LAST_RUN, "60x3000")], 600, {"LighterageFailing"}),
    "runs fail for more than a day": (
        [series(LAST_RUN, "0+60x3000"), series(LAST_SUCCESS, "60x3000")],
        26 * 60 + 2, {"LighterageFailing", "LighterageNoSuccess"},
    ),
    "a run a day": (
        [series(name, f"0x{DAY} {DAY * 60}x{DAY}") for name in (LAST_RUN, LAST_SUCCESS)],
        2 * DAY - 1, set(),
    ),
    "no run for more than a day": (
        HEALTHY, 26 * 60 + 2, {"LighterageNoSuccess", "LighterageOverdue"},
    ),
    "another task is well": (
        [*HEALTHY, series(LAST_RUN, "7200x3000", "3"), series(LAST_SUCCESS, "7200x3000", "3")],
        26 * 60 + 2, {"LighterageNoSuccess", "LighterageOverdue"},
    ),
    "nothing is scraped": ([], 600, {"LighterageMetricsAbsent"}),
    "the service is down": (
        [*HEALTHY, {"series": 'up{job="lighterage", instance="a:1"}', "values": "1x10 0x3000"}],
        600, {"LighterageDown"},
    ),
    "node_exporter cannot read the file": (
        [*HEALTHY, {"series": 'node_textfile_scrape_error{instance="a:1"}', "values": "1x3000"}],
        600, {"LighterageMetricsFile"},
    ),
}  # fmt: skip


def test_rules_are_valid_and_alert_when_they_should_and_not_else(tmp_path: Path) -> None:
    assert "SUCCESS: 6 rules found" in promtool("check", "rules", str(RULES))
    alerts = re.findall(r"alert: (\w+)", RULES.read_text())
    assert {*alerts} == {name for *_, fires in CASES.values() for name in fires}
    tests = [
        {
            "name": name,
            "interval": "1m",
            "input_series": given,
            "promql_expr_test": [
                {
                    "expr": f"""count by (alertname) (
                        ALERTS{{alertstate="firing", alertname="{one}"}})""",
                    "eval_time": f"{minute}m",
                    "exp_samples": [{"labels": f'{{alertname="{one}"}}', "value": 1}]
                    if one in fires
                    else [],
                }
                for one in alerts
            ],
        }
        for name, (given, minute, fires) in CASES.items()
    ]
    file = tmp_path / "tests.yaml"
    file.write_text(json.dumps({"rule_files": [str(RULES)], "tests": tests}))
    promtool("test", "rules", str(file))


def everything(value: Any) -> Iterator[tuple[str, Any]]:
    """Give each key and value of JSON, at any depth."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in items:
        yield str(key), one
        if isinstance(one, dict | list):
            yield from everything(one)


def test_dashboard_and_rules_name_only_metrics_that_exist() -> None:
    for path in (DASHBOARD, RULES):
        named = {*re.findall(r"\blighterage_\w+", path.read_text())}
        assert named <= NAMES
    assert {*re.findall(r"\blighterage_\w+", DASHBOARD.read_text())} == NAMES


def test_dashboard_fits_any_machine() -> None:
    """Its data source is a variable, and it has no id that Grafana would give it."""
    dashboard = json.loads(DASHBOARD.read_text())
    assert dashboard["templating"]["list"][0]["type"] == "datasource"
    ids = [one for key, one in everything(dashboard) if key in {"uid", "id"}]
    assert {*ids} == {None, "${datasource}"}
    for panel in dashboard["panels"]:
        assert panel["datasource"]["uid"] == panel["targets"][0]["datasource"]["uid"]
    assert not re.search(r"https?://|\d+\.\d+\.\d+\.\d+", DASHBOARD.read_text())
