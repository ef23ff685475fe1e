"""Arrival: whether the sources of a run are complete on the host, and waiting until they are.

The order of the rules: `newest` and `marker` (`rules.py`, at each look), `since_last`, `settle`. A
path must be complete; of a glob, what is complete lands, and at least one source must be.

No time of the host is compared with a local one: the clocks may differ by hours. What settles is
looked at twice, with the local monotonic clock between.
"""

from __future__ import annotations

import logging
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.fetch.errors import MissingError, NetworkError
from tasks.fetch.sources import Found

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from tasks.fetch.manifest import Source
    from tasks.fetch.sources import Named
    from tasks.settings import Settings

log = logging.getLogger(__name__)

FIRST_DELAY_S = 1.0
"""Before the second look; doubled at each look."""
MAX_DELAY_S = 60.0
MOST_SHOWN = 3
"""Sources that a message lists."""


@dataclass(frozen=True)
class _Sight:
    """The state of a source, and by when it had it, by the monotonic clock."""

    state: str
    time: float


class Arrival:
    """Looks at the host until the sources of a run are complete; one for all its attempts."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._seen: dict[str, _Sight] = {}
        self._started = 0.0
        self._waited_for = ""

    def wait(
        self,
        look: Callable[[], Found],
        reconnect: Callable[[], None],
        published: Callable[[], Mapping[str, Source]],
    ) -> Found:
        """Return what a look found once it is complete, without the sources that are not.

        Args:
            look: Finds the sources on the host.
            reconnect: Opens the connection again, after a cut.
            published: Returns the published sources of the same selection, by path.

        Raises:
            MissingError: Nothing is complete, and there is no time left to wait.
            LighterageError: Of `look` or `reconnect`, where waiting does not help.
        """
        settings = self._settings
        is_since = settings.since_last is not None
        is_kept = settings.after == "keep"
        if not (settings.settle or settings.wait_for or settings.marker or is_since) and is_kept:
            return look()
        landed = published() if settings.settle or is_since or not is_kept else {}
        begin = time.monotonic()
        self._started = self._started or begin
        end = self._started + settings.wait_for
        delay, settled_by, is_lost = FIRST_DELAY_S, 0.0, False
        while True:
            found, pause = None, 0.0
            error: MissingError | NetworkError | None = None
            start = time.monotonic()
            try:
                if is_lost:
                    reconnect()
                    is_lost = False
                found = look()
                self._only_newer(found, landed)
                settled_by = settled_by or time.monotonic() + settings.settle
                pause = self._settle(found, landed, start)
                error = self._incomplete(found)
            except MissingError as missing:
                if landed and not (is_kept or settings.wait_for):
                    note = f"all that landed was removed from the host or moved: {missing}"
                    return Found(nothing=True, notes=[note])
                error = missing
            except NetworkError as cut:
                if not cut.transient:
                    raise
                error, is_lost = cut, True
            now = time.monotonic()
            if settings.dry_run and found:
                return self._planned(found, error)
            if found and pause and start < settled_by and not settings.dry_run:
                delay_s, reason = pause, "sources to settle"
            elif found and error is None:
                return self._ready(found)
            elif now >= end or settings.dry_run:
                return self._too_late(error)
            else:
                delay_s, reason = min(_jittered(delay), pause or delay, end - now), str(error)
                delay = min(delay * 2, MAX_DELAY_S)
                self._say(reason)
            log.info("waiting %.1f s for %s", delay_s, reason)
            time.sleep(delay_s)

    def _only_newer(self, found: Found, landed: Mapping[str, Source]) -> None:
        """Leave out what never landed and is older than what did, by the host's own times."""
        overlap_s = self._settings.since_last
        if overlap_s is None:
            return
        if not landed:
            found.notes.append("since_last: nothing of this selection landed before: all lands")
            return
        oldest = max(source.mtime for source in landed.values()) - overlap_s
        count = found.keep_items(
            lambda item: item.source.mtime >= oldest or item.source.path in landed
        )
        if count:
            found.notes.append(f"since_last: {count} older that never landed left out")

    def _settle(self, found: Found, landed: Mapping[str, Source], start: float) -> float:
        """Mark the sources that have not settled; return the seconds until the first may be.

        Args:
            found: What a look found that began at `start`.
            landed: The published sources; what is unchanged since is not downloaded again.
            start: By the monotonic clock.
        """
        settle = self._settings.settle
        if not settle or self._settings.dry_run:
            return 0.0
        now, pause = time.monotonic(), 0.0
        for named in found.named:
            before = self._seen.get(named.path)
            if before is None or before.state != named.state:
                before = self._seen[named.path] = _Sight(named.state, now)
            age = start - before.time
            if named.reason or age >= settle or self._is_landed(found, named, landed):
                continue
            named.reason = f"not unchanged for {settle:g} s yet (settle)"
            rest = before.time + settle - now + 0.001
            pause = min(pause, rest) if pause else rest
        return pause

    def _is_landed(self, found: Found, named: Named, landed: Mapping[str, Source]) -> bool:
        """Whether nothing of a source would be downloaded."""
        if self._settings.force or self._settings.checksum:
            return False
        sources = (item.source for item in found.items[named.start : named.end])
        return all(
            (before := landed.get(source.path)) is not None
            and (before.size, before.mtime) == (source.size, source.mtime)
            for source in sources
        )

    def _say(self, reason: str) -> None:
        if reason != self._waited_for:
            log.warning("waiting up to %g s for: %s", self._settings.wait_for, reason)
        self._waited_for = reason

    def _ready(self, found: Found) -> Found:
        if self._waited_for:
            seconds = time.monotonic() - self._started
            found.notes.append(f"waited {seconds:.0f} s for: {self._waited_for}")
        found.leave_out()
        return found

    def _planned(self, found: Found, error: MissingError | NetworkError | None) -> Found:
        """Return what a dry run found: it does not wait."""
        if error is not None:
            if not self._settings.wait_for:
                raise error
            found.notes.append(f"would wait up to {self._settings.wait_for:g} s for: {error}")
        if self._settings.settle:
            found.notes.append(
                f"would look twice, {self._settings.settle:g} s apart, at what is new or changed"
            )
        found.leave_out()
        return found

    def _too_late(self, error: MissingError | NetworkError | None) -> Found:
        wait_for = self._settings.wait_for
        assert error is not None  # noqa: S101 (for the types: what is complete was returned)
        if isinstance(error, NetworkError) or not wait_for:
            raise error
        if self._settings.dry_run:
            return Found(nothing=True, notes=[f"would wait up to {wait_for:g} s for: {error}"])
        raise MissingError(
            f"{error.text} (waited {wait_for:g} s: wait_for)",
            advice="check remote_file_path, or set wait_for to a longer time",
            path=error.path,
        ) from error

    def _incomplete(self, found: Found) -> MissingError | None:
        """Return the error of sources that must be complete and are not, if there are any."""
        late = [named for named in found.named if named.reason]
        required = [named for named in late if named.required]
        if not late or (not required and (len(late) < len(found.named) or found.failed)):
            return None
        return MissingError(_listed(required or late), advice="set wait_for to wait for it")


def _listed(late: Collection[Named]) -> str:
    texts = [f"{named.path}: {named.reason}" for named in list(late)[:MOST_SHOWN]]
    more = f" and {len(late) - MOST_SHOWN} more" if len(late) > MOST_SHOWN else ""
    return "; ".join(texts) + more


def _jittered(delay_s: float) -> float:
    return delay_s * (1 + secrets.randbelow(251) / 1000)
