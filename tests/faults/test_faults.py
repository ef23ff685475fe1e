"""Whatever fails, a target contains the complete old data or the complete new data.

A schedule states what fails, and when. The same is checked after each: the target, its manifest,
the exit code, and that the next run lands and leaves nothing beside the target.
`LIGHTERAGE_FAULTS=1000` sets the number of random schedules.
"""

from __future__ import annotations

import itertools
import os

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from relay import Fault
from world import PATHS, Hit, Schedule, World, flags

SCHEDULES = int(os.environ.get("LIGHTERAGE_FAULTS", "30"))
pytestmark = pytest.mark.sshd


# --- network faults at each step of the conversation -------------------------------------------


def steps(world: World, schedule: Schedule) -> list[range]:
    """Return the byte range of each turn of the server in a run."""
    client = world.begin(schedule)
    assert client.run(schedule.task, PATHS[schedule.task], *flags(schedule.keep)).code == 0
    turns = [*world.relay.turns, world.relay.passed]
    assert len(turns) > 8, "banner, keys, login with session, facts, data"
    return [range(first, last) for first, last in itertools.pairwise(turns) if first < last]


def test_run_lands_despite_one_cut_at_any_step(world: World) -> None:
    for number, turn in enumerate(steps(world, Schedule())):
        middle = turn[len(turn) // 2]
        for after in {turn[0], middle} if number % 2 else {turn[0] + 1, turn[-1]}:
            assert world.carry_out(Schedule(fault="cut", after=after)).code == 0


@pytest.mark.parametrize("fault", ["stall", "half-close", "corrupt", "slow"])
def test_one_fault_at_any_step_is_retried_or_an_error(world: World, fault: Fault) -> None:
    for turn in steps(world, Schedule())[::2]:
        world.carry_out(Schedule(fault=fault, after=turn[len(turn) // 2]))


@pytest.mark.parametrize("fault", ["cut", "corrupt"])
def test_fault_of_every_connection_is_an_error(world: World, fault: Fault) -> None:
    for turn in steps(world, Schedule("1"))[:: 3 if fault == "cut" else 6]:
        world.carry_out(Schedule("1", fault=fault, after=turn[0], times=99))


@pytest.mark.parametrize("fault", ["cut", "corrupt", "half-close"])
def test_bytes_of_the_client_may_be_lost_too(world: World, fault: Fault) -> None:
    for after in [0, 30, 1500, 2500, 3500]:
        world.carry_out(Schedule(fault=fault, side="client", after=after))


@pytest.mark.parametrize("task", PATHS)
def test_run_retries_when_the_server_restarts(world: World, task: str) -> None:
    for at in [1800, 5000, 60_000]:
        world.carry_out(Schedule(task, hit="server", at=at))


def test_stopped_server_is_a_network_error(world: World) -> None:
    client = world.begin(Schedule())
    world.server.stop()
    try:
        done = client.run("3", "tree", "--mirror")
    finally:
        world.server.start()
    assert done.code == 5
    world.check(client, Schedule(), done)


# --- signals, and sources that change ---------------------------------------------------------


@pytest.mark.parametrize("hit", ["SIGINT", "SIGTERM", "SIGKILL"])
@pytest.mark.parametrize("task", PATHS)
def test_signal_at_any_time_leaves_the_old_or_the_new(world: World, task: str, hit: Hit) -> None:
    for at in [1, 2600, 20_000, 89_000]:
        schedule = Schedule(task, old=at != 2600, keep=task == "2", hit=hit, at=at)
        done = world.carry_out(schedule)
        assert len(done.err.splitlines()) == (1 if done.code > 0 else 0), done.err


@pytest.mark.parametrize("hit", ["replaced", "grown", "shrunk", "removed"])
@pytest.mark.parametrize("task", PATHS)
def test_changing_source_is_downloaded_again_or_an_error(world: World, task: str, hit: Hit) -> None:
    for at in [2700, 5000, 60_000]:
        world.carry_out(Schedule(task, keep=task == "1", hit=hit, at=at))


# --- random -----------------------------------------------------------------------------------

OFFSETS = st.integers(0, 7000) | st.integers(0, 100_000)
SCHEDULES_OF_FAULTS = st.builds(
    Schedule,
    task=st.sampled_from(list(PATHS)),
    old=st.booleans(),
    keep=st.booleans(),
    fault=st.none() | st.sampled_from(["cut", "cut", "half-close", "corrupt", "slow", "stall"]),
    side=st.sampled_from(["server", "server", "client"]),
    after=OFFSETS,
    times=st.sampled_from([1, 2, 3, 99]),
    hit=st.none()
    | st.sampled_from(
        ["SIGTERM", "SIGKILL", "SIGKILL", "server", "replaced", "grown", "shrunk", "removed"]
    ),
    at=OFFSETS,
)


@settings(
    max_examples=SCHEDULES, derandomize=True, database=None, deadline=None,
    phases=[Phase.generate], suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(SCHEDULES_OF_FAULTS)
def test_any_schedule_leaves_the_old_or_the_new(world: World, schedule: Schedule) -> None:
    world.carry_out(schedule)
