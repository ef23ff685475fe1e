"""The command line: `python -m tasks N [options]`, and what else there is to ask.

Nothing but the settings is loaded before it is needed: `--help` answers at once.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
import logging
import os
import pkgutil
import pwd
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import tasks
from tasks.config_file import load_config
from tasks.fetch import interrupt
from tasks.fetch.errors import ConfigError, Interrupted, LighterageError, did_you_mean, printable
from tasks.resolve import resolve
from tasks.settings import FIELDS, TYPES, VARIANTS, StringList, choices

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tasks.config_file import Config
    from tasks.resolve import Resolved

log = logging.getLogger("tasks")

PREFIX = "task_"
TASK = "task"
"""The kind of a failure that is a task module's own."""
OURS = (
    "tasks", "tasks/__main__.py", "tasks/env_file.py", "tasks/schedule.py", "tasks/settings.py",
)  # fmt: skip
VERBS = {
    "config": "print the settings of a task, and where each came from: config N",
    "schedule": "run the tasks by their schedule, until a signal; each run gets the options, and\n"
    "            --dry-run checks the schedules only",
    "health": "exit 0 while `schedule` lives",
    "scan": "print a host's keys as lines for known_hosts: scan HOST[:PORT]",
}
EXIT_CODES = """\
exit codes:
  0 done, or nothing to do      5 network
  1 a bug, here or in a task    6 integrity: not the bytes that the host has
  2 usage or configuration      7 unsafe or broken archive
  3 remote path, or no match    8 local disk, or the target must not be replaced
  4 authentication or host key  9 busy: another run lands in the same place
  130, 143 interrupted by SIGINT, SIGTERM"""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, with the nearest known option."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message.replace("ignored explicit argument", "takes no value, not"))


def _known_tasks() -> dict[str, str]:
    """Return each task's name and module: tasks/task_N.py is task N."""
    found = [module.name for module in pkgutil.iter_modules(tasks.__path__)]
    found.sort(key=lambda name: (len(name), name))  # task_10 after task_9
    return {name.removeprefix(PREFIX): name for name in found if name.startswith(PREFIX)}


def _docstring(module: str) -> str:
    """Read what a task says of itself, without running it."""
    for folder in tasks.__path__:
        file = Path(folder) / f"{module}.py"
        with contextlib.suppress(FileNotFoundError, SyntaxError, ValueError):  # told when it is run
            return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return ""


