"""Change config.yaml as a text: comments and order stay, and each change is checked."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from docker.setup.project import Failure
from tasks.config_file import load_config
from tasks.fetch.errors import ConfigError


def with_section(config: Path, name: str, source: str) -> str:
    """Return the text of a config file with a section for a new task, and all else as it was.

    Args:
        config: The file.
        name: The task.
        source: Its remote_file_path.

    Raises:
        Failure: The file is not valid, has the section, or has `tasks` in a form that takes no
            further line.
    """
    before = _checked(config, config)
    if name in before["tasks"]:
        raise Failure(f"config.yaml has a section tasks.{name}: choose another NAME, or remove it")
    with config.open(encoding="utf-8", newline="") as file:
        lines = file.read().splitlines(keepends=True)
    line_end = "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += line_end
    starts = [n for n, line in enumerate(lines) if re.match(r"tasks:\s*(#.*)?$", line)]
    if not starts:
        lines.append(f"tasks:{line_end}")
        starts = [len(lines) - 1]
    place, indent = starts[0] + 1, "  "
    for number in range(place, len(lines)):
        if re.match(r"[^\s#]", lines[number]):  # the next section, or the end of the document
            break
        if re.match(r"\s+\S", lines[number]):  # also a comment that belongs to a task
            place = number + 1
    first = re.search(r"^( +)[^\s#]", "".join(lines[starts[0] + 1 : place]), re.MULTILINE)
    indent = first[1] if first else indent
    section = f"""\
{indent}{_key(name)}:
{indent}  # On the host: a path, a glob, or a list of them.
{indent}  remote_file_path: {_value(source)}
{indent}  # A folder for this task alone: each run replaces it as a whole.
{indent}  file_save_path: data/task_{name}/events
{indent}  # When the prod service runs the task, a cron expression:
{indent}  # prod:
{indent}  #   schedule: "0 3 * * *"
"""
    lines[place:place] = [line + line_end for line in section.splitlines()]
    text = "".join(lines)
    after = _tried(config, text)
    if not after or not after["tasks"].pop(name, None) or after != before:
        raise Failure(
            "config.yaml: cannot add a section below `tasks:`: write tasks as a block, with each "
            "task on lines of its own"
        )
    return text


def _key(name: str) -> str:
    """Return a task's name as YAML reads it back: 4, and "04", which alone is a number in octal."""
    import yaml

    return name if str(yaml.safe_load(name)) == name else f'"{name}"'


def with_path(config: Path, task: str, source: str, *, replace: bool) -> str:
    """Return the text of a config file in which a task has a remote_file_path.

    Args:
        config: The file.
        task: The task, whose section is added where there is none.
        source: The path.
        replace: Whether a path that is not the sample host's may be replaced.

    Raises:
        Failure: The file is not valid, the path may not be replaced, or is not on a line.
    """
    before = _checked(config, config)
    if task not in before["tasks"]:
        return with_section(config, task, source)
    with config.open(encoding="utf-8", newline="") as file:
        text = file.read()
    have = before["tasks"][task].get("remote_file_path", ())
    if tuple(have) == (source,):
        return text
    if have and not replace and not all(one.startswith("datasets/") for one in have):
        raise Failure(f"config.yaml: tasks.{task} has remote_file_path {have}: YES=1 replaces it")
    own = before["tasks"][task] = {**before["tasks"][task]}
    own.pop("remote_file_path", None)
    section = re.compile(
        rf"(?m)^(?P<indent> +)[\"']?{re.escape(task)}[\"']?:[ \t]*(?:#.*)?\r?\n"
        r"(?:(?P=indent) .*\n?|[ \t]*\r?\n)*"
    )
    line = re.compile(r"(?m)^( +remote_file_path:[ ]+)([^#\r\n]*?)(?=[ ]*(?:#.*)?\r?$)")
    for found in section.finditer(text):
        # A variant's section may have the key, too: the one whose change is that of the task.
        for match in line.finditer(text, *found.span()):
            new = text[: match.start(2)] + _value(source) + text[match.end(2) :]
            after = _tried(config, new)
            path = after["tasks"][task].pop("remote_file_path", ()) if after else ()
            if tuple(path) == (source,) and after == before:
                return new
    raise Failure(
        f"config.yaml: cannot set the path of task {task}: write remote_file_path of "
        f"tasks.{task} on a line of its own"
    )


def _value(text: str) -> str:
    """Return a text as YAML reads it back."""
    import yaml

    if re.fullmatch("[A-Za-z0-9_./-]+", text) and yaml.safe_load(text) == text:
        return text
    return json.dumps(text, ensure_ascii=False)


def _tried(config: Path, text: str) -> dict[str, Any]:
    """Return the sections of a new text for a config file; none where it is not valid."""
    trial = config.with_name(f".{config.name}.trial")
    try:
        trial.write_text(text, encoding="utf-8", newline="")
        return _checked(trial, config)
    except Failure:
        return {}
    finally:
        trial.unlink(missing_ok=True)


def _checked(file: Path, config: Path) -> dict[str, Any]:
    """Return the sections of a config file, by the name of `config` in an error."""
    try:
        found = load_config(file)
    except ConfigError as error:
        raise Failure(str(error).replace(str(file), config.name)) from None
    return {"common": found.common, "variants": found.variants, "tasks": {**found.tasks}}
