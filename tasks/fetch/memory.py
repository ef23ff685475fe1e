"""Memory: what the C library and the garbage collector do with what is freed."""

from __future__ import annotations

import ctypes
import gc

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # malloc.h of the GNU C library
_MOST = 32 * 2**20  # of an mmap threshold: mallopt(3)
_NEW_OBJECTS = 50_000
"""New objects before the garbage collector looks for cycles. At its 700 it takes a third of the
time in which a manifest of 100,000 files is read."""


def keep_freed() -> None:
    """Let freed memory be used again, and not be given back to the system after each block.

    Blocks of 256 KiB come and go a thousand times a second here; by default each is mapped anew,
    and the system clears it page by page: 10 to 15 % of the time of a large fetch. Another C
    library does as it likes.
    """
    gc.set_threshold(_NEW_OBJECTS)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _MOST)
        mallopt(_TRIM_THRESHOLD, _MOST)
        mallopt(_TOP_PAD, _MOST // 2)
