"""The verbs for one variant, in a container or on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from docker.setup import containers, envfiles, host, images, sample_host
from docker.setup.engine import Engine, NoEngine
from docker.setup.project import Failure, Project, say
from docker.setup.variants import Variant
from docker.tools import reproduce as reproduction
from docker.tools import ship
from docker.tools import size as sizes

# What the tests run, and the Debian package of each: servers, shells of accounts, and tools.
TESTED_WITH = {
    "dropbear": "dropbear-bin", "proftpd": "proftpd-mod-crypto", "fish": "fish", "tcsh": "tcsh",
    "strace": "strace", "zip": "zip",
}  # fmt: skip
# How many schedules of faults they try.
FAULTS = "LIGHTERAGE_FAULTS"
# Programs that the benchmark runs beside the project.
PEERS = {
    "sshd": "openssh-server", "scp": "openssh-client", "rsync": "rsync", "lftp": "lftp",
    "unzip": "unzip", "igzip": "isal", "tar": "tar", "gzip": "gzip",
}  # fmt: skip


def runner(project: Project, variant: Variant | None = None) -> Engine | None:
    """The engine to run in, or None for this machine.

    Raises:
        Failure: a container was asked for, and no engine can be used.
    """
    if project.runner == "host":
        return None
    engine = Engine.look(project.engine)
    if isinstance(engine, Engine):
        return engine
    if project.runner == "container":
        raise Failure(f"RUNNER=container, but {engine}", 1)
    say(f"{engine.why}; running in .venv on this machine")
    say(f"for containers: {engine.fix}")
    if variant is not None and not variant.binds_tree:
        say(
            f"WARNING: {variant.name} runs without isolation: no container, no limits, a writable"
            " file system, this user's rights, the packages of requirements/dev.txt"
            " (RUNNER=container refuses this, RUNNER=host accepts it)"
        )
    return None


def engine_for(project: Project, verb: str) -> Engine:
    """The engine that a verb cannot do without.

    Raises:
        Failure: there is none, or the host runner was asked for.
    """
    if project.runner == "host":
        raise Failure(f"{verb} needs a container engine; RUNNER=host has run, config and shell")
    engine = Engine.look(project.engine)
    if isinstance(engine, NoEngine):
        raise Failure(f"{verb} needs a container engine, and {engine}", 1)
    return engine


def engine_if_any(project: Project) -> Engine | None:
    """The engine to remove containers from; None where none can be running.

    Raises:
        Failure: one runs, and this user may not use it.
    """
    if project.runner == "host":
        return None
    engine = Engine.look(project.engine)
    if isinstance(engine, Engine):
        return engine
    if engine.refused:
        raise Failure(str(engine), 1)
    say(f"{engine.why}: no containers to stop or remove")
    return None


def build(project: Project, variant: Variant) -> int:
    """Build the variant's image, or on this machine its virtual environment."""
    engine = runner(project, variant)
    with project.lock():
        if engine is None:
            host.environment(project)
        else:
            images.up_to_date(project, engine, variant.name, quietly=False)
    return 0


def run(project: Project, variant: Variant) -> int:
    """Run the chosen task once, and say how it ended when not well."""
    helping = any(word in ("-h", "--help") for word in project.args)
    address: list[str] = []
    with project.lock():
        envfiles.prepare(variant)
        engine = runner(project, variant)
        if engine is None:
            python = host.environment(project)
            address = [] if helping else host.sample_address(project, variant, python)
        else:
            services = [] if helping else [variant.service]
            containers.prepare(project, variant, engine, services)
    words = [project.task, *address, *project.args]
    if engine is None:
        code = host.task(project, variant, words)
    else:
        code = containers.task(project, variant, engine, words)
        if code == 0 and not helping and not variant.binds_tree:
            say(
                f"data/ is in the volume {variant.prefix}-data; "
                f"`make shell ENV={variant.name}` looks into it"
            )
    return containers.ended(project, variant, code)


def config(project: Project, variant: Variant) -> int:
    """Print the chosen task's settings and where each came from."""
    words = ["config", project.task, *project.args]
    with project.lock():
        envfiles.prepare(variant)
        engine = runner(project, variant)
        if engine is None:
            host.environment(project)
        else:
            containers.prepare(project, variant, engine, [])
    if engine is None:
        return host.task(project, variant, words)
    return containers.task(project, variant, engine, words)


def shell(project: Project, variant: Variant) -> int:
    """Open bash where the task would run."""
    with project.lock():
        envfiles.prepare(variant)
        engine = runner(project, variant)
        if engine is None:
            host.environment(project)
        else:
            containers.prepare(project, variant, engine, [variant.service])
    if engine is not None:
        return containers.shell(project, variant, engine)
    return host.foreground(project, ["bash", *project.args], host.settings(variant))


def up(project: Project, variant: Variant) -> int:
    """Start the services in the background."""
    envfiles.prepare(variant)
    engine = engine_for(project, "up")
    return containers.up(project, variant, engine)


def down(project: Project, variant: Variant) -> int:
    """Stop the services and the sample host, wherever it runs."""
    if sample_host.down_on_loopback(project, variant):
        say("ended the sample host on loopback")
    engine = engine_if_any(project)
    return containers.down(project, variant, engine) if engine else 0


def logs(project: Project, variant: Variant) -> int:
    """Print what the services said."""
    engine = engine_for(project, "logs")
    envfiles.make_files(variant)
    envfiles.write_compose_env(variant, engine)
    # compose 1.29 colours what goes into a pipe as well.
    plain = [] if sys.stdout.isatty() else ["--no-color"]
    return containers.compose(variant, engine, "logs", "--tail", "200", *plain, *project.args)


