"""Report what this machine has and lacks for the project, with the fix for each: `make doctor`.

It runs on make's own Python: .venv may be what cannot be made.
"""

from __future__ import annotations

import shutil
from typing import NamedTuple

from docker.setup import envfiles, venv
from docker.setup.bases import HUB_IMAGES
from docker.setup.engine import Engine, NoEngine, quiet
from docker.setup.project import Failure
from docker.tools.context import Context

# Measured: both images, the bases and the build cache take less.
DISK_GB = 3


class Row(NamedTuple):
    """One thing that was looked for.

    Attributes:
        state: `ok`, `missing`, or `-` for what only some need.
        name: what.
        text: what was found, or the fix.
    """

    state: str
    name: str
    text: str


def doctor(context: Context) -> int:
    """Print a row for each thing; exit 1 when `make run` lacks one that it needs."""
    engine = Engine.look(context.engine)
    rows = [*_engine_rows(context, engine), *_machine_rows(context, engine), *_env_rows(context)]
    for row in rows:
        print(f"{row.state:8} {row.name:16} {row.text}")
    return 1 if any(row.state == "missing" for row in rows) else 0


def _found(value: object, name: str, text: str, fix: str, *, needed: bool = True) -> Row:
    """Return the row of a thing that is there or not."""
    return Row("ok", name, text) if value else Row("missing" if needed else "-", name, fix)


def _engine_rows(context: Context, engine: Engine | NoEngine) -> list[Row]:
    if isinstance(engine, NoEngine):
        return [Row("-", "engine", f"{engine}; until then tasks run in .venv here")]
    podman = "; the latter needs podman's socket (podman system service)"
    image = "/".join(filter(None, [context.hub, HUB_IMAGES["RUNTIME"]]))
    served = quiet(engine.client, "manifest", "inspect", image, timeout=15).returncode == 0
    return [
        Row("ok", "engine", f"{engine.kind}, through {engine.client}"),
        _found(
            engine.build, "BuildKit client", " ".join(engine.build),
            "install docker-buildx-plugin, or Debian's client, which has BuildKit inside",
        ),
        _found(
            engine.compose, "compose", " ".join(engine.compose),
            "install docker-compose-plugin, or Debian's docker-compose"
            + (podman if engine.kind == "podman" else ""),
        ),
        _found(
            served, "image registry", f"serves {image}",
            f"does not serve {image}: bases are made from Debian packages (BASE=debian);"
            " HUB= names a mirror",
            needed=False,
        ),
        _found(
            shutil.which("apt-get"), "apt", "for BASE=debian",
            "BASE=debian needs a Debian or Ubuntu machine", needed=False,
        ),
        _found(
            ":" not in str(context.root), "path", str(context.root),
            f"{context.root}: move the clone: engines cannot mount a path with a colon",
        ),
    ]  # fmt: skip


def _machine_rows(context: Context, engine: Engine | NoEngine) -> list[Row]:
    python = venv.find_python()
    complete = python and quiet(python, "-c", "import venv, ensurepip").returncode == 0
    fix = "install Python 3.11 or newer, for tests and RUNNER=host"
    if python:
        fix = f"{python} has no venv: apt-get install python3-venv"
    made = (context.root / ".venv" / "bin" / "python").exists()
    free = shutil.disk_usage(context.root).free / 1e9
    return [
        _found(complete, "Python", str(python), fix, needed=isinstance(engine, NoEngine)),
        Row("ok", ".venv", "made" if made else "made at the first use"),
        _found(
            free >= DISK_GB, "disk", f"{free:.0f} GB free",
            f"{free:.1f} GB free: make room for {DISK_GB} GB",
        ),
    ]  # fmt: skip


def _env_rows(context: Context) -> list[Row]:
    rows = []
    for variant in context.variants():
        name, text, fault = f"envs/{variant.name}.env", "made from its example at the first use", ""
        if variant.env_file.exists():
            try:
                envfiles.prepare(variant)
                text = f"points at {envfiles.host_of(variant) or 'no host'}"
            except Failure as failure:
                fault = str(failure)
        rows.append(_found(not fault, name, text, fault))
    return rows
