"""Stores: the destinations of a run, one module each; see `protocol.Store` for what a store is.

A new store is one module, and one line in `STORES`: tests/unit/test_stores.py runs the same
suite for each of them.
"""

from __future__ import annotations

import pkgutil
import re
from typing import TYPE_CHECKING

from tasks.fetch.errors import ConfigError

if TYPE_CHECKING:
    from tasks.fetch.stores.protocol import Layout, Store
    from tasks.fetch.stores.shared import SharedRun

STORES = {
    "": "tasks.fetch.stores.local.store:LocalStore",
    "s3": "tasks.fetch.stores.objects.store:ObjectStore",
}
"""The store of each URL scheme; a target without a scheme is a local folder.

Each names a callable that takes the target, as `file_save_path` states it, and the arguments of
`open_store`. It is imported on first use, so that a run does not load what only other stores need.
"""

SHARED = {
    "": "tasks.fetch.stores.local.shared:LocalRun",
    "s3": "tasks.fetch.stores.objects.shared:ObjectRun",
}
"""How the shards of a run share the target, in the stores that can; see `shared.SharedRun`."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def open_store(target: str, *, overwrite: bool, layout: Layout = "manifest") -> Store:
    """Return the store that a target is in.

    Args:
        target: `file_save_path`: a folder, or a URL whose scheme names the store.
        overwrite: Whether published data may be replaced.
        layout: Whether there is a copy with plain names.

    Raises:
        ConfigError: There is no store of that scheme, or it has no such layout.
        LocalError: The target cannot be one.

    Example:
        >>> store = open_store("data/task_1/events", overwrite=True)
    """
    scheme = _scheme(target)
    if scheme not in STORES:
        known = ", ".join(f"{name}://" for name in STORES if name)
        raise ConfigError(
            f"file_save_path: {target}: no store for {scheme}://",
            advice="name a local folder" + (f", or a URL with {known}" if known else ""),
        )
    store: Store = pkgutil.resolve_name(STORES[scheme])(target, overwrite=overwrite, layout=layout)
    return store


def open_run(target: str, run_id: str, *, overwrite: bool) -> SharedRun:
    """Return a target as the shards of a run share it.

    Args:
        target: `file_save_path`.
        run_id: The id that all shards of the run have.
        overwrite: Whether published data may be replaced.

    Raises:
        ConfigError: Shards cannot share a target of that scheme.
        LocalError: The target cannot be one.
    """
    scheme = _scheme(target)
    if scheme not in SHARED:
        raise ConfigError(
            f"file_save_path: {target}: shards cannot share it",
            advice="name an s3:// URL, or a folder that all of them reach",
        )
    run: SharedRun = pkgutil.resolve_name(SHARED[scheme])(target, run_id, overwrite=overwrite)
    return run


def _scheme(target: str) -> str:
    match = _SCHEME.match(target)
    return match[1].lower() if match else ""