def clean(project: Project, variant: Variant) -> int:
    """Remove the variant's containers, networks and images."""
    sample_host.down_on_loopback(project, variant)
    engine = engine_if_any(project)
    if engine is None:
        say("kept: data/, envs/, .venv")
        return 0
    return containers.clean(project, variant, engine)


def trust(project: Project, variant: Variant) -> int:
    """Show the fingerprints of HOST's keys, and know them from now on after a yes.

    Raises:
        Failure: no HOST, or nobody to ask.
    """
    if not project.host:
        raise Failure("trust needs a host: make trust HOST=host[:port]")
    if not project.yes and not sys.stdin.isatty():
        raise Failure(
            "trust asks on a terminal; elsewhere say YES=1, fingerprints known to be right"
        )
    with project.lock():
        envfiles.prepare(variant)
        engine = runner(project, variant)
        if engine is None:
            host.environment(project)
        else:
            containers.prepare(project, variant, engine, [])
    words = ["scan", project.host]
    if engine is None:
        code, lines = host.capture(project, variant, words)
    else:
        code, lines = containers.capture(variant, engine, words)
    if code:
        return code
    if not project.yes:
        print(f"Trust these keys of {project.host}? [yes/no] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise Failure("nothing was added to envs/known_hosts", 1)
    with project.lock():
        added = envfiles.add_known_hosts(project, lines.splitlines())
    say(f"{added} new line(s) in envs/known_hosts; services that run read it after `make up`")
    return 0


def save(project: Project, variant: Variant) -> int:
    """Write the variant's image into one file, for machines that reach no registry."""
    engine = engine_for(project, "save")
    with project.lock():
        images.up_to_date(project, engine, variant.name)
        return ship.save(project, variant, engine)


def push(project: Project, variant: Variant) -> int:
    """Bring the variant's image to REGISTRY."""
    engine = engine_for(project, "push")
    with project.lock():
        images.up_to_date(project, engine, variant.name)
        return ship.push(project, variant, engine)


def reproduce(project: Project, variant: Variant) -> int:
    """Build the variant twice without cache, and compare."""
    engine = engine_for(project, "reproduce")
    if engine.builder is None:
        raise Failure("reproduce needs a client that can build; see make doctor", 1)
    return reproduction.reproduce(project, variant, engine)


def size(project: Project, variant: Variant) -> int:
    """Tell where each megabyte of the variant's image is."""
    engine = engine_for(project, "size")
    with project.lock():
        images.up_to_date(project, engine, variant.name)
    return sizes.size(project, variant, engine)


def sbom(project: Project, variant: Variant) -> int:
    """Print the bill of materials of the variant's image."""
    engine = engine_for(project, "sbom")
    with project.lock():
        images.up_to_date(project, engine, variant.name)
    return ship.sbom(project, variant, engine)


def load(project: Project) -> int:
    """Bring in FILE, which `save` wrote."""
    return ship.load(project, engine_for(project, "load"))


def test(project: Project) -> int:
    """Set up what the tests need, and run them; ARGS go to pytest."""
    python = host.environment(project)
    _have({**PEERS, **TESTED_WITH}, "tests that need it are skipped")
    env = {**_untold(), "LIGHTERAGE_TEST_ENGINE": project.engine}
    return host.foreground(project, [str(python), "-m", "pytest", *project.args], env)


def bench(project: Project) -> int:
    """Time the project beside its peers, which are installed where that is allowed."""
    python = host.environment(project)
    _have(PEERS, "it is left out")
    command = [str(python), "-m", "benchmarks.fetch", *project.args]
    return host.foreground(project, command, _for_benchmarks(project))


def bench_build(project: Project) -> int:
    """Time building and starting the prod image beside the one that the project grew out of."""
    engine_for(project, "bench-build")
    command = [str(host.environment(project)), "-m", "benchmarks.build", *project.args]
    return host.foreground(project, command, _for_benchmarks(project))


def _for_benchmarks(project: Project) -> dict[str, str]:
    """Return an environment in which the benchmarks find the tests' servers and these tools."""
    folders = ["tests/support"]
    return {**_untold(), "PYTHONPATH": os.pathsep.join(str(project.root / f) for f in folders)}


def _untold() -> dict[str, str]:
    """The environment without what this make was told: commands that run make are not meant."""
    drop = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")
    return {
        key: value
        for key, value in os.environ.items()
        if key not in drop and (key == FAULTS or not key.startswith("LIGHTERAGE_"))
    }


def _have(programs: dict[str, str], without: str) -> None:
    """Install programs that are missing, where that is allowed; say so where not.

    Args:
        programs: each with its Debian package.
        without: what happens where one is missing.
    """
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin"
    missing = {
        name: package for name, package in programs.items() if not shutil.which(name, path=path)
    }
    if not missing:
        return
    names, packages = ", ".join(missing), sorted(set(missing.values()))
    install = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", *packages]
    if os.getuid() or not shutil.which("apt-get"):
        say(f"no {names} here: {without} (Debian, as root: {' '.join(install[:2] + packages)})")
        return
    say(f"installing {' '.join(packages)}")
    # policy-rc.d's way of saying: install it, but start no service.
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for command in (["apt-get", "update", "-qq"], install):
        code = subprocess.run(command, env=env, stdout=subprocess.DEVNULL, check=False).returncode
        if code:
            say(f"{' '.join(command)} failed; of {names}: {without}")
            return
