"""Messages to people, sent with apprise to a real mail server and a real HTTP server."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from client import Client, Ended, put
from clone import Clone
from http_monitor import SECRET, Monitor, monitored
from metrics_service import free_port
from tasks.messages import Messages

pytestmark = pytest.mark.sshd
RUN = ("3", "tree")


class Mailbox:
    """What a mail server was sent; the handler of aiosmtpd."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.answer = "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        mail = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(mail, EmailMessage)
        self.mails.append(mail)
        return self.answer

    def subjects(self) -> list[str]:
        return [mail["Subject"] for mail in self.mails]

    def text(self) -> str:
        body = self.mails[-1].get_body(("plain",))
        assert body is not None
        return str(body.get_content()).replace("\r\n", "\n")


@pytest.fixture
def mailbox(client: Client) -> Iterator[Mailbox]:
    put(client.server.home / "tree", {"a.csv": b"id,name\n1,x\n"})
    mailbox, port = Mailbox(), free_port()
    controller = Controller(mailbox, hostname="127.0.0.1", port=port)
    controller.start()
    people = "from=lighterage@a.example&to=team@a.example&mode=insecure&format=text"
    client.environ["NOTIFY_URLS"] = f"mailto://127.0.0.1:{port}?{people}"
    try:
        yield mailbox
    finally:
        controller.stop()


@pytest.fixture
def monitor(client: Client) -> Iterator[Monitor]:
    put(client.server.home / "tree", {"a.csv": b"id,name\n1,x\n"})
    with monitored() as monitor:
        client.environ["NOTIFY_URLS"] = monitor.url.replace("http:", "json:")
        yield monitor


def recover(client: Client) -> Ended:
    """Fail, and return how the run after that ended, which succeeds and logs all."""
    assert client.run("3", "missing").code == 3
    done = client.run(*RUN, "--log-level=DEBUG")
    assert done.code == 0, done.err
    return done


def test_mail_tells_of_failures_and_of_the_first_success_after_them(
    client: Client, mailbox: Mailbox
) -> None:
    client.run(*RUN)
    assert mailbox.subjects() == []
    client.run("3", "missing")
    assert mailbox.subjects() == ["Lighterage: task 3 (dev): failed"]
    assert mailbox.text().startswith("exit code 3\nremote path: ")
    assert "missing" in mailbox.text()
    assert mailbox.mails[0]["To"] == "team@a.example"
    for _ in range(2):
        client.run(*RUN)
    assert mailbox.subjects()[1:] == ["Lighterage: task 3 (dev): succeeded again"]
    assert mailbox.text().strip() == "unchanged: 1 files, 12 bytes"


def test_mail_tells_of_changed_columns(client: Client, mailbox: Mailbox) -> None:
    client.run(*RUN, "--columns=evolve")
    put(client.server.home / "tree", {"a.csv": b"id,city\n1,x\n"})
    assert client.run(*RUN, "--columns=evolve").code == 0
    assert mailbox.subjects() == ["Lighterage: task 3 (dev): columns changed"]
    assert "a.csv: column 'name' is now 'city'" in mailbox.text()


def test_mail_names_the_files_that_did_not_land(client: Client, mailbox: Mailbox) -> None:
    put(client.server.home / "tree", {"a.csv": b"id\n1\n", "b.zip": b"no zip"})
    assert client.run(*RUN, "--on-error=continue").code == 7
    assert mailbox.subjects() == ["Lighterage: task 3 (dev): failed"]
    assert "b.zip" in mailbox.text()


def test_every_url_gets_the_message_and_a_dry_run_sends_none(
    client: Client, monitor: Monitor
) -> None:
    two = f"{monitor.url.replace('http:', 'json:')}/one {monitor.url.replace('http:', 'json:')}/two"
    client.environ["NOTIFY_URLS"] = two
    assert client.run("3", "missing", "--dry-run").code == 3
    assert monitor.posts == []
    assert client.run("3", "missing").code == 3
    assert sorted(path for path, _ in monitor.posts) == [f"/{SECRET}/one", f"/{SECRET}/two"]
    message = json.loads(monitor.posts[0][1])
    assert message["title"] == "Lighterage: task 3 (dev): failed"
    assert message["type"] == "failure"


@pytest.mark.parametrize("status", [500, 0, -1])
def test_server_that_fails_affects_no_run_and_its_url_is_not_shown(
    client: Client, monitor: Monitor, status: int
) -> None:
    monitor.status = status
    done = recover(client)
    assert len(monitor.posts) >= 2
    assert "message to URL 1 (json): " in done.err
    assert "the run is not affected" in done.err
    assert SECRET not in done.out + done.err
    assert (client.target / "a.csv").exists()


