"""The verbs for one variant, in a container or on this machine."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys

from docker.setup import bases, containers, envfiles, host, images, sample_host
from docker.setup.engine import Engine, NoEngine
from docker.setup.project import Failure, Project, say
from docker.setup.variants import Variant

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


def tool(project: Project, verb: str, *names: str) -> int:
    """Prepare what a verb of docker.tools needs, and run it in .venv."""
    python = host.environment(project)
    env = {**os.environ}
    ca = images.ca_bundle(images.pip_configuration())
    env.update({"LIGHTERAGE_CA": str(ca)} if ca else {})
    variants = [Variant.named(project, name) for name in names] or Variant.all(project)
    engine = None
    if verb == "trust":
        for variant in variants:
            envfiles.prepare(variant)
        engine = runner(project, variants[0]) if project.host else None
    elif verb != "audit":
        engine = engine_for(project, verb)
    if engine is not None:
        words = {"DOCKER": [engine.client]}
        if engine.compose:
            compose, extra = engine.compose
            words["COMPOSE"] = ["env", *(f"{k}={v}" for k, v in extra.items()), *compose]
        with project.lock():
            for variant in Variant.all(project) if verb in ("diff", "verify") else variants:
                if verb != "load":
                    envfiles.prepare(variant)
                    containers.prepare(project, variant, engine, [])
                if verb == "verify":
                    images.up_to_date(project, engine, "sample-host")
                    sample_host.up(project, variant, engine, [variant.service])
                    envfiles.write_compose_env(variant, engine)
        if verb == "reproduce" and engine.builder:
            client, extra = engine.builder
            _, arguments = bases.choose(project, engine)
            words["BUILD"] = [
                "env", "SOURCE_DATE_EPOCH=1767225600", *(f"{k}={v}" for k, v in extra.items()),
                client, "build",
                *(f"--build-arg={k}={v}" for k, v in arguments.items()),
                *(f"--secret=id={k},src={v}" for k, v in images.build_secrets().items()),
            ]  # fmt: skip
        env.update({f"LIGHTERAGE_{key}": shlex.join(found) for key, found in words.items()})
    command = [str(python), "-m", "docker.tools", verb, *names]
    return subprocess.run(command, env=env, cwd=project.root, check=False).returncode


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
