"""What `python` has at hand in `make shell`: the task's settings, and a connection to its host."""

import os
import shlex
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from docker.setup.project import say
from tasks.fetch.errors import LighterageError
from tasks.logs import log_at
from tasks.options import parse
from tasks.verbs import settings_of


class _Connection:
    """A Fabric connection that opens at its first use, and again after it was lost."""

    _opened: Any = None

    def __init__(self, to: Any) -> None:
        self._settings = to

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # what prompts and completion ask every object for
            raise AttributeError(name)
        if self._opened is None or not self._opened.is_connected:
            from tasks.fetch.ssh.connection import open_connection

            self._opened = open_connection(self._settings)
        return getattr(self._opened, name)

    def __repr__(self) -> str:
        return repr(self._opened) if self._opened else "<a connection, opened at its first use>"


def _show(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Show an error of Lighterage as a run does, and others as Python does."""
    if isinstance(error, LighterageError):
        say(f"{error.kind}: {error}")
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _show
try:
    _words = [os.environ.get("LIGHTERAGE_TASK", "1")]
    _words += shlex.split(os.environ.get("LIGHTERAGE_OPTIONS", ""))
    settings = settings_of(_words[0], parse(_words)[1]).settings
    log_at("INFO")  # DEBUG would show the traceback of a connection that fails
    connection = _Connection(settings)
    _host = f"{settings.username}@{settings.remote_host_address}"
    say(f"task {_words[0]}: `settings`, and `connection` to {_host}: connection.sftp().listdir()")
except LighterageError as _error:
    say(f"no settings and no connection: {_error.kind}: {_error}")
