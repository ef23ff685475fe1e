"""Publish a staged tree as the target: rename it, and remove the replaced one.

Publishing only renames, and never removes a tree before a complete one has the target's name. At
whatever step the process dies, `recovery.recover` finds a complete tree, needs nothing but this
disk to restore it, and may itself be killed at any step. No fsync is done: after a power cut the
kernel may have lost what was written last, and the sizes in the manifest show that.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from tasks.fetch import interrupt
from tasks.fetch.manifest import NAME
from tasks.fetch.stores.local import disk, tree
from tasks.fetch.stores.local.disk import remove_tree, writing
from tasks.fetch.stores.local.recovery import empty_trash, recover

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.fetch.manifest import Manifest
    from tasks.fetch.stores.local.target import Target

log = logging.getLogger(__name__)


class Publication:
    """The steps from an empty staging folder to the published target.

    Attributes:
        has_staging: Whether this run's own unpublished tree is in the staging folder.
        published: Whether this run gave a new tree the target's name.
    """

    def __init__(self, target: Target) -> None:
        self.has_staging = False
        self.published = False
        self._target = target

    def begin(self) -> None:
        """Create an empty staging folder; remove the one that this run created before."""
        if not self.has_staging:
            recover(self._target)
        self.has_staging = True
        remove_tree(self._target.staging)
        self._target.staging.mkdir()

    def publish(self) -> None:
        """Check the target again, and give the staged tree its name."""
        with interrupt.uninterrupted():
            self._target.check()
            with writing(self._target.path):
                self._swap()

    def _swap(self) -> None:
        path, staging, old = self._target.path, self._target.staging, self._target.old
        if self._target.is_free():
            staging.rename(path)  # fails where the target is no longer free
            self._set_published()
            with contextlib.suppress(OSError):  # of data that was removed since
                self._target.previous.unlink(missing_ok=True)
        elif disk.exchange(staging, path):
            self._set_published()
            self._set_aside(staging)
        else:
            with writing(old):
                path.rename(old)
            try:
                staging.rename(path)
            except OSError:
                with writing(f"{path}: the data published before is in {old}"):
                    old.rename(path)
                raise
            self._set_published()
            self._set_aside(old)

    def _set_published(self) -> None:
        self.published = True
        self.has_staging = False

    def _set_aside(self, replaced: Path) -> None:
        """Rename a replaced tree to the trash; if that fails, the next run does it."""
        try:
            replaced.rename(self._target.trash)
        except OSError as error:
            log.warning("%s: not removed: %s", replaced, error.strerror)

    def replace_manifest(self, manifest: Manifest) -> None:
        """Replace the published manifest, and leave its files as they are."""
        path, staging = self._target.path, self._target.staging
        with writing(path):
            self.begin()
            tree.write_manifest(staging, manifest)
            with interrupt.uninterrupted():
                (staging / NAME).replace(path / NAME)
            remove_tree(staging)
            self.has_staging = False

    def clean_up(self) -> None:
        """Remove the tree that this run did not publish, and the one that it replaced."""
        if self.has_staging:
            remove_tree(self._target.staging)
        if not self.published:
            return
        try:
            empty_trash(self._target, replaced=True)
        except FileNotFoundError:  # the watchdog removes the same tree
            pass
        except OSError as error:
            log.warning("%s: not removed: %s", self._target.trash, error.strerror)
