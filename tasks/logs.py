"""The log on standard error."""

from __future__ import annotations

import logging
import sys
import threading

from tasks import line_times

log = logging.getLogger("tasks")


def log_at(level: str) -> None:
    """Log to standard error; at DEBUG also the libraries' logs of INFO and above.

    Paramiko logs tracebacks of its threads at ERROR, which users are not shown.
    """
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO if level == "DEBUG" else logging.CRITICAL + 1,
        format=f"{'' if line_times.is_on() else '%(asctime)s '}%(levelname)s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
    )
    log.setLevel(level)
    # Paramiko's threads end with an exception when the connection ends.
    threading.excepthook = lambda ended: log.debug(
        "%s: %s: %s", ended.thread and ended.thread.name, ended.exc_type.__name__, ended.exc_value
    )
