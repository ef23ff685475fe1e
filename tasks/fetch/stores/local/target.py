"""A target and the folders beside it: their names, and whether the target may be replaced.

A tree is complete when it has a valid manifest and every file that this lists, with its size.
While a run publishes, or after one was killed, there are beside a target NAME:

    .NAME.staging     the new tree; for a moment after the exchange of names, the replaced one
    .NAME.old         the replaced tree, if the file system cannot exchange two names
    .NAME.trash       a replaced tree that is being removed
    .NAME.replaced    a replaced tree that stays, because foreign files were found in it
    .NAME.runs        what the shards of a run agree on, and their parts, see shared.py

and always, once published data was replaced:

    .NAME.previous.json    the manifest of the replaced tree
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.fetch.errors import LocalError
from tasks.fetch.manifest import NAME
from tasks.fetch.stores.local import tree
from tasks.fetch.stores.local.disk import writing

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.fetch.manifest import Manifest


class Target:
    """A target, and the folders beside it.

    Attributes:
        path: The published tree.
        staging: The tree that a run writes.
        old: The replaced tree, between two renames.
        trash: The tree that is being removed.
        previous: The manifest of the tree that the published one replaced.
    """

    def __init__(self, path: Path, *, overwrite: bool, staging: Path | None = None) -> None:
        self.path = path
        self.staging = staging or path.with_name(f".{path.name}.staging")
        self.old = path.with_name(f".{path.name}.old")
        self.trash = path.with_name(f".{path.name}.trash")
        self.previous = path.with_name(f".{path.name}.previous.json")
        self._overwrite = overwrite
        self._cached: tuple[tuple[int, int, int], Manifest] | None = None

    def manifest(self, folder: Path | None = None) -> Manifest | None:
        """Return the manifest of the target, or of a folder beside it.

        It is only read again if it is another file, or has changed: not after a rename.
        """
        folder = folder or self.path
        try:
            facts = (folder / NAME).stat()
        except OSError:
            return None
        stamp = (facts.st_ino, facts.st_size, facts.st_mtime_ns)
        if self._cached is None or self._cached[0] != stamp:
            found = tree.read_manifest(folder)
            if found is None:
                return None
            self._cached = stamp, found
        return self._cached[1]

    def check_parents(self) -> None:
        """Reject a target inside another one: the outer one's next run would find foreign files."""
        for folder in self.path.parents:
            old = folder.with_name(f".{folder.name}.old") if folder.name else folder
            # Without an exchange of names a target has the name of `old` for a moment.
            if any(map(tree.has_manifest, (folder, old, folder))):
                raise LocalError(
                    f"{self.path} is inside {folder}, which contains other published data",
                    advice="set file_save_path to a folder outside of it",
                )

    def check(self) -> None:
        """Check that the target may be replaced: at the start of a run, and before publishing."""
        with writing(self.path):
            if self.is_free():
                return
            if self.path.is_symlink() or not self.path.is_dir():
                raise LocalError(
                    f"{self.path} is not a folder", advice="set file_save_path to a folder"
                )
            if self.path.is_mount():
                raise LocalError(
                    f"{self.path} is a mount point, which cannot be replaced",
                    advice=f"set file_save_path to a folder in it, as in {self.path}/events",
                )
            before = self.manifest()
            if before is None:
                raise LocalError(
                    f"{self.path} contains files not created by Lighterage (no {NAME})",
                    advice="move them away, or set another file_save_path" + self._hint(),
                )
            if not self._overwrite:
                raise LocalError(
                    f"{self.path} exists and overwrite is off",
                    advice="pass --overwrite to replace it",
                )
            if found := tree.foreign(self.path, before.paths()):
                raise LocalError(
                    f"{self.path / found} was not created by Lighterage, and replacing {self.path} "
                    "would remove it",
                    advice="move it to another folder",
                )

    def is_free(self) -> bool:
        """Whether the target does not exist, or is an empty folder."""
        if not tree.is_folder(self.path):
            return not (self.path.exists() or self.path.is_symlink())
        return not self.path.is_mount() and not any(self.path.iterdir())

    def _hint(self) -> str:
        if not tree.is_complete(self.old):
            return ""
        return f"; the data published before is in {self.old}, and the next run restores it"
