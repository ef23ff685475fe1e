"""How a planner divides files among shards."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.fetch.errors import ConfigError
from tasks.fetch.plan import Item
from tasks.fetch.shards.plan import FILE_COST_BYTES, Share, assign
from tasks.fetch.ssh.remote_files import RemoteFile

SIZES = st.lists(st.one_of(st.integers(0, 100), st.integers(0, 10**10)), max_size=60)


def items(sizes: list[int], host: str = "a") -> list[Item]:
    return [
        Item(RemoteFile(f"/{host}/{number}", size, 0), f"{host}/{number}", is_archive=False)
        for number, size in enumerate(sizes)
    ]


def cost(share: Share) -> int:
    return sum(item.source.size + FILE_COST_BYTES for item in share.items)


@given(SIZES, st.integers(1, 12))
def test_each_file_is_in_one_shard_and_no_shard_has_much_more(
    sizes: list[int], shards: int
) -> None:
    everything = items(sizes)
    shares = assign({"a": everything}, shards, "own")
    assert len(shares) == shards
    assert sorted(item.path for share in shares for item in share.items) == sorted(
        item.path for item in everything
    )
    largest = max(sizes, default=0) + FILE_COST_BYTES
    assert max(map(cost, shares)) - min(map(cost, shares)) <= largest
    assert assign({"a": everything[::-1]}, shards, "own") == shares


@given(SIZES, st.integers(1, 9), st.integers(1, 5))
def test_hosts_that_hold_the_same_share_the_files(
    sizes: list[int], shards: int, count: int
) -> None:
    hosts = [f"h{number}" for number in range(count)]
    shares = assign(dict.fromkeys(hosts, items(sizes)), shards, "same")
    assert [share.host for share in shares] == [hosts[k % count] for k in range(shards)]
    paths = [item.path for share in shares for item in share.items]
    assert sorted(paths) == sorted(item.path for item in items(sizes))


@given(st.lists(SIZES, min_size=1, max_size=5), st.integers(0, 6))
def test_files_of_a_host_are_in_shards_of_that_host(sizes: list[list[int]], more: int) -> None:
    hosts = {f"h{n}": items(some, f"h{n}") for n, some in enumerate(sizes)}
    shares = assign(hosts, len(hosts) + more, "own")
    assert len(shares) == len(hosts) + more
    for host, expected in hosts.items():
        of_host = [share for share in shares if share.host == host]
        assert of_host
        paths = [item.path for share in of_host for item in share.items]
        assert sorted(paths) == sorted(item.path for item in expected)


def test_large_file_has_a_shard_of_its_own() -> None:
    shares = assign({"a": items([4 * 10**9, *[10**6] * 100])}, 3, "own")
    assert [len(share.items) for share in shares] == [1, 50, 50]


def test_host_with_most_bytes_has_most_shards() -> None:
    hosts = {"a": items([10**6], "a"), "b": items([10**9] * 9, "b")}
    assert [share.host for share in assign(hosts, 4, "own")] == ["a", "b", "b", "b"]


def test_fewer_shards_than_hosts_of_their_own_are_refused() -> None:
    with pytest.raises(ConfigError, match="start at least 2 shards"):
        assign({"a": [], "b": []}, 1, "own")
