"""Write a task module, its test and its section of config.yaml: `make new-task NAME=4`."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn

from docker.setup.project import Failure, say, write_atomic
from docker.tools import config_text
from docker.tools.context import Context
from tasks.options import VERBS

TEMPLATES = Path(__file__).parent / "templates"


class Kind(NamedTuple):
    """A kind of source: its dataset on the sample host, and in the tests."""

    source: str
    tested: str


KINDS = {
    "archive": Kind("datasets/events.tar.gz", "csv.tar.gz"),
    "tree": Kind("datasets/events", "tree"),
}
"""Each has a task module of its name in templates/."""


def new_task(context: Context) -> int:
    """Write tasks/task_NAME.py, tests/faults/test_task_NAME.py and the section.

    Raises:
        Failure: The name or the kind is not usable, the task exists, or config.yaml cannot take a
            section; nothing was changed.
    """
    name, root = context.task_name, context.root
    if not re.fullmatch("[a-z0-9]{1,30}", name) or name in VERBS:
        raise Failure(
            f"NAME={name}: name a task in lowercase letters and digits, as in make new-task NAME=4"
            + (f"; {name} is a verb of python -m tasks" if name in VERBS else "")
        )
    if context.kind not in KINDS:
        raise Failure(f"KIND={context.kind} is not known; allowed: {', '.join(KINDS)}")
    config = root / "config.yaml"
    files = {
        root / f"tasks/task_{name}.py": _filled(context.kind, name, ""),
        root / f"tests/faults/test_task_{name}.py": _filled(
            "test", name, KINDS[context.kind].tested
        ),
    }
    for path in (*files, root / f"tasks/task_{name}"):
        if path.exists() or path.is_symlink():
            raise Failure(f"{path.relative_to(root)} exists: choose another NAME, or remove it")
    text = config_text.with_section(config, name, KINDS[context.kind].source)
    _write({**files, config.resolve(): text})
    say(
        f"wrote {', '.join(str(path.relative_to(root)) for path in files)}, and tasks.{name} in "
        f"config.yaml; next: make run TASK={name}, then set its paths there"
    )
    return 0


def _filled(template: str, name: str, source: str) -> str:
    text = (TEMPLATES / f"{template}.py").read_text(encoding="utf-8")
    text = text.replace('"SOURCE"', f'"{source}"').replace('"N"', f'"{name}"')
    return text.replace("Task N:", f"Task {name}:").replace("tasks.N;", f"tasks.{name};")


def _write(texts: dict[Path, str]) -> None:
    """Write new files, and replace the last one; after a failure or a signal none is there."""

    def end(signum: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + signum)

    handlers = {one: signal.signal(one, end) for one in (signal.SIGTERM, signal.SIGHUP)}
    *new, config = texts
    try:
        for path in new:
            write_atomic(path, texts[path].encode(), 0o644)
        write_atomic(config, texts[config].encode(), config.stat().st_mode & 0o777)
    except BaseException:
        for path in new:
            path.unlink(missing_ok=True)
        raise
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
