"""Uploads of a run: small files in one request beside others, large ones in parts."""

from __future__ import annotations

import contextlib
import threading
from functools import partial
from typing import TYPE_CHECKING

from tasks.fetch.errors import LighterageError, StoreError
from tasks.fetch.stores.objects.bucket import MAX_FILE_BYTES, Bucket
from tasks.fetch.threads import WriteBehind

if TYPE_CHECKING:
    from collections.abc import Callable

    from obstore import WritableFile

SMALL_BYTES = 2**20
"""A file of up to so many bytes is uploaded in one request, beside others."""
UPLOADS_AT_ONCE = 16


class Uploads:
    """Uploads of small files, several at once; their errors are raised by a later call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads: WriteBehind | None = None

    def put(self, upload: Callable[[], None]) -> None:
        """Carry out an upload in another thread; wait while there are many."""
        with self._lock:
            if self._threads is None:
                self._threads = WriteBehind(UPLOADS_AT_ONCE, threads=UPLOADS_AT_ONCE)
            self._threads.put(upload)

    def finish(self) -> None:
        """Wait until all are done; raise the first error."""
        with self._lock:
            threads, self._threads = self._threads, None
            if threads:
                threads.finish()

    def stop(self) -> None:
        """Drop those that have not started, and wait for the others."""
        with self._lock:
            threads, self._threads = self._threads, None
            if threads:
                threads.stop()


class NewObject:
    """A file on its way into the bucket: kept in memory while it is small, then sent in parts.

    Args:
        bucket: Where it goes.
        key: Of the object.
        uploads: Those of the run.
        again: Whether the run had an object of this key before, which may still be there.
    """

    def __init__(self, bucket: Bucket, key: str, uploads: Uploads, *, again: bool) -> None:
        self._bucket = bucket
        self._key = key
        self._uploads = uploads
        self._again = again
        self._blocks: list[bytes] = []
        self._size = 0
        self._file: WritableFile | None = None

    def write(self, block: bytes) -> None:
        """Append bytes."""
        self._size += len(block)
        if self._size > MAX_FILE_BYTES:
            raise StoreError(f"{self._key}: is larger than {MAX_FILE_BYTES} bytes, S3's limit")
        if self._file is None:
            self._blocks.append(block)
            if self._size <= SMALL_BYTES:
                return
            self._file = self._bucket.open(self._key)
            block = b"".join(self._blocks)
            self._blocks.clear()
        with self._bucket.errors():
            self._file.write(block)

    def close(self) -> None:
        """Complete the object, or have it uploaded: `finish` waits for that."""
        if self._file is None:
            upload = partial(self._bucket.put, self._key, b"".join(self._blocks))
            self._blocks.clear()
            self._uploads.put(upload)
            return
        try:
            with self._bucket.errors():
                self._file.close()
        except LighterageError:
            # Where only the answer was lost the object is there, and a second try finds no upload.
            if self._again or not self._bucket.has(self._key, self._size):
                raise
        self._file = None

    def abort(self) -> None:
        """Discard what was written."""
        self._blocks.clear()
        file, self._file = self._file, None
        if file:
            with contextlib.suppress(LighterageError), self._bucket.errors():
                file.__exit__(LighterageError, None, None)