def test_run_does_not_wait_for_a_server_that_never_answers(
    client: Client, monitor: Monitor
) -> None:
    monitor.status = -1
    client.environ["PATCHES"] = json.dumps({"tasks.notify.MESSAGE_TIMEOUT_S": 0.0})
    done = client.run("3", "missing")
    assert done.code == 3
    assert "message to URL 1 (json): no answer in time: check notify_urls" in done.err


def test_mail_server_that_refuses_affects_no_run(client: Client, mailbox: Mailbox) -> None:
    mailbox.answer = f"554 no {SECRET}"
    done = recover(client)
    assert "message to URL 1 (mailto): refused, or not reachable: check notify_urls" in done.err
    assert SECRET not in done.err


def test_url_that_apprise_cannot_use_affects_no_run(client: Client, monitor: Monitor) -> None:
    client.environ["NOTIFY_URLS"] = f"nothing://{SECRET}"
    done = recover(client)
    assert "message to URL 1 (nothing): apprise cannot use it" in done.err
    assert SECRET not in done.err


@pytest.mark.parametrize("variable", ["PING_URL", "WEBHOOK_URL", "NOTIFY_URLS"])
def test_url_of_a_file_is_used_and_not_shown(
    client: Client, monitor: Monitor, variable: str
) -> None:
    client.environ.pop("NOTIFY_URLS")
    path = client.folder / "the secret"
    form = "json:" if variable == "NOTIFY_URLS" else "http:"
    path.write_text(monitor.url.replace("http:", form) + "\n")
    client.environ[f"{variable}_FILE"] = str(path)
    done = recover(client)
    assert monitor.posts
    assert SECRET not in done.out + done.err


@pytest.mark.parametrize("variable", ["PING_URL", "WEBHOOK_URL", "NOTIFY_URLS"])
@pytest.mark.parametrize("content", [None, b"", f"x {SECRET}\n".encode(), b"\xff\n"])
def test_file_without_a_url_is_refused_before_the_run(
    client: Client, monitor: Monitor, variable: str, content: bytes | None
) -> None:
    path = client.folder / "the secret"
    if content is not None:
        path.write_bytes(content)
    client.environ[f"{variable}_FILE"] = str(path)
    done = client.run(*RUN)
    assert done.code == 2
    assert f"{variable.lower()}_file" in done.err
    assert SECRET not in done.out + done.err
    assert not client.target.exists()
    assert monitor.posts == []


def test_service_refuses_urls_that_apprise_cannot_use_before_it_starts(tmp_path: Path) -> None:
    clone = Clone(tmp_path)
    (clone.folder / "config.yaml").write_text(
        "tasks: {9: {remote_file_path: a, file_save_path: data/out, remote_host_address: host, "
        'schedule: "0 3 * * *"}}\n'
    )
    urls = {"NOTIFY_URLS": f"json://127.0.0.1/{SECRET} nothing://{SECRET}"}
    done = clone.run("schedule", "--dry-run", "--log-level=DEBUG", env=urls)
    assert done.returncode == 2
    assert "notify_urls: apprise cannot use URL 2 (nothing): see its page" in done.stderr
    assert SECRET not in done.stdout + done.stderr
    works = {"NOTIFY_URLS": f"json://127.0.0.1/{SECRET}"}
    assert clone.run("schedule", "--dry-run", env=works).returncode == 0


def test_libraries_that_see_the_urls_log_nothing() -> None:
    Messages(f"json://127.0.0.1/{SECRET}", "notify_urls").check()
    for name in ("apprise", "urllib3.connectionpool", "requests", "oauthlib"):
        assert not logging.getLogger(name).isEnabledFor(logging.CRITICAL), name


def test_package_that_is_not_installed_is_named(tmp_path: Path) -> None:
    clone = Clone(tmp_path)
    (clone.folder / "sitecustomize.py").write_text(
        "import importlib.util\nfind = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda *name: None if name == ('apprise',) else find(*name)\n"
    )
    env = {"NOTIFY_URLS": "json://127.0.0.1", "PYTHONPATH": str(clone.folder)}
    done = clone.stand_in("a.zip", env=env)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "notify_urls needs the package apprise: install requirements/apprise" in done.stderr


def test_apprise_is_imported_only_for_a_message(tmp_path: Path) -> None:
    clone = Clone(tmp_path)
    for urls, wanted, imported in (
        ("json://127.0.0.1:1", "a.zip", False),
        ("", "BusyError", False),
        ("json://127.0.0.1:1", "BusyError", True),
    ):
        done = clone.stand_in(wanted, env={"NOTIFY_URLS": urls}, python=["-X", "importtime"])
        assert ("| apprise\n" in done.stderr) is imported, (urls, wanted)
