"""The port where the service gives its metrics: what it answers, and what cannot stop it."""

from __future__ import annotations

import http.client
import logging
import re
import signal
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from client import wait_for
from clone import Clone
from metrics_service import answers, configured, free_port, service
from tasks import metrics, metrics_port
from tasks.fetch.errors import ConfigError
from tasks.history import FOLDER, History, Run
from tasks.settings import Settings

MOMENT = datetime(2026, 11, 28, 2, tzinfo=UTC)
RUN = Run("9", "prod", MOMENT, MOMENT, 0.5, "landed", 0)


def ask(port: int, path: str = "/metrics", method: str = "GET") -> tuple[int, str, str]:
    """Return the status, the content type and the text of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.getheader("Content-Type", ""), answer.read().decode()
    finally:
        connection.close()


@pytest.fixture
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> History:
    """Give the history of this folder, with one run."""
    monkeypatch.chdir(tmp_path)
    history = History()
    history.add(RUN, 10)
    return history


@pytest.fixture
def port(history: History) -> Iterator[int]:
    port = free_port()
    with metrics_port.served("127.0.0.1", port):
        yield port


def test_port_gives_the_text_of_the_metrics_and_the_runs_that_are_added(
    history: History, port: int
) -> None:
    text = metrics.text(history.all())
    kind = "text/plain; version=0.0.4; charset=utf-8"
    assert ask(port) == (200, kind, text)
    assert ask(port, "/metrics?x=1") == (200, kind, text)
    assert ask(port, method="HEAD") == (200, kind, "")
    history.add(RUN, 10)
    failed = Run("9", "prod", MOMENT, MOMENT, 1, "failed", 5)
    history.add(failed, 10)
    assert 'lighterage_last_run_exit_code{task="9",variant="prod"} 5\n' in ask(port)[2]


@pytest.mark.parametrize("path", ["/", "/metrics/", "/metrics/..", "//", "/data/.history"])
def test_other_paths_and_methods_are_refused(port: int, path: str) -> None:
    assert ask(port, path)[::2] == (404, "not found; see /metrics\n")
    assert ask(port, path, "HEAD")[::2] == (404, "")
    assert ask(port, method="POST")[0] == ask(port, method="DELETE")[0] == 501


def test_history_that_cannot_be_read_is_a_503_until_it_can(history: History, port: int) -> None:
    path = FOLDER / "prod/task-9.jsonl"
    content = path.read_bytes()
    path.unlink()
    path.mkdir()
    assert ask(port)[0] == 503
    path.rmdir()
    path.write_bytes(content)
    assert ask(port)[0] == 200


def test_damaged_line_is_reported_once_and_not_at_each_scrape(
    history: History, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    with (FOLDER / "prod/task-9.jsonl").open("a") as file:
        file.write("damaged\n")
    assert [ask(port)[0] for _ in range(3)] == [200] * 3
    assert [one.levelno for one in caplog.records].count(logging.WARNING) == 1


def test_clients_that_send_nothing_keep_nobody_out(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest connection is closed for each one above the limit."""
    monkeypatch.setattr(metrics_port._Handler, "timeout", 600)
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    try:
        assert ask(port)[0] == 200
        idle[0].settimeout(10)
        assert idle[0].recv(1) == b""
    finally:
        for one in idle:
            one.close()


def test_client_that_sends_nothing_is_disconnected(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_port._Handler, "timeout", 0.05)
    with socket.create_connection(("127.0.0.1", port), timeout=30) as idle:
        idle.sendall(b"GET /metr")
        assert idle.recv(1) == b""


def test_service_serves_and_ends_while_clients_are_connected(tmp_path: Path) -> None:
    port = free_port()
    clone = configured(Clone(tmp_path), port)
    assert clone.stand_in("a.zip").returncode == 0
    with service(clone) as process:
        wait_for(lambda: answers(port))
        assert 'lighterage_last_run_exit_code{task="9",variant="dev"} 0\n' in ask(port)[2]
        with socket.create_connection(("127.0.0.1", port)):
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=30)
        assert (process.returncode, out, "Traceback" in err) == (0, "", False)
        assert f"metrics at http://127.0.0.1:{port}/metrics" in err
    assert not answers(port)


def test_busy_port_ends_the_service_with_the_name_of_the_setting(tmp_path: Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        clone = configured(Clone(tmp_path), port)
        done = clone.run("schedule")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        says = f"metrics_port is {port} and metrics_address 127.0.0.1: Address already in use: "
        assert says in done.stderr
        assert clone.run("schedule", "--dry-run").returncode == 0


def test_threads_of_the_port_take_no_signal_from_the_scheduler(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as idle:
        idle.sendall(b"G")
        wait_for(lambda: len(blocked()) == 2)
        assert all(bits >> (signal.SIGTERM - 1) & 1 for bits in blocked())


def blocked() -> list[int]:
    """Return the blocked signals of each thread of the server, as bits."""
    threads = [
        one for one in threading.enumerate() if re.search("^metrics$|process_request", one.name)
    ]
    # A thread that is about to start has no number yet.
    paths = [Path(f"/proc/self/task/{one.native_id}/status") for one in threads if one.native_id]
    return [int(re.findall(r"SigBlk:\s*(\w+)", path.read_text())[0], 16) for path in paths]


@pytest.mark.parametrize("address", ["192.0.2.1", "no.invalid", "::2", "a b"])
def test_address_of_another_machine_is_refused(history: History, address: str) -> None:
    with pytest.raises(ConfigError, match=rf"metrics_address {address}: .*: set another port or"):
        metrics_port.served(address, free_port()).__enter__()


def test_one_service_has_one_port(tmp_path: Path) -> None:
    ten = ", 10: {remote_file_path: a, file_save_path: data/b, remote_host_address: host, "
    ten += 'schedule: "0 4 * * *", metrics_port: 1}'
    clone = configured(Clone(tmp_path), 2, ten)
    (clone.folder / "tasks/task_10.py").write_text((clone.folder / "tasks/task_9.py").read_text())
    done = clone.run("schedule", "--dry-run")
    assert done.returncode == 2
    assert "2 different metrics_port or metrics_address in one service: set them in" in done.stderr


def test_port_needs_a_history_and_is_off_by_default(tmp_path: Path) -> None:
    assert Settings().metrics_port == 0
    clone = configured(Clone(tmp_path), 65536)
    done = clone.run("config", "9")
    assert done.returncode == 2
    assert "metrics_port is 65536: expected a port, 1 to 65535, or 0 for none" in done.stderr
    config = configured(clone, 9464).folder / "config.yaml"
    config.write_text("common: {history_runs: 0}\n" + config.read_text())
    done = clone.run("schedule")
    assert done.returncode == 2
    assert "metrics_port is 9464, and history_runs is 0: metrics are read from" in done.stderr
