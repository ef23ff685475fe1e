"""Prepare what the recipes of a command need, and write what this machine has as a makefile."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from docker.setup import bases, envfiles, locks, sample_host, venv
from docker.setup.engine import CLIENT_VARIABLES, Engine, NoEngine, quiet
from docker.setup.project import Failure, Project, make_folder, owner, say, write_changed
from docker.setup.variants import Variant

# Goals that fail without an engine, and that end what runs here. Others run in .venv then.
NEED_ENGINE = {
    "up", "logs", "save", "push", "load", "reproduce", "size", "sbom", "diff", "verify",
    "bench-build",
}  # fmt: skip
STOP = {"down", "clean"}
# Those before which env files must be correct, and those that need no image.
START = {
    "run", "watch", "debug", "config", "status", "history", "show", "diff-data", "shell", "tasks",
    "schedule", "pause", "resume", "trust", "init", "up", "verify", "diff", "report",
}  # fmt: skip
NO_BUILD = {"logs", "load", "vendor", *STOP}
OCI = "org.opencontainers.image."
ANSWER_TIMEOUT_S = 10.0


def prepare(project: Project, output: str, *goals: str) -> None:
    """Check and make what the goals need, and write `output`, which make includes.

    Args:
        project: The clone and its variables.
        output: The makefile.
        goals: Such as `prod-run`, or `diff` for all variants.

    Raises:
        Failure: A goal cannot be reached here.
    """
    every = Variant.all(project)
    chosen = {variant: _verbs(variant, every, goals) for variant in every}
    verbs = set().union(*chosen.values())
    if project.offline and "vendor" in verbs:
        raise Failure("vendor downloads what OFFLINE=1 builds take: run it without, on a network")
    _check_live_tree(project, chosen)
    locks.report(project)
    with project.lock("prepare"):
        for variant in filter(chosen.get, every):
            if chosen[variant] & START:
                envfiles.prepare(variant)
            else:
                envfiles.make_files(variant)
        engine, answers = _engine(project, every)
        if isinstance(engine, NoEngine):
            _without_engine(project, engine, chosen)
            lines = {"FOUND": "host"}
        else:
            lines = _with_engine(project, engine, every, verbs, answers)
            for variant in filter(chosen.get, every):
                if variant.binds_tree:
                    _data_folders(project)
                envfiles.write_compose_env(variant, as_root=engine.root_is_caller)
        # By its path: the name can be a shim, which takes 70 ms longer each time.
        lines["PYTHON"] = shlex.quote(sys.executable)
        lines["SAMPLED"] = " ".join(v.name for v in every if sample_host.is_named(v))
        for variant in every:
            lines[f"SERVICES.{variant.name}"] = " ".join(variant.services)
            ports = variant.debug_ports.items()
            lines[f"PORTS.{variant.name}"] = " ".join(f"{name}={port}" for name, port in ports)
        text = "".join(f"{key} := {_escaped(value)}\n" for key, value in lines.items())
        write_changed(Path(output), "# Written by make: what this machine has.\n" + text)


def _check_live_tree(project: Project, chosen: Mapping[Variant, set[str]]) -> None:
    """Refuse to watch or debug a variant whose services do not see the working tree.

    Raises:
        Failure: One is to be watched or debugged.
    """
    for variant, verbs in chosen.items():
        if variant.binds_tree:
            continue
        if "watch" in verbs:
            raise Failure(f"watch: the {variant.name} variant does not see saves; use ENV=dev")
        if project.debugger and {"run", "debug"} & verbs:
            raise Failure(f"DEBUGGER=1: the {variant.name} variant has no debugger; use ENV=dev")


def _verbs(variant: Variant, every: Sequence[Variant], goals: Sequence[str]) -> set[str]:
    """Return the goals that concern a variant, without its name."""
    found = set()
    for goal in goals:
        name, _, verb = goal.rpartition("-")
        if name == variant.name:
            found.add(verb)
        elif name not in {other.name for other in every}:
            found.add(goal)
    return found


def _escaped(value: str) -> str:
    return value.replace("$", "$$").replace("#", "\\#")


def _without_engine(project: Project, engine: NoEngine, chosen: Mapping[Variant, set[str]]) -> None:
    """Say that this machine is the runner, and why.

    Raises:
        Failure: A goal needs an engine.
    """
    verbs = set().union(*chosen.values())
    on_purpose = project.runner == "host"
    for verb in sorted(verbs & NEED_ENGINE):
        if on_purpose:
            raise Failure(f"{verb} needs a container engine; RUNNER=host has run, config and shell")
        raise Failure(f"{verb} needs a container engine, and {engine}", 1)
    if project.runner == "container" and verbs - STOP:
        raise Failure(f"RUNNER=container, but {engine}", 1)
    if on_purpose:
        return
    if verbs <= STOP:
        # Containers that another user started from this clone may run.
        if engine.refused and _clients_file(project).exists():
            raise Failure(str(engine), 1)
        say(f"{engine.why}: no containers to stop or remove")
        return
    say(f"{engine.why}; running in .venv on this machine")
    say(f"for containers: {engine.fix}")
    for variant, goals in chosen.items():
        if goals - STOP and not variant.binds_tree:
            say(
                f"WARNING: {variant.name} runs without isolation: no container, no limits, a"
                " writable file system, this user's rights, the packages of requirements/dev.txt"
                " (RUNNER=container refuses this, RUNNER=host accepts it)"
            )


def _with_engine(
    project: Project,
    engine: Engine,
    variants: Sequence[Variant],
    verbs: set[str],
    answers: Mapping[str, str | None],
) -> dict[str, str]:
    """Return the lines for containers; have make renew what the engine no longer has.

    Raises:
        Failure: Nothing here can build, or there is no compose.
    """
    if verbs - NO_BUILD and project.offline:
        venv.check_wheels(project)
    if verbs - NO_BUILD and not engine.build:
        raise Failure(
            "no BuildKit-capable docker client on the path: install buildx (Debian: apt-get install"
            " docker.io, or docker-buildx-plugin from your engine's maker)",
            1,
        )
    if not engine.compose and verbs - {"build", "save", "push", "load", "size", "sbom", "vendor"}:
        raise Failure(f"no compose for {engine.kind}: install it, then see `make doctor`", 1)
    if not bases.references(project) or answers["engine"] is None:
        (bases.folder_of(project) / "stamp").unlink(missing_ok=True)
    for variant in variants:
        if answers.get(variant.name) is None:
            sample_host.stamp(variant).unlink(missing_ok=True)
    sample_host.trust(project)
    words = {"DOCKER": (engine.client,), "BUILD": engine.build, "COMPOSE": engine.compose}
    lines = {
        "FOUND": "container",
        "SOCKET": engine.socket,
        **{key: _typeable(value) for key, value in words.items()},
    }
    uid = (0, 0) if engine.root_is_caller else owner()
    lines["CONTAINER_USER"] = "{}:{}".format(*uid)
    secrets = venv.build_secrets()
    labels = _labels(project, answers)
    options = {
        "SECRETS": [f"--secret=id={name},src={path}" for name, path in secrets.items()],
        "SECRET_VOLUMES": [f"--volume={p}:/run/secrets/{name}:ro" for name, p in secrets.items()],
        "LABELS": [f"--label={name}={text}" for name, text in labels.items()],
    }
    return {**lines, **{name: shlex.join(words) for name, words in options.items()}}


def _typeable(words: Sequence[str]) -> str:
    """Return a command as one would type it: a program that is first on the path by its name."""
    names = [name if shutil.which(name := Path(w).name) == w else w for w in words]
    return shlex.join(names)


# --- which client --------------------------------------------------------------------------------


def _engine(
    project: Project, variants: Sequence[Variant]
) -> tuple[Engine | NoEngine, Mapping[str, str | None]]:
    """Return the engine to use, and what it and git answer to the questions of `_ask`.

    The clients that were found once are taken as long as they answer: to look takes 0.2 s.
    """
    if project.runner == "host":
        return NoEngine("RUNNER=host", "do without"), {}
    path = _clients_file(project)
    surroundings = [os.environ.get(name) for name in CLIENT_VARIABLES]
    # `docker context use` writes there which engine is meant.
    config = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker", "config.json")
    surroundings.append(str(config.stat().st_mtime_ns) if config.exists() else None)
    with contextlib.suppress(OSError, ValueError, TypeError):
        found_in, *words = json.loads(path.read_text(encoding="utf-8"))
        known = Engine(project.engine, *words)
        programs = [word for word in (known.client, *known.build, *known.compose) if "/" in word]
        current = found_in == surroundings and all(os.access(path, os.X_OK) for path in programs)
        answers = _ask(project, known, variants) if current else {}
        if answers.get("engine") is not None:
            return known, answers
    engine = Engine.look(project.engine)
    if isinstance(engine, NoEngine):
        return engine, {}
    if engine.build and engine.compose:
        facts = [surroundings, engine.client, engine.build, engine.compose, engine.socket]
        write_changed(path, json.dumps(facts))
    return engine, _ask(project, engine, variants)


def _clients_file(project: Project) -> Path:
    """Return the file that is there once this clone has used the engine."""
    return project.state / f"{project.engine}-clients.json"


def _ask(project: Project, engine: Engine, variants: Sequence[Variant]) -> Mapping[str, str | None]:
    """Ask everything at once; return each answer, and None for a question that failed.

    `engine` is whether it has the bases, or else whether there is one; the name of a variant,
    whether its sample host answers. git is asked for the labels.
    """

    def output(*command: str) -> str | None:
        done = quiet(*command, timeout=ANSWER_TIMEOUT_S)
        return None if done.returncode else done.stdout.strip()

    def has_bases() -> str | None:
        images = bases.references(project)
        if not images:
            return output(*engine.version_command)
        return "" if all(engine.inspect("image", name) for name in images) else None

    git = ("git", "-C", str(project.root))
    questions: dict[str, Callable[[], str | None]] = {
        "engine": has_bases,
        "commit": lambda: output(*git, "log", "-1", "--format=%H %cI"),
        "status": lambda: output(*git, "status", "--porcelain"),
        "source": lambda: output(*git, "config", "--get", "remote.origin.url"),
    }
    for variant in variants:
        if sample_host.is_named(variant) and sample_host.stamp(variant).exists():
            questions[variant.name] = partial(sample_host.greets, engine, variant)
    answers: dict[str, str | None] = {}

    def ask(name: str) -> None:
        answers[name] = questions[name]()

    threads = [threading.Thread(target=ask, args=(name,)) for name in questions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


# --- what an image is of --------------------------------------------------------------------------


def _labels(project: Project, answers: Mapping[str, str | None]) -> dict[str, str]:
    """Return what an image is of, in the OCI's terms (image-spec, annotations)."""
    text = (project.root / "pyproject.toml").read_text(encoding="utf-8")
    version = re.search(r'^version = "([^"]+)"$', text, re.MULTILINE)
    found = {OCI + "title": project.name, OCI + "version": version[1] if version else "0"}
    commit, _, date = (answers["commit"] or "").partition(" ")
    if commit:
        found[OCI + "revision"] = commit + ("-dirty" if answers["status"] else "")
        found[OCI + "created"] = date
    source = public_address(answers["source"] or "")
    if source:
        found[OCI + "source"] = source
    return found


def public_address(url: str) -> str:
    """Return a remote's address without an account; nothing where it is a path of this machine."""
    scp = re.fullmatch(r"(?:[^@/]+@)?([^:/]+):(?!//)(.+)", url)
    if scp:
        return f"ssh://{scp.group(1)}/{scp.group(2)}"
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http", "ssh", "git") or not parts.hostname:
        return ""
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"


def _data_folders(project: Project) -> None:
    """Make data/ and data/task_N: the engine would make them too, but as root's."""
    tasks = [path.stem for path in project.root.glob("tasks/task_*.py")]
    for folder in [project.root / "data", *(project.root / "data" / task for task in tasks)]:
        make_folder(folder)
