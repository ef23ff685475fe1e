"""Conditional writes: proved before a run uploads anything, since `publish` relies on them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from tasks.fetch.errors import LighterageError, StoreError

if TYPE_CHECKING:
    from tasks.fetch.stores.objects.bucket import Bucket


def require_conditions(bucket: Bucket, key: str, target: str) -> None:
    """Write an object on conditions that do not hold, and delete it.

    Args:
        bucket: Of the store.
        key: Of an object that does not exist.
        target: For the error.

    Raises:
        StoreError: The store ignores the conditions.
    """
    try:
        created = bucket.put_if(key, b"", None) or bucket.get(key) is not None
        ignored = bucket.put_if(key, b"", None) or bucket.put_if(key, b"", '"0"')
    finally:
        with contextlib.suppress(LighterageError):
            bucket.delete([key])
    if ignored or not created:
        raise StoreError(
            f"{target}: the store has no conditional writes (If-Match, If-None-Match), without "
            "which two runs would overwrite each other",
            advice="use another store",
        )
