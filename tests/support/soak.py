"""The service in fast time, with faults in and between its runs; what must hold after each."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from client import Client, put, tree
from clone import REPOSITORY
from relay import Relay
from sshd import free_port
from world import PATHS, Version

Fault = Literal["none", "away", "cut", "cut once", "disk full", "killed", "stopped"]
CODES: dict[Fault, set[int]] = {
    "none": {0}, "away": {5}, "cut": {5}, "cut once": {0}, "disk full": {8}, "killed": set(),
    "stopped": {0},
}  # fmt: skip
"""The exit codes of the runs that end in a round with a fault."""
START = 1_774_720_800.0
"""2026-03-28 19:00 in Zurich, the day before summer time begins."""


@dataclass(frozen=True)
class Use:
    """What a process uses of the machine."""

    descriptors: int
    threads: int
    children: int
    memory_kib: int

    @staticmethod
    def of(pid: int) -> Use:
        """Read it from /proc."""
        proc = Path(f"/proc/{pid}")
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        return Use(
            len(list((proc / "fd").iterdir())),
            int(status["Threads"]),
            len((proc / f"task/{pid}/children").read_text().split()),
            int(status["VmRSS"].split()[0]),
        )


@dataclass
class Soak:
    """The service, a relay for each of its tasks, and what each has published.

    Attributes:
        published: The version that each task has published.
        dirty: The tasks that were killed, and did not succeed since.
        now: The time of the service.
        ends: How often runs ended in a round with a fault, by exit code.
        uses: What the present service process used, round by round.
    """

    client: Client
    relays: dict[str, Relay]
    random: random.Random
    version: Version = field(init=False)
    published: dict[str, Version | None] = field(default_factory=lambda: dict.fromkeys(PATHS))
    dirty: set[str] = field(default_factory=set)
    now: float = START
    starts: int = 0
    ends: Counter[tuple[Fault, int]] = field(default_factory=Counter)
    uses: list[Use] = field(default_factory=list)
    _process: subprocess.Popen[str] | None = None
    _read: int = 0

    def __post_init__(self) -> None:
        home, server = self.client.server.home, self.client.server
        common = {
            "username": server.user, "ssh_key_file": str(server.user_key), "mirror": True,
            "max_tries": 2, "retry_delay": 0.01, "timeout": 10, "time_zone": "Europe/Zurich",
            "schedule": "*/30 * * * *", "log_level": "WARNING",
        }  # fmt: skip
        tasks = {
            task: {
                "remote_file_path": str(home / path),
                "file_save_path": f"data/task_{task}/events",
                "remote_host_address": self.relays[task].address,
            }
            for task, path in PATHS.items()
        }
        config = json.dumps({"common": common, "tasks": tasks})
        (self.client.folder / "config.yaml").write_text(config)
        self._log = self.client.folder / "log"
        self.renew()

    @property
    def data(self) -> Path:
        """The data of the service."""
        return self.client.folder / "data"

    # --- the service ------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start the service, in a group of its own, and wait until no task runs."""
        env = self.client.env() | {"LIGHTERAGE_VARIANT": "prod", "TMPDIR": str(self.client.folder)}
        program = str(REPOSITORY / "tests/support/fast_service.py")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, program, str(self.now), *PATHS],
                cwd=self.client.folder, env=env, text=True, start_new_session=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        self.uses = []
        assert self.wait(), self._log.read_text()[self._read :]
        self.check("none")

    def wait(self) -> bool:
        """Wait until no task runs, or the service ended; return whether it runs."""
        assert self._process
        assert self._process.stdout
        for line in self._process.stdout:  # it has the results of the tasks, too
            if line.startswith("idle"):
                self.now = float(line.split()[1])
                self.uses.append(Use.of(self._process.pid))
                return True
        return False

    def end(self, signum: signal.Signals) -> None:
        """Send a signal: SIGKILL to all processes, as the end of a container does."""
        if self._process:
            kill = os.killpg if signum == signal.SIGKILL else os.kill
            with contextlib.suppress(ProcessLookupError):
                kill(self._process.pid, signum)

    # --- a round ----------------------------------------------------------------------------------

    def renew(self) -> None:
        """Have another version on the host."""
        noise = {f"{name}.csv": self.random.randbytes(self.random.randrange(1, 30_000))
                 for name in "abc"}  # fmt: skip
        self.version = Version({**noise, "same.csv": b"id,name\n" * 1000})
        put(self.client.server.home, self.version.files)

    def round(self, fault: Fault) -> None:
        """Run the tasks that are due next, with a fault; check the result."""
        if fault != "none" or self.random.random() < 0.5:
            self.renew()
        balloon = self.data / "balloon"
        for relay in self.relays.values():
            relay.renew()
            relay.after, relay.alarm = self.random.randrange(8000), self.random.randrange(8000)
            if fault in {"cut", "cut once"}:
                relay.fault, relay.times = "cut", 1 if fault == "cut once" else 9
            if fault == "away":
                relay.port = free_port()
            if fault in {"killed", "stopped"}:
                signum = signal.SIGKILL if fault == "killed" else signal.SIGTERM
                relay.ring = functools.partial(self.end, signum)
        if fault == "disk full":
            _fill(balloon)
        assert self._process
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        runs = self.wait()
        for relay in self.relays.values():
            relay.renew()
            relay.port = self.client.server.port
        balloon.unlink(missing_ok=True)
        self.check(fault)
        if not runs:
            code = self._process.wait(30)
            assert code == {"killed": -signal.SIGKILL, "stopped": 0}[fault]
            self.now += 600
            self.begin()  # starts what it missed, and what was interrupted

    # --- what must hold ---------------------------------------------------------------------------

    def check(self, fault: Fault) -> None:
        """Check what is published, that it is as the exit codes say, and that nothing is left."""
        log = self._log.read_text()[self._read :]
        self._read += len(log)
        assert "Traceback" not in log
        started = set(re.findall(r"task (\d) started", log))
        codes = {task: int(code) for task, code in
                 re.findall(r"task (\d) ended with exit code (-?\d+)", log)}  # fmt: skip
        self.starts += len(started)
        for task in started:
            before, found = self.published[task], self.published_by(task)
            code = codes.get(task)
            if code is None:  # the service ended first
                assert fault in {"killed", "stopped"}, log
                assert found in [before, self.version]
            else:
                self.ends[fault, code] += 1
                assert code in CODES[fault], log
                assert found == (before if code else self.version), log
            self.published[task] = found
            if fault == "killed":
                self.dirty.add(task)
            elif code == 0:
                self.dirty.discard(task)
            beside = {path.name for path in self.target(task).parent.glob("*")}
            beside -= {"events", ".events.previous.json"}
            assert task in self.dirty or not beside, log
        state = {path.name for path in (self.data / ".schedule/prod").iterdir()}
        assert state <= {"lock", "state.json", *(["state.json.new"] if fault == "killed" else [])}

    def target(self, task: str) -> Path:
        """Return where a task publishes."""
        return self.data / f"task_{task}/events"

    def published_by(self, task: str) -> Version | None:
        """Return the version that a task has published, after comparing it with its manifest."""
        target = self.target(task)
        if not target.exists():
            return None
        files, manifest = tree(target), json.loads((target / "manifest.json").read_text())
        assert {file["path"]: (file["size"], file["sha256"]) for file in manifest["files"]} == {
            name: (len(content), hashlib.sha256(content).hexdigest())
            for name, content in files.items()
        }
        known = [version for version in (self.version, self.published[task])
                 if version and files == version.landed(task, keep=False)]  # fmt: skip
        assert known, f"task {task} published what never was on the host"
        home = self.client.server.home
        for source in manifest["sources"]:
            content = known[0].files[str(Path(source["path"]).relative_to(home))]
            assert source["sha256"] == hashlib.sha256(content).hexdigest()
        return known[0]


def _fill(path: Path) -> None:
    """Take all space of a disk but a page."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(0, file.tell() - 4096))
