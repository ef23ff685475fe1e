"""A client of a test's server: a folder to run tasks from, and what it may fetch."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forks import REPOSITORY, Fork, forks
from sshd import Sshd

CSVS = {
    "2026/01.csv": b'date,id,name\r\n2026-01-01,1,"Zo\xc3\xab, ""Z"""\r\n',
    "2026/feb/02.CSV": b"date,id,name\n" + b"2026-02-01,2,\n" * 5000,
    "empty.csv": b"",
}


def write_datasets(home: Path, csvs: dict[str, bytes] = CSVS) -> None:
    """Write csv.zip, csv.tar.gz and a nested folder, each with the same CSVs."""
    home.mkdir(exist_ok=True)
    (home / "csv.zip").write_bytes(zipped({**csvs, "read.me": b"no csv"}))
    (home / "csv.tar.gz").write_bytes(tarred({**csvs, "read.me": b"no csv"}))
    tree = home / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    for name, content in csvs.items():
        path = tree / "plain" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tree / "packed/deep").mkdir(parents=True)
    (tree / "packed/deep/csv.zip").write_bytes(zipped(csvs))
    (tree / "notes.txt").write_bytes(b"no csv")
    (tree / "link.csv").symlink_to("notes.txt")


def zipped(members: dict[str, bytes]) -> bytes:
    """Pack a zip."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():  # at one time, so that it is the same zip each time
            info = zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0))
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def tarred(members: dict[str, bytes], mode: str = "w:gz") -> bytes:
    """Pack a tar."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


@dataclass
class Ended:
    """How a run ended."""

    code: int
    out: str
    err: str

    def data(self) -> Any:
        """Give the JSON result."""
        return json.loads(self.out)


def ended(process: Fork, seconds: float = 120) -> Ended:
    """Wait for the end of a run, which is never one with a traceback, nor a bug."""
    out, err = process.communicate(seconds)
    assert "Traceback" not in err + out, err
    assert process.returncode not in {1, None}, err
    return Ended(process.returncode, out, err)


@dataclass
class Client:
    """A place to run tasks from: a folder of its own, logging in by key, knowing the server."""

    folder: Path
    server: Sshd
    options: dict[str, str | None] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.known_hosts.parent.mkdir(exist_ok=True)
        self.known_hosts.write_text(self.server.known_hosts())
        self.options = {
            "remote-host-address": self.server.address,
            "username": self.server.user,
            "ssh-key-file": str(self.server.user_key),
            "file-save-path": "out/data",
            "retry-delay": "0.01",
            "log-level": "WARNING",
            "timeout": "10",
            **self.options,
        }

    @property
    def known_hosts(self) -> Path:
        """Where its known hosts are."""
        return self.folder / "envs/known_hosts"

    @property
    def target(self) -> Path:
        """Where it lands."""
        return self.folder / "out/data"

    def arguments(
        self, task: str, path: str | None, *flags: str, **options: str | None
    ) -> list[str]:
        """Give the arguments of a task, its path in the server's home; what is None is left out."""
        given = {**self.options, **{k.replace("_", "-"): v for k, v in options.items()}}
        given["remote-file-path"] = path and str(self.server.home / path)
        words = [f"--{name}={value}" for name, value in given.items() if value is not None]
        return [task, *words, *flags]

    def env(self) -> dict[str, str]:
        """Give the environment of a run: nothing of the tests' own."""
        return {
            "PATH": os.defpath, "HOME": str(self.folder), "PYTHONPATH": str(REPOSITORY),
            "LIGHTERAGE_ENV_FILE": "", **self.environ,
        }  # fmt: skip

    def start(self, task: str, path: str | None, *flags: str, **options: str | None) -> Fork:
        """Start a task."""
        arguments = self.arguments(task, path, *flags, **options)
        return forks().start(arguments, self.folder, self.env())

    def run(self, task: str, path: str | None, *flags: str, **options: str | None) -> Ended:
        """Run a task to its end."""
        return ended(self.start(task, path, *flags, **options))

    def report(self, task: str, path: str | None, *flags: str, code: int = 0) -> Any:
        """Run a task that ends with an exit code; return its JSON."""
        done = self.run(task, path, "--json", *flags)
        assert done.code == code, done.err
        return done.data()

    def put(self, files: Mapping[Any, bytes]) -> None:
        """Write files into the server's home; see `put`."""
        put(self.server.home, files)

    def secret(self, text: str, name: str = "secret") -> str:
        """Write a secret file; returns its path."""
        path = self.folder / name
        path.write_text(text + "\n")
        return str(path)


def put(folder: Path, files: Mapping[Any, bytes]) -> None:
    """Write files; names are text, or bytes that are none.

    A file that is replaced gets a later modification time, in the whole seconds that SFTP states.
    """
    for name, content in files.items():
        path = folder / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        later = path.stat().st_mtime + 1 if path.exists() else 0
        path.write_bytes(content)
        if path.stat().st_mtime < later:
            os.utime(path, (later, later))


def tree(folder: Path) -> dict[str, bytes]:
    """Read every file of a folder but the manifest, by its relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }


def left_over(client: Client) -> list[str]:
    """List what a run left beside its target, but the manifest before."""
    names = [path.name for path in client.target.parent.glob(".*")]
    return [name for name in names if name != f".{client.target.name}.previous.json"]


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.01)


def trusted(client: Client, address: str) -> str:
    """Trust the server's key at a relay's address."""
    line = client.server.known_hosts(int(address.rpartition(":")[2]))
    with client.known_hosts.open("a") as file:
        file.write(line)
    return address
