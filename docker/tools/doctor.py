"""What this machine has and lacks for the project, with the fix for each."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from docker.setup import envfiles, host
from docker.setup.bases import HUB_IMAGES
from docker.setup.engine import Engine, NoEngine, quiet
from docker.setup.project import Failure, Project
from docker.setup.variants import Variant

# Both images, the bases and the build cache took less than this here.
DISK_GB = 3


@dataclass(frozen=True)
class Row:
    """One thing looked at.

    Args:
        name: what.
        state: `ok`, `missing`, or `-` for what only some need.
        text: what was found, or the fix.
    """

    name: str
    state: str
    text: str


def doctor(project: Project) -> int:
    """Print a row for each thing; exit 1 when the front door lacks one that it needs."""
    engine = Engine.look(project.engine)
    missing = isinstance(engine, NoEngine)
    rows = [*_engine_rows(project, engine), *_host_rows(project, needed=missing)]
    for row in rows:
        print(f"{row.state:8} {row.name:16} {row.text}")
    return 1 if any(row.state == "missing" for row in rows) else 0


def _engine_rows(project: Project, engine: Engine | NoEngine) -> list[Row]:
    if isinstance(engine, NoEngine):
        return [Row("engine", "-", f"{engine}; until then tasks run in .venv here")]
    rows = [Row("engine", "ok", f"{engine.kind}, through {engine.client}")]
    if engine.builder:
        rows.append(Row("BuildKit client", "ok", engine.builder[0]))
    else:
        fix = "install docker-buildx-plugin (Debian's docker.io client has BuildKit inside)"
        rows.append(Row("BuildKit client", "missing", fix))
    if engine.compose:
        rows.append(Row("compose", "ok", " ".join(engine.compose[0])))
    else:
        fix = "install docker-compose-plugin, or Debian's docker-compose"
        if engine.kind == "podman":
            fix += "; the latter needs podman's socket (podman system service)"
        rows.append(Row("compose", "missing", fix))
    prefix = f"{project.hub}/" if project.hub else ""
    image = prefix + HUB_IMAGES["RUNTIME"]
    if quiet(engine.client, "manifest", "inspect", image, timeout=15).returncode == 0:
        rows.append(Row("image registry", "ok", f"serves {image}"))
    else:
        fix = "bases are made from Debian packages (BASE=debian); HUB= names a mirror"
        rows.append(Row("image registry", "-", f"does not serve {image}: {fix}"))
    if shutil.which("apt-get"):
        rows.append(Row("apt", "ok", "for BASE=debian"))
    else:
        rows.append(Row("apt", "-", "BASE=debian needs a Debian or Ubuntu machine"))
    if ":" in str(project.root):
        fix = "move the clone: engines cannot mount a path with a colon"
        rows.append(Row("path", "missing", f"{project.root}: {fix}"))
    return rows


def _host_rows(project: Project, needed: bool) -> list[Row]:
    lacking = "missing" if needed else "-"
    rows = []
    python = host.find_python()
    if python is None:
        fix = "install Python 3.11 or newer, for tests and RUNNER=host"
        rows.append(Row("Python", lacking, fix))
    elif quiet(python, "-c", "import venv, ensurepip").returncode:
        rows.append(Row("Python", lacking, f"{python} has no venv: apt-get install python3-venv"))
    else:
        rows.append(Row("Python", "ok", python))
    made = (project.root / ".venv" / "bin" / "python").exists()
    rows.append(Row(".venv", "ok", "made" if made else "made at the first use"))
    free = shutil.disk_usage(project.root).free / 1e9
    if free >= DISK_GB:
        rows.append(Row("disk", "ok", f"{free:.0f} GB free"))
    else:
        rows.append(Row("disk", "missing", f"{free:.1f} GB free: make room for {DISK_GB} GB"))
    for variant in Variant.all(project):
        name = f"envs/{variant.name}.env"
        if not variant.env_file.exists():
            rows.append(Row(name, "ok", "made from its example at the first use"))
            continue
        try:
            envfiles.check(variant)
            rows.append(Row(name, "ok", f"points at {envfiles.host_of(variant) or 'no host'}"))
        except Failure as failure:
            rows.append(Row(name, "missing", str(failure)))
    return rows
