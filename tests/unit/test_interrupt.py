"""Signals: a run ends within seconds, with clean-up, even if its main thread hangs.

Two seconds are promised; the tests require only that it ends.
"""

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
interrupt.install()
try:
    {body}
except Interrupted as stop:
    say("interrupted")
    sys.exit(stop.exit_code)
"""
SLEEP = "say('ready'); time.sleep(60)"
BUSY = "say('ready')\n    while True: pass"
SWALLOW = """say('ready')
    while True:
        try:
            time.sleep(60)
        except Exception:
            say("swallowed")"""
BLOCK = "say('ready'); block()"


class Process:
    """A script in a process of its own, that has said that it is ready."""

    def __init__(self, body: str, *, ignoring: str = "") -> None:
        command = [sys.executable, "-c", SCRIPT.format(body=body, ignoring=ignoring)]
        if ignoring:
            command = ["sh", "-c", f"trap '' {ignoring}; exec \"$@\"", "sh", *command]
        self._process = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        if BLOCK in body:
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
        """Require that it ends soon with an exit code; gives what it said."""
        try:
            out, err = self._process.communicate(timeout=SOON)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise
        assert (self._process.returncode, err) == (code, "")
        return out.split()


@pytest.mark.parametrize(
    ("body", "signum", "code"),
    [
        pytest.param(SLEEP, signal.SIGINT, 130, id="sleep, SIGINT"),
        pytest.param(BUSY, signal.SIGTERM, 143, id="busy, SIGTERM"),
        pytest.param(SWALLOW, signal.SIGHUP, 129, id="swallow, SIGHUP"),
    ],
)
def test_signal_ends_python_code(body: str, signum: signal.Signals, code: int) -> None:
    """It raises `Interrupted`, which no `except Exception` catches."""
    process = Process(body)
    process.signal(signum)
    assert process.end(code) == ["interrupted"]


def test_signal_ends_a_call_into_c_that_does_not_return() -> None:
    """As a name lookup: the clean-ups run, the last first, and the process ends.

    A failing one does not stop the others, and that of a block that ended does not run again.
    """
    process = Process(f"""
    over = []
    with interrupt.cleaned_up_by(lambda: over.append(len(over) and say('again'))):
        pass
    assert len(over) == 1
    with interrupt.cleaned_up_by(lambda: say('first')), \\
            interrupt.cleaned_up_by(lambda: 1 / 0), \\
            interrupt.cleaned_up_by(lambda: say('last')):
        {BLOCK}""")
    process.signal(signal.SIGTERM)
    assert process.end(143) == ["last", "first"]


def test_second_signal_does_not_interrupt_the_clean_up() -> None:
    process = Process("""
    try:
        say('ready'); time.sleep(60)
    finally:
        time.sleep(0.5); say('clean')""")
    process.signal(signal.SIGINT, signal.SIGINT, signal.SIGTERM)
    assert process.end(130) == ["clean", "interrupted"]


def test_clean_up_that_hangs_is_aborted() -> None:
    process = Process(f"""
    try:
        {SLEEP}
    finally:
        block()""")
    process.signal(signal.SIGTERM)
    assert process.end(143) == []


def test_signal_waits_for_the_end_of_an_uninterrupted_block() -> None:
    process = Process("""
    with interrupt.uninterrupted():
        say('ready')
        time.sleep(0.5)
        say('whole')
    say('not reached')""")
    process.signal(signal.SIGTERM)
    assert process.end(143) == ["whole", "interrupted"]


def test_signal_after_an_uninterrupted_block_ends_the_run() -> None:
    process = Process("""
    with interrupt.uninterrupted():
        pass
    say('ready')
    time.sleep(60)""")
    process.signal(signal.SIGTERM)
    assert process.end(143) == ["interrupted"]


def test_sigint_works_in_a_background_job_of_a_shell() -> None:
    """A shell without job control starts a background job with SIGINT ignored."""
    process = Process(SLEEP, ignoring="INT")
    process.signal(signal.SIGINT)
    assert process.end(130) == ["interrupted"]


def test_ignored_sighup_stays_ignored() -> None:
    process = Process(SLEEP, ignoring="HUP")
    process.signal(signal.SIGHUP, signal.SIGTERM)
    assert process.end(143) == ["interrupted"]


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
        interrupt.GRACE_SECONDS = 60  # and then all the time it takes
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
        self.left = at

    def trace(self, frame: FrameType, event: str, _arg: object) -> Callable[..., Any] | None:
        if frame.f_code.co_filename.rpartition("/")[2] not in TRACED:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            self.left -= 1
            if self.left < 0:
                sys.settrace(None)
                interrupt._on_signal(signal.SIGTERM, frame)
        return self.trace


def test_signal_before_any_instruction_leaves_neither_files_nor_a_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it hits the very start or end of a `with` block, whose clean-up is not run then.

    Every 17th instruction, or each with LIGHTERAGE_FAULTS.
    """
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(verify, "TICK_NS", 0)
    target = tmp_path / "data/events"
    stride, at, done, signals = 1 if "LIGHTERAGE_FAULTS" in os.environ else 17, 0, False, 0
    while not done:
        land(target, OLD)
        signal_at = SignalAt(at)
        sys.settrace(signal_at.trace)
        try:
            land(target, NEW)
            done = signal_at.left >= 0
        except Interrupted:  # as the command line ends
            interrupt.clean_up()
            signals += 1
        finally:
            sys.settrace(None)
            interrupt._clean_ups.clear()
        assert beside(target) <= {".events.part"}, at
        assert complete(target) == content(target)
        assert content(target) in [OLD, NEW]
        with locked(target) as (store, _):  # the lock is free
            store.partial_downloads.keep_only({})
        at += stride
    assert signals > 150


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
    assert "Traceback" not in err
    assert not (tmp_path / "data").exists(), "neither staging nor the lock file stays"


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a process has made a file."""
    deadline = time.monotonic() + 30
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
