"""The plain copy: the published files under their own names, for people and tools that browse.

    plain/<path>                a copy of a published file, made by the store
    plain/manifest.json         the published manifest, written last

A copy has the mark of its upload (`bucket.MARK`): which run the content is from, and that it is
Lighterage's. An object that the manifest in the copy lists, and that is older, needs no look at it.

Runs may copy at once. Each replaces the manifest only if it is the one that it started from, and
else starts again with what is published then: the last one to end copied what is published.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Final

from tasks.fetch.errors import BusyError, LighterageError, StoreError
from tasks.fetch.manifest import NAME, Manifest, is_manifest
from tasks.fetch.stores.objects.location import object_key
from tasks.fetch.stores.objects.uploads import NewObject, Uploads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tasks.fetch.manifest import File
    from tasks.fetch.stores.objects.bucket import Bucket

PLAIN: Final = "plain"
MANIFEST: Final = f"{PLAIN}/{NAME}"
MAX_COPY_BYTES = 5 * 2**30
"""The largest object that S3 copies in one request; obstore has no copy in parts."""
TRIES = 10


class PlainCopy:
    """The folder `plain` below a target's prefix.

    Attributes:
        url: Where it is.
    """

    def __init__(self, bucket: Bucket, url: str) -> None:
        self.url = url
        self._bucket = bucket
        self._requests = Uploads()
        self._copied: set[str] = set()  # paths, by this run

    def check(self) -> None:
        """Check that it contains nothing of others.

        Raises:
            StoreError: It does.
        """
        self._copies(self._bucket.get(MANIFEST))

    def update(self, published: Callable[[], tuple[Manifest, bytes] | None]) -> None:
        """Make it a copy of the published files.

        Args:
            published: Reads the published manifest, and its JSON.

        Raises:
            LighterageError: It may be incomplete; the next `update` completes it.
        """
        try:
            for _ in range(TRIES):
                found = self._bucket.get(MANIFEST)
                if (now := published()) is None or self._try_update(found, *now):
                    return
            raise BusyError(
                f"{self.url}: other runs copy to it at the same time",
                advice="run it again when they have ended",
            )
        except LighterageError as error:
            # Not transient: a second try would find nothing new, and report `unchanged`.
            text = "the data is published, but its plain copy is not complete: run the task again"
            raise type(error)(f"{error}: {text}") from error

    def _try_update(self, found: tuple[bytes, str] | None, manifest: Manifest, data: bytes) -> bool:
        """Copy what differs; return False where another run has replaced the manifest since."""
        copies = self._copies(found)
        files = {file.path: file for file in manifest.all_files()}
        stale = [f for f in files.values() if copies.get(f.path) != (f.run, f.size)]
        extra = copies.keys() - files.keys()
        if found and found[0] == data and not (stale or extra):
            return True
        self._copy(stale)
        if extra:
            self._bucket.delete(f"{PLAIN}/{path}" for path in extra)
        return self._bucket.put_if(MANIFEST, data, found[1] if found else None)

    def _copies(self, found: tuple[bytes, str] | None) -> dict[str, tuple[str, int]]:
        """Return the run that each copy is from, and its size, by path.

        Args:
            found: The manifest in the copy, and its ETag.

        Raises:
            StoreError: An object is not Lighterage's.
        """
        data = found[0] if found else b""
        manifest = Manifest.decode(data)
        listed = {file.path: file for file in manifest.all_files()} if manifest else {}
        objects = {
            key.removeprefix(f"{PLAIN}/"): (size, modified)
            for key, size, modified in self._bucket.entries(PLAIN)
        }
        _, replaced = objects.pop(NAME, (0, None))
        runs: dict[str, str | None] = {} if not data or is_manifest(data) else {NAME: ""}
        for path, (size, modified) in objects.items():
            file = listed.get(path)
            # The manifest may be that of another run, whose copy this run overwrote.
            known = file and file.size == size and path not in self._copied
            if file and known and replaced and modified < replaced:
                runs[path] = file.run
            else:
                self._requests.put(partial(self._read_mark, path, runs))
        self._requests.finish()
        if foreign := [path for path, run in runs.items() if run == ""]:
            raise StoreError(
                f"{self.url}: contains objects not created by Lighterage ({min(foreign)!r})",
                advice="move them to another prefix, or set publish_layout to manifest",
            )
        return {path: (run, objects[path][0]) for path, run in runs.items() if run}

    def _read_mark(self, path: str, runs: dict[str, str | None]) -> None:
        # None for the marker of an empty folder, `x/`, which is listed as `x`.
        runs[path] = self._bucket.mark(f"{PLAIN}/{path}")

    def _copy(self, files: Iterable[File]) -> None:
        large = []
        for file in files:
            self._copied.add(file.path)
            if file.size > MAX_COPY_BYTES:
                large.append(file)
            else:
                names = object_key(file.run, file.path), f"{PLAIN}/{file.path}"
                self._requests.put(partial(self._bucket.copy, *names))
        self._requests.finish()
        for file in large:  # one by one: each takes the memory of an upload in parts
            self._copy_by_download(file)

    def _copy_by_download(self, file: File) -> None:
        new = NewObject(self._bucket, f"{PLAIN}/{file.path}", file.run, self._requests, again=True)
        try:
            for block in self._bucket.read(object_key(file.run, file.path), file.size):
                new.write(block)
            new.close()
        finally:
            new.abort()

    def stop(self) -> None:
        """End the requests of an `update` that was interrupted. Raise nothing."""
        with contextlib.suppress(LighterageError):
            self._requests.stop()
