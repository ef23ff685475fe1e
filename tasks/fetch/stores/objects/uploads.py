"""Uploads of a run: small files in one request beside others, large ones in parts.

The last parts of a large file are uploaded, and the object completed, while the next file begins.
"""

from __future__ import annotations

import contextlib
import threading
from functools import partial
from typing import TYPE_CHECKING

from tasks.fetch.errors import LighterageError, StoreError
from tasks.fetch.stores.objects.bucket import MAX_FILE_BYTES, PART_BYTES, Bucket
from tasks.fetch.threads import WriteBehind

if TYPE_CHECKING:
    from collections.abc import Callable

    from obstore import WritableFile

SMALL_BYTES = 2**20
"""A file of up to so many bytes is uploaded in one request, beside others."""
UPLOADS_AT_ONCE = 16


class Uploads:
    """Uploads in other threads, several at once; their errors are raised by a later call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._small: WriteBehind | None = None
        self._large: WriteBehind | None = None

    def put(self, upload: Callable[[], None]) -> None:
        """Carry out the upload of a small file; wait while there are many."""
        with self._lock:
            if self._small is None:
                self._small = WriteBehind(UPLOADS_AT_ONCE, threads=UPLOADS_AT_ONCE)
            self._small.put(upload)

    def complete(self, close: Callable[[], None]) -> None:
        """Carry out the end of a large upload, after that of another one."""
        with self._lock:
            if self._large is None:
                self._large = WriteBehind(1)
            self._large.put(close)

    def wait_for_large(self) -> None:
        """Wait for the end of the large upload before this one: the parts of both take memory."""
        self.complete(lambda: None)

    def finish(self) -> None:
        """Wait until all are done; raise the first error, when none is under way any longer."""
        taken = self._taken()
        try:
            while taken:
                taken.pop().finish()
        finally:
            for threads in taken:
                threads.stop()

    def stop(self) -> None:
        """Drop those that have not started, and wait for the others."""
        for threads in self._taken():
            threads.stop()

    def _taken(self) -> list[WriteBehind]:
        """Return the threads, and have none."""
        with self._lock:
            found = [threads for threads in (self._small, self._large) if threads]
            self._small = self._large = None
            return found


class NewObject:
    """A file on its way into the bucket: kept in memory while it is small, then sent in parts.

    Args:
        bucket: Where it goes.
        key: Of the object.
        run: To mark it with.
        uploads: Those of the run.
        again: Whether the run had an object of this key before, which may still be there.
    """

    def __init__(
        self, bucket: Bucket, key: str, run: str, uploads: Uploads, *, again: bool
    ) -> None:
        self._bucket = bucket
        self._key = key
        self._run = run
        self._uploads = uploads
        self._again = again
        self._blocks: list[bytes] = []
        self._size = 0
        self._file: WritableFile | None = None

    def write(self, block: bytes) -> None:
        """Append bytes."""
        self._size += len(block)
        if self._size > MAX_FILE_BYTES:
            raise StoreError(
                f"{self._key}: is larger than {MAX_FILE_BYTES} bytes, S3's limit",
                advice="split it on the host, leave it out with `exclude`, or set file_save_path "
                "to a folder",
            )
        if self._file is None:
            self._blocks.append(block)
            if self._size <= SMALL_BYTES:
                return
            self._file = self._bucket.open(self._key, self._run)
            block = b"".join(self._blocks)
            self._blocks.clear()
        if self._size > PART_BYTES:
            self._uploads.wait_for_large()
        with self._bucket.errors():
            self._file.write(block)

    def close(self) -> None:
        """Have the object uploaded or completed: `finish` waits for that."""
        file, self._file = self._file, None
        if file:
            self._uploads.complete(partial(self._complete, file))
            return
        upload = partial(self._bucket.put, self._key, b"".join(self._blocks), self._run)
        self._blocks.clear()
        self._uploads.put(upload)

    def _complete(self, file: WritableFile) -> None:
        try:
            with self._bucket.errors():
                file.close()
        except LighterageError:
            # Where only the answer was lost the object is there, and a second try finds no upload.
            if self._again or not self._bucket.has(self._key, self._size):
                raise

    def abort(self) -> None:
        """Discard what was written."""
        self._blocks.clear()
        file, self._file = self._file, None
        if file:
            with contextlib.suppress(LighterageError), self._bucket.errors():
                file.__exit__(LighterageError, None, None)
