"""200 runs of the service in fast time, with faults: what is published is true, and nothing leaks.

A real service process, real tasks and a real server; only the clock is fast. What is chosen at
random comes from one seed.
"""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
from pathlib import Path

import pytest

from client import Client, trusted
from relay import Relay
from soak import Fault, Soak
from sshd import ROOT, Sshd
from world import PATHS

RUNS = 200
SEED = 13
GROWTH_KIB = 1024
"""How much more memory one service process may use after its last round than after its third."""


def test_200_scheduled_runs_with_faults_publish_what_is_true_and_leak_nothing(
    tmp_path: Path, server: Sshd
) -> None:
    client, chosen = Client(tmp_path, server), random.Random(SEED)  # noqa: S311 (no secret)
    faults: list[Fault] = ["none", "away", "cut", "cut once"]
    ends: list[Fault] = ["killed", "stopped"]
    with contextlib.ExitStack() as stack:
        relays = {task: stack.enter_context(Relay(server.port).running()) for task in PATHS}
        for relay in relays.values():
            trusted(client, relay.address)
        data = tmp_path / "data"
        data.mkdir()
        if ROOT:
            faults.append("disk full")
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", data], check=True)
            stack.callback(lambda: subprocess.run(["umount", "--lazy", data], check=True))
        soak = Soak(client, relays, chosen)
        stack.callback(soak.end, signal.SIGKILL)
        soak.begin()
        while soak.starts < RUNS:
            # First the service itself ends now and then; then one process does all.
            soak.round(chosen.choice(faults + ends if soak.starts < RUNS / 3 else faults))
        soak.round("none")

    first, last = soak.uses[2], soak.uses[-1]
    assert (last.descriptors, last.threads, last.children) == (first.descriptors, first.threads, 0)
    assert last.memory_kib - first.memory_kib < GROWTH_KIB, soak.uses
    assert {fault for fault, _ in soak.ends} >= {*faults}, soak.ends
    if not ROOT:
        pytest.skip("SMALL DISKS NEED ROOT: the service ran without a full disk")
