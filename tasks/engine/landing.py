"""Landing: the only module that writes in the destination. All of it appears, or none.

Files go into a staging folder beside the target, on its own file system; at the end the two
change names in one step. A lock beside them keeps a second run out, and is gone with its
process. Archives that are kept come into a folder `.NAME.part` of their own until then, so that
a later run goes on where this one broke off. Nothing is flushed to the disk by force: after a
power cut the kernel may have lost what was written last, and the next run sees that by the
sizes in the manifest.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import logging
import os
import shutil
import time
from functools import partial
from io import FileIO
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from tasks.engine import interrupt
from tasks.engine.errors import BusyError, Interrupted, LocalError
from tasks.engine.manifest import NAME as MANIFEST_NAME
from tasks.engine.manifest import File, Kept, Manifest
from tasks.engine.names import Names
from tasks.engine.threads import WriteBehind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

log = logging.getLogger(__name__)

LOCK_SECONDS = 0.1
"""How often a waiting run looks whether the place is free."""
BLOCKS_BEHIND = 32
"""Blocks that may wait to be hashed and written: 8 MiB at most."""

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # renameat2(2): two paths change places in one step


class _NewFile:
    """A file being written, hashed as it is; made with its first byte, or at its end."""

    def __init__(self, staged: Path, target: Path) -> None:
        self._staged = staged
        self._target = target
        self._file: FileIO | None = None  # unbuffered: blocks are large, or a small file's only one
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, block: bytes) -> None:
        """Write a block."""
        self._digest.update(block)
        self.size += len(block)
        with writing(self._target):
            file, rest = self._opened(), memoryview(block)
            while rest:
                rest = rest[file.write(rest) :]

    def close(self) -> str:
        """Close it; returns its sha256 in hex."""
        with writing(self._target):
            self._opened().close()
        return self._digest.hexdigest()

    def _opened(self) -> FileIO:
        if self._file is None:
            try:
                self._file = FileIO(self._staged, "x")
            except FileNotFoundError:
                self._staged.parent.mkdir(parents=True, exist_ok=True)
                self._file = FileIO(self._staged, "x")
        return self._file


class Landing:
    """A place to land in, locked for this run; made by `landing`."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.staging = target.with_name(f".{target.name}.staging")
        self._aside = target.with_name(f".{target.name}.old")
        self._parts = target.with_name(f".{target.name}.part")
        self._names = Names()
        self._files: list[File] = []
        self._begun: dict[str, list[PurePosixPath]] = {}
        self._archives: list[File] = []
        self._parts_in_use: dict[PurePosixPath, Path] = {}  # archives that are yet to be placed
        self._writer: WriteBehind | None = None
        self.committed = False

    def landed(self) -> Manifest | None:
        """Return the manifest of what landed here before."""
        return Manifest.read(self.target)

    def begin(self, parts: Mapping[str, int] | None = None) -> None:
        """Start with an empty staging folder; also the second time, when a try failed.

        Args:
            parts: The identities and sizes of the archives that are to be kept; beginnings of
                others are removed.

        Raises:
            LocalError: It cannot be made.
        """
        self._stop_writing()
        self._files = []
        self._archives = []
        self._begun = {}
        self._parts_in_use = {}
        self._take_manifests_name()
        with writing(self.staging):
            _remove(self.staging)
            self.staging.mkdir()
            for part in self._parts.iterdir() if self._parts.is_dir() else []:
                if part.stat().st_size > (parts or {}).get(part.name, -1):
                    _remove(part)

    def _take_manifests_name(self) -> None:
        self._names = Names()
        self._names.add(PurePosixPath(MANIFEST_NAME), "Lighterage")

    def keep(self, kept: Kept) -> None:
        """Take what landed before into the new tree: as hard links, or copies.

        Raises:
            LocalError: A file cannot be taken over.
        """
        self.written()
        self._files += kept.files
        self._archives += kept.archives
        for file in [*kept.files, *kept.archives]:
            path = PurePosixPath(file.path)
            self._names.add(path, file.source)
            self._begun.setdefault(file.source, []).append(path)
            old, new = self.target / path, self.staging / path
            with writing(self.target / path):
                new.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(old, new)
                except OSError as error:
                    if error.errno == errno.ENOSPC:
                        raise
                    shutil.copyfile(old, new)

    def drop(self, source: str) -> None:
        """Forget what came from a remote file so far, as if it had never been asked for."""
        self.written()
        for path in self._begun.pop(source, []):
            (self.staging / path).unlink(missing_ok=True)
            if part := self._parts_in_use.pop(path, None):
                part.unlink(missing_ok=True)
        self._files = [file for file in self._files if file.source != source]
        self._archives = [file for file in self._archives if file.source != source]
        self._take_manifests_name()
        for origin, paths in self._begun.items():
            for path in paths:
                self._names.add(path, origin)

    def write(self, path: PurePosixPath, blocks: Iterable[bytes], source: str) -> None:
        """Write a file of the new tree; it is hashed and written behind, see `written`.

        Args:
            path: Relative to the target; checked by `names.safe`.
            blocks: Its bytes.
            source: The remote file that they come from.

        Raises:
            ArchiveError: The name collides with another's.
            LocalError: It, or one before it, cannot be written.
        """
        self._names.add(path, source)
        self._begun.setdefault(source, []).append(path)
        writer = self._behind()
        new = _NewFile(self.staging / path, self.target / path)
        last = b""
        for block in blocks:
            if last:
                writer.put(partial(new.write, last))
            last = block
        writer.put(partial(self._end, new, str(path), source, last))  # a small file is one job

    def _end(self, new: _NewFile, path: str, source: str, last: bytes) -> None:
        if last:
            new.write(last)
        self._files.append(File(path, new.size, new.close(), source))

    def _behind(self) -> WriteBehind:
        if self._writer is None:
            self._writer = WriteBehind(BLOCKS_BEHIND)
        return self._writer

    def written(self) -> list[File]:
        """Wait until all is written, and tell what, in the order of the writing.

        Raises:
            LocalError: Something could not be written.
        """
        if self._writer is not None:
            self._writer.finish()
            self._writer = None
        return self._files

    def _stop_writing(self) -> None:
        if self._writer is not None:
            self._writer.stop()
            self._writer = None

    def begun(self, identity: str) -> int:
        """Return how many bytes an earlier run got of an archive that is kept."""
        try:
            return (self._parts / identity).stat().st_size
        except OSError:
            return 0

    def archived(self, file: File) -> None:
        """Note an archive that is kept, now that it is whole."""
        self._archives.append(file)

    def archives(self) -> list[File]:
        """Tell which archives are kept."""
        return self._archives

    @contextlib.contextmanager
    def archive(self, path: PurePosixPath, source: str, identity: str) -> Iterator[IO[bytes]]:
        """Open an archive that is kept, to read what an earlier run got of it, and to append.

        Args:
            path: Where it will be, relative to the target.
            source: The remote file.
            identity: A file name for just this content; what is there under it is its beginning.
        """
        self._names.add(path, source)
        self._begun.setdefault(source, []).append(path)
        self._parts_in_use[path] = part = self._parts / identity
        with writing(self.target / path):
            self._parts.mkdir(exist_ok=True)
            file = part.open("a+b")
            file.seek(0)
        with _flushed(file, self.target / path):
            yield file

    def commit(self, manifest: Manifest) -> None:
        """Put the new tree in the target's place, in one step, and remove the old one.

        Raises:
            LocalError: The renaming failed; the old tree is still there.
        """
        with writing(self.target):
            for path, part in self._parts_in_use.items():
                (self.staging / path).parent.mkdir(parents=True, exist_ok=True)
                part.rename(self.staging / path)
            manifest.write(self.staging)
            with interrupt.uninterrupted():
                self._swap()
                self.committed = True
        _remove(self.staging)
        _remove(self._parts)

    def _swap(self) -> None:
        """Let the two trees change names; what is in staging then is rubbish."""
        if not self.target.exists():
            self.staging.rename(self.target)
        elif not _exchange(self.staging, self.target):
            with writing(self._aside):
                self.target.rename(self._aside)
            try:
                self.staging.rename(self.target)
            except OSError:
                self._aside.rename(self.target)
                raise
            self._aside.rename(self.staging)

    def recover(self) -> None:
        """Undo what a killed run left: half a staging folder, or the old tree put aside.

        A folder of that name that is not a tree of ours, whole, is somebody else's, and stays.
        """
        with writing(self.target):
            if Manifest.read(self._aside):
                if self.target.exists():
                    _remove(self.staging)
                    self._aside.rename(self.staging)  # half removed, it would not be known again
                else:
                    self._aside.rename(self.target)
            _remove(self.staging)

    def discard(self) -> None:
        """Remove the staging folder, if there is one; the beginnings of archives stay."""
        self._stop_writing()
        _remove(self.staging)
        _remove_empty([self._parts])

    def finish(self) -> None:
        """Remove what was to serve a later run: there is nothing left to be done."""
        _remove(self._parts)


