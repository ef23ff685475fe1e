"""The `Store` protocol: all that the rest of the project knows of a destination.

A store holds one published manifest with its files, and replaces both in one step. A run uses it
in this order:

    store = open_store("data/task_1/events", overwrite=True)
    try:
        store.lock(wait_s=0)
        before = store.manifest()
        store.begin(run_id)
        store.keep(before.files[0])             # a file that has not changed
        writer = store.create("2026/01.csv")    # a new one
        writer.write(b"id,name")
        writer.close()
        store.publish(manifest)                 # from here on readers see the new files
        store.copy_published()
    finally:
        store.clean_up()

Until `publish` returns, readers see the data published before, and so they do after a run that
failed or was killed at any moment. Paths are relative to the target, have `/` between folders,
and are checked by the caller: they stay inside the target, and no two of a run are the same on
any file system. Errors are those of `tasks.fetch.errors`, mostly `LocalError`: what failed, why,
and what to do.

One thread uses a store at a time, with two exceptions: writers may write in another thread,
and `clean_up` may be called from another thread when the main thread does not end after a signal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tasks.fetch.manifest import File, Manifest


Layout = Literal["manifest", "plain"]
"""How readers find the published files: by the manifest; or in a copy with plain names, too."""


class Pruned(NamedTuple):
    """What `Store.prune` removed: runs that had something, their objects, and bytes."""

    runs: int = 0
    objects: int = 0
    size: int = 0


class Writer(Protocol):
    """A new file that is being written; it ends with `close`, or with `abort`."""

    def write(self, block: bytes) -> None:
        """Append bytes.

        Raises:
            LocalError: They cannot be written: the disk is full, say.
        """

    def close(self) -> None:
        """Complete the file: `publish` publishes it. It may have had no `write`: an empty file.

        Raises:
            LocalError: It cannot be completed; what was written is discarded with the run.
        """

    def abort(self) -> None:
        """Discard the file, so that its path may be created again. Raise nothing."""


@runtime_checkable
class PartialFile(Writer, Protocol):
    """A partial download that is being completed: `abort` keeps it for a later run."""

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes, from the start on; read what is there before writing.

        Raises:
            LocalError: The file has fewer bytes than `PartialDownloads.size` returned.
        """


class PartialDownloads(Protocol):
    """A store's partial downloads: a later run resumes where an earlier one ended.

    Each has a key: a text for just one content of one remote file, which may be a file name.
    """

    def size(self, key: str) -> int:
        """Return how many bytes a partial download has; 0 where there is none."""

    def open(self, key: str, path: str) -> PartialFile:
        """Open a partial download, or start one, to become the file `path` of the new data.

        Raises:
            LocalError: It cannot be opened.
        """

    def keep_only(self, sizes: Mapping[str, int]) -> None:
        """Remove partial downloads that no longer serve.

        Args:
            sizes: The full size of each that does, by its key; a larger one is removed, too.

        Raises:
            LocalError: One cannot be removed.
        """


class Store(Protocol):
    """A destination: one published manifest with its files, and at most one run that renews it.

    Attributes:
        published: Whether this run published new data; it stays published whatever follows.
        partial_downloads: Where archives that are kept can be resumed; None where a store cannot,
            and they are created as other files are.
        folder: Where the published files are local files with their paths; None elsewhere.
    """

    @property
    def published(self) -> bool: ...  # noqa: D102 (see the attributes above)

    @property
    def partial_downloads(self) -> PartialDownloads | None: ...  # noqa: D102

    @property
    def folder(self) -> Path | None: ...  # noqa: D102

    def check(self) -> None:
        """Check that the target may be replaced, and change nothing: enough for a dry run.

        Raises:
            LocalError: It contains files that Lighterage did not create, or is inside another
                target, or exists while `overwrite` is off, or cannot be read.
        """

    def lock(self, wait_s: float) -> None:
        """Keep other runs out until `clean_up`, recover from a run that was killed, and `check`.

        A store whose `publish` notices that another run has published needs no lock.

        Args:
            wait_s: Seconds to wait for another run that has the lock.

        Raises:
            BusyError: Another run has it still.
            LocalError: As `check`; or the staging of a killed run cannot be removed.
        """

    def manifest(self) -> Manifest | None:
        """Return the manifest of the published data; None where nothing was published."""

    def previous(self) -> Manifest | None:
        """Return the manifest that the published one replaced; None where there is none.

        Its files may no longer exist: see `verify`.
        """

    def read(self, file: File) -> Iterator[bytes]:
        """Yield the content of a published file, or of an earlier one that `verify` accepts.

        Raises:
            LocalError: It cannot be read.
        """

    def begin(self, run_id: str) -> None:
        """Start new data, which contains nothing; what this run staged before is discarded.

        Args:
            run_id: A text for this attempt, and no other; it may be a file name.

        Raises:
            LocalError: Nothing can be written.
        """

    def free_bytes(self) -> int | None:
        """Return how many bytes can be written; None where no limit is known."""

    def create(self, path: str) -> Writer:
        """Create a file of the new data.

        Args:
            path: Not in the new data yet, or aborted or removed since.

        Returns:
            Its writer. An error of making the file may be raised by the writer's methods instead.
        """

    def keep(self, file: File) -> None:
        """Take a published file into the new data, under the same path, without a download.

        Args:
            file: Its record, as `verify` returned it.

        Raises:
            LocalError: It cannot be taken; `transient` where it has changed since.
        """

    def remove(self, path: str) -> None:
        """Remove a file, created or kept, from the new data, if it is there.

        Raises:
            LocalError: It cannot be removed.
        """

    def verify(self, file: File, content: bool) -> File | None:
        """Return the record of a published file that still has the content that it states.

        Args:
            file: Its record in the manifest.
            content: Whether to read the content, and not only compare size and time.

        Returns:
            The same object; or a new one with another `mtime_ns`, where the file was touched; or
            None, where it has changed or does not exist.
        """

    def publish(self, manifest: Manifest) -> Manifest:
        """Replace the published data by the new data, in one step.

        Args:
            manifest: Lists each file of the new data, and no other.

        Returns:
            The manifest as it was published: with the `mtime_ns` of each file.

        Raises:
            LocalError: It cannot be done, and nothing has changed; `transient` where a file that
                was kept was edited during the run.
            BusyError: Another run has published since `manifest` was called.
            NetworkError: A remote store did not answer; the error says if it may have published.
        """

    def update_manifest(self, manifest: Manifest) -> None:
        """Replace the published manifest by one of the same files with new times, see `verify`.

        Or with their rows and columns. A store whose manifests are written once does nothing.

        Raises:
            LocalError: It cannot be written; the published one is unchanged.
        """

    def copy_published(self) -> str:
        """Update the copy with plain names, also after a run that found nothing new.

        Returns:
            Where it is; empty where the store was opened without one.

        Raises:
            LighterageError: It may be incomplete; the published data is complete all the same.
        """

    def prune(self, *, keep_runs: int, min_age_s: float, dry_run: bool) -> Pruned:
        """Remove what earlier runs published and readers of the published data do not need.

        Args:
            keep_runs: How many earlier runs stay complete, the newest ones.
            min_age_s: Seconds: what was written later stays, a run may be in progress.
            dry_run: Whether to count only.

        Raises:
            LighterageError: It cannot be done; the published data is complete all the same.
        """

    def clean_up(self) -> None:
        """Remove what this run staged and did not publish, and what it replaced; unlock.

        Partial downloads stay. It may be called again, and then does nothing. Raise nothing.
        """
