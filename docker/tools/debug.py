"""`make debug`: run a task once a debugger has attached.

`python -m docker.tools.debug LISTEN SHOWN TASK [options]`: two addresses, since the port in a
container is another one than that on this machine.
"""

from __future__ import annotations

import runpy
import signal
import sys

from docker.setup.__main__ import reported
from docker.setup.project import Failure, say


def wait_for_debugger(listen: str, shown: str, task: str) -> int:
    """Wait until a debugger has attached.

    Args:
        listen: The address to listen on, as host:port.
        shown: The address that a debugger attaches to.
        task: The task's name.

    Raises:
        Failure: Nothing can listen there.
    """
    import debugpy

    # Ctrl-C ends this at once: Python's own handler would show a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    host, _, port = listen.rpartition(":")
    try:
        debugpy.listen((host, int(port)))
    except RuntimeError as error:
        raise Failure(f"the debugger cannot listen on {shown}: {error}", 1) from None
    say(f"task {task} waits for a debugger on {shown} (docs/development.md); Ctrl-C ends it")
    debugpy.wait_for_client()
    return 0


def main(listen: str, shown: str, task: str, *options: str) -> int:
    """Run the task under the debugger; return the exit code if it does not start."""
    code = reported(lambda: wait_for_debugger(listen, shown, task))
    if code == 0:
        sys.argv = ["tasks", task, *options]
        runpy.run_module("tasks", run_name="__main__", alter_sys=True)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
