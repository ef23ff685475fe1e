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
    from tasks.fetch.stores.protocol import Store

STORES = {
    "": "tasks.fetch.stores.local.store:LocalStore",
    "s3": "tasks.fetch.stores.objects.store:ObjectStore",
}
"""The store of each URL scheme; a target without a scheme is a local folder.

Each names a callable that takes the target, as `file_save_path` states it, and `overwrite`. It is
imported on first use, so that a run does not load what only other stores need.
"""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def open_store(target: str, *, overwrite: bool) -> Store:
    """Return the store that a target is in.

    Args:
        target: `file_save_path`: a folder, or a URL whose scheme names the store.
        overwrite: Whether published data may be replaced.

    Raises:
        ConfigError: There is no store of that scheme.
        LocalError: The target cannot be one.

    Example:
        >>> store = open_store("data/task_1/events", overwrite=True)
    """
    match = _SCHEME.match(target)
    scheme = match[1].lower() if match else ""
    if scheme not in STORES:
        known = ", ".join(f"{name}://" for name in STORES if name)
        raise ConfigError(
            f"file_save_path: {target}: no store for {scheme}://: name a local folder"
            + (f", or a URL with {known}" if known else "")
        )
    store: Store = pkgutil.resolve_name(STORES[scheme])(target, overwrite=overwrite)
    return store
