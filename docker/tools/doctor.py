"""Report what this machine has and lacks for the project, with the fix for each: `make doctor`.

It runs on make's own Python: .venv may be what cannot be made.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import NamedTuple

from docker.setup import envfiles, venv
from docker.setup.bases import HUB_IMAGES
from docker.setup.engine import Engine, NoEngine, quiet
from docker.setup.project import Failure, last_line
from docker.tools.context import Context, Variant

# Measured: both images, the bases and the build cache take less.
DISK_GB = 3


class Row(NamedTuple):
    """A thing that this machine or the clone has or lacks.

    Args:
        state: `ok`, `missing`, or `-` for what only some need.
        name: The thing.
        text: What was found, or the fix.
        variant: The variant that needs it, where the others do not.
    """

    state: str
    name: str
    text: str
    variant: str = ""


def doctor(context: Context) -> int:
    """Print a row for each thing and a verdict for each variant; exit 1 when one cannot run."""
    engine = Engine.look(context.engine)
    rows = [*_engine_rows(context, engine), *_machine_rows(context, engine), *_env_rows(context)]
    for row in rows:
        print("{:8} {:16} {}".format(*row))
    verdicts = [(variant, _obstacles(variant, rows, engine)) for variant in Variant.all(context)]
    here = context.runner == "host" or isinstance(engine, NoEngine)
    for variant, obstacles in verdicts:
        text = "ready, in .venv on this machine, WITHOUT ISOLATION" if here else "ready"
        if obstacles:
            more = f" (and {len(obstacles) - 1} more above)" if obstacles[1:] else ""
            text = f"cannot run: {obstacles[0]}{more}"
        print(f"{variant.name}: {text}")
    return 1 if any(obstacles for _, obstacles in verdicts) else 0


def _obstacles(variant: Variant, rows: Sequence[Row], engine: Engine | NoEngine) -> list[str]:
    """Return why `make run` of a variant would fail."""
    found = [
        f"{row.name}: {row.text}"
        for row in rows
        if row.state == "missing" and row.variant in ("", variant.name)
    ]
    if isinstance(engine, NoEngine) and variant.project.runner == "container":
        return [str(engine), *found]
    return found


def _found(value: object, name: str, text: str, fix: str, *, needed: bool = True) -> Row:
    """Return the row of a thing that is there or not."""
    return Row("ok", name, text) if value else Row("missing" if needed else "-", name, fix)


def _engine_rows(context: Context, engine: Engine | NoEngine) -> list[Row]:
    if context.runner == "host":
        return [Row("-", "engine", "not used: RUNNER=host")]
    if isinstance(engine, NoEngine):
        return [Row("-", "engine", f"{engine}; until then tasks run in .venv here")]
    image = "/".join(filter(None, [context.hub, HUB_IMAGES["RUNTIME"]]))
    served = quiet(engine.client, "manifest", "inspect", image, timeout=15).returncode == 0
    buildx = "install docker-buildx-plugin, or Debian's client, which has BuildKit inside"
    compose = "install docker-compose-plugin, or Debian's docker-compose"
    if engine.kind == "podman":
        compose += "; the latter needs podman's socket (podman system service)"
    unserved = f"does not serve {image}: bases are made from Debian packages; HUB= names a mirror"
    colon = f"{context.root}: move the clone: engines cannot mount a path with a colon"
    debian = "BASE=debian needs a Debian or Ubuntu machine"
    images = [f"{context.name}-{variant.name}" for variant in Variant.all(context)]
    built = all(engine.ask("image", "inspect", image).returncode == 0 for image in images)
    return [
        Row("ok", "engine", f"{engine.kind}, through {engine.client}"),
        _found(engine.build, "BuildKit client", " ".join(engine.build), buildx),
        _found(engine.compose, "compose", " ".join(engine.compose), compose),
        _found(served, "image registry", f"serves {image}", unserved, needed=False),
        _found(
            shutil.which("apt-get"), "apt", "for BASE=debian", debian, needed=not (served or built)
        ),
        _found(":" not in str(context.root), "path", str(context.root), colon),
    ]


def _machine_rows(context: Context, engine: Engine | NoEngine) -> list[Row]:
    try:
        python, fix = venv.find_python(), ""
    except Failure as failure:
        python, fix = "", str(failure)
    here = isinstance(engine, NoEngine) or context.runner == "host"
    made = (context.root / ".venv" / "bin" / "python").exists()
    free = shutil.disk_usage(context.root).free / 1e9
    more = f"{free:.1f} GB free: make room for {DISK_GB} GB"
    return [
        _found(python, "Python", python, fix, needed=here),
        Row("ok", ".venv", "made" if made else "made at the first use"),
        _found(free >= DISK_GB, "disk", f"{free:.0f} GB free", more),
    ]


def _env_rows(context: Context) -> list[Row]:
    rows: list[Row] = []
    for variant in Variant.all(context):
        name, text, fault = f"envs/{variant.name}.env", "made from its example at the first use", ""
        if variant.env_file.exists():
            try:
                envfiles.prepare(variant)
                text = f"points at {envfiles.host_of(variant)}"
                if not envfiles.host_of(variant):
                    fault = "has no REMOTE_HOST_ADDRESS: set it to host or host:port"
            except Failure as failure:
                fault = str(failure).removeprefix(f"{name}: ")
        rows.append(_found(not fault, name, text, fault)._replace(variant=variant.name))
        wrong = "" if fault else _fault_of_settings(context, variant)
        if wrong:
            rows.append(Row("missing", f"{variant.name} settings", wrong, variant.name))
    return rows


def _fault_of_settings(context: Context, variant: Variant) -> str:
    """Return what a run would refuse in config.yaml or the environment, where .venv can tell."""
    python = context.root / ".venv/bin/python"
    if not python.exists():
        return ""
    command = [str(python), "-B", "-m", "tasks", "config", context.task]
    done = quiet("env", f"LIGHTERAGE_VARIANT={variant.name}", *command)
    kind = "lighterage: usage or configuration: "
    line = last_line(done.stderr)
    return line.removeprefix(kind) if done.returncode == 2 and line.startswith(kind) else ""
