"""The tools behind the Makefile: `.venv/bin/python -m docker.tools VERB [VARIANT ...]`."""

from __future__ import annotations

import importlib
import sys

from docker.setup.__main__ import reported
from docker.setup.project import Failure, say
from docker.tools.context import Context

# The module of each verb, and how many variants it takes.
NONE, ONE, ANY = "none", "one", "any"
VERBS = {
    "diff": ("diff", ANY),
    "verify": ("verify", ANY),
    "size": ("size", ONE),
    "reproduce": ("reproduce", ONE),
    "save": ("ship", ONE),
    "push": ("ship", ONE),
    "load": ("ship", NONE),
    "trust": ("trust", ONE),
    "doctor": ("doctor", NONE),
    "audit": ("audit", NONE),
    "parity": ("parity", NONE),
}
WITHOUT_ENGINE = {"trust", "doctor", "audit", "parity"}


def run(verb: str, names: list[str]) -> int:
    """Run one verb; returns the exit code.

    Raises:
        Failure: the verb cannot run, or says what is wrong.
    """
    context = Context.from_environment()
    module, count = VERBS[verb]
    if verb not in WITHOUT_ENGINE and not context.docker:
        raise Failure(f"{verb} needs a container engine; `make doctor` says what is missing", 1)
    if len(names) != {NONE: 0, ONE: 1, ANY: len(names)}[count]:
        raise Failure(f"{verb} takes {count} variant; got: {' '.join(names) or 'none'}")
    # Imported here: doctor must run on a Python without the packages of .venv.
    function = getattr(importlib.import_module(f"docker.tools.{module}"), verb)
    if count == ANY:
        code = function(context, names)
    else:
        code = function(context, *map(context.variant, names))
    return int(code)


def main(arguments: list[str]) -> int:
    """Run the verb of a command line; returns the exit code."""
    if not arguments or arguments[0] not in VERBS:
        say(f"usage: python -m docker.tools VERB [VARIANT ...]; verbs: {' '.join(VERBS)}")
        return 2
    return reported(lambda: run(arguments[0], arguments[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
