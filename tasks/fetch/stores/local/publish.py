"""Publish a staged tree as the target, and recover from a run that was killed.

A tree is complete when it has a valid manifest and every file that this lists, with its size.
While a run publishes, or after one was killed, there are beside a target NAME:

    .NAME.staging     the new tree; for a moment after the exchange of names, the replaced one
    .NAME.old         the replaced tree, if the file system cannot exchange two names
    .NAME.trash       a replaced tree that is being removed
    .NAME.replaced    a replaced tree that is kept, because foreign files were found in it

Publishing only renames, and never removes a tree before a complete one has the target's name. At
whatever step the process dies, `recover` finds a complete tree, needs nothing but this disk to
restore it, and may itself be killed at any step. No fsync is done: after a power cut the kernel
may have lost what was written last, and the sizes in the manifest show that.
"""

from __future__ import annotations

import itertools
import logging
from typing import TYPE_CHECKING

from tasks.fetch import interrupt
from tasks.fetch.errors import LocalError
from tasks.fetch.manifest import NAME
from tasks.fetch.stores.local import tree
from tasks.fetch.stores.local.disk import exchange, remove_tree, writing

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.fetch.manifest import Manifest

log = logging.getLogger(__name__)


class Publication:
    """The names of a target and of the trees beside it, and the steps that change them.

    Attributes:
        target: The folder of the published data.
        staging: The folder in which a run writes, from `begin` to `publish`.
        has_staging: Whether this run's own unpublished tree is in `staging`.
        published: Whether this run gave a new tree the target's name.
    """

    def __init__(self, target: Path, *, overwrite: bool) -> None:
        self.target = target
        self.staging = target.with_name(f".{target.name}.staging")
        self.published = False
        self.has_staging = False
        self._old = target.with_name(f".{target.name}.old")
        self._trash = target.with_name(f".{target.name}.trash")
        self._overwrite = overwrite
        self._cached: tuple[tuple[int, int, int], Manifest] | None = None

    def manifest(self) -> Manifest | None:
        """Return the manifest of the target; it is only read again if the file has changed."""
        try:
            facts = (self.target / NAME).stat()
        except OSError:
            return None
        stamp = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
        if self._cached is None or self._cached[0] != stamp:
            found = tree.read_manifest(self.target)
            if found is None:
                return None
            self._cached = stamp, found
        return self._cached[1]

    # --- checks ---------------------------------------------------------------------------

    def check_parents(self) -> None:
        """Reject a target inside another one: the outer one's next run would find foreign files.

        Raises:
            LocalError: A parent folder is a published target.
        """
        for folder in self.target.parents:
            old = folder.with_name(f".{folder.name}.old") if folder.name else folder
            # Without an exchange of names a target has the name of `old` for a moment.
            if any(map(tree.has_manifest, (folder, old, folder))):
                raise LocalError(
                    f"{self.target} is inside {folder}, which contains other published data: "
                    "set file_save_path to a folder outside of it"
                )

    def check(self) -> None:
        """Check that the target may be replaced: at the start of a run, and before publishing.

        Raises:
            LocalError: It contains foreign files, is a mount point, or `overwrite` is off.
        """
        target = self.target
        with writing(target):
            if self._is_free():
                return
            if target.is_symlink() or not target.is_dir():
                raise LocalError(f"{target} is not a folder: set file_save_path to a folder")
            if target.is_mount():
                raise LocalError(
                    f"{target} is a mount point, which cannot be replaced: "
                    f"set file_save_path to a folder in it, as in {target}/events"
                )
            before = self.manifest()
            if before is None:
                raise LocalError(
                    f"{target} contains files not created by Lighterage (no {NAME}): "
                    "move them away, or set another file_save_path" + self._hint()
                )
            if not self._overwrite:
                raise LocalError(
                    f"{target} exists and overwrite is off: pass --overwrite to replace it"
                )
            if found := tree.foreign(target, before.paths()):
                raise LocalError(
                    f"{target / found} was not created by Lighterage, and replacing {target} "
                    "would remove it: move it to another folder"
                )

    def _is_free(self) -> bool:
        """Whether the target does not exist, or is an empty folder."""
        if not tree.is_folder(self.target):
            return not (self.target.exists() or self.target.is_symlink())
        return not self.target.is_mount() and not any(self.target.iterdir())

    def _hint(self) -> str:
        if not tree.is_complete(self._old):
            return ""
        return f"; the data published before is in {self._old}, and the next run restores it"

    # --- publishing -----------------------------------------------------------------------

    def begin(self) -> None:
        """Create an empty staging folder; remove the one that this run created before.

        Raises:
            OSError: It cannot be created.
        """
        if not self.has_staging:
            self.recover()
        self.has_staging = True
        remove_tree(self.staging)
        self.staging.mkdir()

    def publish(self) -> None:
        """Check the target again, and give the staged tree its name.

        Raises:
            LocalError: The target must not be replaced, or a rename failed; it is unchanged.
        """
        with interrupt.uninterrupted():
            self.check()
            with writing(self.target):
                self._swap()

    def _swap(self) -> None:
        if self._is_free():
            self.staging.rename(self.target)  # fails where the target is no longer free
            self._set_published()
        elif exchange(self.staging, self.target):
            self._set_published()
            self._set_aside(self.staging)
        else:
            with writing(self._old):
                self.target.rename(self._old)
            try:
                self.staging.rename(self.target)
            except OSError:
                with writing(f"{self.target}: the data published before is in {self._old}"):
                    self._old.rename(self.target)
                raise
            self._set_published()
            self._set_aside(self._old)

    def _set_published(self) -> None:
        self.published = True
        self.has_staging = False

    def _set_aside(self, replaced: Path) -> None:
        """Rename a replaced tree to the trash; if that fails, the next run does it."""
        try:
            replaced.rename(self._trash)
        except OSError as error:
            log.warning("%s: not removed: %s", replaced, error.strerror)

    def replace_manifest(self, manifest: Manifest) -> None:
        """Replace the published manifest, and leave its files as they are.

        Raises:
            LocalError: It cannot be written; the published one is unchanged.
        """
        with writing(self.target):
            self.begin()
            tree.write_manifest(self.staging, manifest)
            with interrupt.uninterrupted():
                (self.staging / NAME).replace(self.target / NAME)
            remove_tree(self.staging)
            self.has_staging = False

    # --- removing -------------------------------------------------------------------------

    def clean_up(self) -> None:
        """Remove the tree that this run did not publish, and the one that it replaced."""
        if self.has_staging:
            remove_tree(self.staging)
        if not self.published:
            return
        try:
            self._empty_trash()
        except FileNotFoundError:  # the watchdog removes the same tree
            pass
        except OSError as error:
            log.warning("%s: not removed: %s", self._trash, error.strerror)

    def _empty_trash(self) -> None:
        """Remove the tree in the trash; rename it to `.replaced` if it contains foreign files.

        Raises:
            OSError: It cannot be removed.
        """
        trash = self._trash
        found = tree.read_manifest(trash)
        if not tree.is_folder(trash) or (found is None and any(trash.iterdir())):
            return
        own = found.paths() if found else set()
        if tree.foreign(trash, own) is None and tree.remove(trash, own):
            return
        name = self.target.with_name(f".{self.target.name}.replaced")
        numbered = (name.with_name(f"{name.name}.{number}") for number in itertools.count(2))
        free = next(path for path in itertools.chain([name], numbered) if not path.exists())
        trash.rename(free)
        log.warning(
            "%s: contains files not created by Lighterage, which were written into %s while it "
            "was being replaced: move them to another folder, and remove this one",
            free, self.target,
        )  # fmt: skip

    # --- recovering -----------------------------------------------------------------------

    def recover(self) -> None:
        """Restore a complete tree of a killed run to the target's name, and remove the others.

        A folder without a manifest, except the staging folder, is foreign, and stays.

        Raises:
            LocalError: A tree cannot be renamed or removed.
        """
        others = [path for path in (self._old, self.staging, self._trash) if path.exists()]
        if not others:
            return
        with writing(self.target):
            if tree.read_manifest(self.staging) is None:
                remove_tree(self.staging)
            if not self._is_replaceable():
                return  # `check` rejects it; each tree stays where it is
            with interrupt.uninterrupted():
                self._restore(others)
            complete = tree.is_complete(self.target)
        with writing(self._trash):
            for path in (self._trash, self.staging, self._old):
                if complete or not tree.is_complete(path):
                    self._remove(path)
        if self.staging.exists():
            raise LocalError(
                f"{self.staging}: cannot be removed, and the run needs this name: move it away"
            )

    def _remove(self, path: Path) -> None:
        if path != self._trash:
            if tree.read_manifest(path) is None:
                return
            path.rename(self._trash)
        self._empty_trash()

    def _is_replaceable(self) -> bool:
        if self._is_free():
            return True
        before = self.manifest()
        return before is not None and tree.foreign(self.target, before.paths()) is None

    def _restore(self, others: list[Path]) -> None:
        """Give a complete tree the target's name, unless the tree with that name is complete."""
        if tree.is_complete(self.target):
            return
        found = next(filter(tree.is_complete, others), None)
        if self._is_free():
            if found is None and tree.read_manifest(self._old):
                found = self._old  # incomplete when it was replaced: the next run completes it
            if found is not None:
                found.rename(self.target)
        elif found is not None and not exchange(found, self.target):
            free = [path for path in (self._trash, self._old, self.staging) if not path.exists()]
            if free:
                self.target.rename(free[0])
                found.rename(self.target)
