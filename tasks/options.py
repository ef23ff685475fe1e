"""The options of the command line, and `--help`."""

from __future__ import annotations

import argparse
import ast
import contextlib
import os
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import tasks
from tasks.fetch.errors import ConfigError, did_you_mean
from tasks.setting_types import StringList
from tasks.settings import FIELDS, TYPES, choices, convert

if TYPE_CHECKING:
    from collections.abc import Sequence

PREFIX = "task_"
VERBS = {
    "tasks": "list the tasks: schedule, what landed last, what each does",
    "config": "print the settings of a task and their origins: config N",
    "schedule": "run the tasks by their schedule until a signal; each run gets the options, and\n"
    "            --dry-run checks the schedules and shows the next runs only",
    "pause": "start no further runs of a task by its schedule, until `resume`: pause N, resume N",
    "resume": "end a pause: resume N",
    "health": "exit with 0 while `schedule` runs and no task fails repeatedly or is overdue",
    "prune": "delete what earlier runs left in an object store: prune N; see keep_runs, min_age",
    "show": "what landed: files, rows, columns with types, first rows: show N",
    "diff-data": "what the last landing changed: files, rows, columns: diff-data N",
    "history": "list the runs of a task, the last one at the end: history N",
    "status": "show what each shard of a run does: status N --run-id ID",
    "scan": "print a host's keys as lines for known_hosts: scan HOST[:PORT]",
}
EXIT_CODES = """\
exit codes:
  0 done, or nothing to do      5 network
  1 a bug, here or in a task    6 integrity: the data differs from the remote file
  2 usage or configuration      7 unsafe or broken archive
  3 remote path, or no match    8 local disk or object store, or not to be replaced
  4 authentication or host key  9 busy: another run uses the same target
  10 CSV: changed columns, or not convertible to Parquet
  129, 130, 143 ended by SIGHUP, SIGINT, SIGTERM"""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are `ConfigError`."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(
            message.replace("ignored explicit argument", "takes no value, not"),
            advice="--help lists the options",
        )


def known_tasks() -> dict[str, str]:
    """Return each task's name and module: tasks/task_N.py is task N."""
    found = [module.name for module in pkgutil.iter_modules(tasks.__path__)]
    found.sort(key=lambda name: (len(name), name))  # task_10 after task_9
    return {name.removeprefix(PREFIX): name for name in found if name.startswith(PREFIX)}


def docstring(module: str) -> str:
    """Read the docstring of a task module without importing it."""
    file = Path(tasks.__file__).with_name(f"{module}.py")
    try:
        return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    except (OSError, SyntaxError, ValueError):  # reported when it runs
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
            yes_or_no = "yes" if item.default else "no"
            text += f" (default: {yes_or_no if TYPES[name] is bool else item.default})"
        if TYPES[name] is bool:
            settings.add_argument(
                option, dest=name, action=argparse.BooleanOptionalAction, default=None, help=text
            )
        else:
            hint = choices(name) or name.upper()
            action = "append" if TYPES[name] is StringList else "store"
            settings.add_argument(option, dest=name, help=text, metavar=hint, action=action)
    parser.add_argument("--config-file", type=Path, help="instead of config.yaml of this folder")
    parser.add_argument(
        "--json",
        choices=("indent", "line"),
        metavar="[=line]",
        help="the result as JSON; --json=line in one line, the last of standard output",
    )
    return parser


def _overview() -> str:
    known = {name: docstring(module).partition("\n")[0] for name, module in known_tasks().items()}
    rows = [f"  {name:9} {text}" for name, text in (known | VERBS).items()]
    return "\n".join(
        ["Download datasets over SSH, verify them, and publish them in one step.", "", *rows]
    )


def parse(arguments: Sequence[str]) -> tuple[list[str], argparse.Namespace]:
    """Split the command line into words (a verb or a task, and its operand) and options."""
    normal = [_dashed(argument) for argument in arguments]
    words = [argument for argument in normal if not argument.startswith("-")]
    known = known_tasks()
    task = next((word for word in words if word in known), "")
    if task and words[0] not in VERBS:
        parser = _parser(docstring(known[task]), f"{task} [options]")
    else:
        parser = _parser(_overview(), f"{{{','.join([*known, *VERBS])}}} [options]")
    parsed, unknown = parser.parse_known_intermixed_args(normal)
    if unknown:
        options = [option for action in parser._actions for option in action.option_strings]
        name = unknown[0].partition("=")[0]
        raise ConfigError(
            f"unknown option {name}{did_you_mean(name, options)}", advice="--help lists the options"
        )
    return list(parsed.words), parsed


def output_options(arguments: Sequence[str]) -> tuple[str, Path | None]:
    """Return --json and --result-file of a command line that may be wrong in other places.

    The result file is that of a run: None for a verb.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--json", default="")
    parser.add_argument("--result-file", default="")
    with contextlib.suppress(ConfigError):
        known, others = parser.parse_known_args([*map(_dashed, arguments)])
        path = None if VERBS.keys() & others else convert("result_file", known.result_file, "")
        return known.json, path
    return "", None


def early_log_format(arguments: Sequence[str]) -> str:
    """Return the format of errors that are found before, or in, the settings: as far as known."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--log-format", default=os.environ.get("LOG_FORMAT", ""))
    with contextlib.suppress(ConfigError):
        return str(parser.parse_known_args([*map(_dashed, arguments)])[0].log_format).lower()
    return ""


def _dashed(argument: str) -> str:
    """Accept --file_save_path for --file-save-path, and --json, which needs no value."""
    if not argument.startswith("--"):
        return argument
    if argument == "--json":
        return "--json=indent"
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value


def given(parsed: argparse.Namespace) -> list[str]:
    """Write the options that were given as a command line has them."""
    options = []
    for name, value in vars(parsed).items():
        option = "--" + name.replace("_", "-")
        if name == "words" or value is None:
            continue
        if isinstance(value, bool):
            options.append(option if value else f"--no-{option[2:]}")
        else:
            values = value if isinstance(value, list) else [value]
            options += [f"{option}={one}" for one in values]
    return options
