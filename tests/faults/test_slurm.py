"""The recipe of docs/cluster.md for Slurm, with slurmctld, slurmd and munge on this machine."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import Client
from client import tree as files_of
from need import need
from recipes import recipe
from sshd import free_port
from tree import Tree

pytestmark = pytest.mark.sshd
CONFIG = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1
MailProg=/bin/true
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=8000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
"""
FILES = {f"{n % 5}/{n:02}.csv": b"%d\n" % n * 9 for n in range(40)}


class Slurm:
    """A Slurm of one node; jobs run as root in a folder.

    Args:
        folder: With the files of the daemons.
    """

    def __init__(self, folder: Path) -> None:
        self._env = {"PATH": os.environ["PATH"], "SLURM_CONF": str(folder / "slurm.conf")}
        folder.chmod(0o755)
        for name in ("state", "spool"):
            (folder / name).mkdir()
        ports = [free_port(), free_port()]
        text = CONFIG.format(host=socket.gethostname(), folder=folder, ports=ports)
        (folder / "slurm.conf").write_text(text)
        (folder / "munge.key").write_bytes(secrets.token_bytes(128))
        (folder / "munge.key").chmod(0o600)
        munge = {"socket": "munge.socket", "key-file": "munge.key", "log-file": "munge.log",
                 "pid-file": "munge.pid", "seed-file": "munge.seed"}  # fmt: skip
        options = [f"--{option}={folder / name}" for option, name in munge.items()]
        self.commands = [
            ["munged", "--force", "--foreground", *options],
            ["slurmctld", "-D"],
            ["slurmd", "-D"],
        ]
        self._folder = folder

    @contextlib.contextmanager
    def running(self) -> Iterator[Slurm]:
        """Run its daemons for a block."""
        with contextlib.ExitStack() as stack:
            for words in self.commands:
                program = need(words[0], PACKAGES[words[0]], "the recipe for Slurm")
                with (self._folder / f"{words[0]}.out").open("wb") as out:
                    process = subprocess.Popen(
                        [program, *words[1:]], env=self._env, stdout=out, stderr=out
                    )
                stack.callback(process.wait, 20)
                stack.callback(process.terminate)
                if words[0] == "munged":
                    _wait_for(self._folder / "munge.socket")
            yield self

    def run(self, script: str, folder: Path) -> int:
        """Run a script that calls Slurm's commands; return its exit code."""
        return subprocess.run(
            ["bash", "-c", script], cwd=folder, env=self._env, check=False, timeout=300
        ).returncode


PACKAGES = {"munged": "munge", "slurmctld": "slurmctld", "slurmd": "slurmd"}


def _wait_for(path: Path) -> None:
    for _ in range(600):
        if path.exists():
            return
        time.sleep(0.05)
    raise AssertionError(path)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    if os.getuid():
        pytest.skip("ONLY ROOT CAN START JOBS AS SLURM DOES: the recipe for Slurm")
    need("sbatch", "slurm-client", "the recipe for Slurm")
    with Slurm(tmp_path_factory.mktemp("slurm")).running() as slurm:
        yield slurm


@pytest.fixture
def tree(client: Client, tmp_path: Path) -> Tree:
    """Give a clone whose task 3 lands 40 files of the server."""
    client.put({f"tree/{name}": content for name, content in FILES.items()})
    tree = Tree(tmp_path / "clone")
    lines = {
        "REMOTE_HOST_ADDRESS": client.server.address,
        "USERNAME": client.server.user,
        "SSH_KEY_FILE": str(client.server.user_key),
    }
    text = "".join(f"{name}={value}\n" for name, value in lines.items())
    (tree.folder / "envs/prod.env").write_text(text)
    (tree.folder / "envs/known_hosts").write_text(client.server.known_hosts())
    config = tree.folder / "config.yaml"
    source = str(client.server.home / "tree")
    config.write_text(config.read_text().replace("datasets/events\n", f"{source}\n"))
    for name, mark in (("shards.sh", "--array"), ("publish.sh", "SHARD=1")):
        script = recipe("sh", mark, ("/srv/lighterage", str(tree.folder)), page="cluster.md")
        (tree.folder / name).write_text(script)
    return tree


def published(tree: Tree) -> dict[str, bytes]:
    return files_of(tree.folder / "data/task_3/events")


def test_an_array_lands_its_shards_and_the_job_after_it_has_the_code_of_the_run(
    tree: Tree, slurm: Slurm
) -> None:
    assert slurm.run(recipe("sh", "--parsable", page="cluster.md"), tree.folder) == 0
    assert published(tree) == FILES


def test_a_run_whose_shard_failed_is_not_published_until_it_is_started_again(
    tree: Tree, slurm: Slurm
) -> None:
    submit = recipe("sh", "--parsable", page="cluster.md")
    script = tree.folder / "shards.sh"
    whole = script.read_text()
    refused = "[ $SLURM_ARRAY_TASK_ID = 2 ] && export KNOWN_HOSTS_FILE=/dev/null\nexec"
    script.write_text(whole.replace("exec", refused))
    assert slurm.run(submit, tree.folder) == 4
    assert published(tree) == {}
    script.write_text(whole)
    assert slurm.run(submit, tree.folder) == 0
    assert published(tree) == FILES
