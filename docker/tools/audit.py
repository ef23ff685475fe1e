"""Report known vulnerabilities of what requirements/*.txt pin, by pip-audit: `make audit`."""

from __future__ import annotations

import os
import subprocess

from docker.setup.project import Failure, last_line, say
from docker.tools.context import Context


def audit(context: Context) -> int:
    """Ask an advisory service about each pinned package; OSV, unless ARGS name another.

    Returns:
        0 where none is known, 1 where one is.

    Raises:
        Failure: the service did not answer, or not for all packages.
    """
    # The pins are complete: nothing to resolve. --strict: a mirror without advisories is an error.
    command = [str(context.root / ".venv/bin/pip-audit"), "--disable-pip", "--require-hashes"]
    command += ["--strict", "--aliases", "on", "--progress-spinner", "off"]
    command += ["--vulnerability-service", "osv"]
    for file in sorted((context.root / "requirements").glob("*.txt")):
        command += ["--requirement", str(file)]
    # pip-audit reads neither of pip's own variables.
    bundle = os.environ.get("LIGHTERAGE_CA") or os.environ.get("PIP_CERT")
    env = {**os.environ, **({"REQUESTS_CA_BUNDLE": bundle} if bundle else {})}
    done = subprocess.run(
        [*command, *context.args], env=env,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    reason = last_line(done.stderr)
    if done.returncode == 2:
        raise Failure(reason)
    if done.returncode and not done.stdout:
        raise Failure(f"the advisory service did not answer for all packages: {reason}", 5)
    print(done.stdout, end="")
    say(reason)
    return done.returncode
