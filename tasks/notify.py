"""Notifications of runs: pings for a monitor of cron jobs, a webhook, and messages to people.

`PING_URL` gets a POST to `<url>/start` when a run starts, to `<url>/<exit code>` when it ends, as
healthchecks.io and others expect it. `WEBHOOK_URL` gets the result as JSON when a run fails, when
the first run after a failure succeeds, and when the columns of CSVs have changed. `NOTIFY_URLS`
get a message then (messages.py).

URLs are secrets: with one, anybody can send pings. A notification that fails does not fail the run.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tasks.fetch.errors import ConfigError, printable
from tasks.fetch.secret_file import read_secret
from tasks.messages import Messages
from tasks.setting_types import Url

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tasks.history import Run
    from tasks.settings import Settings

log = logging.getLogger(__name__)

TIMEOUT_S = 5.0
MESSAGE_TIMEOUT_S = 10.0
"""For all messages, from before the ping and the webhook on; a login of a mail server takes some.
With these the service waits for less than `health.UNHEALTHY_AFTER_S`."""
INTERRUPTED_TIMEOUT_S = 0.5
"""After a signal, whose sender waits two seconds for the end of the run."""
_TITLES = {
    "failed": ("failed", "failure"),
    "recovered": ("succeeded again", "success"),
    "columns": ("columns changed", "warning"),
}
"""By event: the end of a message's title, and apprise's type, such as a colour in chats."""
MESSAGE_ENTRIES = 10
"""Failures or changed columns that a message names."""
ERROR_BYTES = 10_000
"""What a monitor keeps of a ping's text, at most."""


class Notifier:
    """Tells others of one run.

    Args:
        settings: Of the run; without URLs nothing is sent.

    Raises:
        ConfigError: A file with URLs cannot be read, or what it has is no URL.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ping_url = _url("ping_url", settings)
        self._webhook_url = _url("webhook_url", settings)
        file = settings.notify_urls_file
        urls = read_secret(file, "notify_urls_file") or settings.notify_urls
        self._messages = Messages(urls, "notify_urls_file" if file else "notify_urls")
        self._start: threading.Thread | None = None

    def check(self) -> None:
        """Raise `ConfigError` where messages cannot be sent to a URL, by its form."""
        self._messages.check()

    def begin(self) -> None:
        """Send that the run starts, without waiting for an answer."""
        if self._ping_url and not self._settings.dry_run:
            call = (f"{self._ping_url}/start", b"", "text/plain", TIMEOUT_S)
            self._start = threading.Thread(target=_post, args=call, name="ping", daemon=True)
            self._start.start()

    def end(self, data: Mapping[str, Any], previous: Run | None) -> None:
        """Send how the run ended.

        Args:
            data: Its result.
            previous: The run before it, as far as the history has one.
        """
        settings = self._settings
        if settings.dry_run:
            return
        code = int(data["exit_code"])
        seconds = INTERRUPTED_TIMEOUT_S if code >= 128 else TIMEOUT_S
        event = _event(data, previous)
        deadline = time.monotonic() + min(seconds * 2, MESSAGE_TIMEOUT_S)
        if event:
            end, kind = _TITLES[event]
            title = f"Lighterage: task {settings.task} ({settings.variant}): {end}"
            self._messages.send(title, "\n".join(map(printable, _lines(event, data))), kind)
        if self._start:
            self._start.join(seconds)  # so that the monitor sees the start first
        if self._ping_url:
            text = printable(str(data.get("error", data["status"]))).encode()[:ERROR_BYTES]
            status = code if code >= 0 else 128 - code  # as a shell shows a signal
            _post(f"{self._ping_url}/{status}", text, "text/plain", seconds)
        if self._webhook_url and event:
            about = {"event": event, "task": settings.task, "variant": settings.variant}
            content = json.dumps({**about, **data}).encode()
            _post(self._webhook_url, content, "application/json", seconds)
        self._messages.wait(max(0.0, deadline - time.monotonic()))


def _url(name: str, settings: Settings) -> str:
    """Return a URL: that of its file, or that of the setting."""
    file = getattr(settings, f"{name}_file")
    text = read_secret(file, f"{name}_file")
    if text is None:
        return str(getattr(settings, name))
    try:
        return Url.parse(text)
    except ValueError as error:
        raise ConfigError(
            f"{name}_file is {file}: it does not have one URL",
            advice="write one URL to it, such as https://monitor.example/ping",
        ) from error


def _lines(event: str, data: Mapping[str, Any]) -> Iterator[str]:
    """Give the text of a message."""
    if event == "failed":
        failures = [*data.get("failed", ()), *data.get("after_failed", ())]
        failures = [data] if "error" in data else failures
        yield f"exit code {data['exit_code']}"
        yield from (f"{one.get('kind', '')}: {one['error']}" for one in failures[:MESSAGE_ENTRIES])
    else:
        yield f"{data.get('status')}: {data.get('files')} files, {data.get('bytes')} bytes"
        from tasks.fetch.tables.drift import Drift

        yield from (str(Drift(**one)) for one in data.get("columns", [])[:MESSAGE_ENTRIES])


def _event(data: Mapping[str, Any], previous: Run | None) -> str:
    """Return what the webhook is to know of a run: nothing, where it is like the one before it."""
    if "error" in data or data["status"] in {"failed", "partial"}:
        return "failed"
    if previous and not previous.is_success:
        return "recovered"
    return "columns" if data.get("columns") else ""


def _post(url: str, content: bytes, kind: str, seconds: float) -> None:
    """Send a request; log a WARNING where that fails, without the URL."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    try:
        request = Request(url, content, {"Content-Type": kind, "User-Agent": "lighterage"})  # noqa: S310 (http and https only: see `Url`)
        with urlopen(request, timeout=seconds):  # noqa: S310 (the same)
            pass
    except HTTPError as error:
        _warn(url, f"status {error.code}")
    except (OSError, ValueError) as error:  # also http.client's, of an answer that is no HTTP
        _warn(url, str(getattr(error, "reason", "") or error or type(error).__name__))
    except Exception as error:  # noqa: BLE001 (no failure of a notification fails a run)
        _warn(url, type(error).__name__)


def _warn(url: str, reason: str) -> None:
    log.warning(
        "notification to %s: %s: check PING_URL and WEBHOOK_URL; the run is not affected",
        urlsplit(url).hostname,
        printable(reason),
    )
