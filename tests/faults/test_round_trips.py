"""Round trips: how often a run waits for the host, which is what a far host costs."""

from __future__ import annotations

import pytest

from client import Client, trusted
from trips import CountingRelay

pytestmark = pytest.mark.sshd
LOGIN = 3
"""The lists of algorithms, the keys, the login; OpenSSH opens SFTP with it."""
LISTING = 2
"""The folder's handle, its names."""
FACTS = 1
"""Those of the archive, and of its checksum files."""
DOWNLOAD = 2
"""The file's handle, its bytes."""
COMMAND = 3
"""In place of a download: the command's channel, its start, its input."""


def takes(client: Client, trips: int, task: str, path: str, **options: str | None) -> bool:
    """Return whether one of up to three runs takes just so many; a busy machine adds some."""
    counts: list[int] = []
    relay = CountingRelay(client.server.port)
    with relay.running() as address:
        client.options["remote-host-address"] = trusted(client, address)
        while len(counts) < 3 and trips not in counts:
            done = client.run(task, path, "--force", "--json", **options)
            assert done.data()["status"] == "landed"
            counts.append(relay.trips.get(timeout=10))
    return trips in counts


def test_a_folder_takes_seven_or_eight(client: Client) -> None:
    client.put({"tree/a.csv": b"1\n", "tree/b.csv": b"2\n"})
    assert takes(client, LOGIN + LISTING + COMMAND, "3", "tree")
    assert takes(client, LOGIN + LISTING + DOWNLOAD, "3", "tree", verify="size")


def test_an_archive_takes_seven(dataset_client: Client) -> None:
    assert takes(dataset_client, LOGIN + FACTS + COMMAND, "1", "csv.zip")
