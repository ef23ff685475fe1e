"""Only what is newer than the newest landed file, by the times of the host alone."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

import pytest

from client import Client, left_over, tree, zipped
from selection import counts, report

pytestmark = pytest.mark.sshd

HOUR_S = 3600
FIRST = {"tree/a.csv": -5 * HOUR_S, "tree/deep/b.csv": 0}


def write(client: Client, ages: Mapping[str, float], now: float) -> None:
    """Write files that last changed at times relative to one of the host."""
    for name, age in ages.items():
        content = name.encode()
        client.put({name: zipped({"x.csv": content}) if name.endswith("zip") else content})
        os.utime(client.server.home / name, (now + age, now + age))


@pytest.mark.parametrize("clock_s", [-10 * HOUR_S, 0, 10 * HOUR_S])
@pytest.mark.parametrize(
    ("overlap", "names"),
    [("0", {"same.csv", "new.csv"}), ("2h", {"same.csv", "new.csv", "late.csv"})],
)
def test_files_older_than_the_newest_landed_one_do_not_land(
    client: Client, clock_s: float, overlap: str, names: set[str]
) -> None:
    now = time.time() + clock_s
    write(client, FIRST, now)
    flag = f"--since-last={overlap}"
    data = report(client, flag)
    assert (counts(data), len(data["arrival"])) == ((2, 0, 0, 0), 1)
    assert "nothing of this selection landed before" in data["arrival"][0]
    more = {"same.csv": 0, "new.csv": 60, "late.csv": -HOUR_S, "old.csv": -6 * HOUR_S}
    write(client, {f"tree/{name}": age for name, age in more.items()}, now)
    data = report(client, flag, "--dry-run")
    assert {path.rpartition("/")[2] for path in data["added"]} == names
    data = report(client, flag)
    assert counts(data) == (len(names), 0, 0, 2)
    assert data["arrival"] == [f"since_last: {4 - len(names)} older that never landed left out"]
    assert tree(client.target).keys() == {"a.csv", "deep/b.csv", *names}
    assert report(client, flag)["status"] == "unchanged"


def test_older_published_data_is_kept_with_mirror(client: Client) -> None:
    now = time.time()
    write(client, FIRST, now)
    report(client, "--since-last=0")
    write(client, {"tree/new.csv": HOUR_S}, now)
    assert counts(report(client, "--since-last=0", "--mirror")) == (1, 0, 0, 2)
    (client.target / "a.csv").unlink()
    assert counts(report(client, "--since-last=0", "--mirror")) == (0, 1, 0, 2), "repaired"
    (client.server.home / "tree/a.csv").unlink()
    report(client, "--since-last=0")
    assert "a.csv" in tree(client.target)
    report(client, "--since-last=0", "--mirror")
    assert tree(client.target).keys() == {"deep/b.csv", "new.csv"}, "removed from the host"


def test_older_file_that_landed_and_changes_lands_again(client: Client) -> None:
    write(client, FIRST, time.time())
    report(client, "--since-last=0")
    write(client, {"tree/a.csv": -4 * HOUR_S}, time.time())
    assert counts(report(client, "--since-last=0")) == (0, 1, 0, 1)


def test_archives_of_a_glob_with_other_rules(client: Client) -> None:
    now = time.time()
    write(client, {"in/a.zip": 0}, now)
    flags = ("--since-last=0", "--marker=*.done", "--settle=0.3s", "--wait-for=5s")
    client.put({"in/a.done": b"", "in/b.done": b"", "in/0.done": b""})
    report(client, *flags, task="1", path="in/*.zip")
    write(client, {"in/b.zip": 60, "in/c.zip": 70, "in/0.zip": -60}, now)
    done = client.run("1", "in/*.zip", "--json", "--log-level=INFO", *flags)
    data = done.data()
    assert (counts(data), "to settle" in done.err) == ((1, 0, 0, 1), True), done.err
    assert len(data["arrival"]) == 2
    assert tree(client.target).keys() == {"a/x.csv", "b/x.csv"}
    done = client.run("1", "in/*.zip", "--log-level=INFO", *flags)
    assert ("unchanged" in done.out, "to settle" in done.err) == (True, False), done.err
    assert left_over(client) == []


def test_everything_lands_where_the_data_is_of_another_selection(client: Client) -> None:
    write(client, FIRST, time.time())
    report(client, "--since-last=0", "--exclude=b.csv")
    data = report(client, "--since-last=0")
    assert counts(data) == (2, 0, 0, 0)
    assert "landed before" in data["arrival"][0]
