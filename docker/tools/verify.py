"""Prove that each variant is as its contract says, and that they differ only where both say so.

A `docker/*/contract.yaml` has two documents: tests for container-structure-test, and `holds`, the
value of each row that `make diff` measures, and of those that running containers show.
"""

from __future__ import annotations

import itertools
import json
import subprocess
from collections.abc import Iterable

from docker.setup.project import say
from docker.tools import isolation
from docker.tools.context import Context, Variant
from docker.tools.contracts import contract_of, undeclared, violations
from docker.tools.measure import Measured, measure, running
from docker.tools.rows import RUNNING_ROWS, SECRET, expanded
from tasks import env_file


def verify(context: Context, *chosen: Variant) -> int:
    """Print what holds and what does not; exit 1 when something does not.

    Args:
        context: of the command.
        chosen: the variants whose images and containers are looked at; all without any. They are
            compared with every other variant in any case.
    """
    variants = Variant.all(context)
    wanted = {variant.name for variant in chosen or variants}
    contracts = {variant.name: contract_of(variant) for variant in variants}
    found = measure(variants)
    problems = []
    for one in found:
        name = one.variant.name
        if name not in wanted:
            continue
        problems += _report(f"image of {name}", _structure(one.variant))
        unsafe = isolation.reasons(one.compose)
        if unsafe:
            problems += _report(f"containers of {name}: not started", unsafe)
        else:
            problems += _running(one)
        lines = violations(one.facts, contracts[name], complete=not unsafe)
        problems += _report(f"contract of {name}", lines)
    for pair in itertools.combinations(found, 2):
        names = [one.variant.name for one in pair]
        if wanted & {*names}:
            lines = undeclared(names, [x.facts for x in pair], [contracts[n] for n in names])
            problems += _report(f"differences of {names[0]} and {names[1]}", lines)
    if problems:
        say(f"{len(problems)} thing(s) are not as declared")
    return 1 if problems else 0


def _report(title: str, problems: list[str]) -> list[str]:
    print(f"{'FAIL' if problems else 'ok  '} {title}", flush=True)
    for line in problems:
        print(f"     {line}", flush=True)
    return problems


def _running(one: Measured) -> list[str]:
    """Add the rows of running containers to a variant's; report secrets in their environment."""
    sample = running(one.variant)
    one.facts.update(expanded(RUNNING_ROWS, sample))
    title = f"no secret in the environment of {one.variant.name}"
    return _report(title, _visible_secrets(one.variant, sample.environment))


def _structure(variant: Variant) -> list[str]:
    """Run container-structure-test on the image; return what failed."""
    if variant.project.engine != "docker":
        say("container-structure-test drives docker only: the first document is not tested")
        return []
    program = variant.project.root / ".venv/bin/container-structure-test"
    command = [str(program), "test", "--image", variant.prefix, "--output", "json"]
    done = subprocess.run(
        [*command, "--config", str(variant.folder / "contract.yaml")],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    try:
        results = json.loads(done.stdout)["Results"] or []
    except (ValueError, KeyError):
        return [f"container-structure-test: {(done.stderr or done.stdout).strip()[-300:]}"]
    return [
        f"{result['Name']}: {'; '.join(result.get('Errors') or ['failed'])}"
        for result in results
        if not result["Pass"]
    ]


def _visible_secrets(variant: Variant, environment: Iterable[str]) -> list[str]:
    """Name each variable that is a secret by its name, or contains one's value.

    Args:
        variant: whose env file and envs/secrets have the secrets.
        environment: `NAME=value` lines, which the engine shows to every user of it.
    """
    files = [path for path in (variant.env_file, variant.example) if path.exists()]
    values = [item for path in files for item in env_file.read(path).items()]
    secrets = {value for name, value in values if _is_secret(name)}
    for path in variant.env_file.parent.glob("secrets/*"):
        if path.suffix != ".env":
            secrets.add(path.read_text(encoding="utf-8", errors="replace").strip())
    found = {}
    for name, _, value in (line.partition("=") for line in environment):
        # A short value may be part of any text.
        has_value = any(len(secret) >= 8 and secret in value for secret in secrets)
        if has_value or (_is_secret(name) and value):
            found[name] = f"{name} is shown by `inspect` of a container: deliver it as a file"
    return list(found.values())


def _is_secret(name: str) -> bool:
    return bool(SECRET.search(name)) and not name.endswith("_FILE")
