"""The host runner: the project's virtual environment, and the tasks in it."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from docker.setup import envfiles, locks, sample_host, wheelhouse
from docker.setup.engine import quiet
from docker.setup.images import ca_bundle, pip_configuration
from docker.setup.project import Failure, Project, give_to_owner, say
from docker.setup.variants import Variant

# The oldest Python that the tasks run on, and what to look for: newer ones work as well.
OLDEST = (3, 11)
NAMES = ("python3.11", "python3.12", "python3.13", "python3.14", "python3")


def find_python() -> str | None:
    """A Python on the path that is new enough, or None."""
    probe = f"import sys; sys.exit(sys.version_info[:2] < {OLDEST})"
    for name in NAMES:
        program = shutil.which(name)
        if program and quiet(program, "-c", probe).returncode == 0:
            return program
    return None


def environment(project: Project) -> Path:
    """Have `.venv` with all that dev.txt pins; made again when that file or the Python changed.

    Returns:
        Its Python.

    Raises:
        Failure: there is no Python to make it with, or the package index failed.
    """
    locks.report(project)
    requirements = project.root / "requirements" / "dev.txt"
    stamp = project.root / ".venv" / ".lighterage"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    python = project.root / ".venv" / "bin" / "python"
    with project.lock("venv"):
        if python.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
            return python
        _install(project, requirements, project.root / ".venv")
        stamp.write_text(wanted, encoding="utf-8")
    return python


def uv(project: Project) -> tuple[Path, dict[str, str]]:
    """Have uv itself, for `make lock`; returns it, and the environment that it needs."""
    folder = project.state / "uv"
    program = folder / "bin" / "uv"
    if not program.exists():
        _install(project, project.root / "requirements" / "uv.txt", folder)
    bundle = ca_bundle(pip_configuration())
    return program, {**os.environ, **({"SSL_CERT_FILE": str(bundle)} if bundle else {})}


def _install(project: Project, requirements: Path, folder: Path) -> None:
    wheels = wheelhouse.wheels(project)
    say(f"making {folder.relative_to(project.root)} from requirements/{requirements.name}")
    where = str(wheels[0].parent) if wheels else ""
    install_script(project, str(folder), str(requirements), wheels=where)
    for path in [folder, *folder.rglob("*")] if os.getuid() == 0 else []:
        if not path.is_symlink():
            give_to_owner(path)


def install_script(project: Project, *words: str, wheels: str = "") -> None:
    """Run requirements/install.sh here, with this machine's Python, CA and pip.conf.

    Args:
        project: The clone.
        words: The script's arguments.
        wheels: The folder to install from; without one, from the index.

    Raises:
        Failure: there is no Python to do it with, or a package was not to be had.
    """
    base = find_python()
    if base is None:
        raise Failure("no Python 3.11 or newer on the path; on Debian: apt-get install python3", 1)
    if quiet(base, "-c", "import venv, ensurepip").returncode:
        raise Failure(
            f"{base} cannot make virtual environments; on Debian: apt-get install python3-venv", 1
        )
    env = {**os.environ, "LIGHTERAGE_PYTHON": base, "LIGHTERAGE_WHEELS": wheels}
    conf = pip_configuration()
    bundle = ca_bundle(conf)
    if conf:
        env["LIGHTERAGE_PIP_CONF"] = str(conf)
    if bundle:
        env["LIGHTERAGE_CA"] = str(bundle)
    script = project.root / "requirements" / "install.sh"
    done = subprocess.run(
        ["sh", str(script), *words],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.stderr.write(done.stdout[-4000:])
        source = "the wheelhouse" if wheels else "the package index"
        raise Failure(f"{source} did not give what it takes; see above", 1)


def settings(variant: Variant) -> dict[str, str]:
    """The environment of a task here: the caller's, and which variant's settings hold."""
    env = {**os.environ, "LIGHTERAGE_VARIANT": variant.name, "PYTHONUNBUFFERED": "1"}
    env.pop("LIGHTERAGE_ENV_FILE", None)
    folder = variant.project.root / ".venv"
    env["VIRTUAL_ENV"] = str(folder)
    env["PATH"] = os.pathsep.join([str(folder / "bin"), os.environ.get("PATH", os.defpath)])
    return env


def sample_address(project: Project, variant: Variant, python: Path) -> list[str]:
    """The option that points a task at the sample host here, when the env file names that host."""
    if envfiles.host_of(variant) != sample_host.ALIAS:
        return []
    return ["--remote-host-address", sample_host.up_on_loopback(project, variant, python)]


def foreground(project: Project, command: Sequence[str], env: dict[str, str]) -> int:
    """Run a command in the project's folder; signals reach it, and it decides how to end."""
    process = subprocess.Popen(command, env=env, cwd=project.root)

    # Ctrl-C reaches the whole process group by itself; the other signals are handed on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: process.send_signal(number))
    code = process.wait()
    return 128 - code if code < 0 else code


def task(project: Project, variant: Variant, verb: Sequence[str]) -> int:
    """Run the task package once, with the variant's settings."""
    python = project.root / ".venv" / "bin" / "python"
    return foreground(project, [str(python), "-m", "tasks", *verb], settings(variant))


def capture(project: Project, variant: Variant, verb: Sequence[str]) -> tuple[int, str]:
    """Run the task package and collect its standard output."""
    python = project.root / ".venv" / "bin" / "python"
    done = subprocess.run(
        [str(python), "-m", "tasks", *verb],
        env=settings(variant),
        cwd=project.root,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout
