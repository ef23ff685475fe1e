"""Where the sides run: one server, its links, a folder that is emptied between two runs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import sides
from benchmarks.data import tree_digest
from sshd import ROOT, Sshd

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.data import Dataset
    from benchmarks.sides import Cipher, Side
    from benchmarks.works import Account

HERE = Path(__file__).parent
TIMEOUT = 300.0
"""Seconds for one run; a side that takes longer has failed."""


@dataclass(frozen=True)
class Sample:
    """One run of one side.

    Attributes:
        seconds: From start to exit.
        cpu_seconds: Of the client's processes, user and system.
        peak_bytes: The largest of its processes' peak resident sizes; where its processes were
            watched, of their sum if that was larger.
        load: The machine's load average (1 minute) when it began.
        fault: Why it does not count: exit code, timeout, other bytes. Empty when all was right.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    load: float
    fault: str = ""


@dataclass
class Arena:
    """A running server and a folder to fetch into; a context manager.

    Attributes:
        folder: On the file system that all sides share.
    """

    folder: Path
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _ports: dict[float, int] = field(default_factory=dict)

    def __enter__(self) -> Arena:
        self.server = Sshd(self.folder / "server")
        self._stack.enter_context(self.server.running())
        self._ports[0.0] = self.server.port
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(
        self,
        side: Side,
        data: Dataset,
        *,
        rtt: float = 0.0,
        account: Account = "full",
        watched: bool = False,
    ) -> Sample:
        """Let a side fetch `data`, and check what it wrote.

        Args:
            side: Who.
            data: What.
            rtt: Seconds that the relay adds to a round trip.
            account: Of the server.
            watched: Whether its processes' memory is added up while it runs.
        """
        place = self.folder / "run"
        shutil.rmtree(place, ignore_errors=True)
        (place / "out").mkdir(parents=True)
        env = {**self._environ(side.cipher, rtt, account), "SOURCE": str(data.source)}
        load = os.getloadavg()[0]
        figures, fault = _launch(side, place, env, self.folder / "log", watched=watched)
        if not fault and figures["exit"]:
            said = (self.folder / "log").read_text(errors="replace").strip()
            fault = f"exit code {figures['exit']:.0f}: {said[-300:]}"
        if not fault and tree_digest(place / "out") != data.tree:
            fault = "other bytes than the source's"
        shutil.rmtree(place)
        peak = int(figures.get("peak_bytes", 0))
        return Sample(
            figures.get("seconds", 0.0), figures.get("cpu_seconds", 0.0), peak, load, fault
        )

    def _environ(self, cipher: Cipher, rtt: float, account: Account) -> dict[str, str]:
        """Return the environment of a side's command, with nothing of this process's own."""
        port = self._port(rtt)
        login = account if ROOT else self.server.user
        known_hosts = self.folder / f"known_hosts-{port}"
        known_hosts.write_text(self.server.known_hosts(port))
        config = self.folder / f"ssh_config-{port}-{login}-{cipher}"
        lines = [
            "Host bench",
            "HostName 127.0.0.1",
            f"Port {port}",
            f"User {login}",
            f'IdentityFile "{self.server.user_key}"',
            "IdentitiesOnly yes",
            f'UserKnownHostsFile "{known_hosts}"',
            f"HostKeyAlias [127.0.0.1]:{port}",
            "StrictHostKeyChecking yes",
            "BatchMode yes",
            "LogLevel ERROR",
        ]
        if cipher == "gcm":
            lines.append("Ciphers aes128-gcm@openssh.com")
        config.write_text("\n".join(lines) + "\n")
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.folder),
            "LC_ALL": "C.UTF-8",
            "PYTHONPATH": str(sides.REPOSITORY),
            "LIGHTERAGE_ENV_FILE": "",
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "LOGIN": login,
            "KEY": str(self.server.user_key),
            "KNOWN_HOSTS": str(known_hosts),
            "SSH_CONFIG": str(config),
        }

    def _port(self, rtt: float) -> int:
        """Give the port of the link with this round trip; its relay starts at the first use."""
        if rtt not in self._ports:
            self._ports[rtt] = self._stack.enter_context(_relay(self.server.port, rtt))
        return self._ports[rtt]


@contextlib.contextmanager
def _relay(port: int, rtt: float) -> Iterator[int]:
    """Run the relay in a process of its own, for a block."""
    command = [sys.executable, "-I", "-S", str(HERE / "delay.py"), str(port), str(rtt)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as relay:
        assert relay.stdin is not None
        assert relay.stdout is not None
        try:
            yield int(relay.stdout.readline())
        finally:
            relay.stdin.close()  # its sign to end


def _launch(
    side: Side, place: Path, env: dict[str, str], log: Path, *, watched: bool
) -> tuple[dict[str, float], str]:
    """Run a side's command; returns the figures, and what went wrong."""
    log.unlink(missing_ok=True)
    launch = [sys.executable, "-I", "-S", str(HERE / "launch.py"), str(log), *side.command]
    process = subprocess.Popen(
        launch, cwd=place, env=env, stdout=subprocess.PIPE, start_new_session=True
    )
    most, end = 0, time.monotonic() + TIMEOUT
    while True:
        try:
            out, _ = process.communicate(timeout=0.02 if watched else TIMEOUT)
        except subprocess.TimeoutExpired:
            if time.monotonic() > end:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                return {}, f"not through after {TIMEOUT:g} s"
            most = max(most, _resident(process.pid))
        else:
            break
    figures: dict[str, float] = json.loads(out)
    figures["peak_bytes"] = max(figures["peak_bytes"], most)
    return figures, ""


def _resident(pid: int) -> int:
    """Add up the resident bytes of a process's children and theirs."""
    total = 0
    with contextlib.suppress(OSError, ValueError, IndexError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        for child in map(int, children.split()):
            with contextlib.suppress(OSError, ValueError, IndexError):
                pages = int(Path(f"/proc/{child}/statm").read_text().split()[1])
                total += pages * os.sysconf("SC_PAGE_SIZE")
            total += _resident(child)
    return total
