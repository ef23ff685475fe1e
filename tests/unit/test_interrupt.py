"""Signals: a run ends with clean-up, even if its main thread hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from clone import Clone
from landed import NEW, OLD, beside, complete, content, land, locked
from tasks.fetch import interrupt
from tasks.fetch.errors import Interrupted
from tasks.fetch.stores.local import verify

REPOSITORY = Path(__file__).parents[2]
SOON = 30.0
"""Seconds for a process to end; each would wait for a minute otherwise."""

SCRIPT = """
import ctypes, os, signal, sys, threading, time
from tasks.fetch import interrupt
from tasks.fetch.stores.local import verify
from tasks.fetch.errors import Interrupted

def say(what):
    print(what, flush=True)

def block():
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)

if not {ignoring!r}:  # under nohup SIGHUP is ignored here as well
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
if not {hangs}:  # the main thread must end by itself, however slow the machine is
    interrupt.GRACE_SECONDS = 20
interrupt.install()
try:
    {body}
except Interrupted as stop:
    say("interrupted")
    sys.exit(stop.exit_code)
"""
SLEEP = "say('ready'); time.sleep(60)"
LATE_SYSTEM_CALL = """
    say('ready')
    handler = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, handler))
    time.sleep(60)"""
BUSY = "say('ready')\n    while True: pass"


class Process:
    """A script in its own process, which has printed `ready`."""

    def __init__(self, body: str, *, ignoring: str = "") -> None:
        self._hangs = "block" in body or "began.wait()" in body  # the watchdog must end it
        script = SCRIPT.format(body=body, ignoring=ignoring, hangs=self._hangs)
        command = [sys.executable, "-c", script]
        if ignoring:
            command = ["sh", "-c", f"trap '' {ignoring}; exec \"$@\"", "sh", *command]
        self._process = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        if self._hangs:
            self._wait_until_it_sleeps()

    def _wait_until_it_sleeps(self) -> None:
        """Wait until the main thread is in the call that does not return."""
        asleep = 0
        while asleep < 5:
            state = (
                Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()[0]
            )
            asleep = asleep + 1 if state == "S" else 0
            time.sleep(0.05)

    def signal(self, *signums: signal.Signals) -> None:
        """Send signals, one after another."""
        for signum in signums:
            self._process.send_signal(signum)
            time.sleep(0.1)

    def end(self, code: int) -> list[str]:
        """Require that it ends soon with an exit code; return the words it printed."""
        try:
            out, err = self._process.communicate(timeout=SOON)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise
        assert self._process.returncode == code
        assert err == (interrupt.FORCED.decode() if self._hangs else "")
        return out.split()


SWALLOW = """say('ready')
    while True:
        try:
            time.sleep(60)
        except Exception:
            say("swallowed")"""
C_CALL = """
    ended = []
    with interrupt.cleaned_up_by(lambda: ended.append(len(ended) and say('again'))):
        pass
    assert len(ended) == 1
    with interrupt.cleaned_up_by(lambda: say('first')), \\
            interrupt.cleaned_up_by(lambda: 1 / 0), \\
            interrupt.cleaned_up_by(lambda: say('last')):
        say('ready'); block()"""
SLOW_CLEAN_UP = """
    try:
        say('ready'); time.sleep(60)
    finally:
        time.sleep(0.5); say('clean')"""
HANGING_CLEAN_UP = """
    try:
        say('ready'); time.sleep(60)
    finally:
        block()"""
HANGING_STORE = """
    with interrupt.cleaned_up_by(block):
        say('ready'); time.sleep(60)"""
UNINTERRUPTED = """
    with interrupt.uninterrupted():
        say('ready')
        time.sleep(0.5)
        say('complete')
    say('not reached')"""
AFTER_UNINTERRUPTED = """
    with interrupt.uninterrupted():
        pass
    say('ready')
    time.sleep(60)"""
INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


@pytest.mark.parametrize(
    ("body", "ignoring", "signums", "code", "output"),
    [
        pytest.param(SLEEP, "", [INT], 130, ["interrupted"], id="a call of Python"),
        # as when it arrives between the last check for signals and the system call
        pytest.param(LATE_SYSTEM_CALL, "", [TERM], 143, ["interrupted"], id="a signal not seen"),
        pytest.param(BUSY, "", [TERM], 143, ["interrupted"], id="a busy loop"),
        pytest.param(SWALLOW, "", [HUP], 129, ["interrupted"], id="except Exception"),
        # such as a name lookup: the clean-ups run, the last one first, also after a failing one;
        # that of a block that ended does not run again
        pytest.param(C_CALL, "", [TERM], 143, ["last", "first"], id="a call into C"),
        pytest.param(
            SLOW_CLEAN_UP, "", [INT, INT, TERM], 130, ["clean", "interrupted"],
            id="a second signal does not interrupt the clean-up",
        ),
        pytest.param(HANGING_CLEAN_UP, "", [TERM], 143, [], id="a clean-up that hangs"),
        pytest.param(HANGING_STORE, "", [TERM], 143, [], id="a clean-up that hangs everywhere"),
        pytest.param(
            UNINTERRUPTED, "", [TERM], 143, ["complete", "interrupted"],
            id="the end of an uninterrupted block comes first",
        ),
        pytest.param(
            AFTER_UNINTERRUPTED, "", [TERM], 143, ["interrupted"],
            id="after an uninterrupted block",
        ),
        # a shell without job control starts a background job with SIGINT ignored
        pytest.param(SLEEP, "INT", [INT], 130, ["interrupted"], id="a background job of a shell"),
        pytest.param(SLEEP, "HUP", [HUP, TERM], 143, ["interrupted"], id="SIGHUP under nohup"),
    ],
)  # fmt: skip
def test_signal_ends_the_process_after_its_clean_ups(
    body: str, ignoring: str, signums: list[signal.Signals], code: int, output: list[str]
) -> None:
    process = Process(body, ignoring=ignoring)
    process.signal(*signums)
    assert process.end(code) == output


def test_nothing_is_published_after_the_clean_up_started() -> None:
    """A main thread that is still running must not change names that are being removed."""
    process = Process("""
    began = threading.Event()
    def clean_up():
        began.set(); time.sleep(1)
    try:
        with interrupt.cleaned_up_by(lambda: began.is_set() or clean_up()):
            try:
                say('ready'); time.sleep(60)
            except Interrupted:
                began.wait()
            with interrupt.uninterrupted():
                say('published')
    finally:
        say('ended')""")
    process.signal(signal.SIGTERM)
    assert process.end(143) == []


PUBLISH = """
    sys.path[:0] = ['tests/support', 'tests/unit']
    from pathlib import Path
    from landed import NEW, land
    from tasks.fetch.stores.local import disk
    interrupt.GRACE_SECONDS = 0.1
    exchange, rename = disk.exchange, Path.rename

    def late(do, *names):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
        done = do(*names)
        time.sleep(1)
        interrupt.GRACE_SECONDS = 60  # enough for the clean-up
        return done

    {how}
    say('ready')
    land(Path({target!r}), NEW)"""


@pytest.mark.parametrize(
    "how",
    [
        pytest.param("disk.exchange = lambda *names: late(exchange, *names)", id="exchange"),
        pytest.param(
            "disk.exchange = lambda *_: False; Path.rename = lambda *names: late(rename, *names)",
            id="renames",
        ),
    ],
)
def test_publish_that_takes_longer_than_the_grace_is_completed(tmp_path: Path, how: str) -> None:
    """The signal arrives before names are changed, and that takes ten times the grace."""
    target = tmp_path / "data/events"
    land(target, OLD)
    process = Process(PUBLISH.format(how=how, target=str(target)))
    assert process.end(143) == ["interrupted"]
    assert complete(target) == content(target) == NEW
    assert beside(target) == set()


TRACED = {"staging.py", "store.py", "lock.py", "interrupt.py", "publish.py", "contextlib.py"}


class SignalAt:
    """Delivers a signal before one bytecode instruction, as the interpreter may."""

    def __init__(self, at: int) -> None:
        self.remaining = at

    def trace(self, frame: FrameType, event: str, _arg: object) -> Callable[..., Any] | None:
        if frame.f_code.co_filename.rpartition("/")[2] not in TRACED:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            self.remaining -= 1
            if self.remaining < 0:
                sys.settrace(None)
                interrupt._on_signal(signal.SIGTERM, frame)
        return self.trace


def test_signal_before_any_instruction_leaves_neither_files_nor_a_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it hits the very start or end of a `with` block, whose clean-up is not run then.

    Every 31st instruction, or each with LIGHTERAGE_FAULTS.
    """
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(verify, "TICK_NS", 0)
    target = tmp_path / "data/events"
    stride, at, done, signals = 1 if "LIGHTERAGE_FAULTS" in os.environ else 31, 0, False, 0
    while not done:
        land(target, OLD)
        signal_at = SignalAt(at)
        sys.settrace(signal_at.trace)
        try:
            land(target, NEW)
            done = signal_at.remaining >= 0
        except Interrupted:  # as the command line ends
            interrupt.clean_up()
            signals += 1
        finally:
            sys.settrace(None)
            interrupt._clean_ups.clear()
            interrupt._handled.clear()
        assert beside(target) <= {".events.part"}, at
        assert complete(target) == content(target)
        assert content(target) in [OLD, NEW]
        with locked(target) as (store, _):  # the lock is free
            store.partial_downloads.keep_only({})
        at += stride
    assert signals > 80


