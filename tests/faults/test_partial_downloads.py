"""Partial downloads, rates, waiting for another run, and slow links."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from client import Client, ended, left_over, put, tarred, tree, trusted, wait_for, zipped
from relay import Relay
from selection import report
from tasks.fetch import rate

pytestmark = pytest.mark.sshd


# --- partial downloads -----------------------------------------------------------------

BIG = {f"{number}.csv": os.urandom(500_000) for number in range(4)}


@pytest.fixture
def big(client: Client) -> dict[str, bytes]:
    """Give the server archives that do not shrink."""
    client.put({"big.zip": zipped(BIG), "big.tar.gz": tarred(BIG)})
    return BIG


def partial_sizes(client: Client) -> list[int]:
    """Return the sizes of the partial downloads beside the target."""
    return [path.stat().st_size for path in client.target.parent.glob(".data.part/*")]


ARCHIVES = pytest.mark.parametrize(("task", "path"), [("1", "big.zip"), ("2", "big.tar.gz")])


def cut_run(client: Client, relay: Relay, task: str, path: str) -> None:
    """Run to a cut in the middle of an archive that is kept."""
    relay.fault, relay.after, relay.times = "cut", 1_200_000, relay.connections + 1
    done = client.run(task, path, "--keep-archive", max_tries="1")
    assert done.code == 5, done.err
    assert not client.target.exists()
    relay.fault = None


def killed_run(client: Client, relay: Relay, task: str, path: str) -> None:
    """Run, and kill the run in the middle of an archive that is kept."""
    relay.rate = 2_000_000
    run = client.start(task, path, "--keep-archive")
    wait_for(lambda: sum(partial_sizes(client)) > 500_000)
    run.kill()
    assert ended(run).code == -9
    relay.rate = 0


@ARCHIVES
@pytest.mark.parametrize("interrupted_run", [cut_run, killed_run])
def test_run_resumes_the_partial_download_of_an_interrupted_run(
    client: Client, big: dict[str, bytes], relay: Relay, task: str, path: str,
    interrupted_run: Callable[[Client, Relay, str, str], None],
) -> None:  # fmt: skip
    interrupted_run(client, relay, task, path)
    (size,) = partial_sizes(client)
    assert size > 500_000
    passed = relay.passed
    data = report(client, "--keep-archive", task=task, path=path)
    rest = (client.server.home / path).stat().st_size - size
    assert rest < relay.passed - passed < rest + 200_000
    assert data["checked"] == "size, sha256, archive CRC"
    assert {name: tree(client.target)[name] for name in big} == big
    assert (client.target / path).read_bytes() == (client.server.home / path).read_bytes()
    assert left_over(client) == []


@ARCHIVES
def test_partial_download_of_other_content_is_not_used(
    client: Client, big: dict[str, bytes], relay: Relay, task: str, path: str
) -> None:
    cut_run(client, relay, task, path)
    other = {"other.csv": os.urandom(600_000)}
    packed = zipped(other) if task == "1" else tarred(other)
    client.put({path: packed})
    passed = relay.passed
    report(client, "--keep-archive", task=task, path=path)
    assert relay.passed - passed > len(packed)
    assert tree(client.target)["other.csv"] == other["other.csv"]
    assert left_over(client) == []


@ARCHIVES
def test_run_that_keeps_no_archive_uses_no_partial_download(
    client: Client, big: dict[str, bytes], relay: Relay, task: str, path: str
) -> None:
    cut_run(client, relay, task, path)
    report(client, task=task, path=path)
    assert tree(client.target) == big
    assert left_over(client) == []


@ARCHIVES
@pytest.mark.parametrize("damage", ["other bytes", "too long", "complete, but other bytes"])
def test_damaged_partial_download_is_downloaded_again(
    client: Client, big: dict[str, bytes], relay: Relay, task: str, path: str, damage: str
) -> None:
    cut_run(client, relay, task, path)
    (part,) = client.target.parent.glob(".data.part/*")
    real = (client.server.home / path).read_bytes()
    size = part.stat().st_size
    part.write_bytes(
        {
            "other bytes": os.urandom(size),
            "too long": real + b"more",
            "complete, but other bytes": real[:2000] + b"?" + real[2001:],
        }[damage]
    )
    report(client, "--keep-archive", task=task, path=path)
    assert {name: tree(client.target)[name] for name in big} == big
    assert (client.target / path).read_bytes() == real
    assert left_over(client) == []


def test_partial_download_is_removed_by_an_unchanged_run(
    client: Client, big: dict[str, bytes], relay: Relay
) -> None:
    report(client, "--keep-archive", task="2", path="big.tar.gz")
    relay.fault, relay.after, relay.times = "cut", 1_200_000, relay.connections + 1
    assert client.run("2", "big.tar.gz", "--keep-archive", "--force", max_tries="1").code == 5
    assert partial_sizes(client)
    assert report(client, "--keep-archive", task="2", path="big.tar.gz")["status"] == "unchanged"
    assert left_over(client) == []


# --- rates, and waiting ---------------------------------------------------------------------


def test_rate_limit_sleeps_as_long_as_the_rate_requires(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0, slept=0.0, hour=7)

    def sleep(seconds: float) -> None:
        clock.now += seconds
        clock.slept += seconds

    time = SimpleNamespace(
        monotonic=lambda: clock.now, sleep=sleep,
        localtime=lambda: SimpleNamespace(tm_hour=clock.hour, tm_min=59),
    )  # fmt: skip
    monkeypatch.setattr(rate, "time", time)
    limit = rate.RateLimit(rate.Rate(1000))
    for _ in range(10):
        limit.wait(500)
    assert clock.slept == pytest.approx(5)
    clock.now += 60  # a pause of the host allows at most one second of data at once
    for _ in range(10):
        limit.wait(500)
    assert clock.slept == pytest.approx(5 + 4)
    free = rate.RateLimit(rate.Rate(0))
    free.wait(10**9)
    assert clock.slept == pytest.approx(5 + 4)
    by_day = rate.RateLimit(rate.Rate.parse("1000 08:00-18:00, 100 22:00-06:00", int))
    for hour, seconds in ((7, 0), (8, 5), (17, 5), (18, 0), (22, 50), (0, 50), (6, 0)):
        clock.hour, before = hour, clock.slept
        clock.now += 1000
        for _ in range(10):
            by_day.wait(600)
        assert clock.slept - before == pytest.approx(6 * seconds / 5 - bool(seconds))


@pytest.mark.parametrize("killed", [False, True])
def test_second_run_waits_for_the_first(client: Client, relay: Relay, killed: bool) -> None:
    csvs = {"big.csv": os.urandom(400_000)}
    client.put({"big.zip": zipped(csvs)})
    relay.rate = 50_000
    first = client.start("1", "big.zip", remote_host_address=relay.address)
    wait_for(lambda: relay.passed > 50_000)
    assert client.run("1", "big.zip", remote_host_address=relay.address).code == 9
    second = client.start("1", "big.zip", "--wait=60", "--json", remote_host_address=relay.address)
    wait_for(lambda: "waiting until it ends" in second.said())
    if killed:
        first.kill()
    relay.rate = 0
    assert ended(first).code == (-9 if killed else 0)
    done = ended(second)
    assert (done.code, done.data()["status"]) == (0, "landed" if killed else "unchanged")
    assert tree(client.target) == csvs
    assert left_over(client) == []


# --- slow links -------------------------------------------------------------------


def test_slow_link_is_compressed_for_plain_data(client: Client) -> None:
    """CSVs over a slow link: after some of them a second connection takes over, compressed."""
    rows = {f"{n}.csv": b"2026-01-01,%d,Genova\n" % n * 300_000 for n in range(3)}
    put(client.server.home / "slow", rows)
    size = sum(map(len, rows.values()))
    with Relay(client.server.port, rate=1_500_000).running() as relay:
        client.options["remote-host-address"] = trusted(client, relay.address)
        done = client.run("3", "slow", "--explain")
        assert done.code == 0, done.err
        assert "SSH compression: the link is slow" in done.out
        assert relay.connections == 2
        assert relay.passed < size / 2
    assert tree(client.target) == rows


def test_slow_link_is_not_compressed_for_packed_data(client: Client) -> None:
    noise = os.urandom(12_000_000)
    put(client.server.home / "slow", {"noise.csv": noise})
    with Relay(client.server.port, rate=3_000_000).running() as relay:
        client.options["remote-host-address"] = trusted(client, relay.address)
        assert client.run("3", "slow").code == 0
        assert relay.connections == 1
    assert tree(client.target) == {"noise.csv": noise}
