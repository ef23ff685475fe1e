"""Retry: how long to wait before the next try."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.settings import Settings

MAX_DELAY = 120.0
"""Seconds between two tries at most, however often the delay was doubled."""


def delay_before(settings: Settings, tries: int) -> float:
    """Return how many seconds to wait after so many tries: each time twice as long."""
    return min(settings.retry_delay * 2.0 ** (tries - 1), MAX_DELAY)
