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
    add_keys(context, context.host, scan(context, variant, context.host))
    return 0


def scan(context: Context, variant: Variant, host: str) -> list[str]:
    """Show the fingerprints of a host's keys; return the keys as lines of known_hosts.

    Raises:
        SystemExit: The host gave none; why is shown.
    """
    done = run_tasks(context, variant, "scan", host)
    sys.stderr.write(done.stderr)
    if done.returncode:
        raise SystemExit(done.returncode)
    return done.stdout.splitlines()


def add_keys(context: Context, host: str, keys: list[str]) -> None:
    """Add keys to envs/known_hosts, after a yes.

    Raises:
        Failure: There is no terminal to ask on, or the answer was no.
    """
    if not context.yes:
        if not sys.stdin.isatty():
            raise Failure(f"the keys of {host} are not trusted yet: YES=1 trusts the ones above")
        question = f"Trust these keys of {host}? [yes/no] "
        print(question, end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise Failure("nothing was added to envs/known_hosts", 1)
    added = envfiles.add_known_hosts(context, keys)
    say(f"{added} new line(s) in envs/known_hosts; running services read it after `make up`")


def run_tasks(context: Context, variant: Variant, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m tasks` for its output, in the variant's image or else in .venv.

    It logs warnings only: dev's own level would show each key type that a host lacks.
    """
    words = (*words, "--log-level=WARNING")
    if context.docker and context.runner != "host":
        return variant.compose("run", "--rm", "-T", variant.service, *words)
    env = {**os.environ, "LIGHTERAGE_VARIANT": variant.name}
    command = [sys.executable, "-m", "tasks", *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)