@contextlib.contextmanager
def landing(
    target: Path, *, overwrite: bool, wait: float = 0, dry_run: bool = False
) -> Iterator[Landing]:
    """Lock a target, and give the way to land in it; without a commit nothing stays.

    Args:
        target: The folder that will hold the data. A link to a folder is followed.
        overwrite: Whether data that landed before may be replaced.
        wait: Seconds to wait for another run that has the lock.
        dry_run: Only look: no lock is taken, and nothing is made or removed.

    Raises:
        BusyError: Another run has the lock.
        LocalError: The target cannot be replaced: not ours, a mount, `overwrite` is off.
    """
    with writing(target):
        try:
            target = target.resolve()
        except RuntimeError as error:
            raise LocalError(f"{target}: a link that leads back to itself") from error
        if not target.name:
            raise LocalError(f"{target}: the root folder is no place to land in")
    place = Landing(target)
    if dry_run:
        _check_replaceable(target, overwrite=overwrite)
        yield place
        return
    with writing(target):
        made = _make_parents(target.parent)
    try:
        with _locked(target, wait), interrupt.cleaned_up_by(place.discard):
            place.recover()
            _check_replaceable(target, overwrite=overwrite)
            try:
                yield place
            except Interrupted as stop:
                stop.landed = place.committed
                raise
            finally:
                place.discard()
    finally:
        _remove_empty(made)  # a failed run leaves no empty folders either


