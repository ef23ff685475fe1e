"""Messages to people, by mail and chat: through the package apprise, which is optional.

Each service has URLs of its own form, with tokens in any part of them, so that messages and logs
name only the number and the scheme of one. https://github.com/caronc/apprise/wiki
"""

from __future__ import annotations

import importlib.util
import logging
import re
import threading
import time
from typing import TYPE_CHECKING, Any

from tasks.fetch.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apprise import Apprise

log = logging.getLogger(__name__)

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://\S+")
_LOGGERS = ("apprise", "urllib3", "requests", "requests_oauthlib", "oauthlib")
"""They log URLs, some with their tokens."""


class Messages:
    """The URLs of the services that get messages.

    Args:
        urls: Of apprise, with white space between them.
        setting: Where they are from, for errors.

    Raises:
        ConfigError: One is no URL, or apprise is not installed.
    """

    def __init__(self, urls: str, setting: str) -> None:
        self._setting = setting
        self._urls = urls.split()
        self._threads: list[tuple[str, threading.Thread]] = []
        for number, url in enumerate(self._urls, 1):
            if not _URL.fullmatch(url):
                raise ConfigError(
                    f"{setting}: URL {number} is not one of apprise",
                    advice="use a form such as mailto://user:password@host, with white space "
                    "between URLs",
                )
        if self._urls and importlib.util.find_spec("apprise") is None:
            raise ConfigError(
                f"{setting} needs the package apprise",
                advice="install requirements/apprise.txt, or build the image with EXTRAS=apprise",
            )

    def check(self) -> None:
        """Raise `ConfigError` where apprise cannot use a URL; that takes importing it."""
        for name, url in self._named():
            if _service(url) is None:
                raise ConfigError(
                    f"{self._setting}: apprise cannot use URL {name}",
                    advice="see its page of apprise for the form",
                )

    def send(self, title: str, text: str, kind: str) -> None:
        """Start to send a message, without waiting.

        Args:
            title: Of the message.
            text: Lines without markup.
            kind: Its type, in apprise's words.
        """
        for name, url in self._named():
            thread = threading.Thread(
                target=_send,
                args=(self._setting, name, url),
                kwargs={"title": title, "body": text, "notify_type": kind},
                name="message",
                daemon=True,
            )
            self._threads.append((name, thread))
            thread.start()

    def wait(self, seconds: float) -> None:
        """Wait for what was sent, at most so long for all of it; log a WARNING for the rest."""
        deadline = time.monotonic() + seconds
        for name, thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                _warn(self._setting, name, "no answer in time")

    def _named(self) -> Sequence[tuple[str, str]]:
        """Give each URL with its number and its scheme."""
        return [
            (f"{number} ({url.partition('://')[0]})", url)
            for number, url in enumerate(self._urls, 1)
        ]


def _service(url: str) -> Apprise | None:
    """Return what sends to a URL; None where apprise does not know it."""
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    from apprise import Apprise, AppriseAsset

    service = Apprise(asset=AppriseAsset(app_id="Lighterage", app_desc="Lighterage"))
    return service if service.add(url) else None


def _send(setting: str, name: str, url: str, **message: Any) -> None:
    """Send a message to one URL."""
    try:
        service = _service(url)
        if service is None:
            _warn(setting, name, "apprise cannot use it")
        elif not service.notify(body_format="text", **message):
            _warn(setting, name, "refused, or not reachable")
    except Exception as error:  # noqa: BLE001 (no failure of a message fails a run)
        _warn(setting, name, type(error).__name__)


def _warn(setting: str, name: str, reason: str) -> None:
    log.warning(
        "message to URL %s: %s: check %s with the program apprise; the run is not affected",
        name, reason, setting,
    )  # fmt: skip
