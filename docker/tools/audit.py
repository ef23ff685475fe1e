"""`make audit`: known vulnerabilities of what requirements/*.txt pin, by pip-audit."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from docker.setup import host, images, wheelhouse
from docker.setup.project import Failure, Project, say


def audit(project: Project) -> int:
    """Ask an advisory service about each pinned package; OSV, unless ARGS name another.

    Returns:
        0 where none is known, 1 where one is.

    Raises:
        Failure: the service did not answer, or not for all (5: that is not the same as none).
    """
    found = _answers(project)
    known = [(package, advisory) for package in found for advisory in package.get("vulns", [])]
    unknown = [package["name"] for package in found if "skip_reason" in package]
    for package, advisory in known:
        names = ", ".join([advisory["id"], *advisory["aliases"]])
        fixed = ", ".join(advisory["fix_versions"]) or "no version yet"
        print(f"{package['name']} {package['version']}: {names}; fixed in {fixed}")
    if unknown:
        # pip-audit itself says "none found" and 0 here: behind a mirror that has no advisories.
        of = f"{len(unknown)} of {len(found)} packages ({', '.join(unknown[:3])}, ...)"
        say(f"the advisory service does not know {of}: nothing is known of them, good or bad")
    if known:
        say(f"{len(known)} known vulnerabilities in {len(found)} pinned packages")
        return 1
    if unknown:
        return 5
    say(f"no known vulnerabilities in {len(found)} pinned packages")
    return 0


def _answers(project: Project) -> list[dict[str, Any]]:
    """What pip-audit was told about each package: its advisories, or why there is no answer."""
    tool = str(host.environment(project).with_name("pip-audit"))
    command = [tool, "--vulnerability-service", "osv", "--format", "json"]
    # The pins are all there is: nothing to resolve.
    command += ["--progress-spinner", "off", "--disable-pip", "--require-hashes"]
    for file in wheelhouse.requirements(project):
        command += ["--requirement", str(file)]
    bundle = images.ca_bundle(images.pip_configuration())
    env = {**os.environ, **({"REQUESTS_CA_BUNDLE": str(bundle)} if bundle else {})}
    done = subprocess.run(
        [*command, *project.args], env=env,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    words = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    if done.returncode == 2:
        raise Failure(words)
    try:
        answers: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except ValueError:
        raise Failure(
            f"the advisory service did not answer: nothing is known, good or bad ({words})", 5
        ) from None
    return answers
