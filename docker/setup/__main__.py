"""The steps of recipes: `python3 -m docker.setup STEP ...`, most of them before a command."""

from __future__ import annotations

import errno
import os
import shlex
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from docker.setup.engine import Engine
from docker.setup.project import Failure, Project, say


def step(project: Project, name: str, words: list[str]) -> int:
    """Carry out a step; return its exit code. Each imports only its own modules, to be quick."""
    client = shlex.split(os.environ.get("LIGHTERAGE_DOCKER", "")) or [project.engine]
    engine = Engine(project.engine, client[0])
    if name == "prepare":
        from docker.setup import prepare

        prepare.prepare(project, Path(words[0]), words[1:])
    elif name in ("build", "build-quietly"):
        from docker.setup import build

        build.build(engine, words, say_unchanged=name == "build")
    elif name in ("task", "attach", "isolated"):
        from docker.setup import attach

        return int(getattr(attach, name)(project, words))
    elif name in ("host-key", "sample-host", "loopback", "end-loopback"):
        _sample_host(project, engine, name, words)
    elif name in ("bases", "lock-bases"):
        from docker.setup import bases

        with project.lock("bases"):
            bases.choose(project, engine) if name == "bases" else bases.lock(project)
    elif name in ("install", "index", "packages"):
        from docker.setup import venv

        if name == "index":
            return venv.run_with_index(project, words, quietly=False)
        if name == "install":
            venv.install(project, words)
        else:
            venv.packages(words[0], allowed=os.environ.get("LIGHTERAGE_SETUP") != "0")
    elif name == "record-wheels":
        from docker.setup import wheelhouse

        wheelhouse.record(project)
    elif name == "record-lock":
        from docker.setup import locks

        locks.record(project, words[0])
    else:
        raise Failure(f"{name} is no step of the Makefile's")
    return 0


def _sample_host(project: Project, engine: Engine, name: str, words: list[str]) -> None:
    from docker.setup import envfiles, sample_host
    from docker.setup.variants import Variant

    if name == "host-key":
        sample_host.make_key(project, words)
        for variant in filter(sample_host.is_named, Variant.all(project)):
            envfiles.write_compose_env(variant, as_root=engine.root_is_caller)
    elif name == "sample-host":
        sample_host.up(engine, Variant(project, words[0]), words[1:])
    elif name == "loopback":
        sample_host.up_on_loopback(Variant(project, words[0]), words[1:])
    else:
        sample_host.down_on_loopback(Variant(project, words[0]))


def main(arguments: list[str]) -> int:
    """Carry out a step; return the exit code."""
    return reported(lambda: step(Project.from_environment(), arguments[0], arguments[1:]))


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
