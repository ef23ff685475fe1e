"""The steps of recipes: `python3 -m docker.setup STEP ...`, most of them before a command."""

from __future__ import annotations

import errno
import importlib
import sys
from collections.abc import Callable
from pathlib import Path

from docker.setup.project import Failure, Project, say

# The module of each step; the step is its function of that name.
STEPS = {
    "prepare": "prepare", "build": "build", "build-quietly": "build", "task": "attach",
    "attach": "attach", "isolated": "attach", "host-key": "sample_host",
    "sample-host": "sample_host", "loopback": "sample_host", "end-loopback": "sample_host",
    "bases": "bases", "lock-bases": "bases", "install": "venv", "index": "venv",
    "packages": "venv", "record-wheels": "venv", "record-lock": "locks",
    "debug-port": "debugger",
}  # fmt: skip


def main(arguments: list[str]) -> int:
    """Carry out a step; return the exit code. Each imports only its own modules, to be quick."""
    name, *words = arguments
    module = importlib.import_module(f"docker.setup.{STEPS[name]}")
    function = getattr(module, name.replace("-", "_"))
    return reported(lambda: function(Project.from_environment(), *words) or 0)


def reported(command: Callable[[], int]) -> int:
    """Run a command; return its exit code, after one line on what went wrong."""
    try:
        return command()
    except Failure as failure:
        say(str(failure))
        return failure.code
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    except OSError as error:
        say(f"{error.filename or 'this machine'}: {error.strerror or error}{_fix_of(error)}")
        return 8
    except Exception as error:  # noqa: BLE001 - no traceback reaches a user, only where it was
        import traceback  # not at the top: it takes 6 ms

        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}:{where.lineno}"
        say(f"a bug, please report it: {type(error).__name__} at {place}: {error}")
        return 1


def _fix_of(error: OSError) -> str:
    """Return what to do about a file of the clone that cannot be written."""
    root = str(Path(__file__).resolve().parents[2])
    in_clone = str(error.filename).startswith(root)
    if not in_clone or error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
        return ""
    return (
        f": make writes to .lighterage/, envs/, data/ and docker/*/.env of {root}; use a clone that"
        " this user can write to"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
