"""Report what this machine has and lacks for the project, with the fix for each: `make doctor`.

It runs on make's own Python: .venv may be what cannot be made.
"""

from __future__ import annotations

import shutil

from docker.setup import envfiles, venv
from docker.setup.bases import HUB_IMAGES
from docker.setup.engine import Engine, NoEngine, quiet
from docker.setup.project import Failure
from docker.tools.context import Context, Variant

# Measured: both images, the bases and the build cache take less.
DISK_GB = 3


# `ok`, `missing`, or `-` for what only some need; the thing; what was found, or the fix.
Row = tuple[str, str, str]


def doctor(context: Context) -> int:
    """Print a row for each thing; exit 1 when `make run` lacks one that it needs."""
    engine = Engine.look(context.engine)
    rows = [*_engine_rows(context, engine), *_machine_rows(context, engine), *_env_rows(context)]
    for row in rows:
        print("{:8} {:16} {}".format(*row))
    return 1 if any(row[0] == "missing" for row in rows) else 0


def _found(value: object, name: str, text: str, fix: str, *, needed: bool = True) -> Row:
    """Return the row of a thing that is there or not."""
    return ("ok", name, text) if value else ("missing" if needed else "-", name, fix)


def _engine_rows(context: Context, engine: Engine | NoEngine) -> list[Row]:
    if isinstance(engine, NoEngine):
        return [("-", "engine", f"{engine}; until then tasks run in .venv here")]
    image = "/".join(filter(None, [context.hub, HUB_IMAGES["RUNTIME"]]))
    served = quiet(engine.client, "manifest", "inspect", image, timeout=15).returncode == 0
    buildx = "install docker-buildx-plugin, or Debian's client, which has BuildKit inside"
    compose = "install docker-compose-plugin, or Debian's docker-compose"
    if engine.kind == "podman":
        compose += "; the latter needs podman's socket (podman system service)"
    unserved = f"does not serve {image}: bases are made from Debian packages; HUB= names a mirror"
    colon = f"{context.root}: move the clone: engines cannot mount a path with a colon"
    debian = "BASE=debian needs a Debian or Ubuntu machine"
    return [
        ("ok", "engine", f"{engine.kind}, through {engine.client}"),
        _found(engine.build, "BuildKit client", " ".join(engine.build), buildx),
        _found(engine.compose, "compose", " ".join(engine.compose), compose),
        _found(served, "image registry", f"serves {image}", unserved, needed=False),
        _found(shutil.which("apt-get"), "apt", "for BASE=debian", debian, needed=False),
        _found(":" not in str(context.root), "path", str(context.root), colon),
    ]


def _machine_rows(context: Context, engine: Engine | NoEngine) -> list[Row]:
    try:
        python, fix = venv.find_python(), ""
    except Failure as failure:
        python, fix = "", str(failure)
    made = (context.root / ".venv" / "bin" / "python").exists()
    free = shutil.disk_usage(context.root).free / 1e9
    more = f"{free:.1f} GB free: make room for {DISK_GB} GB"
    return [
        _found(python, "Python", python, fix, needed=isinstance(engine, NoEngine)),
        ("ok", ".venv", "made" if made else "made at the first use"),
        _found(free >= DISK_GB, "disk", f"{free:.0f} GB free", more),
    ]


def _env_rows(context: Context) -> list[Row]:
    rows: list[Row] = []
    for variant in Variant.all(context):
        name, text, fault = f"envs/{variant.name}.env", "made from its example at the first use", ""
        if variant.env_file.exists():
            try:
                envfiles.prepare(variant)
                text = f"points at {envfiles.host_of(variant) or 'no host'}"
            except Failure as failure:
                fault = str(failure)
        rows.append(_found(not fault, name, text, fault))
    return rows
