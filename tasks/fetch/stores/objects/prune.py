"""Prune: delete what the manifests that are kept do not name, and no run can still be uploading."""

from __future__ import annotations

import re
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from tasks.fetch.errors import StoreError
from tasks.fetch.manifest import Manifest
from tasks.fetch.stores.objects.location import object_key
from tasks.fetch.stores.protocol import Pruned

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.fetch.stores.objects.bucket import Bucket

DELETED_AT_ONCE = 1000
MANIFESTS, OBJECTS, RUNS = "manifests", "objects", "runs"
_OWN_KEY = re.compile(r"(?:manifests|objects)/([0-9a-f]{16})(?:\.json$|\.probe$|/)")
"""The keys of a run; others are not touched."""
_ATTEMPT = re.compile(rb'"([0-9a-f]{16})"')
"""A run of `_OWN_KEY`, as the records of shards name it."""


def prune(
    bucket: Bucket,
    published: Callable[[], list[str]],
    *,
    keep_runs: int,
    min_age_s: float,
    dry_run: bool,
) -> Pruned:
    """Delete the objects of earlier runs; see `stores.protocol.Store.prune`.

    Args:
        bucket: Of the store.
        published: Reads the keys of the published manifest, and of those before it. Where there
            are none, nothing is deleted.
        keep_runs: How many earlier manifests stay, the newest ones.
        min_age_s: A run whose last object is not older may be in progress, and stays.
        dry_run: Whether to delete nothing.

    Raises:
        LighterageError: See `Bucket`; what was deleted before stays deleted.
    """
    history = published()
    if not history:
        raise StoreError(
            "nothing is published there, so it is not known what may be deleted",
            advice="check file_save_path, and run the task first",
        )
    before = datetime.now(UTC) - timedelta(seconds=min_age_s)
    manifests = {
        key: modified for key, _, modified in bucket.entries(MANIFESTS) if _OWN_KEY.match(key)
    }
    kept = {history[0]}
    kept |= manifests.keys() & set(history[1 : 1 + keep_runs])
    kept |= {key for key, modified in manifests.items() if modified >= before}
    referenced = {key for manifest in kept for key in _referenced(bucket, manifest)}
    unused: dict[str, dict[str, int]] = defaultdict(dict)  # by run: the size of each key
    recent = set()  # runs
    for folder in (MANIFESTS, OBJECTS):
        for key, size, modified in bucket.entries(folder):
            if not (match := _OWN_KEY.match(key)):
                continue
            if modified >= before:
                recent.add(match[1])
            if key not in kept and key not in referenced:
                unused[match[1]][key] = size
    records, attempts = _runs_with_shards(bucket, before)
    recent |= attempts
    old = [sizes for run, sizes in unused.items() if run not in recent] + records
    sizes = {key: size for run_sizes in old for key, size in run_sizes.items()}
    if not dry_run:
        # A manifest first: one whose objects are missing is worse than objects without one.
        keys = sorted(sizes, key=lambda key: not key.startswith(f"{MANIFESTS}/"))
        for start in range(0, len(keys), DELETED_AT_ONCE):
            if published() != history:
                raise StoreError("another run has published in the meantime", advice="prune again")
            bucket.delete(keys[start : start + DELETED_AT_ONCE])
    return Pruned(len(old), len(sizes), sum(sizes.values()))


def _runs_with_shards(bucket: Bucket, before: datetime) -> tuple[list[dict[str, int]], set[str]]:
    """Return the records of each old run that had shards, and the attempts that others name.

    A run is old when its newest record is: its shards write records while they work.
    """
    runs: dict[str, dict[str, tuple[int, datetime]]] = defaultdict(dict)
    for key, size, modified in bucket.entries(RUNS):
        runs[key.split("/")[1]][key] = size, modified
    old: list[dict[str, int]] = []
    attempts: set[str] = set()
    for records in runs.values():
        if max(modified for _, modified in records.values()) < before:
            old.append({key: size for key, (size, _) in records.items()})
            continue
        for key in records:
            content, _ = bucket.get(key) or (b"", "")
            attempts.update(name.decode() for name in _ATTEMPT.findall(content))
    return old, attempts


def _referenced(bucket: Bucket, key: str) -> set[str]:
    """Return the keys of the objects that a manifest names."""
    found = bucket.get(key)
    manifest = Manifest.decode(found[0]) if found else None
    if manifest is None:
        raise StoreError(
            f"{key}: cannot be read, so it is not known which objects it names",
            advice="prune with the version of Lighterage that wrote it, or delete it",
        )
    return {object_key(file.run, file.path) for file in manifest.all_files()}
