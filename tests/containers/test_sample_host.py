"""The bundled SSH host: its datasets, and what its accounts can and cannot do."""

import asyncio
import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar, cast

import asyncssh
import pytest

import datasets

SERVER = Path(__file__).parents[2] / "docker/sample-host/server.py"
FILE = "datasets/events.csv.zip"
T = TypeVar("T")


class Host:
    """A running sample host, in `folder`, on a port of its own."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "root/dev"
        ready = folder / "ready.json"
        command = [
            sys.executable, str(SERVER), "--host-key", str(folder / "key"),
            "--root", str(folder / "root"), "--ready-file", str(ready), "--port", "0",
        ]  # fmt: skip
        self.process = subprocess.Popen(command)
        for _ in range(600):
            if ready.exists() or self.process.poll() is not None:
                break
            time.sleep(0.1)
        state = json.loads(ready.read_text())
        self.port: int = state["port"]
        self.public_key: str = state["public_key"]

    def stop(self) -> int:
        """Ask it to end; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def ask(
        self,
        question: Callable[[asyncssh.SSHClientConnection], Awaitable[T]],
        user: str = "dev",
        password: str = "dev-sample-only",
    ) -> T:
        """Log in, verifying the host key, and return what `question` finds."""

        async def asking() -> T:
            known = asyncssh.import_known_hosts(f"[127.0.0.1]:{self.port} {self.public_key}\n")
            async with asyncssh.connect(
                "127.0.0.1",
                self.port,
                username=user,
                password=password,
                known_hosts=known,
                client_keys=None,
                agent_path=None,
                config=None,
            ) as connection:
                return await question(connection)

        return asyncio.run(asking())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample host")
    datasets.generate(folder / "root", ["dev"])
    (folder / "root/prod").mkdir()  # there already, so not generated: these tests need no size
    (folder / "outside.txt").write_text("secret")
    (folder / "root/dev/escape").symlink_to("../../outside.txt")
    (folder / "root/dev/inner").symlink_to("datasets")
    return folder


@pytest.fixture(scope="module")
def host(folder: Path) -> Iterator[Host]:
    host = Host(folder)
    yield host
    host.process.kill()
    host.process.wait()


def tree(top: Path) -> dict[str, tuple[str, float]]:
    return {
        str(path.relative_to(top)): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mtime,
        )
        for path in top.rglob("*")
        if path.is_file()
    }


def test_datasets_are_the_same_each_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        datasets.generate(tmp_path / name, ["dev"])
    assert tree(tmp_path / "one/dev") == tree(tmp_path / "two/dev") != {}


def test_sidecars_are_right(folder: Path) -> None:
    sidecars = sorted((folder / "root/dev").rglob("*.sha256"))
    assert len(sidecars) == 4
    for sidecar in sidecars:
        digest, name = sidecar.read_text().split()
        archive = sidecar.with_name(name)
        assert digest == hashlib.sha256(archive.read_bytes()).hexdigest()


def test_two_that_start_at_once_generate_one_folder(tmp_path: Path) -> None:
    command = [sys.executable, str(SERVER.with_name("datasets.py")), str(tmp_path), "dev"]
    both = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dev"]


@pytest.mark.parametrize("path", [FILE, f"/{FILE}", f"../../{FILE}", "inner/events.csv.zip"])
def test_a_file_is_read(host: Host, path: str) -> None:
    async def fetch(connection: asyncssh.SSHClientConnection) -> bytes:
        async with connection.start_sftp_client() as sftp, sftp.open(path, "rb") as file:
            return cast("bytes", await file.read())

    assert host.ask(fetch) == (host.home / FILE).read_bytes()


@pytest.mark.parametrize("path", ["escape", "../../outside.txt", "/etc/passwd", "../prod"])
def test_nothing_outside_can_be_read(host: Host, path: str) -> None:
    async def peek(connection: asyncssh.SSHClientConnection) -> None:
        async with connection.start_sftp_client() as sftp:
            with pytest.raises(asyncssh.SFTPError):
                await sftp.stat(path)
            with pytest.raises(asyncssh.SFTPError):
                await sftp.open(path, "rb")

    host.ask(peek)


def test_nothing_can_be_written(host: Host) -> None:
    before = tree(host.home)

    async def spoil(connection: asyncssh.SSHClientConnection) -> None:
        async with connection.start_sftp_client() as sftp:
            for attempt in (
                lambda: sftp.open("new", "wb"),
                lambda: sftp.open(FILE, "r+b"),
                lambda: sftp.remove(FILE),
                lambda: sftp.rename(FILE, "new"),
                lambda: sftp.posix_rename(FILE, "new"),
                lambda: sftp.mkdir("new"),
                lambda: sftp.symlink("/etc", "new"),
                lambda: sftp.link(FILE, "new"),
                lambda: sftp.truncate(FILE, 0),
                lambda: sftp.chmod(FILE, 0o777),
            ):
                with pytest.raises(asyncssh.SFTPPermissionDenied):
                    await attempt()

    host.ask(spoil)
    assert tree(host.home) == before


@pytest.mark.parametrize(
    ("user", "password"), [("dev", "wrong"), ("dev", ""), ("nobody", ""), ("nobody", "wrong")]
)
def test_a_wrong_login_is_denied(host: Host, user: str, password: str) -> None:
    async def never(_: asyncssh.SSHClientConnection) -> None:
        raise AssertionError

    with pytest.raises(asyncssh.PermissionDenied):
        host.ask(never, user, password)


def test_no_command_is_run(host: Host) -> None:
    async def run(connection: asyncssh.SSHClientConnection) -> None:
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.run("id")

    host.ask(run)


def test_the_host_key_stays_and_sigterm_ends_it(tmp_path: Path) -> None:
    for account in datasets.ACCOUNTS:
        (tmp_path / "root" / account).mkdir(parents=True)
    first = Host(tmp_path)
    assert first.stop() == 0
    assert not (tmp_path / "ready.json").exists()
    second = Host(tmp_path)
    assert second.stop() == 0
    printed = subprocess.run(
        [sys.executable, SERVER, "public-key", "--host-key", tmp_path / "key"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert printed == second.public_key + "\n" == first.public_key + "\n"
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
