"""make watch, make debug and make shell in dev, in containers and in .venv on this machine."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import images
from dap import debugger
from images import edited, wait_for
from tree import NO_ENGINE, Tree, in_steps_on_terminal

PROJECT = f"lighterage-loop-{os.getpid()}"
RUNNERS = [
    "host",
    pytest.param("container", marks=pytest.mark.container),
]


@pytest.fixture(scope="module", params=RUNNERS)
def tree(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tree]:
    """Give a tree for each runner, in a folder with a space and a letter beyond ASCII."""
    folder = tmp_path_factory.mktemp("loop") / "ein Käfig"
    if request.param == "container":
        engine = images.context_or_skip("watch, debug and shell in a container", PROJECT)
        with images.tree_in(folder, engine, "dev") as tree:
            images.give_free_ports(tree)
            yield tree
        return
    tree = Tree(folder, env={**NO_ENGINE, "RUNNER": "host"})
    images.give_free_ports(tree)
    yield tree
    tree.make("down")


def in_container(tree: Tree) -> bool:
    return tree.env.get("RUNNER") != "host"


@pytest.fixture
def task(tree: Tree) -> Iterator[Path]:
    """Give the module of task 2, which is as before afterwards."""
    with edited(tree.folder / "tasks/task_2.py") as path:
        yield path


class Started:
    """A make that runs, and what it has shown."""

    def __init__(self, process: subprocess.Popen[str], output: Path) -> None:
        self.process = process
        self._output = output

    @property
    def text(self) -> str:
        """All that it has shown on both streams."""
        return self._output.read_text()

    def shows(self, pattern: str, times: int = 1) -> None:
        """Wait until it has shown so many matches of a pattern."""

        def ready() -> bool:
            ended, found = self.process.poll() is not None, re.findall(pattern, self.text)
            assert found or not ended, self.text
            return len(found) >= times

        wait_for(ready)

    def interrupt(self) -> str:
        """Press Ctrl-C; return what it has shown, which has no traceback."""
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(30)
        assert self.process.returncode in {2, -signal.SIGINT}, "make's own"
        assert "Error 130" in self.text
        for raw in ("Traceback", "KeyboardInterrupt", "ERROR:"):
            assert raw not in self.text, self.text
        return self.text


Start = Callable[..., Started]


@pytest.fixture
def start(tree: Tree, tmp_path: Path) -> Iterator[Start]:
    """Give what starts make in the tree; it ends with the test."""
    with contextlib.ExitStack() as stack:

        def started(*words: str) -> Started:
            output = tmp_path / "shown"
            with output.open("w") as file:
                process = tree.start(*words, stdout=file, stderr=file)
            stack.callback(process.wait, 30)
            stack.callback(process.send_signal, signal.SIGTERM)
            return Started(process, output)

        yield started


# --- watch ----------------------------------------------------------------------------------------

WAITS = "task 2 ended with exit code 0; waiting for a save"


def test_each_save_runs_the_task_again(tree: Tree, task: Path, start: Start) -> None:
    watch = start("watch", "TASK=2")
    watch.shows(WAITS)
    task.write_text(task.read_text() + '\n\nprint("the edited task")\n')
    watch.shows("the edited task")
    watch.shows(WAITS, 2)
    new = tree.folder / "tasks/more/names.py"
    new.parent.mkdir()
    watch.shows("saved .*tasks/more")
    new.write_text("NAMES = ()\n")
    watch.shows("saved .*tasks/more/names.py")
    for name in ("config.yaml", "envs/dev.env"):
        file = tree.folder / name
        for times in (1, 2):  # as many editors save: another file takes its place
            other = file.with_name("other")
            shutil.copy(file, other)
            other.replace(file)
            watch.shows(f"saved .*{name}", times)
    shown = watch.interrupt()
    assert "other" not in shown, "files beside those that are watched"
    shutil.rmtree(new.parent)


def test_a_syntax_error_is_one_line_and_the_next_save_runs(
    tree: Tree, task: Path, start: Start
) -> None:
    watch = start("watch", "TASK=2")
    watch.shows(WAITS)
    before = task.read_text()
    task.write_text("def run(:\n")
    watch.shows("lighterage: tasks/task_2.py:1: invalid syntax")
    task.write_text(before)
    watch.shows(WAITS, 2)
    shown = watch.interrupt()
    assert shown.count("invalid syntax") == 1
    assert "def run(:" not in shown


def test_a_run_under_way_ends_before_the_next_starts(tree: Tree, task: Path, start: Start) -> None:
    slow = "--force --max-rate 2kB --file-save-path data/task_2/slow --no-keep-archive"
    watch = start("watch", "TASK=2", f"ARGS={slow}")
    watch.shows("bytes, from 0")
    task.write_text(task.read_text() + "\n")
    watch.shows("bytes, from 0", 2)
    shown = watch.interrupt()
    ended, saved = shown.index("nothing was changed"), shown.index("saved tasks/task_2.py")
    assert ended < saved < shown.rindex("connecting to")
    assert shown.count("nothing was changed") == 2, "at the save, and at Ctrl-C"
    assert not (tree.folder / "data/task_2/slow").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [(["watch"], "does not see saves"), (["debug"], "has no debugger")],
    ids=["watch", "debug"],
)
def test_prod_has_neither(tree: Tree, words: list[str], reason: str) -> None:
    done = tree.make(*words, "ENV=prod")
    assert done.returncode == 2
    assert f"the prod variant {reason}; use ENV=dev" in done.stderr


# --- debug ----------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def port_of_task_2(tree: Tree) -> int:
    text = (tree.folder / "docker/dev/compose.yaml").read_text()
    return int(text.partition("task2:")[2].partition("127.0.0.1:")[2].partition(":")[0])


@pytest.mark.parametrize("chosen", [False, True], ids=["of the task", "DEBUG_PORT"])
def test_a_breakpoint_stops_the_task_which_then_ends_well(
    tree: Tree, start: Start, chosen: bool
) -> None:
    port = free_port() if chosen else port_of_task_2(tree)
    options = [f"DEBUG_PORT={port}"] if chosen else []
    debug = start("debug", "TASK=2", *options)
    debug.shows(f"task 2 waits for a debugger on 127.0.0.1:{port}")
    task = tree.folder / "tasks/task_2.py"
    lines = task.read_text().splitlines()
    line = next(n for n, text in enumerate(lines, 1) if "return fetch" in text)
    with debugger(port) as client:
        client.attach(tree.folder, "/app" if in_container(tree) else str(tree.folder))
        source = {"path": str(task)}
        wanted = client.request("setBreakpoints", source=source, breakpoints=[{"line": line}])()
        assert wanted["breakpoints"][0]["verified"]
        client.request("configurationDone")()
        stopped = client.event("stopped")
        assert stopped["reason"] == "breakpoint"
        frame = client.request("stackTrace", threadId=stopped["threadId"])()["stackFrames"][0]
        assert (frame["name"], frame["line"]) == ("run", line)
        assert frame["source"]["path"] == str(task)
        client.request("continue", threadId=stopped["threadId"])
        assert debug.process.wait(60) == 0, debug.text
    assert "task 2 (dev): " in debug.text
    assert "Traceback" not in debug.text
    assert "frozen modules" not in debug.text


def test_ctrl_c_ends_the_wait_for_a_debugger(tree: Tree, start: Start) -> None:
    debug = start("debug", "TASK=2")
    debug.shows("waits for a debugger")
    assert "task 2 (dev) ended with exit code 130: interrupted" in debug.interrupt()
    with socket.socket() as one:  # which no process of the debugger holds
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        wait_for(lambda: _binds(one, port_of_task_2(tree)))


def _binds(one: socket.socket, port: int) -> bool:
    with contextlib.suppress(OSError):
        one.bind(("127.0.0.1", port))
        return True
    return False


@pytest.mark.parametrize("words", [["debug"], ["run", "DEBUGGER=1"]], ids=["debug", "run"])
def test_a_busy_port_is_named_with_the_variable_that_chooses_another(
    tree: Tree, words: list[str]
) -> None:
    port = port_of_task_2(tree)
    with socket.create_server(("127.0.0.1", port)):
        error = tree.refused(*words, "TASK=2")
    assert f"port 127.0.0.1:{port} is in use, and the debugger of task 2 needs it" in error
    assert "choose another port with DEBUG_PORT=" in error


@pytest.mark.parametrize("value", ["70000", "x", "0", "5678 5679"])
def test_a_debug_port_that_is_none_is_refused(tree: Tree, value: str) -> None:
    error = tree.refused("debug", f"DEBUG_PORT={value}")
    assert f"DEBUG_PORT={value}: use a number from 1 to 65535" in error


# --- shell ----------------------------------------------------------------------------------------


def at(prompt: bytes) -> Callable[[bytes], bool]:
    return lambda shown: shown.endswith(prompt)


def in_python(tree: Tree, *lines: bytes) -> str:
    """Type lines into python in the shell of task 2; return what the terminal showed."""
    steps = [(lambda shown: b"$ " in shown or b"# " in shown, b"python\n")]
    steps += [(at(b">>> "), line + b"\n") for line in (*lines, b"exit()")]
    said, _ = in_steps_on_terminal(
        tree,
        ["shell", "TASK=2"],
        *steps,
        (lambda shown: b"$ " in shown or b"# " in shown, b"exit 0\n"),
    )
    text = said.decode()
    assert "Traceback" not in text, text
    return text


def test_python_in_the_shell_has_settings_and_a_connection(tree: Tree) -> None:
    text = in_python(
        tree, b"settings.task, settings.username", b"connection", b"connection.sftp().listdir()"
    )
    assert "task 2: `settings`, and `connection` to dev@" in text
    assert "('2', 'dev')" in text
    assert "<a connection, opened at its first use>" in text
    assert "'datasets'" in text


def test_python_opens_also_without_the_host_or_settings(tree: Tree) -> None:
    tree.ok("config")
    env_file = tree.folder / "envs/dev.env"
    text = env_file.read_text()
    host = next(line for line in text.splitlines() if line.startswith("REMOTE_HOST_ADDRESS="))
    with edited(env_file, (host, "REMOTE_HOST_ADDRESS=127.0.0.1:1")):
        shown = in_python(tree, b"settings.task", b"connection.open()", b"6 * 7")
    assert "lighterage: network: " in shown
    assert "42" in shown.rpartition("lighterage: network: ")[2]
    with edited(tree.folder / "config.yaml", ("common:", "other: 1\ncommon:")):
        shown = in_python(tree, b"6 * 7")
    assert "lighterage: no settings and no connection: usage or configuration: config.yaml" in shown
    assert "42" in shown


def test_the_shell_in_the_container_keeps_its_history(tree: Tree) -> None:
    if not in_container(tree):
        pytest.skip("bash of this machine has a history of its own")

    def prompt(shown: bytes) -> bool:
        return shown.rstrip().endswith((b"$", b"#"))

    in_steps_on_terminal(
        tree, ["shell"], (prompt, b"echo first-$((40 + 2))\n"), (prompt, b"exit 0\n")
    )
    assert "echo first-$((40 + 2))" in (tree.folder / ".lighterage/shell_history").read_text()
    said, code = in_steps_on_terminal(
        tree, ["shell"], (prompt, b"history | tail -n 3\n"), (prompt, b"exit 0\n")
    )
    assert code == 0
    assert b"echo first-" in said
