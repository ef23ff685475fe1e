"""The object store: a prefix of an S3 bucket, whose readers go through one small object.

    latest.json                 names the published manifest; replaced by its ETag
    manifests/<run>.json        the manifest of a run, written once
    objects/<run>/<path>        the files of a run, never overwritten

A manifest states for each file the run that uploaded it: an unchanged file stays where it is. No
run locks another out: of two that started from the same `latest.json`, one replaces it.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from tasks.fetch import interrupt
from tasks.fetch.errors import BusyError, LighterageError, NetworkError, StoreError
from tasks.fetch.manifest import Manifest
from tasks.fetch.stores.objects.bucket import MAX_FILE_BYTES, Bucket
from tasks.fetch.stores.objects.location import MAX_KEY_BYTES, Access, Location, name_error
from tasks.fetch.threads import WriteBehind

if TYPE_CHECKING:
    from collections.abc import Callable

    from obstore import WritableFile

    from tasks.fetch.manifest import File

LATEST = "latest.json"
OWN_NAMES = {LATEST, "manifests", "objects"}
SMALL_BYTES = 2**20
"""A file of up to so many bytes is uploaded in one request, beside others."""
UPLOADS_AT_ONCE = 16
SWAP_TRIES = 5
SWAP_DELAY_S = 0.5


class Latest(msgspec.Struct, frozen=True, tag_field="schema", tag="lighterage-latest/1"):
    """What `latest.json` contains: the key of the published manifest."""

    manifest: str


class ObjectStore:
    """A prefix of a bucket as a store; for the methods see `stores.protocol.Store`."""

    partial_downloads = None

    def __init__(self, target: str, *, overwrite: bool) -> None:
        self._target = target
        self._location = Location.parse(target)
        self._bucket = Bucket(self._location, Access.from_environment(), target)
        self._overwrite = overwrite
        self.published = False
        self._e_tag: str | None = None  # of latest.json, when it was last read
        self._run = ""
        self._has_conditions = False
        self._may_be_published = False  # whatever the response was: then nothing is deleted
        self._keys: set[str] = set()  # of this run
        self._sizes: dict[str, dict[str, int]] = {}  # by key, of each run that a manifest names
        self._uploads = _Uploads()

    # --- published data ------------------------------------------------------------------------

    def check(self) -> None:
        """Check that the prefix is free, or one of Lighterage's that may be replaced."""
        if self._latest() is None:
            foreign = sorted(set(self._bucket.top_names()) - OWN_NAMES)
            if foreign:
                raise StoreError(
                    f"{self._target}: contains objects not created by Lighterage ({foreign[0]!r}): "
                    "set file_save_path to another prefix"
                )
        elif not self._overwrite:
            raise StoreError(f"{self._target}: exists, and overwrite is false")

    def lock(self, wait_s: float) -> None:  # noqa: ARG002 (`publish` decides)
        """Check the target: other runs are not kept out."""
        self.check()

    def _latest(self) -> Latest | None:
        found = self._bucket.get(LATEST)
        # Without overwrite `publish` is to create it, also where another run did so by now.
        self._e_tag = found[1] if found and self._overwrite else None
        if found is None:
            return None
        try:
            return msgspec.json.decode(found[0], type=Latest)
        except msgspec.DecodeError as error:
            raise StoreError(
                f"{self._target}: its {LATEST} was not created by this version of Lighterage: set "
                "file_save_path to another prefix"
            ) from error

    def manifest(self) -> Manifest | None:
        """Return the manifest that `latest.json` names; `publish` replaces this one only."""
        latest = self._latest()
        if latest is None:
            return None
        found = self._bucket.get(latest.manifest)
        manifest = Manifest.decode(found[0]) if found else None
        if manifest is None:
            raise StoreError(
                f"{self._target}: {latest.manifest}, which {LATEST} names, is missing or cannot be "
                f"read: delete {LATEST} to download everything again"
            )
        return manifest

    def verify(self, file: File, content: bool) -> File | None:
        """Return the record of a published file whose object has its size, or its content."""
        folder, key = f"objects/{file.run}", _key(file.run, file.path)
        if folder not in self._sizes:  # one request for 1000 objects, not one for each
            self._sizes[folder] = dict(self._bucket.sizes(folder))
        if self._sizes[folder].get(key) != file.size:
            return None
        if content:
            digest = hashlib.sha256()
            for block in self._bucket.read(key, file.size):
                digest.update(block)
            if digest.hexdigest() != file.sha256:
                return None
        return file

    # --- new data ------------------------------------------------------------------------------

    def begin(self, run_id: str) -> None:
        """Choose the folder of the new objects; prove that the store has conditional writes."""
        self._discard()
        self._sizes.clear()
        self._uploads = _Uploads()
        self._may_be_published = False
        if not self._has_conditions:
            self._prove_conditions(f"objects/{run_id}.probe")
            self._has_conditions = True
        self._run = run_id

    def _prove_conditions(self, key: str) -> None:
        """Write an object on conditions that do not hold: a store that ignores them is refused."""
        try:
            created = self._bucket.put_if(key, b"", None)
            ignored = self._bucket.put_if(key, b"", None) or self._bucket.put_if(key, b"", '"0"')
        finally:
            with contextlib.suppress(LighterageError):
                self._bucket.delete([key])
        if ignored or not created:
            raise StoreError(
                f"{self._target}: the store has no conditional writes (If-Match, If-None-Match), "
                "without which two runs would overwrite each other: use another store"
            )

    def create(self, path: str) -> _NewObject:
        """Create an object of this run."""
        key = _key(self._run, path)
        reason = name_error(path)
        if len(f"{self._location.prefix}/{key}".encode(errors="replace")) > MAX_KEY_BYTES:
            reason = f"makes a key of more than {MAX_KEY_BYTES} bytes"
        if reason:
            raise StoreError(f"{self._target}: {path!r} cannot be stored: the name {reason}")
        self._keys.add(key)
        return _NewObject(self._bucket, key, self._uploads)

    def keep(self, file: File) -> None:
        """Do nothing: the new manifest names the object that is there."""

    def remove(self, path: str) -> None:
        """Delete an object of this run, if there is one."""
        key = _key(self._run, path)
        if key in self._keys:
            self._uploads.finish()
            with contextlib.suppress(LighterageError):  # no manifest will name it
                self._bucket.delete([key])

    def publish(self, manifest: Manifest) -> Manifest:
        """Write the manifest of this run, and let `latest.json` name it."""
        self._uploads.finish()
        manifest = replace(
            manifest,
            files=[self._with_run(file) for file in manifest.files],
            archives=[self._with_run(file) for file in manifest.archives],
        )
        key, data = f"manifests/{self._run}.json", b"".join(manifest.encoded())
        self._keys.add(key)
        if not self._bucket.put_if(key, data, None):
            found = self._bucket.get(key)
            if found is None or found[0] != data:
                raise StoreError(f"{self._target}: {key} exists already")
        with interrupt.uninterrupted():
            self._swap(msgspec.json.encode(Latest(key)) + b"\n")
        return manifest

    def _with_run(self, file: File) -> File:
        return file if file.run else replace(file, run=self._run)

    def _swap(self, latest: bytes) -> None:
        """Replace the `latest.json` that was read; what it contains then says whether that worked.

        A response may be lost, or be that of a second try: only the object itself is believed.
        """
        self._may_be_published = True
        for _ in range(SWAP_TRIES):
            try:
                self.published = self._bucket.put_if(LATEST, latest, self._e_tag)
            except NetworkError as error:
                self.published = self._is_latest(latest, error)
                if not self.published:
                    raise
            if self.published or self._is_latest(latest):
                self.published = True
                self._keys.clear()
                return
            time.sleep(SWAP_DELAY_S)  # S3 answers 409 while another write is in progress
        raise NetworkError(f"{self._target}: {LATEST} cannot be replaced", transient=True)

    def _is_latest(self, latest: bytes, cause: NetworkError | None = None) -> bool:
        """Whether `latest.json` is this run's; False where it is unchanged.

        Raises:
            BusyError: It is that of another run.
        """
        try:
            found = self._bucket.get(LATEST)
        except NetworkError as error:
            raise NetworkError(
                f"{cause or error}: it is not known whether the data was published", transient=True
            ) from error
        data, e_tag = found or (b"", None)
        if data != latest and e_tag != self._e_tag:
            self._may_be_published = False
            raise BusyError(
                f"{self._target}: another run has published in the meantime: its data stays, and "
                "this run's is discarded: run it again"
            )
        return data == latest

    def update_manifest(self, manifest: Manifest) -> None:  # noqa: ARG002 (never called)
        """Objects have no times that a manifest would note."""
        raise AssertionError("`verify` returns no new times")

    # --- the end -------------------------------------------------------------------------------

    def _discard(self) -> None:
        """Delete the objects of this run, unless they may be published."""
        with contextlib.suppress(LighterageError):
            self._uploads.stop()
            keys = set() if self._may_be_published else self._keys.copy()
            self._keys.clear()
            if keys:
                self._bucket.delete(keys)

    def clean_up(self) -> None:
        """Delete what is not published."""
        self._discard()


def _key(run: str, path: str) -> str:
    return f"objects/{run}/{path}"


class _Uploads:
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


class _NewObject:
    """A file on its way into the bucket: kept in memory while it is small, then sent in parts."""

    def __init__(self, bucket: Bucket, key: str, uploads: _Uploads) -> None:
        self._bucket = bucket
        self._key = key
        self._uploads = uploads
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
        with self._bucket.errors():
            self._file.close()
        self._file = None

    def abort(self) -> None:
        """Discard what was written."""
        self._blocks.clear()
        file, self._file = self._file, None
        if file:
            with contextlib.suppress(LighterageError), self._bucket.errors():
                file.__exit__(LighterageError, None, None)
