"""Notifications of runs, sent to a real HTTP server on loopback."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest

from client import Client, ended, put, wait_for
from http_monitor import SECRET, Monitor, monitored
from tasks.settings import MASK

pytestmark = pytest.mark.sshd
RUN = ("3", "tree")


@pytest.fixture
def monitor(client: Client) -> Iterator[Monitor]:
    put(client.server.home / "tree", {"a.csv": b"id,name\n1,x\n"})
    with monitored() as monitor:
        client.environ |= {"PING_URL": monitor.url, "WEBHOOK_URL": f"{monitor.url}/hook"}
        yield monitor


def pings(monitor: Monitor) -> list[str]:
    return [path.removeprefix(f"/{SECRET}") for path, _ in monitor.posts if "hook" not in path]


def test_pings_tell_the_start_and_the_exit_code(client: Client, monitor: Monitor) -> None:
    assert client.run(*RUN).code == 0
    assert pings(monitor) == ["/start", "/0"]
    assert client.run("3", "missing").code == 3
    assert pings(monitor)[2:] == ["/start", "/3"]
    assert "missing" in monitor.posts[-2][1]


def test_webhook_tells_of_failures_and_of_the_first_success_after_them(
    client: Client, monitor: Monitor
) -> None:
    for path in ("tree", "missing", "missing", "tree", "tree"):
        client.run("3", path)
    assert monitor.events() == ["failed", "failed", "recovered"]
    failed = json.loads(next(text for path, text in monitor.posts if path.endswith("/hook")))
    assert (failed["task"], failed["variant"], failed["exit_code"]) == ("3", "dev", 3)
    assert failed["kind"] == "remote path"


def test_webhook_tells_of_changed_columns(client: Client, monitor: Monitor) -> None:
    client.run(*RUN, "--columns=evolve")
    put(client.server.home / "tree", {"a.csv": b"id,city\n1,x\n"})
    assert client.run(*RUN, "--columns=evolve").code == 0
    assert monitor.events() == ["columns"]
    event = json.loads(monitor.posts[-1][1])
    assert event["columns"][0]["new"] == "city"


def test_dry_run_sends_nothing(client: Client, monitor: Monitor) -> None:
    assert client.run(*RUN, "--dry-run").code == 0
    assert monitor.posts == []


@pytest.mark.parametrize("status", [500, 0, -1])
def test_monitor_that_fails_affects_no_run_and_its_url_is_not_shown(
    client: Client, monitor: Monitor, status: int
) -> None:
    monitor.status = status
    client.environ["PATCHES"] = json.dumps({"tasks.notify.TIMEOUT_S": 0.3})
    done = client.run(*RUN, "--log-level=DEBUG")
    assert done.code == 0, done.err
    assert "notification to 127.0.0.1: " in done.err
    assert "the run is not affected" in done.err
    assert SECRET not in done.out + done.err
    assert (client.target / "a.csv").exists()


def test_monitor_that_cannot_be_reached_affects_no_run(client: Client, monitor: Monitor) -> None:
    client.environ["PING_URL"] = f"http://127.0.0.1:1/{SECRET}"
    done = client.run(*RUN)
    assert (done.code, "Connection refused" in done.err) == (0, True)
    assert SECRET not in done.out + done.err


@pytest.mark.parametrize(
    "url", ["ftp://host/x", "host/x", "http://", "http://h:port/", "http://h /"]
)
def test_url_of_another_form_is_refused_and_not_shown(client: Client, url: str) -> None:
    client.environ["PING_URL"] = url
    done = client.run(*RUN)
    assert done.code == 2
    assert f"ping_url is {MASK}: expected a URL such as https://" in done.err


def test_url_is_refused_in_the_config_file(client: Client) -> None:
    (client.folder / "config.yaml").write_text("common: {webhook_url: http://h/x}\n")
    done = client.run(*RUN)
    assert done.code == 2
    assert (
        "webhook_url is not allowed in a config file: set WEBHOOK_URL in the env file" in done.err
    )


def test_interrupted_run_pings_its_exit_code(client: Client, monitor: Monitor) -> None:
    process = client.start("3", "missing", "--wait-for=60s")
    wait_for(lambda: bool(monitor.posts))
    process.send_signal(signal.SIGTERM)
    assert ended(process).code == 143
    assert pings(monitor) == ["/start", "/143"]
