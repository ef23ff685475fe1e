"""Add a host's keys to envs/known_hosts, after a yes: `make trust`."""

from __future__ import annotations

import os
import subprocess
import sys

from docker.setup import envfiles
from docker.setup.project import Failure, say
from docker.tools.context import Context, Variant


def trust(context: Context, variant: Variant) -> int:
    """Show the fingerprints of HOST's keys, ask, and add the keys to envs/known_hosts.

    The variant's own image asks the host, as its tasks would; without an engine .venv does.

    Raises:
        Failure: no HOST, no terminal to ask on, or the answer was no.
    """
    if not context.host:
        raise Failure("trust needs a host: make trust HOST=host[:port]")
    if not context.yes and not sys.stdin.isatty():
        raise Failure(
            "trust asks on a terminal; elsewhere say YES=1, fingerprints known to be right"
        )
    if context.docker and context.runner != "host":
        done = variant.compose("run", "--rm", "-T", variant.service, "scan", context.host)
    else:
        env = {**os.environ, "LIGHTERAGE_VARIANT": variant.name}
        command = [sys.executable, "-m", "tasks", "scan", context.host]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    sys.stderr.write(done.stderr)
    if done.returncode:
        return done.returncode
    if not context.yes:
        question = f"Trust these keys of {context.host}? [yes/no] "
        print(question, end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise Failure("nothing was added to envs/known_hosts", 1)
    added = envfiles.add_known_hosts(context, done.stdout.splitlines())
    say(f"{added} new line(s) in envs/known_hosts; running services read it after `make up`")
    return 0
