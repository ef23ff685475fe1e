"""The verbs of the command line: all that a user can ask beside a run."""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from tasks.config_file import load_config
from tasks.fetch.errors import ConfigError, LocalError, printable
from tasks.logs import identify, log_at, use
from tasks.options import given, known_tasks
from tasks.resolve import DEFAULT, resolve
from tasks.settings import FIELDS, VARIANTS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from tasks.config_file import Config
    from tasks.resolve import Resolved
    from tasks.result import Result
    from tasks.settings import Settings
    from tasks.show import DataDiff, Show

log = logging.getLogger("tasks")

DIM, NOT_DIM = "\x1b[2m", "\x1b[0m"
"""Of a terminal."""


def settings_of(task: str, parsed: argparse.Namespace) -> Resolved:
    """Return the settings of a task; log at their level from now on."""
    given = {name: value for name, value in vars(parsed).items() if name in FIELDS}
    try:
        resolved = resolve(task, given, config_file=parsed.config_file)
    except ConfigError:
        _use_log_format(task, parsed)
        raise
    _use_variables(resolved.others)
    settings = resolved.settings
    log_at(settings.log_level, settings.log_format, quiet=settings.quiet)
    identify(variant=settings.variant, run_id=str(settings.run_id))
    return resolved


def _use_log_format(task: str, parsed: argparse.Namespace) -> None:
    """Use the log format of the config file for an error in other settings."""
    if parsed.log_format or os.environ.get("LOG_FORMAT"):
        return
    with contextlib.suppress(ConfigError):
        variant = os.environ.get("LIGHTERAGE_VARIANT") or VARIANTS[0]
        for _, layer in load_config(parsed.config_file).layers(task, variant):
            if "log_format" in layer:
                use(str(layer["log_format"]))


def _use_variables(others: Mapping[str, str]) -> None:
    """Set the env file's other variables, which are for the user's own tasks."""
    os.environ.update(others)
    if "TZ" in others:
        time.tzset()
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:  # a container's uid, whose name the SSH libraries look up
        os.environ.update(LOGNAME=str(os.getuid()))


def prune(task: str, parsed: argparse.Namespace, result: Result) -> int:
    """Delete the objects of earlier runs."""
    settings = settings_of(task, parsed).settings
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


def show_status(task: str, parsed: argparse.Namespace, result: Result) -> int:
    """Print what each shard of a run does."""
    settings = settings_of(task, parsed).settings
    if not settings.run_id:
        raise ConfigError("status needs a run", advice="make status RUN_ID=..., or pass --run-id")
    from tasks.fetch.shards.status import RunStatus

    status = RunStatus(str(settings.target), str(settings.run_id))
    print(result.text(status.data()) if parsed.json else "\n".join(map(printable, status.lines())))
    return status.exit_code


def show(task: str, parsed: argparse.Namespace, result: Result) -> int:
    """Print what landed at the target of a task."""
    from tasks.show import Show

    return _print_found(Show(settings_of(task, parsed).settings), parsed, result)


def diff_data(task: str, parsed: argparse.Namespace, result: Result) -> int:
    """Print what the last landing of a task changed."""
    from tasks.show import DataDiff

    return _print_found(DataDiff(settings_of(task, parsed).settings), parsed, result)


def _print_found(found: Show | DataDiff, parsed: argparse.Namespace, result: Result) -> int:
    from tasks.text_table import terminal_width

    print(result.text(found.data()) if parsed.json else "\n".join(found.lines(terminal_width())))
    return 0


def show_history(task: str, parsed: argparse.Namespace, result: Result) -> int:
    """Print the runs of a task."""
    settings = settings_of(task, parsed).settings
    from tasks.history import History, table

    try:
        runs = History().runs(settings.variant, task)
    except OSError as error:
        raise LocalError(
            f"{error.filename}: {error.strerror}", advice="make it readable"
        ) from error
    if parsed.json:
        print(result.text(msgspec.to_builtins(runs)))
    elif runs:
        print("\n".join(table(runs)))
    else:
        print(f"no run of task {task} is recorded yet")
    return 0


def show_config(task: str, parsed: argparse.Namespace, result: Result) -> int:
    """Print each setting of a task and its origin."""
    rows = settings_of(task, parsed).rows()
    config = load_config(parsed.config_file)
    for variant in sorted({*VARIANTS, *config.variants}):
        _check_schedules(config, variant)
    if parsed.json:
        print(
            result.text({name: {"value": value, "origin": origin} for name, value, origin in rows})
        )
        return 0
    wide = [max(len(row[column]) for row in rows) for column in (0, 1)]
    may_dim = _may_dim()
    for name, value, origin in rows:
        line = printable(f"{name:{wide[0]}}  {value:{wide[1]}}  {origin}").rstrip()
        print(f"{DIM}{line}{NOT_DIM}" if may_dim and origin == DEFAULT else line)
    return 0


