"""The command line: `python -m tasks N [options]`, or one of the verbs in options.py.

Fabric and other slow imports happen where they are needed, so that `--help` is fast.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import pwd
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import tasks
from tasks.config_file import load_config
from tasks.fetch import dial, interrupt, memory
from tasks.fetch.errors import ConfigError, Interrupted, LighterageError, did_you_mean, printable
from tasks.options import PREFIX, VERBS, given, known_tasks, output_options, parse
from tasks.resolve import resolve
from tasks.result import Result
from tasks.settings import FIELDS, VARIANTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tasks.config_file import Config
    from tasks.resolve import Resolved

log = logging.getLogger("tasks")

TASK = "task"
"""The kind of a failure in a task module."""
OWN_MODULES = {
    f"tasks/{name}.py"
    for name in (
        "__main__", "config_file", "env_file", "options", "resolve", "result", "schedule",
        "settings",
    )
}  # fmt: skip
"""The modules of `tasks` in which an unexpected exception is a bug of Lighterage."""


def _task_of(words: list[str], parsed: argparse.Namespace) -> str:
    """Return the task that was named, as a word or by --task."""
    named = [*words, *([parsed.task] if parsed.task else [])]
    known = known_tasks()
    if not named:
        raise ConfigError(
            f"no task given: expected one of {', '.join(known)}, as in: python -m tasks 1"
        )
    for task in named:
        if task not in known:
            hint = did_you_mean(task, [*known, *VERBS])
            raise ConfigError(
                f"{task!r} is not a task{hint}: known are {', '.join(known)} (tasks/task_N.py)"
            )
    if len(set(named)) > 1:
        raise ConfigError(f"one task at a time: {' '.join(named)} were given")
    return str(named[0])


def _settings_of(task: str, parsed: argparse.Namespace) -> Resolved:
    given = {name: value for name, value in vars(parsed).items() if name in FIELDS}
    resolved = resolve(task, given, config_file=parsed.config_file)
    _use_variables(resolved.others)
    _log_at(resolved.settings.log_level)
    return resolved


def _use_variables(others: Mapping[str, str]) -> None:
    """Set the env file's other variables, which are for the user's own tasks."""
    os.environ.update(others)
    if "TZ" in others:
        time.tzset()
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:  # a container's uid, whose name the SSH libraries look up
        os.environ.update(LOGNAME=str(os.getuid()))


def _log_at(level: str) -> None:
    """Log to standard error; at DEBUG also the libraries' logs of INFO and above.

    Paramiko logs tracebacks of its threads at ERROR, which users are not shown.
    """
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO if level == "DEBUG" else logging.CRITICAL + 1,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
    )
    log.setLevel(level)
    # Paramiko's threads end with an exception when the connection ends.
    threading.excepthook = lambda ended: log.debug(
        "%s: %s: %s", ended.thread and ended.thread.name, ended.exc_type.__name__, ended.exc_value
    )


def _run(task: str, parsed: argparse.Namespace, result: Result) -> int:
    settings = _settings_of(task, parsed).settings.require()
    result.begin(settings)
    # Not where this run may have to wait, while the host waits for a login.
    if not settings.wait and not settings.max_connections:
        dial.start(settings.remote_host_address, settings.ssh_config_file, settings.timeout)
    memory.keep_freed()
    import importlib

    from tasks.fetch.api import Report, execute

    module = importlib.import_module(f"tasks.{known_tasks()[task]}")
    if not hasattr(module, "run"):
        raise ConfigError(f"tasks/{PREFIX}{task}.py: has no function run(fetch)")
    report = execute(settings, module.run)
    if not isinstance(report, Report):
        raise ConfigError(f"tasks/{PREFIX}{task}.py: run() must return the report of its fetch")
    code = report.exit_code
    if report.status == "unchanged" and not code:
        code = settings.unchanged_exit_code
    result.succeed(report, code)
    return code


def _prune(task: str, parsed: argparse.Namespace, result: Result) -> int:
    settings = _settings_of(task, parsed).settings
    from tasks.fetch.progress import human
    from tasks.fetch.stores import open_store

    dry_run = settings.dry_run
    store = open_store(str(settings.target), overwrite=True)
    runs, objects, size = store.prune(
        keep_runs=settings.keep_runs, min_age_s=settings.min_age, dry_run=dry_run
    )
    if parsed.json:
        status = "planned" if dry_run else "pruned"
        print(result.text({"status": status, "runs": runs, "objects": objects, "bytes": size}))
    else:
        verb = "would delete" if dry_run else "deleted"
        print(
            f"task {task} ({settings.variant}): {verb} {objects} objects of {runs} earlier runs, "
            f"{human(size)}, in {printable(str(settings.target))}"
        )
    return 0


def _config(task: str, parsed: argparse.Namespace, result: Result) -> int:
    rows = _settings_of(task, parsed).rows()
    config = load_config(parsed.config_file)
    for variant in sorted({*VARIANTS, *config.variants}):
        _next_runs(config, variant)
    if parsed.json:
        print(
            result.text({name: {"value": value, "origin": origin} for name, value, origin in rows})
        )
        return 0
    wide = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, value, origin in rows:
        print(printable(f"{name:{wide[0]}}  {value:{wide[1]}}  {origin}").rstrip())
    return 0


def _next_runs(config: Config, variant: str) -> list[str]:
    """Check the schedules of a variant; return a line for each task that has one."""
    lines = []
    for task, cron in config.schedules(variant).items():
        if task not in known_tasks():
            raise ConfigError(
                f"{config.path}: tasks.{task} has a schedule, but there is no such task"
            )
        from tasks.schedule import next_run

        lines.append(f"task {task}: next run {next_run(task, cron)}")
    return lines


def _schedule(parsed: argparse.Namespace) -> int:
    if parsed.task:
        raise ConfigError(
            "schedule takes no --task: it runs each task that has a schedule in config.yaml"
        )
    resolved = _settings_of(next(iter(known_tasks())), parsed)
    config = load_config(parsed.config_file)
    variant = resolved.settings.variant
    lines = _next_runs(config, variant)
    if parsed.unchanged_exit_code:
        raise ConfigError(
            "schedule takes no --unchanged-exit-code: nothing reads the exit codes of its runs; "
            "read their result files (result_file)"
        )
    files = [
        settings.result_file.resolve()
        for task in config.schedules(variant)
        if (settings := _settings_of(task, parsed).settings.require()).result_file
    ]
    if len(set(files)) < len(files):
        raise ConfigError(
            f"{len(files)} scheduled tasks have one result_file, {files[0]}: set another for each "
            f"in {config.path}"
        )
    for name in ("remote_file_path", "file_save_path"):
        if len(lines) > 1 and getattr(parsed, name):
            raise ConfigError(
                f"schedule takes no --{name.replace('_', '-')} for {len(lines)} tasks: set it in "
                f"{config.path} for each"
            )
    if parsed.dry_run:
        print("\n".join(lines or [f"no task has a schedule for {variant} in {config.path}"]))
        return 0
    from tasks.schedule import serve

    return serve(config, variant, given(parsed))


def _health() -> int:
    from tasks.schedule import healthy

    if healthy():
        return 0
    print(
        "lighterage: the scheduler does not run, or hangs: its heartbeat is missing or too old",
        file=sys.stderr,
    )
    return 1


def _scan(address: str, parsed: argparse.Namespace) -> int:
    parsed.remote_host_address = address
    settings = _settings_of(next(iter(known_tasks())), parsed).settings
    from tasks.fetch.ssh.key_scan import scan

    for name, key in scan(settings):
        print(f"{name} {key.get_name()} {key.get_base64()}")
        print(f"{name} {key.get_name()} {key.fingerprint}", file=sys.stderr)
    return 0


def _dispatch(arguments: Sequence[str], result: Result) -> int:
    words, parsed = parse(arguments)
    if words[1:] in (["config"], ["prune"]):  # as `make run TASK=2 ARGS=prune` has them
        words.reverse()
    verb, operands = (words[0], words[1:]) if words and words[0] in VERBS else ("", words)
    if verb == "scan":
        if len(operands) != 1:
            raise ConfigError("scan takes one host: python -m tasks scan HOST[:PORT]")
        return _scan(operands[0], parsed)
    if verb in {"schedule", "health"}:
        if operands:
            raise ConfigError(f"{verb} takes no {operands[0]!r}")
        return _schedule(parsed) if verb == "schedule" else _health()
    task = _task_of(operands, parsed)
    call = {"config": _config, "prune": _prune}.get(verb, _run)
    return call(task, parsed, result)


def main(arguments: Sequence[str]) -> int:
    """Run one command line; print one line if it fails, and return the exit code."""
    result = Result(*output_options(arguments))
    interrupt.install(result.end_by_force)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # for names that the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    try:
        return _dispatch(arguments, result)
    except SystemExit as end:  # --help, or a task's own
        if end.code is None or isinstance(end.code, int):
            return result.end(end.code or 0)
        return result.fail(LighterageError.exit_code, TASK, str(end.code))
    except LighterageError as error:
        return result.fail(error.exit_code, error.kind, str(error))
    except Interrupted as stop:
        interrupt.clean_up()  # a signal may arrive at the very start or end of a block
        landed = stop.landed or result.landed
        text = "the new data had landed" if landed else "nothing was changed"
        return result.fail(stop.exit_code, "interrupted", text)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and not result.running:
            return 0  # the reader of the output has closed it
        log.debug("%s", type(error).__name__, exc_info=True)
        return result.fail(LighterageError.exit_code, *_unexpected(error))


def _unexpected(error: Exception) -> tuple[str, str]:
    """Return the kind and text of an unexpected exception, in a task or in Lighterage."""
    root = Path(tasks.__file__).parents[1]
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        places.append((error.filename or "", error.lineno))
    # .venv, with the installed packages, may be below the root as well.
    below = [
        (Path(name).relative_to(root), line)
        for name, line in places
        if Path(name).is_relative_to(root) and "site-packages" not in name
    ]
    file, line = below[-1] if below else (Path("tasks/__main__.py"), 0)
    is_bug = file.parts[:2] == ("tasks", "fetch") or str(file) in OWN_MODULES
    text = f"{file}:{line}: {type(error).__name__}: {error}"
    if isinstance(error, ModuleNotFoundError) and not is_bug:
        return TASK, (
            f"{text}: add the package to requirements/prod.in (or to dev.in, where dev alone needs "
            "it), and run `make lock`"
        )
    bug = "a bug: " if is_bug else ""
    text += f" ({bug}--log-level DEBUG shows where it was called from)"
    return LighterageError.kind if is_bug else TASK, text


def _exit(code: int) -> NoReturn:
    """End the process without waiting for threads: one of a lost connection may hang."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:  # closed by the caller
            continue
        try:
            with contextlib.suppress(BrokenPipeError):
                stream.flush()
        except OSError as error:
            code = code or 1
            with contextlib.suppress(OSError):
                os.write(2, f"lighterage: cannot write the output: {error.strerror}\n".encode())
    os._exit(code)


if __name__ == "__main__":
    _exit(main(sys.argv[1:]))
