"""Memory: how much there is, and how the C library and the garbage collector treat freed memory."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
from pathlib import Path

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # malloc.h of the GNU C library
_MAX_MMAP_THRESHOLD = 32 * 2**20  # mallopt(3)
_NEW_OBJECTS = 50_000
"""New objects before the garbage collector looks for cycles. At its default of 700 it takes a
third of the time of a listing of 100,000 files."""


def keep_freed() -> None:
    """Have freed memory reused, instead of returned to the system after each block.

    Blocks of 256 KiB are allocated and freed a thousand times a second here; by default each is
    mapped again, and the system clears it page by page: 10 to 15 % of the time of a large
    download. C libraries other than glibc have no such setting.
    """
    gc.set_threshold(_NEW_OBJECTS)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _MAX_MMAP_THRESHOLD)
        mallopt(_TRIM_THRESHOLD, _MAX_MMAP_THRESHOLD)
        mallopt(_TOP_PAD, _MAX_MMAP_THRESHOLD // 2)


def available(root: Path = Path("/")) -> int:
    """Return how many bytes may still be allocated: of the machine, and of a container's limit.

    Args:
        root: Where /proc and /sys are.
    """
    free = [_number(root / "proc/meminfo", r"MemAvailable:\s+(\d+)") * 1024]
    cgroup = root / "sys/fs/cgroup"
    for limit, used in (  # of cgroup version 2, and of version 1
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        most = _number(cgroup / limit, r"(\d+)")
        free.append(max(most - _number(cgroup / used, r"(\d+)"), 1) if most else 0)
    return min(filter(None, free), default=0)


def _number(file: Path, pattern: str) -> int:
    """Return the number in a file of the kernel's; 0 where there is none."""
    with contextlib.suppress(OSError):
        if found := re.search(pattern, file.read_text()):
            return int(found[1])
    return 0
