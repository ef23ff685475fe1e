"""Runs in shards, as processes that are killed: each file lands once, and nothing too early."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

import object_server
from client import Client, ended, put, trusted, wait_for, zipped
from relay import Relay
from results import SCHEMA
from shards import Cluster
from tasks.fetch.shards.lease import Lease
from tasks.fetch.stores import open_run, open_store
from tasks.fetch.stores.shared import Records

pytestmark = pytest.mark.sshd
MANY = {f"{number % 50}/f{number}.csv": b"%d\n" % number * 9 for number in range(1998)}
FEW = {f"{number % 5}/f{number}.csv": b"%d\n" % number * 9 for number in range(38)}
PACKED = {"a.csv": b"a\n", "b.csv": b"b\n"}
LANDED = {f"packed/{name}": content for name, content in PACKED.items()}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Give the URL of a server with the S3 API."""
    with object_server.running() as endpoint:
        yield endpoint


def cluster_of(client: Client, files: dict[str, bytes]) -> Cluster:
    put(client.server.home / "tree", {**files, "packed/p.zip": zipped(PACKED), "no.txt": b""})
    return Cluster(client, expected={**files, **LANDED})


@pytest.fixture
def many(client: Client) -> Cluster:
    """Give a run of 2,000 small files, in a shared folder."""
    return cluster_of(client, MANY)


