"""The commands behind the Makefile: `python3 -m docker.setup VERB [VARIANT ...]`."""

from __future__ import annotations

import errno
import sys
import traceback
from pathlib import Path

from docker.setup import check, front, vendor
from docker.setup.project import Failure, Project, say
from docker.setup.variants import Variant

OF_A_VARIANT = {
    "build": front.build,
    "run": front.run,
    "shell": front.shell,
    "up": front.up,
    "down": front.down,
    "logs": front.logs,
    "config": front.config,
    "clean": front.clean,
}
OF_TOOLS = ("trust", "save", "push", "reproduce", "size", "sbom", "diff", "verify", "load", "audit")
OF_THE_PROJECT = {
    "test": front.test,
    "bench": front.bench,
    "bench-build": front.bench_build,
    "check": check.check,
    "fmt": check.fmt,
    "lock": check.lock,
    "vendor": vendor.vendor,
}


def main(arguments: list[str]) -> int:
    """Carry out one verb; returns the exit code, after one line on what went wrong."""
    try:
        project = Project.from_environment()
        if len(arguments) == 1 and arguments[0] in OF_THE_PROJECT:
            return OF_THE_PROJECT[arguments[0]](project)
        if arguments and arguments[0] in OF_TOOLS:
            return front.tool(project, *arguments)
        if len(arguments) == 2 and arguments[0] in OF_A_VARIANT:
            return OF_A_VARIANT[arguments[0]](project, Variant.named(project, arguments[1]))
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
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}:{where.lineno}"
        say(f"a bug, please report it: {type(error).__name__} at {place}: {error}")
        return 1
    say("usage: python3 -m docker.setup VERB [VARIANT ...]; `make help` lists the verbs")
    return 2


def _fix_of(error: OSError) -> str:
    """What to do about a file of the clone that cannot be written."""
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
