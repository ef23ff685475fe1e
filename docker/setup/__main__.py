"""The steps of recipes: `python3 -m docker.setup STEP ...`, most of them before a command."""

from __future__ import annotations

import errno
import os
import shlex
import sys
import traceback
from pathlib import Path

from docker.setup import (
    attach, bases, build, envfiles, locks, prepare, sample_host, venv, wheelhouse,
)  # fmt: skip
from docker.setup.engine import Engine
from docker.setup.project import Failure, Project, say
from docker.setup.variants import Variant


def step(project: Project, name: str, words: list[str]) -> int:
    """Carry out a step; return its exit code."""
    client = shlex.split(os.environ.get("LIGHTERAGE_DOCKER", "")) or [project.engine]
    engine = Engine(project.engine, client[0])
    if name == "prepare":
        prepare.prepare(project, Path(words[0]), words[1:])
    elif name == "bases":
        with project.lock("bases"):
            bases.choose(project, engine)
    elif name in ("build", "build-quietly"):
        build.build(engine, words, say_unchanged=name == "build")
    elif name == "host-key":
        sample_host.make_key(project, words)
        for variant in filter(sample_host.is_named, Variant.all(project)):
            envfiles.write_compose_env(variant, as_root=engine.root_is_caller)
    elif name == "sample-host":
        sample_host.up(engine, Variant(project, words[0]), words[1:])
    elif name == "loopback":
        sample_host.up_on_loopback(Variant(project, words[0]), words[1:])
    elif name == "end-loopback":
        sample_host.down_on_loopback(Variant(project, words[0]))
    elif name in ("task", "attach", "isolated"):
        return int(getattr(attach, name)(project, words))
    elif name == "install":
        venv.install(project, words)
    elif name == "index":
        return venv.run_with_index(project, words, quietly=False)
    elif name == "packages":
        venv.packages(words[0], allowed=os.environ.get("LIGHTERAGE_SETUP") != "0")
    elif name == "record-wheels":
        wheelhouse.record(project)
    elif name == "record-lock":
        locks.record(project, words[0])
    elif name == "lock-bases":
        bases.lock(project)
    else:
        raise Failure(f"{name} is no step of the Makefile's")
    return 0


def main(arguments: list[str]) -> int:
    """Carry out a step; return the exit code, after one line on what went wrong."""
    try:
        return step(Project.from_environment(), arguments[0], arguments[1:])
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
