"""A small disk for the published data of a client: a tmpfs, which only root may mount."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest

import sshd
from client import Client


@contextlib.contextmanager
def disk(client: Client, options: str = "size=2m") -> Iterator[Callable[[str], None]]:
    """Move the published data to a small disk; give a function that changes its mount options."""
    if not sshd.ROOT:
        pytest.skip("SMALL DISKS NEED ROOT: only root may mount one")
    folder, before = client.target.parent, client.folder / "before"

    def mount(options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], check=True)

    folder.mkdir(exist_ok=True)
    folder.rename(before)
    folder.mkdir()
    mount(options)
    try:
        shutil.copytree(before, folder, dirs_exist_ok=True)
        shutil.rmtree(before)
        yield lambda options: mount(f"remount,{options}")
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
