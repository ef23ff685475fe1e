"""The command line: `python -m tasks N [options]`, or one of the verbs in options.py.

Fabric and other slow imports happen where they are needed, so that `--help` is fast.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from typing import TYPE_CHECKING, NoReturn

from tasks import line_times, verbs
from tasks.fetch import dial, interrupt, memory
from tasks.fetch.errors import (
    ConfigError,
    Interrupted,
    LighterageError,
    did_you_mean,
)
from tasks.options import PREFIX, VERBS, known_tasks, output_options, parse
from tasks.result import Result
from tasks.unexpected import TASK, explain

if TYPE_CHECKING:
    from collections.abc import Sequence


log = logging.getLogger("tasks")


def _task_of(words: list[str], parsed: argparse.Namespace) -> str:
    """Return the task that was named, as a word or by --task."""
    named = [*words, *([parsed.task] if parsed.task else [])]
    known = known_tasks()
    if not named:
        raise ConfigError(
            "no task given", advice=f"expected one of {', '.join(known)}, as in: python -m tasks 1"
        )
    for task in named:
        if task not in known:
            hint = did_you_mean(task, [*known, *VERBS])
            raise ConfigError(
                f"{task!r} is not a task{hint}",
                advice=f"known are {', '.join(known)} (tasks/task_N.py)",
            )
    if len(set(named)) > 1:
        raise ConfigError(
            f"one task at a time: {' '.join(named)} were given", advice="start one run for each"
        )
    return str(named[0])


def _run(task: str, parsed: argparse.Namespace, result: Result) -> int:
    settings = verbs.settings_of(task, parsed).settings.require()
    result.begin(settings)
    # Not where this run may have to wait, while the host waits for a login.
    if not settings.wait and not settings.max_connections and not settings.shards:
        dial.start(settings.remote_host_address, settings.ssh_config_file, settings.timeout)
    memory.keep_freed()
    import importlib

    from tasks.fetch.api import Report, execute

    module = importlib.import_module(f"tasks.{known_tasks()[task]}")
    if not hasattr(module, "run"):
        raise ConfigError(
            f"tasks/{PREFIX}{task}.py: has no function run(fetch)",
            advice="define it, as tasks/task_1.py does",
        )
    report = execute(settings, module.run)
    if not isinstance(report, Report):
        raise ConfigError(
            f"tasks/{PREFIX}{task}.py: run() must return the report of its fetch",
            advice="end it with a return, as in tasks/task_1.py",
        )
    code = report.exit_code
    if report.status == "unchanged" and not code:
        code = settings.unchanged_exit_code
    result.succeed(report, code)
    return code


def _dispatch(arguments: Sequence[str], result: Result) -> int:
    words, parsed = parse(arguments)
    if words[1:] in [[verb] for verb in verbs.OF_TASKS]:  # as `make run TASK=2 ARGS=prune` has them
        words.reverse()
    verb, operands = (words[0], words[1:]) if words and words[0] in VERBS else ("", words)
    if verb == "scan":
        if len(operands) != 1:
            raise ConfigError(
                f"scan takes one host, and {len(operands)} were given",
                advice="name one: python -m tasks scan HOST[:PORT]",
            )
        return verbs.scan(operands[0], parsed)
    if verb in {"schedule", "health", "tasks"}:
        if operands:
            raise ConfigError(
                f"{verb} takes no {operands[0]!r}", advice="leave it out; --help lists the options"
            )
        line_times.begin(service=verb == "schedule" and not parsed.dry_run)
        if verb == "schedule":
            return verbs.run_schedule(parsed)
        return verbs.check_health() if verb == "health" else verbs.list_tasks(parsed, result)
    return verbs.OF_TASKS.get(verb, _run)(_task_of(operands, parsed), parsed, result)


def main(arguments: Sequence[str]) -> int:
    """Run one command line; print one line if it fails, and return the exit code."""
    result = Result(*output_options(arguments))
    try:
        interrupt.install(result.end_by_force, line_times.prefix)
        line_times.begin()
        return _dispatch(arguments, result)
    except SystemExit as end:  # --help, or a task's own
        if end.code is None or isinstance(end.code, int):
            return result.end(end.code or 0)
        return result.fail(LighterageError.exit_code, TASK, str(end.code))
    except LighterageError as error:
        return result.fail(error.exit_code, error.kind, error.text, error.advice)
    except Interrupted as stop:
        interrupt.clean_up()  # a signal may arrive at the very start or end of a block
        landed = stop.landed or result.landed
        text = "the new data had landed" if landed else "nothing was changed"
        return result.fail(stop.exit_code, "interrupted", text)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and not result.running:
            return 0  # the reader of the output has closed it
        log.debug("%s", type(error).__name__, exc_info=True)
        return result.fail(LighterageError.exit_code, *explain(error))


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
                text = (
                    f"{line_times.prefix()}lighterage: cannot write the output: {error.strerror}\n"
                )
                os.write(2, text.encode())
    os._exit(code)


if __name__ == "__main__":
    _exit(main(sys.argv[1:]))
