"""The model of runs in shards: what limits them, and that it repeats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.simulate import Costs, Shape, Site, main, simulated

SMALL = Shape("small", "small files", 10_000, 2e7, 2e3)
SITE = Site(node_cores=1, host_cores=64, rtt=0.05)
SLOW = replace(Costs(), files_ahead=2, poll=0.01, spread=0.001)


def test_shards_share_what_round_trips_limit() -> None:
    one, four = (simulated(SMALL, SITE, count, SLOW) for count in (1, 4))
    assert one.limit == "round trips"
    assert 3.5 < one.seconds / four.seconds <= 4.01


def test_one_file_gains_nothing() -> None:
    shape = Shape("one", "one file", 1, 1e10, 1e10)
    one, eight = (simulated(shape, SITE, count, SLOW).seconds for count in (1, 8))
    assert eight == pytest.approx(one, rel=0.02)


@pytest.mark.parametrize(
    ("site", "limit"),
    [
        (replace(SITE, host_cores=1), "host's cores"),
        (replace(SITE, host_link=1e6), "host's link"),
        (replace(SITE, max_connections=1), "max_connections"),
        (replace(SITE, startups=(1, 90, 2)), "logins"),
    ],
)
def test_host_limits_many_shards(site: Site, limit: str) -> None:
    shape = replace(SMALL, files=200_000, size=4e8)
    costs = replace(SLOW, files_ahead=10_000, publish_file=0, list_file=0, read_file=0)
    assert simulated(shape, site, 32, costs).limit == limit


def test_max_startups_refuses_logins() -> None:
    assert simulated(SMALL, SITE, 8, SLOW).refused == 0
    assert simulated(SMALL, SITE, 200, replace(SLOW, spread=0)).refused > 0


def test_lost_nodes_take_longer_and_lose_nothing() -> None:
    shape = replace(SMALL, files=1_000_000)
    well = simulated(shape, SITE, 4, SLOW)
    lost = simulated(shape, replace(SITE, node_failures_per_h=20), 4, SLOW)
    assert lost.lost > 0
    assert lost.seconds > well.seconds + SITE.failover


def test_a_run_repeats() -> None:
    site = replace(SITE, node_failures_per_h=20)
    assert simulated(SMALL, site, 16) == simulated(SMALL, site, 16)


def test_table_and_chart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--shards", "1", "4", "--output", str(tmp_path), "--rtt", "0.1"]) == 0
    text = capsys.readouterr().out
    assert "10 million files" in text
    assert "limited by" in text
    assert "takes at least 100 shards" in text
    assert (tmp_path / "scale.svg").read_text().count("<path") == 2