@pytest.mark.parametrize(
    ("how", "signum", "code"),
    [
        ("sleep", signal.SIGINT, 130),
        ("sleep", signal.SIGTERM, 143),
        ("block", signal.SIGINT, 130),
    ],
)
def test_interrupted_run_leaves_no_partial_data(
    tmp_path: Path, how: str, signum: signal.Signals, code: int
) -> None:
    clone = Clone(tmp_path)
    process = clone.start(*clone.complete(how), "--json")
    wait_for(tmp_path / "ready", process)
    assert (tmp_path / "data/.out.staging/half.csv").exists()
    process.send_signal(signum)
    out, err = process.communicate(timeout=SOON)
    assert process.returncode == code
    if how == "sleep":
        assert err == "lighterage: interrupted: nothing was changed\n"
        assert f'"exit_code": {code}' in out
    else:
        assert err == interrupt.FORCED.decode()
    found = [path.name for path in (tmp_path / "data").iterdir()]
    assert found == [".history"], "neither staging nor the lock file remains"


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a process has made a file."""
    deadline = time.monotonic() + 30
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- before the handlers ------------------------------------------------------------------------

AT_IMPORT = """
import os, signal, sys

class Finder:
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
"""
"""A sitecustomize.py: the signal arrives while a module is imported."""


@pytest.mark.parametrize("module", ["tasks.options", "tasks.fetch.memory"])
@pytest.mark.parametrize(
    ("start", "code", "error"),
    [
        ([], -signal.SIGINT, ""),
        (
            ["env", "--block-signal=INT,TERM,HUP"],
            130,
            "lighterage: interrupted: nothing was changed\n",
        ),
    ],
    ids=["alone", "as in the images"],
)
def test_signal_while_modules_load_ends_without_a_traceback(
    tmp_path: Path, module: str, start: list[str], code: int, error: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(AT_IMPORT.format(module=module))
    done = subprocess.run(
        [*start, sys.executable, "-m", "tasks", "2", "--help"],
        cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (code, error)


def test_images_start_python_with_its_signals_blocked() -> None:
    for file in ("docker/dev/Dockerfile", "docker/prod/Dockerfile"):
        text = (REPOSITORY / file).read_text()
        assert '\nENTRYPOINT ["env", "--block-signal=INT,TERM,HUP", ' in text
