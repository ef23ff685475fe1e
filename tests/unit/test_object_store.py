"""What is special to the object store; test_stores.py has what every store does."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import object_server
from landed import NEW, OLD, SAME, stage
from object_server import land
from steps import Steps
from tasks.fetch.errors import (
    AuthError,
    BusyError,
    ConfigError,
    LighterageError,
    NetworkError,
    StoreError,
)
from tasks.fetch.staging import staging
from tasks.fetch.stores import open_store
from tasks.fetch.stores.objects import bucket as bucket_module
from tasks.fetch.stores.objects import store as store_module
from tasks.fetch.stores.objects import uploads as uploads_module
from tasks.fetch.stores.objects.store import ObjectStore

pytestmark = pytest.mark.usefixtures("object_store")

Relay = Callable[[Callable[[str, str], str]], None]


# --- what lands ----------------------------------------------------------------------------------


def test_unchanged_file_is_referenced_and_not_uploaded_again(url: str, bucket: str) -> None:
    first, second = land(url, OLD), land(url, NEW)
    runs = {file.path: file.run for file in second.all_files()}
    assert runs[SAME] == {file.run for file in first.all_files()}.pop()
    assert len(set(runs.values())) == 2
    keys = object_server.objects(bucket).keys()
    assert len([key for key in keys if key.endswith(f"/{SAME}")]) == 1
    assert object_server.published(url) == NEW


def test_files_of_every_size_and_name_land(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that are sent in parts."""
    monkeypatch.setattr(uploads_module, "SMALL_BYTES", 1000)
    monkeypatch.setattr(bucket_module, "PART_BYTES", 5 * 2**20)
    sizes = (0, 1, 1000, 1001, 5 * 2**20, 11 * 2**20 + 1)
    files = {f"{size}.csv": bytes(size) for size in sizes}
    files |= dict.fromkeys(("a b.csv", "a#?%20+&=*\\[].csv", "ä/ö.csv", ".x", "~"), b"x")
    land(url, files)
    assert object_server.published(url) == files
    store = open_store(url, overwrite=True)
    manifest = store.manifest()
    assert manifest
    assert all(store.verify(file, content=True) is file for file in manifest.files)


@pytest.mark.parametrize("name", ["a\nb", "\udcff", "a" * 1024])
def test_name_that_no_key_can_have_is_refused(url: str, name: str) -> None:
    with pytest.raises(StoreError, match=r"cannot be stored: the name (has|makes)") as caught:
        land(url, {name: b"x"})
    assert "\n" not in str(caught.value)


def test_large_file_that_is_aborted_leaves_nothing(url: str, bucket: str) -> None:
    store = open_store(url, overwrite=True)
    store.begin("run")
    writer = store.create("a.csv")
    for _ in range(30):
        writer.write(bytes(2**20))
    writer.abort()
    store.clean_up()
    assert object_server.objects(bucket) == {}
    assert "Uploads" not in object_server.client().list_multipart_uploads(Bucket=bucket)


def test_nothing_is_written_to_the_disk(url: str) -> None:
    steps = Steps()
    with steps.watched():
        land(url, {"a.csv": bytes(3 * 2**20), "b.csv": b"b"})
    assert steps.names
    assert {name.split()[0] for name in steps.names} == {"lighterage.request"}


def test_whole_bucket_can_be_a_target(bucket: str) -> None:
    land(f"s3://{bucket}", OLD)
    assert set(object_server.objects(bucket)) >= {"latest.json"}
    assert {key.split("/")[0] for key in object_server.objects(bucket)} <= store_module.OWN_NAMES


def test_run_without_overwrite_does_not_replace_what_another_published(url: str) -> None:
    store = open_store(url, overwrite=False)
    with staging(store) as staged:
        land(url, OLD)
        manifest = stage(store, staged, NEW)
        with pytest.raises(BusyError):
            staged.publish(manifest)
    assert object_server.published(url) == OLD


# --- what is refused -----------------------------------------------------------------------------


