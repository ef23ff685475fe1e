"""Compressed streams: gzip, bzip2, xz and zstd."""

from __future__ import annotations

import bz2
import lzma
import re
from functools import partial
from typing import TYPE_CHECKING

from backports import zstd
from isal import igzip_lib

from tasks.fetch.archives.format import Compression
from tasks.fetch.archives.stream import BLOCK_BYTES, Stream

if TYPE_CHECKING:
    from tasks.fetch.archives.extraction import Extraction

MAX_MEMORY_BYTES = 2**26 + 2**25
"""Memory for one decompressor: `xz -9` requests 65 MiB, a hostile header 4 GiB."""
ZSTD_WINDOW = 26
"""The same for zstd, as a power of two; `zstd --ultra -22` requests 27, `--long=31` 31."""

GZIP = Compression(
    "gzip", (".gz",), (".tgz",),
    (b"\x1f\x8b",),  # RFC 1952
    # isal is more than twice as fast as zlib
    partial(igzip_lib.IgzipDecompressor, flag=igzip_lib.DECOMP_GZIP),
)  # fmt: skip
BZIP2 = Compression("bzip2", (".bz2",), (".tbz", ".tbz2"), (b"BZh",), bz2.BZ2Decompressor)
XZ = Compression(
    "xz", (".xz",), (".txz",),
    (b"\xfd7zXZ\0",),  # xz-file-format 2.1.1.1
    partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, memlimit=MAX_MEMORY_BYTES),
    f"its dictionary needs more than the limit of {MAX_MEMORY_BYTES >> 20} MiB of memory",
    "compress it with `xz -9` or lower, and without a larger dictionary",
)  # fmt: skip
ZSTD = Compression(
    "zstd", (".zst",), (".tzst",),
    # RFC 8878, 3.1.1; skippable frames are 3.1.2
    (b"\x28\xb5\x2f\xfd", *(bytes([0x50 + n]) + b"\x2a\x4d\x18" for n in range(16))),
    partial(
        zstd.ZstdDecompressor,
        options={zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW},
    ),
    f"its window is above the limit of {2**ZSTD_WINDOW >> 20} MiB",
    "compress it with `zstd -19` or "
    f"lower, or with `--long={ZSTD_WINDOW}`",
)  # fmt: skip

_NEEDS_MEMORY = re.compile("memory usage limit|too much memory", re.IGNORECASE)


class Decompressed:
    """The content of compressed streams that follow each other, with zeros between them allowed.

    The standard library's own files ignore anything after the last stream.
    """

    def __init__(self, stream: Stream, compression: Compression, extraction: Extraction) -> None:
        self._stream = stream
        self._compression = compression
        self._extraction = extraction
        self._decompressor = compression.decompressor()
        self._unread = b""

    def read(self, size: int = BLOCK_BYTES) -> bytes:
        """Return at most `size` bytes, b"" at the end of the last stream."""
        while True:
            if self._decompressor.eof and not self._start_next():
                return b""
            if not self._unread and self._decompressor.needs_input:
                self._unread = self._stream.read(BLOCK_BYTES)
                if not self._unread:
                    name = self._compression.name
                    raise EOFError(f"the {name} data ends early: the file is truncated")
            if block := self._decompress(size):
                return block

    def _start_next(self) -> bool:
        """Start the next stream, if there is one."""
        magic = self._compression.magic
        self._unread = (self._unread + self._decompressor.unused_data).lstrip(b"\0")
        while len(self._unread) < max(map(len, magic)) and (more := self._stream.read(BLOCK_BYTES)):
            self._unread = (self._unread + more).lstrip(b"\0")
        if not self._unread:
            return False
        if not self._unread.startswith(magic):
            raise self._extraction.broken(
                f"other data follows the end of its {self._compression.name} data, beginning with "
                f"{self._unread[:16]!r}: something was appended, or a longer file was overwritten"
            )
        self._decompressor = self._compression.decompressor()
        return True

    def _decompress(self, size: int) -> bytes:
        try:
            block: bytes = self._decompressor.decompress(self._unread, size)
        except (lzma.LZMAError, zstd.ZstdError) as error:
            if not _NEEDS_MEMORY.search(str(error)):
                raise
            raise self._extraction.error(
                self._compression.memory_limit, advice=self._compression.memory_advice
            ) from error
        self._unread = b""
        return block
