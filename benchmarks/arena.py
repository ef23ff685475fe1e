"""Where the sides run: one server, its links, a folder that is emptied between two runs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from benchmarks import bucket, sides
from benchmarks.data import tree_digest
from sshd import ROOT, Sshd

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.data import Dataset
    from benchmarks.sides import Cipher, Side
    from benchmarks.works import Account


class Link(NamedTuple):
    """What is between client and server: a relay, except where both are 0.

    Attributes:
        rtt: Seconds that it adds to a round trip.
        bytes_per_s: Its rate in each direction, 0 for no limit.
    """

    rtt: float = 0.0
    bytes_per_s: float = 0.0


NEAR = Link()
Prior = Literal["", "same", "one changed"]
HERE = Path(__file__).parent
TIMEOUT = 300.0
"""Seconds for one run; a side that takes longer has failed."""


@dataclass(frozen=True)
class Sample:
    """One run of one side.

    Attributes:
        seconds: From start to exit.
        cpu_seconds: Of the client's processes, user and system.
        host_cpu_seconds: Of the server's processes for it: encryption, SFTP, tar, checksums.
        peak_bytes: The largest of its processes' peak resident sizes; where its processes were
            watched, of their sum if that was larger.
        load: The machine's load average (1 minute) when it began.
        fault: Why it does not count: exit code, timeout, other bytes. Empty when all was right.
        cipher: Of the data, as the server agreed on it.
    """

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    load: float
    fault: str = ""
    cipher: str = ""
    host_cpu_seconds: float = 0.0


@dataclass
class Arena:
    """A running server and a folder to fetch into; a context manager.

    Attributes:
        folder: On the file system that all sides share.
    """

    folder: Path
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _ports: dict[Link, int] = field(default_factory=dict)
    _log_read: int = 0
    _object_server: str = ""

    def __enter__(self) -> Arena:
        # It says which ciphers it agrees on, and internal-sftp does not log each request.
        self.server = Sshd(
            self.folder / "server", ["LogLevel DEBUG1"], sftp="internal-sftp -l ERROR"
        )
        self._stack.enter_context(self.server.running())
        self._ports[NEAR] = self.server.port
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(
        self,
        side: Side,
        data: Dataset,
        *,
        link: Link = NEAR,
        prior: Prior = "",
        account: Account = "full",
        to_bucket: bool = False,
        watched: bool = False,
    ) -> Sample:
        """Let a side fetch `data`, and check what it wrote.

        Args:
            side: Who.
            data: What.
            link: Between them.
            prior: What there is before: nothing, the same data, or all of it but one file.
            account: Of the server.
            to_bucket: Whether it must end in the bucket, not in the folder `out`.
            watched: Whether its processes' memory is added up while it runs.
        """
        place = self.folder / "run"
        shutil.rmtree(place, ignore_errors=True)
        (place / "out").mkdir(parents=True)
        env = {**self.environ(side.cipher, link, account), "SOURCE": str(data.source)}
        log = self.folder / "log"
        target = self._new_bucket() if to_bucket else None
        if target:
            env.update(target.variables)
        if prior:
            _launch(side, place, env, log, watched=False)
        self._new_cipher()
        assert self.server.process is not None
        host_before = _children_cpu_seconds(self.server.process.pid)
        load = os.getloadavg()[0]
        with _changed(data.source) if prior == "one changed" else contextlib.nullcontext():
            figures, fault = _launch(side, place, env, log, watched=watched)
            host_cpu = _children_cpu_seconds(self.server.process.pid) - host_before
            tree = tree_digest(data.source) if prior else data.tree
        if not fault and figures["exit"]:
            said = log.read_text(errors="replace").strip()
            fault = f"exit code {figures['exit']:.0f}: {said[-300:]}"
        if not fault and (target.tree() if target else tree_digest(place / "out")) != tree:
            fault = "other bytes than the source's"
        shutil.rmtree(place)
        if target:
            target.clear()
        peak = int(figures.get("peak_bytes", 0))
        return Sample(
            figures.get("seconds", 0.0), figures.get("cpu_seconds", 0.0), peak, load, fault,
            self._new_cipher(), host_cpu,
        )  # fmt: skip

    def _new_bucket(self) -> bucket.Bucket:
        """Give a bucket; the server starts at the first use."""
        if not self._object_server:
            running = bucket.running(self.folder / "objects")
            self._object_server = self._stack.enter_context(running)
        return bucket.Bucket(self._object_server)

    def _new_cipher(self) -> str:
        """Return the cipher of the connections since the last call, as the server logged it."""
        with (self.server.folder / "log").open(errors="replace") as log:
            log.seek(self._log_read)
            text = log.read()
            self._log_read = log.tell()
        found = re.findall(r"kex: server->client cipher: (\S+)", text)
        return found[-1] if found else ""

    def environ(self, cipher: Cipher, link: Link, account: Account) -> dict[str, str]:
        """Return the environment of a side's command, with nothing of this process's own."""
        port = self._port(link)
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

    def _port(self, link: Link) -> int:
        """Give the port of a link; its relay starts at the first use."""
        if link not in self._ports:
            self._ports[link] = self._stack.enter_context(relay(self.server.port, link))
        return self._ports[link]


@contextlib.contextmanager
def _changed(folder: Path) -> Iterator[None]:
    """Give one file of a folder other content for a block, and another size and time."""
    path = min(path for path in folder.rglob("*") if path.is_file())
    content, before = path.read_bytes(), path.stat()
    path.write_bytes(content + b"one more row\n")
    try:
        yield
    finally:
        path.write_bytes(content)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@contextlib.contextmanager
def relay(port: int, link: Link, address: str = "127.0.0.1") -> Iterator[int]:
    """Run the relay in a process of its own, for a block; give the port it listens on."""
    words = map(str, (port, *link, address))
    command = [sys.executable, "-I", "-S", str(HERE / "delay.py"), *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()  # its sign to end


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


def _children_cpu_seconds(pid: int) -> float:
    """Return the processor time of a server's processes, once the last of them has ended."""
    end = time.monotonic() + 10
    while Path(f"/proc/{pid}/task/{pid}/children").read_text().strip():
        assert time.monotonic() < end, "the server's processes did not end"
        time.sleep(0.01)
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, stat[13:15])) / os.sysconf("SC_CLK_TCK")  # cutime, cstime: proc(5)


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
