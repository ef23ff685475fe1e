"""Notifications of runs over HTTP: pings for a monitor of cron jobs, and a webhook.

`PING_URL` gets a POST to `<url>/start` when a run starts, to `<url>/<exit code>` when it ends, as
healthchecks.io and others expect it. `WEBHOOK_URL` gets the result as JSON when a run fails, when
the first run after a failure succeeds, and when the columns of CSVs have changed.

URLs are secrets: with one, anybody can send pings. A notification that fails does not fail the run.
"""

from __future__ import annotations

import json
import logging
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tasks.fetch.errors import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tasks.history import Run
    from tasks.settings import Settings

log = logging.getLogger(__name__)

TIMEOUT_S = 5.0
INTERRUPTED_TIMEOUT_S = 0.5
"""After a signal, whose sender waits two seconds for the end of the run."""
ERROR_BYTES = 10_000
"""What a monitor keeps of a ping's text, at most."""


class Notifier:
    """Tells others of one run.

    Args:
        settings: Of the run; without URLs nothing is sent.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._start: threading.Thread | None = None

    def begin(self) -> None:
        """Send that the run starts, without waiting for an answer."""
        if self._settings.ping_url and not self._settings.dry_run:
            call = (f"{self._settings.ping_url}/start", b"", "text/plain", TIMEOUT_S)
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
        if self._start:
            self._start.join(seconds)  # so that the monitor sees the start first
        if settings.ping_url:
            text = printable(str(data.get("error", data["status"]))).encode()[:ERROR_BYTES]
            status = code if code >= 0 else 128 - code  # as a shell shows a signal
            _post(f"{settings.ping_url}/{status}", text, "text/plain", seconds)
        if settings.webhook_url and (event := _event(data, previous)):
            about = {"event": event, "task": settings.task, "variant": settings.variant}
            content = json.dumps({**about, **data}).encode()
            _post(settings.webhook_url, content, "application/json", seconds)


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