@pytest.fixture(params=["folder", "objects"])
def few(client: Client, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Give a run of few files, in a shared folder and in an object store."""
    if request.param == "objects":
        variables = object_server.variables(request.getfixturevalue("endpoint"))
        client.environ.update(variables)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        bucket = f"bucket-{secrets.token_hex(8)}"
        object_server.client().create_bucket(Bucket=bucket)
        client.options["file-save-path"] = f"s3://{bucket}/data"
    return cluster_of(client, FEW)


def runs_folder(cluster: Cluster) -> Path:
    return cluster.client.target.parent / ".data.runs" / cluster.run_id


# --- 2,000 files over 4 shards -----------------------------------------------------------------


def test_shards_publish_once_all_have_landed(many: Cluster) -> None:
    for shard in (1, 2, 3):
        done = many.land(shard)[0]
        assert "not published yet" in done.out
        assert many.published() == {}
    assert many.states() == ["landed"] * 3 + ["waiting"]
    assert "the run is published" in many.land(4)[0].out
    many.check()
    assert not (runs_folder(many) / "parts").exists()
    assert {path.name for path in many.client.target.parent.iterdir()} == {"data", ".data.runs"}


def test_shards_at_once_land_each_file_once(many: Cluster) -> None:
    processes = [many.start(shard, "--json") for shard in range(1, 5)]
    reports = [ended(process).data() for process in processes]
    many.check()
    assert {one["status"] for one in reports} == {"landed", "shard"}
    for report in reports:
        jsonschema.validate(report, SCHEMA)
    landed = [json.loads((runs_folder(many) / f"shards/{k}.json").read_text()) for k in range(1, 5)]
    counts = [len(one["sources"]) for one in landed]
    assert sum(counts) == 1999
    assert max(counts) - min(counts) <= 1


def test_planner_that_is_killed_right_after_its_plan(many: Cluster) -> None:
    planner = many.start(1, KILL_AFTER=r"link.*plan\.json")
    assert ended(planner).code == -9
    many.land(2, 3, 4)
    assert many.published() == {}
    assert many.states() == ["running", "landed", "landed", "landed"]
    many.land(1)
    many.check()


def test_planner_that_is_killed_before_its_plan_is_replaced(many: Cluster) -> None:
    assert ended(many.start(1, KILL_BEFORE=r"link.*plan\.json")).code == -9
    many.land(2, 3, 4)
    many.land(1)
    many.check()


@pytest.mark.parametrize(
    "kill",
    [
        {"KILL_BEFORE": r"link.*shards/3\.json"},
        {"KILL_AFTER": r"link.*shards/3\.json"},
        {"KILL_BEFORE": r"link.*published/"},
        {"KILL_AFTER": r"link.*published/"},
    ],
)
def test_shard_that_is_killed_at_its_last_write(many: Cluster, kill: dict[str, str]) -> None:
    many.land(1, 2, 4)
    assert ended(many.start(3, **kill)).code == -9
    assert many.published() in ({}, many.expected)
    many.land(3)
    many.check()


def test_shard_that_is_killed_while_it_publishes(many: Cluster) -> None:
    many.land(1, 2, 4)
    assert ended(many.start(3, KILL_AFTER=r"link.*tree\.")).code == -9
    assert many.published() == {}
    many.land(1)  # any shard repairs it
    many.check()


def test_two_copies_of_a_shard_at_once(many: Cluster) -> None:
    many.land(1, 1, 2, 2, 3, 4, 4)
    many.check()


# --- in both stores ----------------------------------------------------------------------------


def test_shards_land_in_each_store(few: Cluster) -> None:
    few.land()
    few.check()
    before = few.manifest()
    again = few.land()
    text = "the run is published; start a new run_id for newer data"
    assert all(text in one.out for one in again)
    assert few.manifest() == before


@pytest.mark.parametrize("step", [r"plan\.json", r"shards/2\.json", r"latest\.json|exchange|data'"])
@pytest.mark.parametrize("when", ["KILL_BEFORE", "KILL_AFTER"])
def test_shard_that_is_killed_is_repaired_by_a_new_start(
    few: Cluster, step: str, when: str
) -> None:
    ended(few.start(2, **{when: f"(link|put|rename).*({step})"}))
    few.land(1, 3, 4)
    ended(few.start(2, **{when: f"(link|put|rename).*({step})"}))
    assert few.published() in ({}, few.expected)
    few.land()
    few.check()


def test_two_copies_of_all_shards_at_once(few: Cluster) -> None:
    few.land(1, 2, 3, 4, 1, 2, 3, 4)
    few.check()


def test_next_run_downloads_what_is_new(few: Cluster) -> None:
    few.land()
    few.run_id = "r2"
    files = {"0/f0.csv": b"changed\n", "new.csv": b"new\n"}
    put(few.client.server.home / "tree", files)
    (few.client.server.home / "tree/1/f1.csv").unlink()
    few.expected.update(files)
    reports = [json.loads(ended(few.start(k, "--json")).out) for k in range(1, 5)]
    few.check()  # what was removed from the host stays
    published = next(one for one in reports if one["status"] == "landed")
    assert published["remote_files"] == {"added": 1, "changed": 1, "removed": 1, "unchanged": 37}
    others = [one["remote_files"] for one in reports if one["status"] == "shard"]
    assert {(one["removed"], one["unchanged"]) for one in others} == {(1, 37)}
    assert b"f3.csv" not in (records_of(few).read("plan.json") or b"")
    few.run_id, few.flags = "r3", ["--mirror"]
    del few.expected["1/f1.csv"]
    few.land()
    few.check()
    few.run_id = "r4"
    done = few.land()
    assert all("unchanged since" in one.out for one in done)
    assert few.status()["state"] == "unchanged"


def test_run_of_another_id_in_between_is_not_overwritten(few: Cluster) -> None:
    few.land(1, 2, 3)
    few.run_id = "r2"
    few.land()
    few.check()
    few.run_id = "r1"
    done = few.run(4)[0]
    assert (done.code, "another run has published since its plan" in done.err) == (9, True)
    assert few.status(9)["state"] == "failed"
    few.run_id = "r2"
    few.check()


def test_id_that_is_used_again_after_prune_publishes_what_is_new(few: Cluster) -> None:
    """Even where both runs start in the same second."""
    few.land()
    started = few.manifest()["started"]
    open_store(target_of(few), overwrite=True).prune(keep_runs=0, min_age_s=0, dry_run=False)
    files = {"0/f0.csv": b"changed\n", "new.csv": b"new\n"}
    put(few.client.server.home / "tree", files)
    few.expected.update(files)
    few.land(1)
    records = records_of(few)
    plan = json.loads(records.read("plan.json") or b"")
    plan["header"]["started"] = started
    records.write("plan.json", json.dumps(plan).encode())
    few.land(2, 3, 4)
    few.check()


def target_of(cluster: Cluster) -> str:
    return cluster.url if cluster.url.startswith("s3://") else str(cluster.client.target)


# --- failures ----------------------------------------------------------------------------------


@pytest.fixture
def broken(few: Cluster) -> Cluster:
    """Give a run one of whose archives is broken: the largest file."""
    data = zipped({"c.csv": os.urandom(200_000)})
    put(few.client.server.home / "tree", {"broken/b.zip": data[:-1000] + bytes(1000)})
    return few


def test_shard_that_failed_is_done_again(broken: Cluster) -> None:
    codes = [one.code for one in broken.run()]
    assert sorted(codes) == [0, 0, 0, 7]
    failed = codes.index(7) + 1
    assert broken.published() == {}
    status = broken.status(7)
    assert status["state"] == "failed"
    shard = status["shards"][failed - 1]
    assert (shard["state"], shard["node"]) == ("failed", f"node-{failed}")
    assert "broken/b.zip" in shard["error"]["error"]
    put(broken.client.server.home / "tree", {"broken/b.zip": zipped({"c.csv": b"c\n"})})
    broken.expected["broken/c.csv"] = b"c\n"
    others = broken.land(*(k for k in range(1, 5) if k != failed))
    assert all(f"failed: {failed}" in one.out for one in others)
    broken.land(failed)
    broken.check()


def test_run_that_continues_says_what_is_missing(broken: Cluster) -> None:
    broken.flags = ["--on-error=continue"]
    codes = [one.code for one in broken.run()]
    assert set(codes) <= {0, 7}
    assert 7 in codes
    assert broken.published() == broken.expected
    missing = [str(broken.client.server.home / "tree/broken/b.zip")]
    assert broken.manifest()["missing"] == missing
    assert broken.status(7)["state"] == "partial"
    put(broken.client.server.home / "tree", {"broken/b.zip": zipped({"c.csv": b"c\n"})})
    broken.expected["broken/c.csv"] = b"c\n"
    broken.run_id = "r2"
    broken.land()
    broken.check()


def test_run_that_continues_publishes_again_when_a_shard_is_repaired(few: Cluster) -> None:
    few.flags = ["--on-error=continue"]
    few.land(1)
    failed = few.start(2, "--max-tries=1", "--ssh-key-file=missing")
    assert ended(failed).code == 2
    few.run(3, 4)
    first = few.manifest()
    assert len(first["missing"]) in {9, 10}
    assert len(few.published()) < len(few.expected)
    assert few.status(2)["state"] == "partial"
    few.land(2)
    few.check()


def test_file_that_changes_after_the_plan_lands_as_it_is_then(few: Cluster) -> None:
    few.land(1)
    put(few.client.server.home / "tree", dict.fromkeys(FEW, b"longer than it was\n" * 9))
    few.land(2, 3, 4)
    published = few.published()
    assert published.keys() == few.expected.keys()
    sizes = {source["path"]: source["size"] for source in few.manifest()["sources"]}
    for file in few.manifest()["files"]:
        if file["path"] in FEW:
            assert sizes[file["source"]] == len(published[file["path"]])


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "error"),
    [
        ("--shards=8", "its plan was made with shards 4, and here shards is 8"),
        ("--include=*.txt", "its plan was made with include unset, and here include is *.txt"),
        ("--mirror", "its plan was made with mirror False, and here mirror is True"),
        ("--force", "its plan was made with force False, and here force is True"),
        ("--checksum", "its plan was made with checksum False, and here checksum is True"),
    ],
)
def test_shard_with_other_settings_is_refused(few: Cluster, flag: str, error: str) -> None:
    few.land(1)
    done = ended(few.start(2, flag))
    assert (done.code, error in done.err) == (2, True), done.err
    few.land()
    few.check()


def test_shard_with_other_settings_that_waits_for_the_plan_is_refused(
    few: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.fetch.shards.lease.RENEW_S", 0.1)
    few.land(2)
    planned, few.run_id = records_of(few), "r2"
    records = records_of(few)
    planner = Lease(records, "planner")
    assert planner.try_acquire()
    with planner.held():
        process = few.start(1, "--shards=1", "--on-error=continue")
        wait_for(lambda: records.read("progress/1.json") is not None)
        for name in [*planned.names("assigned"), "plan.json"]:
            records.create(name, planned.read(name) or b"")
        done = ended(process)
    assert (done.code, "its plan was made with shards 4" in done.err) == (2, True), done.err
    assert few.published() == {}
    assert few.states()[0] == "running"  # it is no shard of this run, and so none that failed


def records_of(cluster: Cluster) -> Records:
    return open_run(target_of(cluster), cluster.run_id, overwrite=True).records


def test_dry_run_of_several_hosts_is_refused(few: Cluster) -> None:
    few.client.options["remote-host-address"] = "a,b"
    done = ended(few.start(1, "--dry-run"))
    assert (done.code, "names 2 hosts, and a dry run lists one" in done.err) == (2, True), done.err


def test_target_that_is_not_lighterages_is_refused_before_the_download(few: Cluster) -> None:
    if few.url.startswith("s3://"):
        object_server.write(few.url.split("/")[2], {"data/thesis.tex": b"years"})
    else:
        put(few.client.target, {"thesis.tex": b"years"})
    assert {one.code for one in few.run()} == {8}


def test_status_of_a_run_that_has_not_started(few: Cluster) -> None:
    target = few.client.options["file-save-path"]
    words = ["status", "3", "--run-id=none", f"--file-save-path={target}"]
    from forks import forks

    done = ended(forks().start(words, few.client.folder, few.client.env()))
    assert (done.code, "no shard of it has started" in done.err) == (2, True)


# --- other sources, hosts, connections ----------------------------------------------------------


def test_one_archive_is_landed_by_one_shard(few: Cluster) -> None:
    put(few.client.server.home, {"p.zip": zipped(PACKED)})
    few.task, few.path, few.expected = "1", "p.zip", PACKED
    few.land()
    few.check()
    assert sorted(few.states()) == ["idle", "idle", "idle", "landed"]


def test_glob_of_archives_is_shared(few: Cluster) -> None:
    put(few.client.server.home, {f"z/{n}.zip": zipped({"a.csv": b"%d" % n}) for n in range(6)})
    few.task, few.path = "1", "z/*.zip"
    few.expected = {f"{n}/a.csv": b"%d" % n for n in range(6)}
    few.land()
    few.check()
    assert few.states() == ["landed"] * 4


def test_hosts_that_hold_the_same_share_the_files(few: Cluster) -> None:
    with (
        Relay(few.client.server.port).running() as one,
        Relay(few.client.server.port).running() as two,
    ):
        hosts_of(few, one, two)
        few.flags = ["--hosts-hold=same"]
        few.land()
        assert one.connections >= 2
        assert two.connections >= 2
    few.check()


def test_hosts_with_files_of_their_own_have_a_folder_each(few: Cluster) -> None:
    with (
        Relay(few.client.server.port).running() as one,
        Relay(few.client.server.port).running() as two,
    ):
        hosts_of(few, one, two)
        few.land()
        folders = [relay.address.replace(":", "_") for relay in (one, two)]
        few.expected = {
            f"{folder}/{name}": content
            for folder in folders
            for name, content in few.expected.items()
        }
        few.check()
        few.run_id = "r2"
        assert all("unchanged since" in done.out for done in few.land())


def hosts_of(cluster: Cluster, *relays: Relay) -> None:
    addresses = [trusted(cluster.client, relay.address) for relay in relays]
    cluster.client.options["remote-host-address"] = ",".join(addresses)


def test_connections_of_all_shards_are_limited(few: Cluster, relay: Relay) -> None:
    few.flags = ["--max-connections=1"]
    relay.rate = 2_000
    processes = [few.start(shard) for shard in range(1, 5)]
    wait_for(lambda: any("waiting until one ends" in process.said() for process in processes))
    relay.rate = 0
    assert [ended(process).code for process in processes] == [0] * 4
    few.check()


def test_place_of_a_shard_that_is_killed_expires(few: Cluster) -> None:
    few.flags = ["--max-connections=1"]
    assert ended(few.start(1, KILL_BEFORE=r"(link|put).*shards/1\.json")).code == -9
    few.land()
    few.check()
