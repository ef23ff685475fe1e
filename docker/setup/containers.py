"""The container runner: one-off runs, services, logs and cleaning, through compose."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from docker.setup import envfiles, images, sample_host
from docker.setup.engine import Engine
from docker.setup.errors_of_compose import Errors
from docker.setup.project import Failure, Project, give_to_owner, say
from docker.setup.variants import Variant

# The tasks promise to end within two seconds of a signal; compose and the engine need some more.
ENDING_SECONDS = 8.0
CHECK_SETTINGS = """
import sys
from tasks.__main__ import main
for words in (*(["config", task] for task in sys.argv[1:]), ["schedule", "--dry-run"]):
    code = main(words)
    if code:
        sys.exit(code)
"""
EXIT_MEANINGS = {
    1: "a bug, or the engine refused; see above",
    2: "usage or configuration",
    3: "remote path",
    4: "authentication or host key",
    5: "network",
    6: "integrity",
    7: "unsafe or broken archive",
    8: "local disk",
    9: "busy: another run of it is going on",
    129: "hung up",
    130: "interrupted",
    143: "terminated",
}


def ended(project: Project, variant: Variant, code: int) -> int:
    """Say how a task ended, when not well, and hand its exit code on."""
    if code:
        meaning = EXIT_MEANINGS.get(code, "see above")
        say(f"task {project.task} ({variant.name}) ended with exit code {code}: {meaning}")
    return code


def prepare(project: Project, variant: Variant, engine: Engine, services: Sequence[str]) -> None:
    """Have ready all that a container of the variant needs; one command at a time.

    Args:
        project: the clone and its knobs.
        variant: whose container.
        engine: where.
        services: those to which the sample host must be connected, when the env file names it.
    """
    wants_sample = bool(services) and envfiles.host_of(variant) == sample_host.ALIAS
    wanted = [variant.name, "sample-host"] if wants_sample else [variant.name]
    if variant.binds_tree:
        _data_folders(project)
    mounted = [variant.name] if variant.binds_tree else []
    images.up_to_date(project, engine, *wanted, mounted=mounted)
    sample_host.make_networks(variant, engine, services or [variant.service])
    if wants_sample:
        sample_host.up(project, variant, engine, services)
    envfiles.write_compose_env(variant, engine)  # after known_hosts changed


def _data_folders(project: Project) -> None:
    """Make data/ and data/task_N: the engine would make them too, but as root's."""
    tasks = [path.stem for path in project.root.glob("tasks/task_*.py")]
    for folder in [project.root / "data", *(project.root / "data" / task for task in tasks)]:
        if not folder.is_dir():
            folder.mkdir(exist_ok=True)
            give_to_owner(folder)


def task(project: Project, variant: Variant, engine: Engine, verb: Sequence[str]) -> int:
    """Run the task package once in a container of the variant.

    Args:
        project: the clone and its knobs.
        variant: whose container.
        engine: where.
        verb: the package's own arguments, such as `2 --keep-archive` or `config 2`.

    Returns:
        The exit code.
    """
    env = {}
    flags: list[str] = []
    if project.debugger:
        if not variant.binds_tree:
            raise Failure(f"DEBUGGER=1: the {variant.name} variant has no debugger; use ENV=dev")
        env["LIGHTERAGE_ENTRYPOINT"] = (
            "python -m debugpy --listen 0.0.0.0:5678 --wait-for-client -m tasks"
        )
        flags.append("--service-ports")
        say("the task waits for a debugger on the service's port of 127.0.0.1")
    return _one_off(variant, engine, flags, verb, env)


def shell(project: Project, variant: Variant, engine: Engine) -> int:
    """Open bash in a container of the variant, or run what ARGS say there."""
    return _one_off(variant, engine, ["--entrypoint", "bash"], project.args, {})


def capture(variant: Variant, engine: Engine, verb: Sequence[str]) -> tuple[int, str]:
    """Run the task package in a container and collect its standard output."""
    command, env = _compose(variant, engine, "run", "--rm", "-T", variant.service, *verb)
    return _collected(variant, command, env)


