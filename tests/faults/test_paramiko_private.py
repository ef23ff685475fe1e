"""Paramiko's undocumented names: each may be absent, and one module alone uses them."""

from __future__ import annotations

import ast
import socket
import subprocess
import sys
from pathlib import Path

import paramiko
import pytest

from client import CSVS, Client, tree
from forks import REPOSITORY
from sshd import Sshd
from tasks.fetch.ssh.packets import BufferedSocket, DirectPacketizer
from tasks.fetch.ssh.paramiko_private import Item, Text

pytestmark = pytest.mark.sshd
RUN = """
import sys
from tasks.fetch.ssh import paramiko_private
paramiko_private.disabled.update(sys.argv.pop(1).split("|"))
from tasks.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
PRIVATE = REPOSITORY / "tasks/fetch/ssh/paramiko_private.py"
ALL = "|".join([*Item, *Text])


def run_without(client: Client, names: str, task: str, path: str) -> tuple[int, str]:
    """Run a task as if paramiko lacked some names; return its exit code and error output."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, names, *client.arguments(task, path)],
        cwd=client.folder, env=client.env(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize("names", [*Item, *Text, ALL])
def test_files_and_an_archive_are_downloaded_without(dataset_client: Client, names: str) -> None:
    client = dataset_client
    assert run_without(client, names, "3", "tree") == (0, "")
    assert {f"plain/{name}": content for name, content in CSVS.items()}.items() <= tree(
        client.target
    ).items()
    client.options["file-save-path"] = "out/archive"
    assert run_without(client, names, "2", "csv.tar.gz") == (0, "")
    assert tree(client.folder / "out/archive") == CSVS


def test_new_keys_are_asked_for_after_so_many_bytes_or_packets() -> None:
    """Not with a host: paramiko may hang for 30 s while keys are exchanged (paramiko #822)."""
    for limit in ("REKEY_BYTES", "REKEY_PACKETS"):
        with socket.socket() as sock:
            packetizer = DirectPacketizer(BufferedSocket(sock))
            setattr(packetizer, limit, 100)
            overflow = f"{limit}_OVERFLOW_MAX"
            setattr(packetizer, overflow, 10)
            size = 1 if limit == "REKEY_BYTES" else 0
            for _ in range(99):
                packetizer._count(size)
            assert not packetizer.need_rekey()
            packetizer._count(size)
            assert packetizer.need_rekey()
            for _ in range(10):
                packetizer._count(size)
            with pytest.raises(paramiko.SSHException, match="ignoring rekey requests"):
                packetizer._count(size)


@pytest.mark.parametrize("option", ["ForceCommand exit 1", "Ciphers chacha20-poly1305@openssh.com"])
def test_faults_keep_their_kind_without(tmp_path: Path, folder: Path, option: str) -> None:
    with Sshd(folder, [option]).running() as server:
        code, err = run_without(Client(tmp_path, server), ALL, "2", "csv.tar.gz")
    assert code == 5, err


def undocumented() -> set[str]:
    """Name the attributes of a transport and a channel that no method documents."""
    with socket.socket() as sock:
        transport = paramiko.Transport(sock)
        names = {*vars(transport), *vars(paramiko.Channel(1))}
    others = {"transport", "timeout"}  # of Fabric's connection, and of settings
    return {*names, *".".join(Item).split(".")} - others


def test_no_other_module_uses_undocumented_names_of_paramiko() -> None:
    forbidden, found = undocumented(), []
    for path in (REPOSITORY / "tasks").rglob("*.py"):
        code = ast.parse(path.read_text())
        words = {word for node in ast.walk(code) for word in imported(node)}
        if path == PRIVATE or not words & {"paramiko", "fabric"}:
            continue
        for node in ast.walk(code):
            if isinstance(node, ast.Attribute) and not is_own(node.value):
                private = node.attr.startswith("_") and not node.attr.startswith("__")
                if private or node.attr in forbidden:
                    found.append(f"{path.name}:{node.lineno}: {node.attr}")
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts = [text for text in Text if text in node.value]
                found += [f"{path.name}:{node.lineno}: {text}" for text in texts]
    assert found == []


def imported(node: ast.AST) -> list[str]:
    """Return the packages that a statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    return [str(node.module).partition(".")[0]] if isinstance(node, ast.ImportFrom) else []


def is_own(node: ast.expr) -> bool:
    """Return whether an expression is `self`, whose names are the module's own."""
    return isinstance(node, ast.Name) and node.id in {"self", "cls"}