def _make_parents(folder: Path) -> list[Path]:
    """Make a folder and what lies above it; return those that were missing, the lowest first."""
    missing = [parent for parent in [folder, *folder.parents] if not parent.exists()]
    try:
        for parent in reversed(missing):
            parent.mkdir(exist_ok=True)
    except OSError:
        _remove_empty(missing)
        raise
    return missing


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _check_replaceable(target: Path, *, overwrite: bool) -> None:
    with writing(target):
        if not target.exists():
            return
        if not target.is_dir():
            raise LocalError(f"{target} is a file: file_save_path must name a folder")
        if target.is_mount():
            raise LocalError(f"{target} is a mount: name a folder below it, as in {target}/events")
        if not any(target.iterdir()):
            return
        manifest = Manifest.read(target)
        if manifest is None:
            raise LocalError(
                f"{target} holds files that Lighterage did not bring (no {MANIFEST_NAME}): "
                "move them away, or set another file_save_path"
            )
        if not overwrite:
            raise LocalError(f"{target} exists, and overwrite is off: pass --overwrite")
        own = manifest.paths()
        for path in sorted(target.rglob("*")):
            relative = PurePosixPath(path.relative_to(target).as_posix())
            if (path.is_symlink() or not path.is_dir()) and relative not in own:
                raise LocalError(
                    f"{path} is not from Lighterage, and would be lost: move it out of {target}"
                )


@contextlib.contextmanager
def _locked(target: Path, wait: float) -> Iterator[None]:
    """Hold the lock file beside a target; the system frees it however its holder ends."""
    end = time.monotonic() + wait
    path = target.with_name(f".{target.name}.lock")
    while True:
        with writing(path):
            file = path.open("a")
        try:
            with writing(path):
                _lock(file, target, end)
        except BaseException:
            file.close()
            raise
        # Its last holder may have removed the file between our two calls.
        try:
            same = os.path.samestat(os.fstat(file.fileno()), path.stat())
        except FileNotFoundError:
            same = False
        if same:
            break
        file.close()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        file.close()


def _lock(file: IO[str], target: Path, end: float) -> None:
    said = False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            left = end - time.monotonic()
            if left <= 0:
                raise BusyError(
                    f"{target}: another run is landing here: wait for its end, or pass --wait"
                ) from error
            if not said:
                log.warning("%s: another run is landing here; waiting for its end", target)
                said = True
            time.sleep(min(LOCK_SECONDS, left))
        else:
            return


def _exchange(one: Path, other: Path) -> bool:
    """Let two paths change places in one step; False where the file system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    rename = getattr(libc, "renameat2", None)
    if rename is None:
        return False
    done = rename(
        _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), ctypes.c_uint(_RENAME_EXCHANGE)
    )
    return bool(done == 0)


def _remove(path: Path) -> None:
    """Remove a tree, whatever its modes; what cannot go stays for the next run."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _flushed(file: IO[bytes], path: Path) -> Iterator[None]:
    """Close a file at the end; what the last flush meets is an error of writing too."""
    try:
        yield
        with writing(path):
            file.flush()
    finally:
        with contextlib.suppress(OSError):
            file.close()


@contextlib.contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Turn what the disk raises into a `LocalError` that names `path`."""
    try:
        yield
    except OSError as error:
        what = {
            errno.ENOSPC: "no space left",
            errno.EDQUOT: "the quota is used up",
            errno.EACCES: "no permission to write",
            errno.EROFS: "the file system is read-only",
        }.get(error.errno or 0, error.strerror or str(error))
        raise LocalError(f"{path}: {what}") from error
