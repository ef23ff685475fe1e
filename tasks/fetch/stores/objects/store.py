"""The object store: a prefix of an S3 bucket, whose readers go through one small object.

    latest.json                 names the published manifest; replaced by its ETag
    manifests/<run>.json        the manifest of a run, written once
    objects/<run>/<path>        the files of a run, never overwritten
    plain/<path>                on request, a copy to browse; see `plain.py`
    runs/<run id>/              what the shards of a run agree on, see shared.py

A manifest states for each file the run that uploaded it: an unchanged file stays where it is. No
run locks another out: of two that started from the same `latest.json`, one replaces it.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from typing import TYPE_CHECKING

import msgspec

from tasks.fetch import interrupt
from tasks.fetch.errors import BusyError, ConfigError, LighterageError, NetworkError, StoreError
from tasks.fetch.manifest import Manifest
from tasks.fetch.stores.objects.bucket import Bucket
from tasks.fetch.stores.objects.conditions import require_conditions
from tasks.fetch.stores.objects.location import Access, Location, object_key
from tasks.fetch.stores.objects.plain import PLAIN, PlainCopy
from tasks.fetch.stores.objects.prune import prune
from tasks.fetch.stores.objects.uploads import NewObject, Uploads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tasks.fetch.manifest import File
    from tasks.fetch.stores.protocol import Layout, Pruned

LATEST = "latest.json"
OWN_NAMES = {LATEST, "manifests", "objects", "runs", PLAIN}
LONG_RUN_S = 1800
"""Below the least `min_age` by half an hour: a run that is longer checks its objects at the end."""
MAX_PREVIOUS = 1000
"""Earlier manifests that `latest.json` names, and so the most that `keep_runs` can keep."""
SWAP_TRIES = 5
SWAP_DELAY_S = 0.5


class Latest(msgspec.Struct, frozen=True, tag_field="schema", tag="lighterage-latest/1"):
    """What `latest.json` contains: the key of the published manifest, and of those before it."""

    manifest: str
    previous: tuple[str, ...] = ()  # the newest first


class ObjectStore:
    """A prefix of a bucket as a store; for the methods see `stores.protocol.Store`."""

    partial_downloads = None
    folder = None
    _has_conditions = False

    def __init__(self, target: str, *, overwrite: bool, layout: Layout = "manifest") -> None:
        self._target = target
        self._layout = layout
        self._location = Location.parse(target)
        self._bucket = Bucket(self._location, Access.from_environment(), target)
        self._plain = PlainCopy(self._bucket, f"{target.removesuffix('/')}/{PLAIN}")
        self._overwrite = overwrite
        self.published = False
        self._e_tag: str | None = None  # of latest.json, when it was last read
        self._previous: tuple[str, ...] = ()  # the manifests that it named
        self._run = ""
        self._begun_s = 0.0
        self._may_be_published = False  # whatever the response was: then nothing is deleted
        self._keys: set[str] = set()  # of this run
        self._removed: set[str] = set()  # of these, unless that failed
        self._sizes: dict[str, dict[str, int]] = {}  # by key, of each run that a manifest names
        self._uploads = Uploads()

    # --- published data ------------------------------------------------------------------------

    def check(self) -> None:
        """Check that the prefix is free, or one of Lighterage's that may be replaced."""
        is_published = self._latest() is not None
        names = set() if is_published else set(self._bucket.top_names())
        if foreign := names - OWN_NAMES:
            raise StoreError(
                f"{self._target}: contains objects not created by Lighterage ({min(foreign)!r})",
                advice="set file_save_path to another prefix",
            )
        if is_published and not self._overwrite:
            raise StoreError(
                f"{self._target}: exists, and overwrite is false",
                advice="pass --overwrite to replace it",
            )
        if self._layout == "plain" or PLAIN in names:
            self._plain.check()

    def lock(self, wait_s: float) -> None:  # noqa: ARG002 (`publish` decides)
        """Check the target: other runs are not kept out."""
        self.check()

    def _latest(self) -> Latest | None:
        found = self._bucket.get(LATEST)
        # Without overwrite `publish` is to create it, also where another run did so by now.
        self._e_tag = found[1] if found and self._overwrite else None
        self._previous = ()
        if found is None:
            return None
        try:
            latest = msgspec.json.decode(found[0], type=Latest)
        except msgspec.DecodeError as error:
            raise StoreError(
                f"{self._target}: its {LATEST} was not created by this version of Lighterage",
                advice="set file_save_path to another prefix",
            ) from error
        self._previous = (latest.manifest, *latest.previous)[:MAX_PREVIOUS]
        return latest

    def manifest(self) -> Manifest | None:
        """Return the manifest that `latest.json` names; `publish` replaces this one only."""
        published = self._published()
        return published[0] if published else None

    def previous(self) -> Manifest | None:
        """Return the manifest that `latest.json` names second, unless `prune` deleted it."""
        latest = self._latest()
        found = self._bucket.get(latest.previous[0]) if latest and latest.previous else None
        return Manifest.decode(found[0]) if found else None

    def read(self, file: File) -> Iterator[bytes]:
        """Yield the content of an object."""
        return self._bucket.read(object_key(file.run, file.path), file.size)

    def _published(self) -> tuple[Manifest, bytes] | None:
        """Return the published manifest, and its JSON."""
        latest = self._latest()
        if latest is None:
            return None
        found = self._bucket.get(latest.manifest)
        manifest = Manifest.decode(found[0]) if found else None
        if found is None or manifest is None:
            raise StoreError(
                f"{self._target}: {latest.manifest}, which {LATEST} names, is missing or cannot be "
                f"read",
                advice=f"delete {LATEST} to download everything again",
            )
        return manifest, found[0]

    def verify(self, file: File, content: bool) -> File | None:
        """Return the record of a published file whose object has its size, or its content."""
        folder, key = f"objects/{file.run}", object_key(file.run, file.path)
        if folder not in self._sizes:  # one request for 1000 objects, not one for each
            self._sizes[folder] = {name: size for name, size, _ in self._bucket.entries(folder)}
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
        self._uploads = Uploads()
        self._may_be_published = False
        if not self._has_conditions:
            require_conditions(self._bucket, f"objects/{run_id}.probe", self._target)
            self._has_conditions = True
        self._run = run_id
        self._begun_s = time.monotonic()

    def free_bytes(self) -> None:
        """Return None: a bucket has no limit that is known."""

    def create(self, path: str) -> NewObject:
        """Create an object of this run."""
        key = object_key(self._run, path)
        if reason := self._location.path_error(self._run, path):
            raise StoreError(
                f"{self._target}: {path!r} cannot be stored: the name {reason}",
                advice="rename it on the host",
            )
        again = key in self._keys
        self._keys.add(key)
        self._removed.discard(key)
        return NewObject(self._bucket, key, self._run, self._uploads, again=again)

    def keep(self, file: File) -> None:
        """Do nothing: the new manifest names the object that is there."""

    def remove(self, path: str) -> None:
        """Delete an object of this run, if there is one."""
        key = object_key(self._run, path)
        if key in self._keys:
            self._uploads.finish()
            with contextlib.suppress(LighterageError):  # no manifest will name it
                self._bucket.delete([key])
            self._removed.add(key)

    def publish(self, manifest: Manifest) -> Manifest:
        """Write the manifest of this run, and let `latest.json` name it."""
        self._uploads.finish()
        self._require_own_objects()
        manifest = manifest.with_run(self._run)
        key, data = f"manifests/{self._run}.json", b"".join(manifest.encoded())
        self._keys.add(key)
        if not self._bucket.put_if(key, data, None):
            found = self._bucket.get(key)
            if found is None or found[0] != data:
                raise StoreError(
                    f"{self._target}: {key} exists already",
                    advice="run it again, with a new run_id where it has shards",
                )
        with interrupt.uninterrupted():
            self._swap(msgspec.json.encode(Latest(key, self._previous)) + b"\n")
        return manifest

    def _require_own_objects(self) -> None:
        """Check that `prune` did not take a long run for one that was killed."""
        if time.monotonic() - self._begun_s < LONG_RUN_S:
            return
        existing = {key for key, _, _ in self._bucket.entries(f"objects/{self._run}")}
        if missing := self._keys - self._removed - existing:
            raise StoreError(
                f"{self._target}: {min(missing)} was deleted during the run",
                advice="prune with a larger min_age",
            )

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
                "this run's is discarded",
                advice="run it again",
            )
        return data == latest

    def update_manifest(self, manifest: Manifest) -> None:
        """Do nothing: the manifest of a run is written once."""

    def copy_published(self) -> str:
        """Update the plain copy, where the layout has one."""
        if self._layout != "plain":
            return ""
        self._plain.update(self._published)
        return self._plain.url

    # --- the end -------------------------------------------------------------------------------

    def prune(self, *, keep_runs: int, min_age_s: float, dry_run: bool) -> Pruned:
        """Delete the objects of earlier runs."""
        if keep_runs > MAX_PREVIOUS:
            raise ConfigError(
                f"keep_runs is {keep_runs}: at most {MAX_PREVIOUS} are possible",
                advice=f"set it to {MAX_PREVIOUS} or less",
            )

        def published() -> list[str]:
            found = self._latest()
            return [found.manifest, *found.previous] if found else []

        return prune(
            self._bucket, published, keep_runs=keep_runs, min_age_s=min_age_s, dry_run=dry_run
        )

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
        self._plain.stop()
