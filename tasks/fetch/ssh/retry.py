"""Retry: how long to wait before the next try."""

from __future__ import annotations

import logging
import secrets
import time

from tasks.fetch.errors import LighterageError
from tasks.fetch.ssh.connection_settings import ConnectionSettings

log = logging.getLogger(__name__)

MAX_DELAY = 120.0
"""Seconds between two tries at most, however often the delay was doubled."""

retries_of_process = 0
"""How often this process tried something again: a process is one run."""


def delay_before(settings: ConnectionSettings, tries: int, factor: float = 1) -> float:
    """Return how many seconds to wait after so many tries: each time twice as long.

    Up to half as much more, at random: runs that failed at the same time do not meet again.
    """
    jitter = 1 + secrets.randbelow(501) / 1000
    return min(settings.retry_delay * factor * 2.0 ** (tries - 1) * jitter, MAX_DELAY)


class Retries:
    """The failures in a row of one operation.

    Attributes:
        failures: How many; the operation sets it to 0 when it succeeds.
    """

    def __init__(self, settings: ConnectionSettings) -> None:
        self._settings = settings
        self.failures = 0

    def wait(self, error: LighterageError, action: str) -> None:
        """Wait before the next try, logged as `action`; raise the error after the last one."""
        self.failures += 1
        if not error.transient or self.failures >= self._settings.max_tries:
            error.transient = False  # no caller is to try again
            raise error
        delay = delay_before(self._settings, self.failures, error.delay_factor)
        global retries_of_process  # noqa: PLW0603 (for the history, also of a run that fails)
        retries_of_process += 1
        log.warning(
            "try %d of %d failed: %s; %s in %.1f s",
            self.failures, self._settings.max_tries, error, action, delay,
        )  # fmt: skip
        time.sleep(delay)
