"""Report known vulnerabilities of what requirements/*.txt pin, by pip-audit: `make audit`."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from docker.setup.project import Failure, say
from docker.tools.context import Context


def audit(context: Context) -> int:
    """Ask an advisory service about each pinned package; OSV, unless ARGS name another.

    Returns:
        0 where none is known, 1 where one is, 5 where the service does not know all packages.

    Raises:
        Failure: the service did not answer.
    """
    packages = _answers(context)
    found = [(package, advisory) for package in packages for advisory in package.get("vulns", [])]
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    for package, advisory in found:
        names = ", ".join([advisory["id"], *advisory["aliases"]])
        fixed = ", ".join(advisory["fix_versions"]) or "no version yet"
        print(f"{package['name']} {package['version']}: {names}; fixed in {fixed}")
    if unknown:
        # pip-audit reports "none found" and 0 here: behind a mirror that has no advisories.
        count = f"{len(unknown)} of {len(packages)} packages ({', '.join(unknown[:3])}, ...)"
        say(f"the advisory service does not know {count}: their vulnerabilities are unknown")
    if found:
        say(f"{len(found)} known vulnerabilities in {len(packages)} pinned packages")
        return 1
    if unknown:
        return 5
    say(f"no known vulnerabilities in {len(packages)} pinned packages")
    return 0


def _answers(context: Context) -> list[dict[str, Any]]:
    """Return what pip-audit reports of each package: its advisories, or why there are none."""
    # The pins are complete: nothing to resolve.
    command = [str(context.root / ".venv/bin/pip-audit"), "--disable-pip"]
    command += ["--vulnerability-service", "osv", "--format", "json", "--progress-spinner", "off"]
    command += ["--require-hashes"]
    for file in sorted((context.root / "requirements").glob("*.txt")):
        command += ["--requirement", str(file)]
    # pip-audit reads neither of pip's own variables.
    bundle = os.environ.get("LIGHTERAGE_CA") or os.environ.get("PIP_CERT")
    env = {**os.environ, **({"REQUESTS_CA_BUNDLE": bundle} if bundle else {})}
    done = subprocess.run(
        [*command, *context.args], env=env,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    if done.returncode == 2:
        raise Failure(reason)
    try:
        answers: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except ValueError:
        raise Failure(
            f"the advisory service did not answer: vulnerabilities are unknown ({reason})", 5
        ) from None
    return answers
