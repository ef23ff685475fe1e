"""Remote archives as byte streams: hashed, and stored where asked, while they are unpacked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from tasks.fetch.archives import registry, unpack
from tasks.fetch.archives.stream import BLOCK_BYTES
from tasks.fetch.manifest import File
from tasks.fetch.stores.protocol import PartialFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from tasks.fetch.plan import Item
    from tasks.fetch.sources import Selection
    from tasks.fetch.ssh.host import Host
    from tasks.fetch.ssh.remote_files import Stream
    from tasks.fetch.staging import Staging
    from tasks.fetch.stores.protocol import Writer
    from tasks.settings import Settings

SMALL_ARCHIVE_BYTES = 2**20
"""An archive up to this size is read as a whole: a request for its tail would take longer."""
EXAMPLES = 3
"""Members that an error names if none is selected."""


class ArchiveStream:
    """A stream that is hashed while it is read, and written to `copy`, if there is one.

    Args:
        stream: The bytes from its `start` on; those before are read from `copy`.
        copy: Receives the bytes of the stream.
        size: Of the whole archive.
        tail: Its last bytes, where they were downloaded first.
        read_tail: Returns the bytes from an offset to the end, beside the stream.
    """

    def __init__(
        self,
        stream: Stream,
        copy: Writer | PartialFile | None,
        *,
        size: int,
        tail: bytes,
        read_tail: Callable[[int], bytes],
    ) -> None:
        self._stream = stream
        self._copy = copy
        self._partial = copy if isinstance(copy, PartialFile) else None
        self._tail = tail
        self._read_tail = read_tail
        self._blocks: list[bytes] | None = [] if size <= SMALL_ARCHIVE_BYTES else None
        self._ahead = b""
        self.digest = hashlib.sha256()
        self.size = size
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes, b"" at the end."""
        if not self._ahead:
            return self._next(size)
        most = size if size >= 0 else len(self._ahead)
        block, self._ahead = self._ahead[:most], self._ahead[most:]
        return block

    def _next(self, size: int) -> bytes:
        rest = self._stream.start - self.count
        if self._partial is not None and rest > 0:
            block = self._partial.read(min(size if size >= 0 else BLOCK_BYTES, rest))
        else:
            block = self._stream.read(size)
            if self._copy is not None:
                self._copy.write(block)
        self.digest.update(block)
        self.count += len(block)
        if self._blocks is not None:
            self._blocks.append(block)
        return block

    def end(self, start: int) -> bytes:
        """Return all bytes from offset `start` on, without taking them from the stream."""
        if self.size - start <= len(self._tail):
            return self._tail[start - self.size :]
        if self._blocks is None:
            return self._read_tail(start)
        ahead = [self._ahead]
        while block := self._next(-1):
            ahead.append(block)
        self._ahead = b"".join(ahead)
        return b"".join(self._blocks)[start:]

    def drain(self) -> None:
        """Read to the end."""
        while self.read():
            pass


@dataclass
class Unpacker:
    """Stages the members of archives, and each archive itself where it is to be kept.

    Attributes:
        skipped: How many files and members are not selected.
        archives: How many archives were unpacked.
        examples: Some of the members that are not selected.
    """

    settings: Settings
    host: Host
    staging: Staging
    selection: Selection
    skipped: int
    archives: int = 0
    examples: list[str] = field(default_factory=list)

    def unpack(self, item: Item, stream: Stream, tail: bytes, key: str) -> str:
        """Stage the selected members in the archive's folder; return the archive's SHA-256.

        Args:
            item: The archive.
            stream: Its bytes, from the end of its partial download on.
            tail: Its last bytes, if they were downloaded first.
            key: Of its partial download.
        """
        source, folder, skipped = item.source, item.folder, self.skipped
        copy = None
        if self.settings.keep_archive:
            copy = self.staging.create_archive(item.path, source.path, key)
        archive = ArchiveStream(
            stream,
            copy,
            size=source.size,
            tail=tail,
            read_tail=partial(self.host.read_tail, source),
        )
        wants = partial(self._wants, folder)
        try:
            for member in unpack.members(archive, self.settings, source.path, wants):
                if member is None:
                    self.skipped += 1
                else:
                    self.staging.write(folder + member.path, member.blocks, source.path)
            archive.drain()  # bytes after the archive's own end are part of its checksum
            if copy is not None:
                copy.close()
        except BaseException:
            self.skipped = skipped
            if copy is not None:
                copy.abort()
            raise
        self.archives += 1
        sha256 = archive.digest.hexdigest()
        if copy is not None:
            self.staging.archives.append(File(item.path, source.size, sha256, source.path))
        return sha256

    def _wants(self, folder: str, path: str) -> bool:
        """Whether a member is selected, once it is in `folder`."""
        if self.selection.wants(folder + path):
            return True
        if len(self.examples) < EXAMPLES and path not in self.examples:
            self.examples.append(path)
        return False


def tail_first(item: Item) -> list[int]:
    """Return the offset of the tail to download before the rest; none if that does not help."""
    size = item.source.size
    if not item.is_archive or size <= SMALL_ARCHIVE_BYTES:
        return []
    tail = registry.tail_bytes(item.source.path, size)
    return [size - tail] if tail else []
