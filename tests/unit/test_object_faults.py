"""Faults of an object store and of the way to it: the old or the new data, complete, stays."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import object_server
from landed import NEW, OLD, Tree, sha256
from object_server import land
from tasks.fetch import interrupt
from tasks.fetch.errors import BusyError, NetworkError
from tasks.fetch.manifest import File, Manifest, Source
from tasks.fetch.stores import open_store
from tasks.fetch.stores.objects import bucket as bucket_module
from tasks.fetch.stores.objects import uploads as uploads_module
from tasks.fetch.stores.objects.store import ObjectStore

pytestmark = pytest.mark.usefixtures("object_store", "small_parts")

Relay = Callable[[Callable[[str, str], str]], None]

PART = object_server.PART_BYTES
LARGE = bytes(range(256)) * (2 * PART // 256 + 3)
"""Two whole parts, and a third."""
WANTED: Tree = {**NEW, "large.csv": LARGE}
TIMEOUT_S, LATE = 0.5, "1.2"

REQUESTS = {
    "probe": ("PUT", ".probe"),
    "small file": ("PUT", "/a.csv"),
    "start of an upload": ("POST", "large.csv?uploads"),
    "first part": ("PUT", "partNumber=1&"),
    "last part": ("PUT", "partNumber=3&"),
    "end of an upload": ("POST", "large.csv?uploadId="),
    "manifest": ("PUT", "/manifests/"),
    "publication": ("PUT", "latest.json"),
}
"""The requests of a run that change the bucket, by their method and a part of the path."""
QUICK = ("cut 0", "cut 100", "lose", "half", "500 InternalError", "503 SlowDown")
SLOW = (f"slow {LATE}", f"late {LATE}")


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_module, "PART_BYTES", PART)
    monkeypatch.setattr(uploads_module, "SMALL_BYTES", 1000)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait less than `SLOW` answers take."""
    monkeypatch.setattr(bucket_module, "REQUEST_TIMEOUT_S", TIMEOUT_S)
    monkeypatch.setattr(bucket_module, "PART_TIMEOUT_S", TIMEOUT_S)


class Fault:
    """What `object_server.relay` does to one kind of request.

    Args:
        request: One of `REQUESTS`.
        action: See `object_server.relay`.
        times: To how many of these requests; all by default.
    """

    def __init__(self, request: str, action: str, times: int = 10**9) -> None:
        self._method, self._part = REQUESTS[request]
        self._action = action
        self._left = times
        self.count = 0

    def __call__(self, method: str, path: str) -> str:
        if method != self._method or self._part not in path or self.count >= self._left:
            return ""
        self.count += 1
        return self._action


def unpublished(bucket: str, url: str) -> set[str]:
    """Return the keys that readers of the published data do not reach."""
    prefix = "data/events/"
    found = object_server.objects(bucket)
    if not (latest := json.loads(found.get(f"{prefix}latest.json", b"{}"))):
        return set(found)
    reached = {"latest.json"}
    for key in (latest["manifest"], *latest["previous"]):
        if data := found.get(prefix + key):  # and not pruned
            manifest = json.loads(data)
            files = manifest["files"] + manifest["archives"]
            reached |= {key, *(f"objects/{file['run']}/{file['path']}" for file in files)}
    return found.keys() - {prefix + key for key in reached}


# --- one request that fails, and all of a kind ---------------------------------------------------


