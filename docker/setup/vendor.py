"""`make vendor`: bring the wheels that builds without a network install from."""

from __future__ import annotations

import os
import subprocess
import sys

from docker.setup import bases, front, host, images, wheelhouse
from docker.setup.engine import Engine
from docker.setup.project import Failure, Project, owner, say


def vendor(project: Project) -> int:
    """Fill the wheelhouse, for the Python of the containers, or with RUNNER=host for this one."""
    engine = front.runner(project)
    if project.offline:
        raise Failure("vendor brings what OFFLINE=1 builds take: run it without, on a network")
    with project.lock():
        folder = wheelhouse.folder_of(project)
        if engine is None:
            files = [str(file) for file in wheelhouse.requirements(project)]
            host.install_script(project, "--wheels", str(folder), *files)
        else:
            _in_container(project, engine)
        found = wheelhouse.record(project)
    size = sum(wheel.stat().st_size for wheel in found) / 1e6
    say(
        f"{len(found)} wheels, {size:.0f} MB, in {folder.relative_to(project.root)}; use: OFFLINE=1"
    )
    return 0


def _in_container(project: Project, engine: Engine) -> None:
    """Have the builds' own Python choose: its version, its platform, its markers."""
    _, arguments = bases.choose(project, engine)
    user = (0, 0) if engine.kind == "podman" and os.getuid() != 0 else owner()
    mounts = {"/requirements:ro": project.root / "requirements"}
    mounts["/wheels"] = wheelhouse.folder_of(project)
    for name, path in images.build_secrets().items():
        mounts[f"/run/secrets/{name}:ro"] = path
    command = [engine.client, "run", "--rm", "--user", "{}:{}".format(*user), "--env", "HOME=/tmp"]
    for target, source in mounts.items():
        command += ["--volume", f"{source}:{target}"]
    names = [f"/requirements/{file.name}" for file in wheelhouse.requirements(project)]
    command += ["--entrypoint", "sh", arguments["BASE"], "/requirements/install.sh"]
    done = subprocess.run(
        [*command, "--wheels", "/wheels", *names],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        sys.stderr.write(done.stdout[-4000:])
        raise Failure("the package index did not give all wheels; see above", 5)
