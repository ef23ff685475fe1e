"""The port of 127.0.0.1 on which a debugger attaches to a task."""

from __future__ import annotations

import errno
import socket

from docker.setup.project import Failure, Project


def debug_port(project: Project, port: str = "") -> None:
    """Check that the port can be used, before anything is built or starts.

    Args:
        project: The clone and its variables.
        port: Of `DEBUG_PORT`, or else of the task's service.

    Raises:
        Failure: It cannot.
    """
    choose = "choose another port with DEBUG_PORT="
    if not port:
        raise Failure(
            f"the service of task {project.task} publishes no port for a debugger: give one with"
            " DEBUG_PORT=, or in docker/dev/compose.yaml as the other services do"
        )
    if not 0 < int(port) < 65536:
        raise Failure(f"DEBUG_PORT={port}: use a number from 1 to 65535")
    try:
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("127.0.0.1", int(port)))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            where = f"port 127.0.0.1:{port} is in use"
            raise Failure(
                f"{where}, and the debugger of task {project.task} needs it: stop what listens"
                f" there, or {choose}", 1,
            ) from None  # fmt: skip
        raise Failure(f"port 127.0.0.1:{port}: {error.strerror}; {choose}", 1) from None
