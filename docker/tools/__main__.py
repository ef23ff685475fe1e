"""The tools behind the Makefile: `.venv/bin/python -m docker.tools VERB [VARIANT ...]`."""

from __future__ import annotations

import importlib
import sys

from docker.setup.__main__ import reported
from docker.setup.project import say
from docker.tools.cluster import ENGINES, print_job
from docker.tools.context import Context

VERBS = (
    "diff", "verify", "size", "reproduce", "trust", "doctor", "audit", "parity", "schema",
    "reference", "errors-page", "new-task", "init", "bake", "report", *ENGINES,
)  # fmt: skip


def run(verb: str, names: list[str]) -> int:
    """Run one verb on the variants of these names; returns the exit code."""
    context = Context.from_environment()
    if verb in ENGINES:
        return print_job(verb, context, *map(context.variant, names))
    # Imported here: doctor must run on a Python without the packages of .venv.
    name = verb.replace("-", "_")
    function = getattr(importlib.import_module(f"docker.tools.{name}"), name)
    return int(function(context, *map(context.variant, names)))


def main(arguments: list[str]) -> int:
    """Run the verb of a command line; returns the exit code."""
    if not arguments or arguments[0] not in VERBS:
        say(f"usage: python -m docker.tools VERB [VARIANT ...]; verbs: {' '.join(VERBS)}")
        return 2
    return reported(lambda: run(arguments[0], arguments[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
