"""Publish: put a finished tree in the target's place, and recover from a run that was killed.

A tree is complete when it has a valid manifest and every file that this lists, with its size.
Beside a target NAME there are, while a run publishes or where one was killed:

    .NAME.staging     the new tree; for a moment after the exchange of names, the replaced one
    .NAME.old         the replaced tree, where the file system cannot exchange two names
    .NAME.trash       a replaced tree that is being removed
    .NAME.replaced    a replaced tree that stays, since files of somebody else were found in it

Publishing changes names only, and never removes a tree before a complete one has the target's
name. Whatever step is the last before the process dies, `recover` finds a complete tree, needs
nothing but this disk to put it back, and may itself be killed at any step. Nothing is flushed to
the disk by force: after a power cut the kernel may have lost what was written last, and the
sizes in the manifest show that.
"""

from __future__ import annotations

import itertools
import logging
from typing import TYPE_CHECKING

from tasks.fetch import interrupt, manifest
from tasks.fetch.errors import LocalError
from tasks.fetch.manifest import Manifest
from tasks.fetch.stores.local import tree
from tasks.fetch.stores.local.disk import exchange, remove_tree, writing

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)


class Publication:
    """The names of a target and of the trees beside it, and the steps from one to the other.

    Attributes:
        target: The folder that holds the published data.
        staging: The folder in which a run writes, from `begin` to `swap`.
        unpublished: Whether staging is this run's own work, which nothing else has a use for.
        swapped: Whether a new tree was given the target's name.
    """

    def __init__(self, target: Path, *, overwrite: bool) -> None:
        self.target = target
        self.staging = target.with_name(f".{target.name}.staging")
        self.swapped = False
        self.unpublished = False
        self._old = target.with_name(f".{target.name}.old")
        self._trash = target.with_name(f".{target.name}.trash")
        self._overwrite = overwrite
        self._seen: tuple[tuple[int, int, int], Manifest] | None = None

    def manifest(self) -> Manifest | None:
        """Return the manifest of the target; it is read again only where the file has changed."""
        try:
            facts = (self.target / manifest.NAME).stat()
        except OSError:
            return None
        stamp = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
        if self._seen is None or self._seen[0] != stamp:
            found = Manifest.read(self.target)
            if found is None:
                return None
            self._seen = stamp, found
        return self._seen[1]

    # --- what must not be replaced --------------------------------------------------------

    def check_parents(self) -> None:
        """Refuse a target that lies in another one: its next run would find files not its own.

        Raises:
            LocalError: A folder above is a published target.
        """
        for folder in self.target.parents:
            old = folder.with_name(f".{folder.name}.old") if folder.name else folder
            # Without an exchange of names a target has the name of `old` for a moment.
            if any(manifest.present(place) for place in (folder, old, folder)):
                raise LocalError(
                    f"{self.target} is inside {folder}, in which other data was published: "
                    "set a file_save_path outside of it"
                )

    def check(self) -> None:
        """Check that the target may be replaced: at the start of a run, and at its end again.

        Raises:
            LocalError: It is not ours, holds files that are not, is a mount; `overwrite` is off.
        """
        target = self.target
        with writing(target):
            if self._is_free():
                return
            if target.is_symlink() or not target.is_dir():
                raise LocalError(f"{target} is a file: file_save_path must name a folder")
            if target.is_mount():
                raise LocalError(
                    f"{target} is a mount: name a folder below it, as in {target}/events"
                )
            before = self.manifest()
            if before is None:
                raise LocalError(
                    f"{target} contains files not created by Lighterage (no {manifest.NAME}): "
                    "move them away, or set another file_save_path" + self._hint()
                )
            if not self._overwrite:
                raise LocalError(f"{target} exists, and overwrite is off: pass --overwrite")
            if found := tree.foreign(target, before.paths()):
                raise LocalError(
                    f"{target / found} was not created by Lighterage, and replacing {target} "
                    "would remove it: move it out of there"
                )

    def _is_free(self) -> bool:
        """Whether the target is missing, or an empty folder."""
        if not tree.is_folder(self.target):
            return not (self.target.exists() or self.target.is_symlink())
        return not self.target.is_mount() and not any(self.target.iterdir())

    def _hint(self) -> str:
        if not tree.is_complete(self._old):
            return ""
        return f"; the data published before is in {self._old}, and the next run puts it back"

    # --- publishing -----------------------------------------------------------------------

    def begin(self) -> None:
        """Make an empty staging folder, in place of one that this run made before.

        Raises:
            OSError: It cannot be made.
        """
        if not self.unpublished:
            self.recover()
        self.unpublished = True
        remove_tree(self.staging)
        self.staging.mkdir()

    def swap(self) -> None:
        """Give the new tree the target's name, once the target was checked again.

        Raises:
            LocalError: The target must not be replaced, or a renaming failed; it is unchanged.
        """
        with interrupt.uninterrupted():
            self.check()
            with writing(self.target):
                self._swap()

    def _swap(self) -> None:
        if self._is_free():
            self.staging.rename(self.target)  # fails where the target is no longer free
            self._note_swap()
        elif exchange(self.staging, self.target):
            self._note_swap()
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
            self._note_swap()
            self._set_aside(self._old)

    def _note_swap(self) -> None:
        self.swapped = True
        self.unpublished = False

    def _set_aside(self, replaced: Path) -> None:
        """Name a replaced tree as one to be removed; where that fails, the next run does it."""
        try:
            replaced.rename(self._trash)
        except OSError as error:
            log.warning("%s: not removed: %s", replaced, error.strerror)

    def renew(self, manifest_: Manifest) -> None:
        """Replace the published manifest, whose files stay as they are.

        Raises:
            LocalError: It cannot be written; the published one is as it was.
        """
        with writing(self.target):
            self.begin()
            manifest_.write(self.staging)
            with interrupt.uninterrupted():
                (self.staging / manifest.NAME).replace(self.target / manifest.NAME)
            remove_tree(self.staging)

    # --- removing -------------------------------------------------------------------------

    def clean_up(self) -> None:
        """Remove what this run has no more use for: unpublished work, the replaced tree."""
        if self.unpublished:
            remove_tree(self.staging)
        if not self.swapped:
            return
        try:
            self._empty_trash()
        except FileNotFoundError:  # removed meanwhile: the watchdog does the same
            pass
        except OSError as error:
            log.warning("%s: not removed: %s", self._trash, error.strerror)

    def _empty_trash(self) -> None:
        """Remove the tree named trash, or keep it aside where it holds files of somebody else.

        Raises:
            OSError: It cannot be removed.
        """
        trash = self._trash
        found = Manifest.read(trash)
        if not tree.is_folder(trash) or (found is None and any(trash.iterdir())):
            return
        own = found.paths() if found else set()
        if tree.foreign(trash, own) is None and tree.remove(trash, own):
            return
        name = self.target.with_name(f".{self.target.name}.replaced")
        numbered = (name.with_name(f"{name.name}.{number}") for number in itertools.count(2))
        kept = next(path for path in itertools.chain([name], numbered) if not path.exists())
        trash.rename(kept)
        log.warning(
            "%s: holds files not created by Lighterage, which were written into %s while it was "
            "replaced: move them out, and remove the folder", kept, self.target,
        )  # fmt: skip

    # --- recovering -----------------------------------------------------------------------

    def recover(self) -> None:
        """Put back what a killed run left without the target's name, and remove the rest.

        A folder without a manifest is not a tree of ours, and stays; but for the staging folder.

        Raises:
            LocalError: A tree cannot be renamed or removed.
        """
        others = [path for path in (self._old, self.staging, self._trash) if path.exists()]
        if not others:
            return
        with writing(self.target):
            if Manifest.read(self.staging) is None:
                remove_tree(self.staging)
            if not self._is_replaceable():
                return  # `check` refuses it; each tree stays where it is
            with interrupt.uninterrupted():
                self._restore(others)
            complete = tree.is_complete(self.target)
        with writing(self._trash):
            for path in (self._trash, self.staging, self._old):
                if complete or not tree.is_complete(path):
                    self._remove(path)
        if self.staging.exists():
            raise LocalError(f"{self.staging}: is in the way, and cannot be removed: move it away")

    def _remove(self, path: Path) -> None:
        if path != self._trash:
            if Manifest.read(path) is None:
                return
            path.rename(self._trash)
        self._empty_trash()

    def _is_replaceable(self) -> bool:
        if self._is_free():
            return True
        before = self.manifest()
        return before is not None and tree.foreign(self.target, before.paths()) is None

    def _restore(self, others: list[Path]) -> None:
        """Give the target's name to a complete tree, unless it has one."""
        if tree.is_complete(self.target):
            return
        found = next(filter(tree.is_complete, others), None)
        if self._is_free():
            if found is None and Manifest.read(self._old):
                found = self._old  # incomplete when it was replaced: the next run completes it
            if found is not None:
                found.rename(self.target)
        elif found is not None and not exchange(found, self.target):
            free = [path for path in (self._trash, self._old, self.staging) if not path.exists()]
            if free:
                self.target.rename(free[0])
                found.rename(self.target)
