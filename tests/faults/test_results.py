"""Results of real runs, printed and written, are those of docs/result.schema.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import hosts
import sshd
from client import Client, put, tree
from landed import locked
from results import last_line, valid
from sshd import Sshd

pytestmark = pytest.mark.sshd

PATHS = {"1": "csv.zip", "2": "csv.tar.gz", "3": "tree"}
BROKEN = b"PK\x03\x04 and then nothing of a zip"


def result(client: Client, task: str, *flags: str, code: int = 0, path: str = "") -> Any:
    """Run a task that ends with an exit code; return its result, printed and written alike."""
    options = ["--json=line", "--result-file=r/result.json", "--unchanged-exit-code=99"]
    done = client.run(task, path or PATHS[task], *options, *flags)
    assert done.code == code, done.err
    data = last_line(done.out, code)
    assert valid((client.folder / "r/result.json").read_text(), code) == data
    return data


@pytest.mark.parametrize("task", PATHS)
def test_each_task_lands_is_planned_and_is_unchanged(dataset_client: Client, task: str) -> None:
    client = dataset_client
    planned = result(client, task, "--dry-run")
    assert (planned["status"], len(planned["added"])) == (
        "planned",
        planned["remote_files"]["added"],
    )
    landed = result(client, task, "--explain", "--keep-archive")
    assert (landed["status"], landed["files"]) == ("landed", len(tree(client.target)) - 1)
    assert landed["explained"]
    assert result(client, task, "--keep-archive", code=99)["status"] == "unchanged"
    assert client.run(task, PATHS[task], "--keep-archive", "--unchanged-exit-code=0").code == 0


def test_some_broken_files_are_listed_with_the_exit_code_of_the_first(
    client: Client, home: Path
) -> None:
    put(home, {"tree/zips/broken.zip": BROKEN})
    partial = result(client, "3", "--on-error=continue", code=7)
    assert partial["status"] == "partial"
    assert [failed["exit_code"] for failed in partial["failed"]] == [7]
    again = result(client, "3", "--on-error=continue", code=7)
    assert again["status"] == "partial", "never 99 while a file fails"


def test_each_failure_of_a_run_is_written(dataset_client: Client, tmp_path: Path) -> None:
    client, home = dataset_client, dataset_client.server.home

    def fails(code: int, *flags: str, path: str = "") -> str:
        failed = result(client, "1", *flags, code=code, path=path)
        assert failed["status"] == "failed"
        return str(failed["kind"])

    assert fails(2, "--max-tries=x") == "usage or configuration"
    assert fails(3, path="absent.zip") == "remote path"
    key = sshd.make_key(tmp_path / "another_key")
    assert fails(4, f"--ssh-key-file={key}") == "authentication or host key"
    put(home, {"csv.zip.sha256": b"0" * 64, "broken.zip": BROKEN})
    assert fails(6) == "integrity"
    assert fails(7, path="broken.zip") == "unsafe or broken archive"
    put(client.target, {"mine.csv": b"not of Lighterage"})
    assert fails(8, path="csv.zip") == "local disk"
    (client.target / "mine.csv").unlink()
    with locked(client.target):
        assert fails(9) == "busy"


def test_lost_host_is_written(client: Client, folder: Path) -> None:
    """A host that refuses connections, and one without SFTP."""
    with Sshd(folder).running() as other:
        address = other.address
    client.known_hosts.write_text(other.known_hosts())
    lost = result(client, "2", f"--remote-host-address={address}", "--max-tries=2", code=5)
    assert lost["kind"] == "network"
    client.environ["PASSWORD"] = hosts.PASSWORD
    client.options["ssh-key-file"] = None
    with hosts.host(None, client.known_hosts) as address:
        refused = result(client, "2", f"--remote-host-address={address}", code=5)
    assert "SFTP" in refused["error"]