def test_store_without_conditional_writes_is_refused_before_any_upload(
    url: str, bucket: str, relay: Relay
) -> None:
    relay(lambda method, path: "unconditional")
    store = open_store(url, overwrite=True)
    with pytest.raises(StoreError, match="no conditional writes"), staging(store) as staged:
        staged.begin()
    assert object_server.objects(bucket) == {}


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        ("403 InvalidAccessKeyId", AuthError, "refuses the credentials"),
        ("403 SignatureDoesNotMatch", AuthError, "refuses the credentials"),
        ("403 RequestTimeTooSkewed", AuthError, "clock"),
        ("403 AccessDenied", StoreError, "permission denied"),
        ("404 NoSuchBucket", StoreError, "no such bucket"),
        ("400 AuthorizationHeaderMalformed", ConfigError, "AWS_REGION"),
        ("301 PermanentRedirect", ConfigError, "AWS_REGION"),
        ("503 SlowDown", NetworkError, "503 SlowDown, also after 2 retries"),
        ("400 EntityTooLarge", StoreError, "400 EntityTooLarge"),
        ("hang", NetworkError, "no answer in time"),
    ],
)
def test_answer_of_the_store_is_an_error_of_one_line(
    url: str, relay: Relay, answer: str, kind: type[LighterageError], words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(bucket_module, "REQUEST_TIMEOUT_S", 0.3)
    relay(lambda method, path: answer)
    for method in ("check", "begin"):
        store = open_store(url, overwrite=True)
        with pytest.raises(kind, match=words) as caught:
            store.check() if method == "check" else store.begin("run")
        assert type(caught.value) is kind
        assert "\n" not in str(caught.value)
        assert object_server.SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("http://127.0.0.1:1", "cannot be connected to"),
        ("http://no-such-host.invalid", "host name is not known"),
        ("https://127.0.0.1:{port}", "TLS failed"),
    ],
)
def test_server_that_cannot_be_reached_is_a_network_error(
    url: str, object_store: str, endpoint: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_module, "MAX_RETRIES", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint.format(port=object_store.rpartition(":")[2]))
    with pytest.raises(NetworkError, match=words):
        open_store(url, overwrite=True).check()


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("s3://", "has no bucket"),
        ("s3:///prefix", "has no bucket"),
        ("s3://Bucket/prefix", "cannot be the name of a bucket"),
        ("s3://a_b/prefix", "cannot be the name of a bucket"),
        ("s3://10.0.0.1/prefix", "cannot be the name of a bucket"),
        ("s3://bucket/a//b", "the prefix has an empty part"),
        ("s3://bucket/../b", "the prefix has an empty part"),
        ("s3://bucket/a\nb", "the prefix has a control character"),
    ],
)
def test_url_that_names_no_prefix_of_a_bucket_is_refused(target: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        open_store(target, overwrite=True)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("AWS_ACCESS_KEY_ID", "", "AWS_ACCESS_KEY_ID is missing"),
        ("AWS_SECRET_ACCESS_KEY", "", "AWS_SECRET_ACCESS_KEY is missing"),
        ("AWS_ALLOW_HTTP", "", "set AWS_ALLOW_HTTP=true"),
        ("AWS_ENDPOINT_URL", "localhost:9000", "expected a URL"),
        ("AWS_ENDPOINT_URL", "https://me:pw@host", "expected a URL"),
        ("AWS_CA_BUNDLE", "/none.pem", "AWS_CA_BUNDLE is /none.pem: cannot be read"),
    ],
)
def test_variable_that_is_missing_or_wrong_is_named(
    name: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=words):
        open_store("s3://bucket/prefix", overwrite=True)


def test_secret_key_may_be_in_a_file(
    url: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path_factory.mktemp("secrets") / "key"
    file.write_text(object_server.SECRET + "\n")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY_FILE", str(file))
    land(url, OLD)
    assert object_server.published(url) == OLD


def test_secrets_are_in_no_object_and_no_text(url: str, bucket: str) -> None:
    store = ObjectStore(url, overwrite=True)
    land(url, OLD)
    assert object_server.SECRET not in f"{store!r} {vars(store)!r} {vars(store._bucket)!r}"
    assert not any(
        object_server.SECRET.encode() in x for x in object_server.objects(bucket).values()
    )


def test_package_that_is_missing_is_named(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ConfigError, match=r"obstore is not installed.*requirements/s3\.txt"):
        open_store(url, overwrite=True)


@pytest.mark.parametrize("content", [b"{}", b"no JSON", b'{"schema": "lighterage-latest/2"}'])
def test_foreign_latest_json_is_not_replaced(url: str, bucket: str, content: bytes) -> None:
    object_server.write(bucket, {"data/events/latest.json": content})
    with pytest.raises(StoreError, match="not created by this version"):
        land(url, NEW)
    assert object_server.objects(bucket) == {"data/events/latest.json": content}


@pytest.mark.parametrize("content", [None, b"{}"])
def test_missing_or_broken_manifest_is_an_error(
    url: str, bucket: str, content: bytes | None
) -> None:
    land(url, OLD)
    [key] = [key for key in object_server.objects(bucket) if "/manifests/" in key]
    object_server.client().delete_object(Bucket=bucket, Key=key)
    if content:
        object_server.write(bucket, {key: content})
    with pytest.raises(StoreError, match=r"delete latest\.json to download everything again"):
        open_store(url, overwrite=True).manifest()


# --- signals -----------------------------------------------------------------------------------

HANGING = """
import sys
from landed import NEW, stage
from tasks.fetch import interrupt
from tasks.fetch.errors import Interrupted
from tasks.fetch.staging import staging
from tasks.fetch.stores import open_store
from tasks.fetch.stores.objects import bucket, store as module

interrupt.install()
module.SMALL_BYTES, bucket.REQUEST_TIMEOUT_S = int(sys.argv[2]), float(sys.argv[3])
try:
    store = open_store(sys.argv[1], overwrite=True)
    with staging(store) as staged:
        staged.publish(stage(store, staged, NEW))
except Interrupted as stop:
    sys.exit(stop.exit_code)
"""


@pytest.mark.parametrize(
    ("part", "small_bytes", "timeout_s"),
    [
        ("/objects/", 1000, 60),
        ("/objects/", 0, 60),
        ("/manifests/", 1000, 60),
        ("latest.json", 1000, 2),  # a publication is not interrupted
    ],
)
def test_signal_ends_a_run_whose_store_does_not_answer(
    url: str, relay: Relay, part: str, small_bytes: int, timeout_s: float
) -> None:
    land(url, OLD)
    hangs = threading.Event()

    def fault(method: str, path: str) -> str:
        if method != "PUT" or part not in path or path.endswith(".probe"):
            return ""
        hangs.set()
        return "hang"

    relay(fault)
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", HANGING, url, str(small_bytes), str(timeout_s)],
        stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": f"{root}:{root}/tests/support"},
    )  # fmt: skip
    assert hangs.wait(30)
    process.terminate()
    _, err = process.communicate(timeout=20)
    assert process.returncode == 143, err
    assert object_server.published(url) == OLD