def _collected(variant: Variant, command: Sequence[str], env: Mapping[str, str]) -> tuple[int, str]:
    with subprocess.Popen(
        command, env=dict(env), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stderr is not None  # noqa: S101, PT018
        errors = Errors(process.stderr, variant.compose_file)
        output = process.stdout.read().decode("utf-8", "replace")
        code = process.wait()
        errors.finish({code})
    return code, output


def _compose(variant: Variant, engine: Engine, *words: str) -> tuple[list[str], dict[str, str]]:
    """A compose command line for the variant, whatever project name the environment has."""
    return engine.compose_command(variant.compose_file, *words, project=variant.prefix)


def _one_off(
    variant: Variant,
    engine: Engine,
    flags: Sequence[str],
    words: Sequence[str],
    extra: Mapping[str, str],
) -> int:
    name = f"{variant.prefix}-run-{os.getpid()}-{secrets.token_hex(3)}"
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    run = ["run", "--rm", "--name", name, *flags, *_agent(variant)]
    if not terminal:
        run.append("-T")
    command, env = _compose(variant, engine, *run, variant.service, *words)
    env.update(extra)
    return supervise(command, env, terminal, engine, name, compose_file=variant.compose_file)


def _agent(variant: Variant) -> list[str]:
    """Hand the caller's SSH agent to a development container; prod has no business with it."""
    socket = os.environ.get("SSH_AUTH_SOCK", "")
    if not (variant.binds_tree and socket and Path(socket).is_socket()):
        return []
    return ["-v", f"{socket}:/run/ssh-agent", "-e", "SSH_AUTH_SOCK=/run/ssh-agent"]


class _Signalled(Exception):  # noqa: N818 - a message from the signal handler, not an error
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def supervise(
    command: Sequence[str],
    env: Mapping[str, str],
    terminal: bool,
    engine: Engine,
    container: str,
    *,
    compose_file: Path,
) -> int:
    """Run compose in the foreground and hand signals on to the container.

    Compose 1.29 answers a signal by stopping the container after ten seconds and exit code 1;
    without a terminal it therefore runs in a session of its own, where it does not see them.
    With one, the client hands Ctrl-C through as a byte.

    Returns:
        The container's exit code, or 128 plus the signal's number.
    """

    def note(number: int, _frame: FrameType | None) -> None:
        # A terminal and make both send it: the second must not break off the ending.
        for later in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(later, signal.SIG_IGN)
        raise _Signalled(number)

    # Inherited: compose that still loads shows a traceback for an early Ctrl-C otherwise.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A session of its own has no terminal to read from.
    own_input = terminal or not sys.stdin.isatty()
    process = subprocess.Popen(
        command,
        env=dict(env),
        stdin=None if own_input else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=not terminal,
    )
    assert process.stderr is not None  # noqa: S101 - it was asked for
    errors = Errors(process.stderr, compose_file)
    try:
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, note)
        code = process.wait()
    except _Signalled as signalled:
        code = 128 + signalled.number
        _end(process, engine, container, signalled.number)
    errors.finish({code, process.returncode})
    return code


def _end(process: subprocess.Popen[bytes], engine: Engine, container: str, number: int) -> None:
    """Send the signal to the container, which may not exist yet, and leave nothing behind."""
    deadline = time.monotonic() + ENDING_SECONDS
    told = False
    while process.poll() is None and time.monotonic() < deadline:
        if not told:
            answer = engine.ask("kill", "--signal", str(number), container)
            told = answer.returncode == 0
        time.sleep(0.05)
    if process.poll() is None:
        process.kill()
        process.wait()
    engine.ask("rm", "--force", container)


def compose(variant: Variant, engine: Engine, *arguments: str) -> int:
    """Run a compose command on the variant's file, its output shown."""
    command, env = _compose(variant, engine, *arguments)
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None  # noqa: S101 - it was asked for
        errors = Errors(process.stderr, variant.compose_file, hold_all=arguments[0] == "up")
        try:
            code = process.wait()
        except KeyboardInterrupt:  # which compose has received as well
            code = 130
            process.wait()
        errors.finish({code})
    return code


def up(project: Project, variant: Variant, engine: Engine) -> int:
    """Start the variant's services in the background."""
    with project.lock():
        prepare(project, variant, engine, [])
        sample_host.make_networks(variant, engine, variant.services)
        code = _check_settings(project, variant, engine)
        if code:
            say(f"no service of {variant.name} was started: correct the settings above first")
            return code
        prepare(project, variant, engine, variant.services)
        return compose(variant, engine, "up", "--detach", *project.args)


def _check_settings(project: Project, variant: Variant, engine: Engine) -> int:
    """Have the services' own image check the settings of every task and the schedules.

    A service with wrong settings would be started again for ever.

    Returns:
        The exit code.
    """
    tasks = sorted(path.stem[len("task_") :] for path in project.root.glob("tasks/task_*.py"))
    command, env = _compose(
        variant, engine, "run", "--rm", "-T", "--entrypoint", "python -c", variant.service,
        CHECK_SETTINGS, *tasks,
    )  # fmt: skip
    return _collected(variant, command, env)[0]


def down(project: Project, variant: Variant, engine: Engine) -> int:
    """Stop the variant's services and its sample host."""
    with project.lock():
        envfiles.make_files(variant)
        envfiles.write_compose_env(variant, engine)
        sample_host.down(variant, engine)
        code = compose(variant, engine, "down", "--remove-orphans")
        # Made by these tools for single runs: compose calls them its own only on some versions.
        for service in variant.services:
            engine.ask("network", "rm", variant.network(service))
        return code


def clean(project: Project, variant: Variant, engine: Engine) -> int:
    """Remove the variant's containers, networks and image, and the images that it was built from.

    Another variant's image does not need those; a build creates them again.
    """
    code = down(project, variant, engine)
    with project.lock():
        envfiles.container_copy(variant).unlink(missing_ok=True)
        bases = engine.ask(
            "image", "ls", "--format", "{{.Repository}}:{{.Tag}}",
            "--filter", f"reference={project.name}-base",
        ).stdout.split()  # fmt: skip
        unwanted = [images.tag_of(project, name) for name in (variant.name, "sample-host")]
        for image in engine.inspect("image", *unwanted, *bases):
            answer = engine.ask("image", "rm", image)
            if answer.returncode:
                say(f"kept image {image}: {' '.join(answer.stderr.split())}")
    say(f"{variant.name} is clean; kept: data/, envs/, the volumes {variant.prefix}-data and")
    say(f"{project.name}-sample-host where they exist (remove with `{engine.kind} volume rm`)")
    return code