def _may_dim() -> bool:
    """Whether the output is a terminal that shows dim text, and its user wants that."""
    if sys.stdout is None or not sys.stdout.isatty():  # None: closed by the caller
        return False
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _check_schedules(config: Config, variant: str) -> None:
    """Check the schedules of a variant, also of one that is not this one."""
    for task, values in config.schedules(variant).items():
        if task not in known_tasks():
            raise ConfigError(
                f"{config.path}: tasks.{task} has a schedule, but there is no such task",
                advice=f"add tasks/task_{task}.py, or remove the section",
            )
        from tasks.cron import next_run, time_zone

        next_run(task, values["schedule"], datetime.now(time_zone(values.get("time_zone", ""))))


def run_schedule(parsed: argparse.Namespace) -> int:
    """Run the service, or with --dry-run show when it runs each task."""
    if parsed.task:
        raise ConfigError(
            "schedule takes no --task: it runs each task that has a schedule in config.yaml",
            advice="leave it out; `pause` holds a task back",
        )
    resolved = settings_of(next(iter(known_tasks())), parsed)
    config = load_config(parsed.config_file)
    variant = resolved.settings.variant
    _check_schedules(config, variant)
    if parsed.unchanged_exit_code:
        raise ConfigError(
            "schedule takes no --unchanged-exit-code: nothing reads the exit codes of its runs",
            advice="leave it out, and read their result files (result_file)",
        )
    scheduled = [settings_of(task, parsed).settings.require() for task in config.schedules(variant)]
    files = [one.result_file.resolve() for one in scheduled if one.result_file]
    if len(set(files)) < len(files):
        raise ConfigError(
            f"{len(files)} scheduled tasks have one result_file, {files[0]}",
            advice=f"set another for each in {config.path}",
        )
    for name in ("remote_file_path", "file_save_path"):
        if len(scheduled) > 1 and getattr(parsed, name):
            raise ConfigError(
                f"schedule takes no --{name.replace('_', '-')} for {len(scheduled)} tasks",
                advice=f"set it in {config.path} for each",
            )
    from tasks.notify import Notifier
    from tasks.schedule import serve, status

    nothing = f"no task has a schedule for {variant} in {config.path}"
    for notifier in map(Notifier, scheduled):
        if parsed.dry_run:
            notifier.check()
    endpoint = _metrics_endpoint(scheduled or [resolved.settings], config)
    if parsed.dry_run:
        print("\n".join(status(scheduled, variant) or [nothing]))
        return 0
    if not scheduled:
        log.warning("%s: nothing to do", nothing)
    from tasks.metrics_port import served

    metrics = served(*endpoint)
    return serve(scheduled, variant, given(parsed), metrics=metrics)


def _metrics_endpoint(scheduled: Sequence[Settings], config: Config) -> tuple[str, int]:
    """Return the address and the port of the service's metrics, which its tasks share."""
    found = {(one.metrics_address, one.metrics_port) for one in scheduled}
    if len(found) > 1:
        raise ConfigError(
            f"{len(found)} different metrics_port or metrics_address in one service",
            advice=f"set them in {config.path} under common or variants, not under tasks",
        )
    return found.pop()


def list_tasks(parsed: argparse.Namespace, result: Result) -> int:
    """Print the tasks."""
    from tasks.overview import lines, overview

    config = load_config(parsed.config_file)
    rows = overview(config, lambda task: settings_of(task, parsed).settings)
    print(result.text({"tasks": rows}) if parsed.json else "\n".join(lines(rows)))
    return 0


def check_health() -> int:
    """Print why the service is unhealthy."""
    from tasks.health import reasons

    found = reasons(os.environ.get("LIGHTERAGE_VARIANT") or VARIANTS[0])
    for reason in found:
        print(f"lighterage: unhealthy: {printable(reason)}", file=sys.stderr)
    return 1 if found else 0


def scan(address: str, parsed: argparse.Namespace) -> int:
    """Print a host's keys, and their fingerprints on standard error."""
    parsed.remote_host_address = address
    settings = settings_of(next(iter(known_tasks())), parsed).settings
    from tasks.fetch.ssh.key_scan import scan

    for name, key in scan(settings):
        print(f"{name} {key.get_name()} {key.get_base64()}")
        print(f"{name} {key.get_name()} {key.fingerprint}", file=sys.stderr)
    return 0


def pause(task: str, parsed: argparse.Namespace, _: Result) -> int:
    """Have the service start no further runs of a task."""
    settings = settings_of(task, parsed).settings
    if not settings.schedule:
        raise ConfigError(
            f"task {task} has no schedule for {settings.variant}: there is nothing to pause",
            advice=f"set `schedule` in config.yaml under tasks.{task}",
        )
    from tasks.schedule_state import ScheduleState

    ScheduleState(settings.variant).pause(task)
    print(
        f"task {task} ({settings.variant}): paused; the service starts no further runs of it "
        "until `resume`"
    )
    return 0


def resume(task: str, parsed: argparse.Namespace, _: Result) -> int:
    """Have the service run a task by its schedule again."""
    settings = settings_of(task, parsed).settings
    from tasks.schedule_state import ScheduleState

    ScheduleState(settings.variant).resume(task)
    print(f"task {task} ({settings.variant}): runs by its schedule again")
    return 0


OF_TASKS = {
    "config": show_config,
    "prune": prune,
    "status": show_status,
    "history": show_history,
    "show": show,
    "diff-data": diff_data,
    "pause": pause,
    "resume": resume,
}
"""The verbs that take a task."""
