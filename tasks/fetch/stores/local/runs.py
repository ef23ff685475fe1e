"""The folder beside a target in which its runs that have shards keep records and parts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tasks.fetch.stores.local.disk import remove_empty, remove_tree, writing
from tasks.fetch.stores.protocol import Pruned

if TYPE_CHECKING:
    from pathlib import Path


def runs_folder(target: Path) -> Path:
    """Return the folder of the runs of a target."""
    return target.with_name(f".{target.name}.runs")


def prune_runs(target: Path, min_age_s: float, *, dry_run: bool) -> Pruned:
    """Remove the folders of runs that wrote no record for a time; see `Store.prune`."""
    folder, pruned = runs_folder(target), Pruned()
    with writing(folder):
        for run in sorted(folder.iterdir()) if folder.is_dir() else []:
            facts = [path.lstat() for path in run.rglob("*") if not path.is_dir()]
            newest = max([one.st_mtime for one in [*facts, run.lstat()]])
            if newest > time.time() - min_age_s:
                continue
            size = sum(one.st_size for one in facts)
            pruned = Pruned(pruned.runs + 1, pruned.objects + len(facts), pruned.size + size)
            if not dry_run:
                remove_tree(run)
        if not dry_run:
            remove_empty([folder])
    return pruned
