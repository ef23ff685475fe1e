"""Recover from a run that was killed, and remove replaced trees."""

from __future__ import annotations

import contextlib
import itertools
import logging
import shutil
from typing import TYPE_CHECKING

from tasks.fetch import interrupt
from tasks.fetch.errors import LocalError
from tasks.fetch.manifest import NAME
from tasks.fetch.stores.local import disk, tree
from tasks.fetch.stores.local.disk import remove_tree, writing

if TYPE_CHECKING:
    from pathlib import Path

    from tasks.fetch.manifest import Manifest
    from tasks.fetch.stores.local.target import Target

log = logging.getLogger(__name__)


def recover(target: Target) -> None:
    """Restore a complete tree of a killed run to the target's name, and remove the others.

    A folder without a manifest, except the staging folder, is foreign, and stays.
    """
    others = [path for path in (target.old, target.staging, target.trash) if path.exists()]
    if not others:
        return
    with writing(target.path):
        if tree.read_manifest(target.staging) is None:
            remove_tree(target.staging)
        if not _is_replaceable(target):
            return  # `check` rejects it; each tree stays where it is
        with interrupt.uninterrupted():
            _restore(target, others)
        complete = tree.is_complete(target.path)
    with writing(target.trash):
        for path in (target.trash, target.staging, target.old):
            if complete or not tree.is_complete(path):
                _remove(target, path)
    if target.staging.exists():
        raise LocalError(
            f"{target.staging}: cannot be removed, and the run needs this name",
            advice="move it away",
        )


def _remove(target: Target, path: Path) -> None:
    if path != target.trash:
        if tree.read_manifest(path) is None:
            return
        path.rename(target.trash)
    empty_trash(target, replaced=False)


def _is_replaceable(target: Target) -> bool:
    if target.is_free():
        return True
    before = target.manifest()
    return before is not None and tree.foreign(target.path, before.paths()) is None


def _restore(target: Target, others: list[Path]) -> None:
    """Give a complete tree the target's name, unless the tree with that name is complete."""
    if tree.is_complete(target.path):
        return
    found = next(filter(tree.is_complete, others), None)
    if target.is_free():
        if found is None and tree.read_manifest(target.old):
            found = target.old  # incomplete when it was replaced: the next run completes it
        if found is not None:
            found.rename(target.path)
    elif found is not None and not disk.exchange(found, target.path):
        free = [path for path in (target.trash, target.old, target.staging) if not path.exists()]
        if free:
            target.path.rename(free[0])
            found.rename(target.path)


def _is_previous(target: Target, found: Manifest, *, replaced: bool) -> bool:
    """Whether a tree was published before the target, and by another run."""
    if replaced and not found.run_id:  # without reading the other one
        return True
    published = target.manifest()
    if published is None or (found.run_id and found.run_id == published.run_id):
        return False  # two shards may publish the same
    return replaced or found.finished < published.finished


def empty_trash(target: Target, *, replaced: bool) -> None:
    """Remove the tree in the trash; rename it to `.replaced` if it contains foreign files.

    Args:
        target: Its manifest stays beside it if it was the published one before.
        replaced: Whether this run has just published, and replaced it.
    """
    trash = target.trash
    found = target.manifest(trash)
    if not tree.is_folder(trash) or (found is None and any(trash.iterdir())):
        return
    own = found.paths() if found else set()
    kept = target.previous if found and _is_previous(target, found, replaced=replaced) else None
    if tree.foreign(trash, own) is None and tree.remove(trash, own, kept):
        return
    if kept:
        with contextlib.suppress(OSError):
            shutil.copyfile(trash / NAME, kept)
    name = target.path.with_name(f".{target.path.name}.replaced")
    numbered = (name.with_name(f"{name.name}.{number}") for number in itertools.count(2))
    free = next(path for path in itertools.chain([name], numbered) if not path.exists())
    trash.rename(free)
    log.warning(
        "%s: contains files not created by Lighterage, which were written into %s while it "
        "was being replaced: move them to another folder, and remove this one",
        free, target.path,
    )  # fmt: skip