@pytest.mark.parametrize("part", [1, 2, 3])
def test_part_that_is_cut_at_any_byte_is_sent_again(url: str, relay: Relay, part: int) -> None:
    sizes = {1: PART, 2: PART, 3: len(LARGE) - 2 * PART}
    at = iter([0, 1, 65_536, sizes[part] // 2, sizes[part] - 1])
    cuts: list[str] = []

    def fault(method: str, path: str) -> str:
        if method == "PUT" and f"partNumber={part}&" in path and len(cuts) % 2 == 0:
            cuts.append(f"cut {next(at)}")
            return cuts[-1]
        cuts.extend(["sent"] if f"partNumber={part}&" in path else [])
        return ""

    relay(fault)
    for number in range(5):
        files = {"large.csv": LARGE, f"{number}.csv": b"x"}
        land(url, files)
        assert object_server.published(url) == files
    assert len(cuts) == 10
    assert next(at, None) is None


def lands_after(url: str, bucket: str, relay: Relay, request: str, actions: Sequence[str]) -> None:
    """Land with each of some faults, once, and compare what is left."""
    faults = [Fault(request, action, 1) for action in actions]
    relay(lambda method, path: faults[0](method, path) if faults else "")
    while faults:
        files = {**WANTED, "number.csv": b"%d" % len(faults)}
        land(url, files)
        assert object_server.published(url) == files
        assert faults.pop(0).count == 1
    assert all(key.endswith(".probe") for key in unpublished(bucket, url)), "a late request"
    assert request == "start of an upload" or object_server.uploads(bucket) == []


@pytest.mark.parametrize("request_name", REQUESTS)
def test_request_that_fails_once_does_no_harm(
    url: str, bucket: str, relay: Relay, request_name: str
) -> None:
    actions = [one for one in QUICK if (request_name, one) != ("start of an upload", "half")]
    lands_after(url, bucket, relay, request_name, actions)  # obstore does not repeat that one


@pytest.mark.parametrize("request_name", REQUESTS)
@pytest.mark.usefixtures("impatient")
def test_request_that_times_out_once_does_no_harm(
    url: str, bucket: str, relay: Relay, request_name: str
) -> None:
    lands_after(url, bucket, relay, request_name, SLOW)


@pytest.mark.parametrize("action", ["cut 100", "503 SlowDown"])
@pytest.mark.parametrize("request_name", REQUESTS)
def test_request_that_fails_each_time_leaves_the_old_data(
    url: str, bucket: str, relay: Relay, request_name: str, action: str
) -> None:
    land(url, OLD)
    fault = Fault(request_name, action)
    relay(fault)
    with pytest.raises(NetworkError) as caught:
        land(url, WANTED)
    assert "\n" not in str(caught.value)
    assert fault.count >= 3
    assert object_server.published(url) == OLD
    assert request_name == "publication" or unpublished(bucket, url) == set()


@pytest.mark.parametrize("request_name", ["small file", "last part", "manifest"])
@pytest.mark.usefixtures("impatient")
def test_request_that_times_out_each_time_leaves_the_old_data(
    url: str, relay: Relay, request_name: str
) -> None:
    land(url, OLD)
    fault = Fault(request_name, SLOW[1])
    relay(fault)
    with pytest.raises(NetworkError) as caught:
        land(url, WANTED)
    assert caught.value.transient
    assert object_server.published(url) == OLD
    assert fault.count >= 3


@pytest.mark.usefixtures("impatient")
def test_upload_whose_end_is_never_answered_counts(url: str, relay: Relay) -> None:
    fault = Fault("end of an upload", SLOW[0])
    relay(fault)
    land(url, WANTED)
    assert object_server.published(url) == WANTED
    assert fault.count >= 3


def test_earlier_object_of_a_key_is_not_taken_for_an_upload_that_failed(
    url: str, relay: Relay
) -> None:
    fails = False
    kinds = (("POST", "?delete"), REQUESTS["end of an upload"])

    def fault(method: str, path: str) -> str:
        return "cut 0" if fails and any(method == m and part in path for m, part in kinds) else ""

    relay(fault)
    store = open_store(url, overwrite=True)
    assert isinstance(store, ObjectStore)
    store.begin("run")
    for content in (LARGE, LARGE[::-1]):
        writer = store.create("large.csv")
        writer.write(content)
        writer.close()
        with pytest.raises(NetworkError) if fails else contextlib.nullcontext():
            store._uploads.finish()
        fails = True
        store.remove("large.csv")  # which fails


@pytest.mark.parametrize("action", SLOW)
@pytest.mark.usefixtures("impatient")
def test_publication_that_arrives_after_the_run_is_complete(
    url: str, relay: Relay, action: str
) -> None:
    """The run cannot know, and so deletes nothing."""
    land(url, OLD)
    arrived = threading.Semaphore(0)
    fault = Fault("publication", action)

    def counted(method: str, path: str) -> str:
        found = fault(method, path)
        if found:
            threading.Timer(float(LATE) + 0.3, arrived.release).start()
        return found

    relay(counted)
    with contextlib.suppress(NetworkError):
        land(url, WANTED)
    for _ in range(fault.count):
        arrived.acquire()
    assert object_server.published(url) == WANTED


@pytest.mark.parametrize("seed", range(6))
def test_storm_of_faults_leaves_the_old_or_the_new_data(
    url: str, relay: Relay, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the requests fail, each in one of the ways; some of these runs land."""
    monkeypatch.setattr(bucket_module, "MAX_RETRIES", 4)
    land(url, OLD)
    numbers = itertools.count()
    calm = False

    def fault(method: str, path: str) -> str:
        drawn = int(sha256(b"%d %d" % (seed, next(numbers)))[:8], 16)
        return "" if calm or drawn % 2 else QUICK[drawn // 2 % len(QUICK)]

    relay(fault)
    with contextlib.suppress(NetworkError):
        land(url, WANTED)
    assert object_server.published(url) in (OLD, WANTED)
    calm = True
    land(url, WANTED)
    assert object_server.published(url) == WANTED


def test_answer_that_is_cut_is_read_again(url: str, relay: Relay) -> None:
    land(url, WANTED)
    cut: set[str] = set()

    def fault(method: str, path: str) -> str:
        first = method == "GET" and path not in cut and "list-type" not in path
        cut.add(path)
        return "half" if first else ""

    relay(fault)
    store = open_store(url, overwrite=True)
    manifest = store.manifest()
    assert manifest
    assert all(store.verify(file, content=True) is file for file in manifest.files)
    assert len(cut) > len(WANTED)


# --- several runs, and lost responses ------------------------------------------------------------


def test_one_of_several_runs_at_once_publishes(
    url: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads stand for processes, without the lock in which one process publishes."""
    monkeypatch.setattr(interrupt, "uninterrupted", contextlib.nullcontext)
    rounds, count = 200, 3
    stores = [ObjectStore(url, overwrite=True) for _ in range(count)]
    barrier = threading.Barrier(count, timeout=30)
    results: list[list[str]] = [[] for _ in range(rounds)]

    def publish(number: int) -> None:
        store = stores[number]
        for turn in range(rounds):
            barrier.wait()
            store.manifest()
            name = f"{turn}-{number}.csv"
            store.begin(f"run{turn}x{number}")
            writer = store.create(name)
            writer.write(name.encode())
            writer.close()
            file = File(name, len(name), sha256(name.encode()), "s")
            manifest = Manifest(
                "1", "dev", "h", "x", "*", "", keep_archive=False,
                sources=[Source("s", 1, 0, "")], files=[file],
            )  # fmt: skip
            barrier.wait()
            try:
                store.publish(manifest)
                results[turn].append(name)
            except BusyError:
                store.clean_up()
            barrier.wait()
            if number == 0 and turn % 20 == 0:
                assert [*object_server.published(url)] == results[turn]

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(names) for names in results] == [1] * rounds
    found = object_server.objects(bucket)
    assert len(found) == 1 + 2 * rounds, "the others were discarded"
    assert unpublished(bucket, url) == set(), "no manifest was lost"


@pytest.mark.parametrize("old", [{}, OLD], ids=["first", "replaced"])
def test_publication_whose_response_is_lost_counts(url: str, old: Tree, relay: Relay) -> None:
    if old:
        land(url, old)
    lost: list[str] = []

    def fault(method: str, path: str) -> str:
        if method == "PUT" and path.endswith("latest.json"):
            lost.append(path)
            return "lose"
        return ""

    relay(fault)
    land(url, NEW)
    assert lost
    assert object_server.published(url) == NEW


def test_nothing_is_deleted_where_it_is_not_known_whether_it_is_published(
    url: str, relay: Relay
) -> None:
    land(url, OLD)
    lost: list[str] = []

    def fault(method: str, path: str) -> str:
        if path.endswith("latest.json") and (method == "PUT" or lost):
            lost.append(path)
            return "lose"
        return ""

    relay(fault)
    with pytest.raises(NetworkError, match="not known whether the data was published"):
        land(url, NEW)
    assert object_server.published(url) == NEW


# --- processes that are killed -------------------------------------------------------------------

KILLED = """
import os, sys
import obstore
from landed import NEW
from object_server import land
from tasks.fetch.stores.objects import bucket, store, uploads
from test_object_faults import PART, WANTED

bucket.PART_BYTES, uploads.SMALL_BYTES = PART, 1000
for url in sys.stdin:
    pid = os.fork()
    if pid == 0:
        land(url.strip(), WANTED)
        os._exit(0)
    print(pid, flush=True)
    print(os.waitpid(pid, 0)[1], flush=True)
"""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_process_that_is_killed_at_any_request_leaves_what_prune_and_a_rule_delete(
    url: str, bucket: str, relay: Relay, moment: str
) -> None:
    """In the middle of the request, or when the store has carried it out."""
    pid, left = 0, -1
    started = threading.Event()

    def fault(method: str, path: str) -> str:
        nonlocal left
        if left < 0:
            return ""
        started.wait(10)
        left -= 1
        if left >= 0:
            return ""
        if moment == "after":
            return f"kill {pid}"
        os.kill(pid, signal.SIGKILL)
        return "cut 70"

    relay(fault)
    folders = os.pathsep.join([*filter(None, sys.path), str(Path(__file__).parents[2])])
    results: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-c", KILLED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": folders},
    ) as process:  # fmt: skip
        assert process.stdin
        assert process.stdout
        while results[-1:] != ["0"]:
            land(url, OLD)
            assert object_server.published(url) == OLD
            started.clear()
            left = len(results) + 1
            process.stdin.write(f"{url}\n")
            process.stdin.flush()
            pid = int(process.stdout.readline())
            started.set()
            results.append(process.stdout.readline().strip())
            left = -1
            assert object_server.published(url) in (OLD, WANTED)
        assert object_server.published(url) == WANTED
        process.stdin.close()
    assert len(results) > 15
    assert set(results[:-1]) == {str(int(signal.SIGKILL))}
    assert unpublished(bucket, url)
    open_store(url, overwrite=True).prune(keep_runs=0, min_age_s=0, dry_run=False)
    assert unpublished(bucket, url) == set()
    assert object_server.published(url) == WANTED
    # Only a rule with AbortIncompleteMultipartUpload removes these.
    assert {key.rpartition("/")[2] for key in object_server.uploads(bucket)} == {"large.csv"}
