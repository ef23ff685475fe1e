"""Lease: one of some places that the shards of a run share, such as the connections to a host.

A place is a row of records `leases/<name>/<place>.<generation>`. Who creates the next generation
has the place, and renews that record, until it ends or dies. Others take the place once they saw
the record unchanged for `EXPIRY_S` by their own monotonic clock: no clocks are compared.

Who takes a place removes its earlier generations, and never the latest one: so the latest only
rises. A shard that paused after it had looked may create a generation that was removed since; it
looks again, finds a later one, and does not have the place.
"""

from __future__ import annotations

import contextlib
import logging
import random
import re
import secrets
import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING

from tasks.fetch.errors import LighterageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tasks.fetch.stores.shared import Records

log = logging.getLogger(__name__)

RENEW_S = 5.0
EXPIRY_S = 45.0
"""More than a renewal may take whose requests are repeated."""
RELEASED = b"released"


class Lease:
    """One of `places` places of a name, for one shard: `try_acquire`, then `held`."""

    def __init__(self, records: Records, name: str, places: int = 1) -> None:
        self._records = records
        self._folder = f"leases/{re.sub(r'[^A-Za-z0-9.-]', '_', name)}"
        self._places = places
        self._seen: dict[str, tuple[bytes | None, float]] = {}
        self._record = ""
        self._token = secrets.token_hex(4)

    def try_acquire(self) -> bool:
        """Take a place that is free or has expired; return whether there was one."""
        generations = self._generations()
        for place in random.sample(range(1, self._places + 1), self._places):
            last = max(generations[place], default=0)
            if not self._is_free(f"{self._folder}/{place}.{last}"):
                continue
            record = f"{self._folder}/{place}.{last + 1}"
            mine = f"{self._token} 0".encode()
            if self._records.create(record, mine) == mine and self._is_latest(place, last + 1):
                self._record = record
                return True
        return False

    def _generations(self) -> dict[int, set[int]]:
        """Return the generations that each place has."""
        found: dict[int, set[int]] = defaultdict(set)
        for name in self._records.names(self._folder):
            place, generation = map(int, name.rpartition("/")[2].split("."))
            found[place].add(generation)
        return found

    def _is_latest(self, place: int, own: int) -> bool:
        """Whether this generation of a place is the latest; remove those before the latest."""
        generations = self._generations()[place]
        latest = max(generations, default=own)
        for generation in generations - {latest}:
            with contextlib.suppress(LighterageError):  # the next one that takes the place does it
                self._records.remove(f"{self._folder}/{place}.{generation}")
        return latest == own

    def _is_free(self, record: str) -> bool:
        if record.endswith(".0"):
            return True
        now, content = time.monotonic(), self._records.read(record)
        if content == RELEASED:
            return True
        if self._seen.get(record, (b"", 0.0))[0] != content:
            self._seen[record] = content, now
        return now - self._seen[record][1] > EXPIRY_S

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Renew the place that `try_acquire` took until the end of the block; then release it."""
        count = 0

        def renew() -> None:
            nonlocal count
            count += 1
            self._records.write(self._record, f"{self._token} {count}".encode())

        try:
            with repeated(renew, RENEW_S):
                yield
        finally:
            with contextlib.suppress(LighterageError):
                self._records.write(self._record, RELEASED)


@contextlib.contextmanager
def repeated(call: Callable[[], None], seconds: float) -> Iterator[None]:
    """Call something again and again in another thread, until the end of the block.

    Its errors are logged: the next call may succeed.
    """
    end = threading.Event()

    def run() -> None:
        while not end.wait(seconds):
            try:
                call()
            except LighterageError as error:
                log.debug("%s", error)

    thread = threading.Thread(target=run, name="repeated", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
