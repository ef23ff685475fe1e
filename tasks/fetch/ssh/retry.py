"""Retry and pacing: how long to wait before the next try, and to keep to a rate."""

from __future__ import annotations

import logging
import time

from tasks.fetch.errors import LighterageError
from tasks.fetch.ssh.connection_settings import ConnectionSettings

log = logging.getLogger(__name__)

MAX_DELAY = 120.0
"""Seconds between two tries at most, however often the delay was doubled."""


def delay_before(settings: ConnectionSettings, tries: int) -> float:
    """Return how many seconds to wait after so many tries: each time twice as long."""
    return min(settings.retry_delay * 2.0 ** (tries - 1), MAX_DELAY)


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
        delay = delay_before(self._settings, self.failures)
        log.warning("%s; %s in %.1f s", error, action, delay)
        time.sleep(delay)


class RateLimit:
    """Keeps to a rate: bytes per second, or 0 for none."""

    def __init__(self, bytes_per_s: int) -> None:
        self._bytes_per_s = bytes_per_s
        self._next_s = time.monotonic()  # when the bytes so far have had their time

    def wait(self, count: int) -> None:
        """Wait until so many more bytes are within the rate."""
        if not self._bytes_per_s:
            return
        now = time.monotonic()
        # After a pause of the host, at most one second's worth arrives at once.
        self._next_s = max(self._next_s, now - 1) + count / self._bytes_per_s
        if self._next_s > now:
            time.sleep(self._next_s - now)
