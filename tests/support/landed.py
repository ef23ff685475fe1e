"""Data published in a store without a host, and checks of what the store then contains."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tasks.fetch.errors import NetworkError
from tasks.fetch.manifest import NAME, File, Manifest, Source
from tasks.fetch.staging import Staging, staging
from tasks.fetch.stores.local.store import LocalStore
from tasks.fetch.stores.protocol import Store

Tree = dict[str, bytes]
ARCHIVE, SAME = "x.zip", "same.csv"
"""An archive that is kept, with a partial download where a store has those; and a file of the same
content in each version, which is kept if the store finds it unchanged."""
OLD: Tree = {"a.csv": b"old\n", "d/b.csv": b"old too\n", SAME: b"same\n", ARCHIVE: b"packed"}
NEW: Tree = {"a.csv": b"new\n", "e/c.csv": b"new\n", SAME: b"same\n", ARCHIVE: b"packed 2"}
NAMES = ("events", ".events.staging", ".events.old", ".events.trash")
"""The names that a tree may have, of a target `events`."""


@contextlib.contextmanager
def folder_in_memory() -> Iterator[Path]:
    """Give a folder in memory where there is one: thousands of runs wait for no disk there."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def land(target: Path, files: Tree | None, *, overwrite: bool = True) -> None:
    """Land files in a folder, as a run does; None stands for a host that does not answer."""
    store = LocalStore(target, overwrite=overwrite)
    with staging(store) as staged:
        if files is None:
            raise NetworkError("no host")
        staged.publish(stage(store, staged, files))


@contextlib.contextmanager
def locked(target: Path) -> Iterator[tuple[LocalStore, Staging]]:
    """Lock a folder as a store, for one block."""
    store = LocalStore(target, overwrite=True)
    with staging(store) as staged:
        yield store, staged


def stage(store: Store, staged: Staging, files: Tree) -> Manifest:
    """Stage files in a store that is locked; return their manifest."""
    before = store.manifest()
    number = int(before.finished or 0) + 1 if before else 0  # as times do, it grows
    packed = files.get(ARCHIVE)
    staged.begin()
    if store.partial_downloads:
        store.partial_downloads.keep_only({key(files): len(packed)} if packed else {})
    same = before.by_source().get(SAME) if before and SAME in files else None
    if same and store.verify(same.files[0], content=False):
        staged.keep(same)
    elif SAME in files:
        staged.write(SAME, [files[SAME]], SAME)
    for name, content in files.items():
        staged.finish()  # so that the two threads change the disk in the same order each time
        if name not in {ARCHIVE, SAME}:
            staged.write(name, [content[:2], content[2:]], ARCHIVE)
    staged.finish()
    if packed:
        writer = staged.create_archive(ARCHIVE, ARCHIVE, key(files))
        writer.write(packed[staged.partial_size(key(files)) :])
        writer.close()
        staged.archives.append(File(ARCHIVE, len(packed), sha256(packed), ARCHIVE))
    return Manifest(
        "1", "dev", "me@host:22", ARCHIVE, "*.csv", "", keep_archive=True,
        sources=[Source(ARCHIVE, 9, 0, ""), Source(SAME, 5, 0, "")],
        files=staged.finish(), archives=staged.archives, finished=f"{number:09}",
    )  # fmt: skip


def key(files: Tree) -> str:
    """Return the key of the partial download of `ARCHIVE`."""
    return sha256(files[ARCHIVE])


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# --- what a folder contains --------------------------------------------------------------------


def complete(folder: Path) -> Tree | None:
    """Return the files of a complete tree whose manifest is true; None if it is not one."""
    try:
        data = json.loads((folder / NAME).read_bytes())
        stated = {file["path"]: file["sha256"] for file in data["files"] + data["archives"]}
        files = {path: (folder / path).read_bytes() for path in stated}
    except (OSError, ValueError):
        return None
    return files if stated == {name: sha256(content) for name, content in files.items()} else None


def somewhere(target: Path) -> list[Tree]:
    """Return the complete trees at a target, and under the names beside it."""
    found = [complete(target.with_name(name)) for name in NAMES]
    return [files for files in found if files is not None]


def content(folder: Path) -> Tree:
    """Return every file of a folder but the manifest."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != NAME
    }


def beside(target: Path) -> set[str]:
    """Return the names beside a target, but a file of the tests, and the manifest before."""
    own = {target.name, f".{target.name}.previous.json", "beside.txt"}
    return {path.name for path in target.parent.iterdir()} - own