def _parser(description: str, usage: str) -> _Parser:
    parser = _Parser(
        prog="python -m tasks",
        usage=f"python -m tasks {usage}",
        description=description,
        epilog=EXIT_CODES,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    settings = parser.add_argument_group("settings (also in config.yaml, with underscores)")
    for name, item in FIELDS.items():
        if item.metadata.get("cli") is False:
            continue
        option, text = f"--{name.replace('_', '-')}", item.metadata["help"]
        if item.default not in (None, "", (), name):
            text += f" (default: {_shown(item.default)})"
        if TYPES[name] is bool:
            settings.add_argument(
                option, dest=name, action=argparse.BooleanOptionalAction, default=None, help=text
            )
        else:
            hint = choices(name) or name.upper()
            action = "append" if TYPES[name] is StringList else "store"
            settings.add_argument(option, dest=name, help=text, metavar=hint, action=action)
    parser.add_argument("--config-file", type=Path, help="instead of config.yaml of this folder")
    parser.add_argument("--json", action="store_true", default=None, help="the result as JSON")
    return parser


def _shown(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _overview() -> str:
    known = {name: _docstring(module).partition("\n")[0] for name, module in _known_tasks().items()}
    rows = [f"  {name:9} {text}" for name, text in (known | VERBS).items()]
    return "\n".join(["Fetches datasets over SSH, and lands them verified.", "", *rows])


def _parse(arguments: Sequence[str]) -> tuple[list[str], argparse.Namespace]:
    """Split the command line into words (a verb or a task, and its operand) and options."""
    normal = [_dashed(argument) for argument in arguments]
    words = [argument for argument in normal if not argument.startswith("-")]
    known = _known_tasks()
    task = next((word for word in words if word in known), "")
    if task and words[0] not in VERBS:
        parser = _parser(_docstring(known[task]), f"{task} [options]")
    else:
        parser = _parser(_overview(), f"{{{','.join([*known, *VERBS])}}} [options]")
    parsed, unknown = parser.parse_known_intermixed_args(normal)
    if unknown:
        options = [option for action in parser._actions for option in action.option_strings]
        name = unknown[0].partition("=")[0]
        raise ConfigError(f"unknown option {name}{did_you_mean(name, options)}; --help lists them")
    return list(parsed.words), parsed


def _dashed(argument: str) -> str:
    """Accept --file_save_path for --file-save-path."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value


def _task_of(words: list[str], parsed: argparse.Namespace) -> str:
    """Return the one task that was named, by its word or by --task."""
    named = [*words, *([parsed.task] if parsed.task else [])]
    known = _known_tasks()
    if not named:
        raise ConfigError(
            f"no task given: name one of {', '.join(known)}, as in: python -m tasks 1"
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
    """Give the user's own tasks the env file's other variables, in a container and without one."""
    os.environ.update(others)
    if "TZ" in others:
        time.tzset()
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:  # a container's uid: the SSH libraries ask for its name
        os.environ.update(LOGNAME=str(os.getuid()))


def _log_at(level: str) -> None:
    """Log on standard error. The libraries' own logs come in at DEBUG only, at INFO and above.

    Paramiko writes tracebacks of its threads at ERROR, and a user is to see none.
    """
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO if level == "DEBUG" else logging.CRITICAL + 1,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
    )
    log.setLevel(level)
    # Paramiko's threads end with an exception when the connection does.
    threading.excepthook = lambda ended: log.debug(
        "%s: %s: %s", ended.thread and ended.thread.name, ended.exc_type.__name__, ended.exc_value
    )


def _run(task: str, parsed: argparse.Namespace) -> int:
    resolved = _settings_of(task, parsed)
    settings = resolved.settings.require()
    import importlib

    from tasks.fetch.api import Report, execute

    module = importlib.import_module(f"tasks.{_known_tasks()[task]}")
    if not hasattr(module, "run"):
        raise ConfigError(f"tasks/{PREFIX}{task}.py: has no function run(fetch)")
    report = execute(settings, module.run)
    if not isinstance(report, Report):
        raise ConfigError(f"tasks/{PREFIX}{task}.py: run() must return the report of its fetch")
    print(_json(report.data()) if parsed.json else "\n".join(map(printable, report.lines())))
    return report.exit_code


def _config(task: str, parsed: argparse.Namespace) -> int:
    rows = _settings_of(task, parsed).rows()
    config = load_config(parsed.config_file)
    for variant in sorted({*VARIANTS, *config.variants}):
        _next_runs(config, variant)
    if parsed.json:
        print(_json({name: {"value": value, "origin": origin} for name, value, origin in rows}))
        return 0
    wide = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, value, origin in rows:
        print(printable(f"{name:{wide[0]}}  {value:{wide[1]}}  {origin}").rstrip())
    return 0


def _next_runs(config: Config, variant: str) -> list[str]:
    """Check the schedules of a variant; returns a line for each task that has one."""
    lines = []
    for task, cron in config.schedules(variant).items():
        if task not in _known_tasks():
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
    resolved = _settings_of(next(iter(_known_tasks())), parsed)
    config = load_config(parsed.config_file)
    variant = resolved.settings.variant
    lines = _next_runs(config, variant)
    for task in config.schedules(variant):
        _settings_of(task, parsed).settings.require()
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

    return serve(config, variant, _given(parsed))


def _given(parsed: argparse.Namespace) -> list[str]:
    """Write the options that were given as a command line has them."""
    options = []
    for name, value in vars(parsed).items():
        option = "--" + name.replace("_", "-")
        if name == "words" or value is None:
            continue
        if isinstance(value, bool):
            options.append(option if value else f"--no-{option[2:]}")
        else:
            options += [
                f"{option}={one}" for one in (value if isinstance(value, list) else [value])
            ]
    return options


def _health() -> int:
    from tasks.schedule import healthy

    if healthy():
        return 0
    print("lighterage: the scheduler gave no sign of life", file=sys.stderr)
    return 1


def _scan(address: str, parsed: argparse.Namespace) -> int:
    parsed.remote_host_address = address
    settings = _settings_of(next(iter(_known_tasks())), parsed).settings
    from tasks.fetch.ssh.key_scan import scan

    for name, key in scan(settings):
        print(f"{name} {key.get_name()} {key.get_base64()}")
        print(f"{name} {key.get_name()} {key.fingerprint}", file=sys.stderr)
    return 0


def _json(data: object) -> str:
    """Write JSON as people can read it; in ASCII where the output or a name cannot do better."""
    text = json.dumps(data, ensure_ascii=False, indent=2)
    try:
        text.encode(sys.stdout.encoding if sys.stdout else "utf-8")
    except UnicodeEncodeError:
        return json.dumps(data, indent=2)
    return text


def _dispatch(arguments: Sequence[str]) -> int:
    words, parsed = _parse(arguments)
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
    return _config(task, parsed) if verb == "config" else _run(task, parsed)


def main(arguments: Sequence[str]) -> int:
    """Carry out one command line; returns the exit code, after one line on what went wrong."""
    interrupt.install()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that this terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    try:
        return _dispatch(arguments)
    except SystemExit as end:  # --help, or a task's own
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        return _failed(arguments, LighterageError.exit_code, TASK, str(end.code))
    except LighterageError as error:
        return _failed(arguments, error.exit_code, error.kind, str(error))
    except Interrupted as stop:
        interrupt.clean_up()  # a signal may hit the very start or end of a block
        text = "the new data had landed" if stop.landed else "nothing was changed"
        return _failed(arguments, stop.exit_code, "interrupted", text)
    except BrokenPipeError:  # whoever read the output has seen enough
        return 0
    except Exception as error:
        log.debug("%s", type(error).__name__, exc_info=True)
        return _failed(arguments, LighterageError.exit_code, *_unexpected(error))


def _unexpected(error: Exception) -> tuple[str, str]:
    """Return the kind and text of an unexpected exception: raised by a task or by our own code."""
    root = Path(tasks.__file__).parents[1]
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        places.append((error.filename or "", error.lineno))
    # An installed package may lie below the root as well, in .venv.
    below = [
        (Path(name).relative_to(root), line)
        for name, line in places
        if Path(name).is_relative_to(root) and "site-packages" not in name
    ]
    file, line = below[-1] if below else (Path("tasks"), 0)
    ours = file.parts[:2] == ("tasks", "fetch") or str(file) in OURS
    text = f"{file}:{line}: {type(error).__name__}: {error}"
    if isinstance(error, ModuleNotFoundError) and not ours:
        return TASK, (
            f"{text}: add the package to requirements/prod.in (or to dev.in, where dev alone needs "
            "it), and run `make lock`"
        )
    bug = "a bug: " if ours else ""
    text += f" ({bug}--log-level DEBUG shows where it was called from)"
    return LighterageError.kind if ours else TASK, text


def _failed(arguments: Sequence[str], code: int, kind: str, text: str) -> int:
    print(f"lighterage: {kind}: {printable(text)}", file=sys.stderr)
    if "--json" in arguments:
        print(_json({"status": "failed", "exit_code": code, "kind": kind, "error": text}))
    return code


def _exit(code: int) -> NoReturn:
    """End at once: a thread of a lost connection must not hold the process up."""
    for stream in (sys.stdout, sys.stderr):
        if stream is None:  # closed by the caller
            continue
        try:
            with contextlib.suppress(BrokenPipeError):
                stream.flush()
        except OSError as error:
            code = code or 1
            with contextlib.suppress(OSError):
                os.write(2, f"lighterage: the output is lost: {error.strerror}\n".encode())
    os._exit(code)


if __name__ == "__main__":
    _exit(main(sys.argv[1:]))
