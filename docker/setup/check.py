"""The checks of make check, and what else works on the sources: fmt and lock."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from docker.setup import bases, host, locks
from docker.setup.project import Failure, Project, say
from docker.setup.variants import Variant


def _sources(project: Project, *patterns: str) -> list[str]:
    """Files of the tree that match, less what is generated, relative to the root."""
    skipped = {".venv", ".git", ".lighterage", "data", "__pycache__"}
    found = (path for pattern in patterns for path in project.root.glob(pattern))
    relative = (path.relative_to(project.root) for path in found if path.is_file())
    return sorted({path.as_posix() for path in relative if not skipped & set(path.parts)})


def commands(project: Project) -> dict[str, list[str]]:
    """Each check by its name, as a command in the project's folder."""
    compose = [str(v.compose_file.relative_to(project.root)) for v in Variant.all(project)]
    # docker/setup and docker/tools are packages; the other folders hold scripts of their own.
    python = [
        name
        for name in ("tasks", "tests", "benchmarks", "docker/setup", "docker/tools")
        if _sources(project, f"{name}/**/*.py")
    ]
    folders = sorted(
        {str(Path(name).parent) for name in _sources(project, "docker/*/*.py")} - set(python)
    )
    checks = {
        "format": ["ruff", "format", "--check", "."],
        "lint": ["ruff", "check", "."],
        "types (packages)": ["mypy", *python],
    }
    for folder in folders:
        checks[f"types ({folder})"] = ["mypy", folder]
    checks["Dockerfiles"] = ["hadolint", *_sources(project, "docker/*/Dockerfile")]
    checks["shell"] = ["shellcheck", *_sources(project, "**/*.sh", ".ci/run")]
    checks["YAML"] = ["yamllint", "--strict", *_sources(project, "**/*.yaml", ".*.yaml")]
    checks["compose files"] = [
        "check-jsonschema", "--builtin-schema", "vendor.compose-spec", *compose,
    ]  # fmt: skip
    checks["env examples"] = ["python", "-m", "docker.tools", "parity"]
    checks["Makefile"] = ["mbake", "validate", "Makefile"]
    checks["Makefile format"] = [
        "mbake", "format", "--config", ".bake.toml", "--check", "Makefile",
    ]  # fmt: skip
    return checks


def check(project: Project) -> int:
    """Run every check, show what the failing ones say, and exit 1 when one failed."""
    tools = host.environment(project).parent
    env = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    env.pop("MAKEFLAGS", None)
    failed = []
    for name, command in commands(project).items():
        done = subprocess.run(
            command,
            cwd=project.root,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        print(f"{'ok  ' if done.returncode == 0 else 'FAIL'} {name}", flush=True)
        if done.returncode:
            print(done.stdout, flush=True)
            failed.append(name)
    if failed:
        say(f"{len(failed)} failed: {', '.join(failed)}")
    return 1 if failed else 0


def fmt(project: Project) -> int:
    """Format the Python files, and fix what the linter can."""
    ruff = str(host.environment(project).with_name("ruff"))
    subprocess.run([ruff, "check", "--fix-only", "--quiet", "."], cwd=project.root, check=False)
    return subprocess.run([ruff, "format", "."], cwd=project.root, check=False).returncode


def lock(project: Project) -> int:
    """Renew all pins: the packages with their hashes, dev after prod, which binds it; the bases.

    With ARGS=--no-upgrade only what requirements/*.in changed: other pins, and the bases, stay.

    Raises:
        Failure: ARGS are something else.
    """
    if project.args not in ((), ("--no-upgrade",)):
        raise Failure(f"lock knows no {' '.join(project.args)}; known: --no-upgrade")
    uv, env = host.uv(project)
    for name in locks.NAMES:
        command = [
            str(uv), "pip", "compile", f"requirements/{name}.in", "-o", f"requirements/{name}.txt",
            "--universal", "--python-version", "3.11", "--generate-hashes",
            "--no-header", "--no-emit-index-url", "--quiet",
            *([] if project.args else ["--upgrade"]),
        ]  # fmt: skip
        if subprocess.run(command, cwd=project.root, env=env, check=False).returncode:
            return 1
        locks.record(project, name)
        say(f"renewed requirements/{name}.txt")
    if not project.args:
        bases.lock(project)
    return 0
