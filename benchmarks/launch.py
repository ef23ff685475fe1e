"""Start a command, wait for its end, and say what it took: time, processor, memory.

    python -I -S launch.py LOG COMMAND [ARGUMENT ...]

A process of its own, and a small one: Linux counts what the parent held as a child's peak
memory (the mark outlives exec), so a large parent would hide what a small child needs. The
clock runs from before the start of the command to its end, not for this interpreter's start.
"""

import json
import os
import sys
import time


def main(log: str, *command: str) -> int:
    """Run `command` with its output in `log`; print the figures as JSON."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, log, flags, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    started = time.monotonic()
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=actions)
    _, status, usage = os.wait4(pid, 0)
    figures = {
        "seconds": round(time.monotonic() - started, 4),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3),
        "peak_bytes": usage.ru_maxrss * 1024,
        "exit": os.waitstatus_to_exitcode(status),
    }
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
