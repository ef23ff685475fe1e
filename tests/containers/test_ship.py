"""Images are saved, loaded and pushed, built on a registry's bases, and reproduced.

The registry is Debian's docker-registry, on loopback.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator

import pytest

from docker.setup import bases, venv
from docker.setup.project import Project
from docker.tools.context import Context
from images import edited, tree_in, wait_for
from tree import Tree

PROJECT = f"lighterage-ship-{os.getpid()}"


@pytest.fixture(scope="module")
def tree(engine: Context, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """Give a tree with history, and the prod image built."""
    env = {"BASE": "debian"}  # so that there are bases to push
    with tree_in(tmp_path_factory.mktemp("ship") / "clone", engine, env=env) as tree:
        me = ["-c", "user.name=x", "-c", "user.email=x@x.example"]
        for words in (
            ["init", "-q"],
            ["remote", "add", "origin", "https://me:secret@git.example/it"],
            [*me, "commit", "-q", "--allow-empty", "-m", "x"],
        ):
            subprocess.run(["git", *words], cwd=tree.folder, check=True)
        tree.ok("prod-build", timeout=600)
        yield tree


def labels_of(engine: Context) -> dict[str, str]:
    """Give the labels of the prod image."""
    labels: dict[str, str] = engine.inspect("image", f"{PROJECT}-prod")["Config"]["Labels"]
    return labels


@pytest.mark.container
def test_labels_name_version_commit_and_source(tree: Tree, engine: Context) -> None:
    found = {key.rpartition(".")[2]: value for key, value in labels_of(engine).items()}
    assert found["version"] == "0.1.0"
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", found["revision"])
    assert found["created"][:2] == "20"
    assert found["source"] == "https://git.example/it"
    assert "secret" not in str(found)
    assert str(tree.folder) not in str(found)


@pytest.mark.container
def test_a_saved_image_loads_again_and_a_changed_file_does_not(tree: Tree, engine: Context) -> None:
    image = f"{PROJECT}-prod"
    name = tree.ok("save", "ENV=prod").strip()
    file = tree.folder / name
    before = engine.inspect("image", image)["Id"]
    engine.must("image", "rm", image)
    good = file.read_bytes()
    file.write_bytes(good[:-100] + b"x" + good[-99:])
    assert "checksum mismatch" in tree.refused("load", f"FILE={name}")
    assert engine.ask("image", "inspect", image).returncode, "nothing was loaded"
    file.write_bytes(good)
    assert image in tree.make("load", f"FILE={name}").stderr
    assert engine.inspect("image", image)["Id"] == before
    other = tree.folder / "other.tar.gz"
    other.write_bytes(good[:-9])
    digest = hashlib.sha256(good[:-9]).hexdigest()
    other.with_name(other.name + ".sha256").write_text(f"{digest}  {other.name}\n")
    assert "not a file of make save" in tree.refused("load", "FILE=other.tar.gz")
    file.with_name(file.name + ".sha256").unlink()
    assert "there is no such file" in tree.refused("load", f"FILE={name}")
    assert "load needs a file" in tree.refused("load")
    assert "is up to date" in tree.make("prod-build").stderr, "it is the image that was built"


# --- the same tree, the same image ------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "digest"),
    [
        ("b.example:5000/library/python:3.11-bookworm", "sha256:b.example:5000"),
        ("a.example/library/python@sha256:a.example", "sha256:a.example"),
        ("python:3.11-bookworm", "x"),
    ],
)
def test_the_digest_of_a_base_is_the_one_of_its_own_registry(base: str, digest: str) -> None:
    served = [f"{name}/library/python@sha256:{name}" for name in ("a.example", "b.example:5000")]
    labels = bases.labels({"Id": "x", "RepoDigests": served}, base)
    assert labels[-1] == f"--label=org.opencontainers.image.base.digest={digest}"


@pytest.mark.container
def test_prod_reproduces_and_a_difference_is_named(tree: Tree) -> None:
    """Two builds without cache, from copies with other times and other modes."""
    done = tree.make("prod-reproduce", timeout=600)
    assert done.returncode == 0, done.stderr
    assert "identical layers in two builds" in done.stderr
    file = tree.folder / "docker/prod/Dockerfile"
    small = "ARG BASE\nARG RUNTIME\nFROM ${RUNTIME}\nRUN date +%N >/moment\n"
    with edited(file, (file.read_text(), small)):
        error = tree.refused("prod-reproduce", timeout=600)
    assert "prod does not reproduce: layer" in error
    assert "/moment: " in error


@pytest.mark.container
def test_an_added_package_is_the_only_one_to_be_downloaded(tree: Tree, engine: Context) -> None:
    """Uv's "Prepared" counts what it had to download."""
    script, lock = (tree.folder / f"requirements/{name}" for name in ("install.sh", "prod.txt"))
    texts = {path: path.read_text() for path in (script, lock)}
    more = re.search(r"(?ms)^iniconfig==.*?# via", lock.with_name("dev.txt").read_text())
    assert more is not None
    command = [*engine.build, "--progress", "plain", "--target", "builder"]
    command += ["--label", f"of={PROJECT}", "--build-arg", f"BASE={PROJECT}-base:build"]
    command += ["--file", str(tree.folder / "docker/prod/Dockerfile")]
    command += [f"--secret=id={key},src={path}" for key, path in venv.build_secrets().items()]
    outputs = []
    try:
        script.write_text(texts[script].replace(" --quiet", "") + f"# {PROJECT}\n")
        for text in (texts[lock], f"{texts[lock]}{more[0]} the test\n"):
            lock.write_text(text)
            done = subprocess.run(
                [*command, str(tree.folder)], capture_output=True, text=True, check=True
            )
            outputs.append(done.stdout + done.stderr)
    finally:
        engine.ask("image", "prune", "--force", "--filter", f"label=of={PROJECT}")
        for path, text in texts.items():
            path.write_text(text)
    assert re.search(r"Installed \d\d packages", outputs[1])
    assert "iniconfig" in outputs[1]
    downloads = re.findall(r"Prepared (\d+) package", outputs[1])
    assert sum(map(int, downloads)) <= 1


# --- a registry: last, since other bases are chosen --------------------------------------------


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give `localhost:PORT` of a registry of our own."""
    folder = tmp_path_factory.mktemp("registry")
    done = subprocess.run(
        ["sh", "-c", "apt-get download -qq docker-registry && dpkg-deb -x docker-registry*.deb ."],
        cwd=folder, capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip("docker-registry CANNOT BE DOWNLOADED: registries are not tested")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    config = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    (folder / "config.yml").write_text(json.dumps(config))
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [str(folder / "usr/bin/docker-registry"), "serve", str(folder / "config.yml")],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:

        def answers() -> bool:
            with socket.socket() as sock:
                return sock.connect_ex(("127.0.0.1", port)) == 0

        wait_for(answers)
        yield f"localhost:{port}"
    finally:
        server.terminate()
        server.wait()


@pytest.mark.container
def test_a_push_prints_a_digest_that_can_be_pulled(
    tree: Tree, engine: Context, registry: str
) -> None:
    assert "push needs a registry" in tree.refused("push", "ENV=prod")
    pushed = tree.ok("push", "ENV=prod", f"REGISTRY={registry}/team").strip()
    assert pushed.startswith(f"{registry}/team/{PROJECT}-prod:0.1.0@sha256:")
    reference = pushed.replace(":0.1.0@", "@")
    try:
        engine.must("pull", *plain(engine), reference)
    finally:
        engine.ask("image", "rm", reference)
    error = tree.refused("push", "ENV=prod", "REGISTRY=127.0.0.1:1/team")
    assert "was not pushed" in error


def plain(engine: Context) -> list[str]:
    """Give the option by which podman talks to a local registry without TLS, as docker does."""
    return ["--tls-verify=false"] if engine.engine == "podman" else []


@pytest.fixture(scope="module")
def hub(tree: Tree, engine: Context, registry: str) -> Iterator[str]:
    """Give a registry with base images under the hub's names, of which none is in the engine."""
    hub = f"{registry}/library"
    push(engine, hub, "build", "3.11-bookworm")
    push(engine, hub, "runtime", "3.11-slim-bookworm")
    yield hub
    forget(engine, hub)


def push(engine: Context, hub: str, kind: str, tag: str) -> None:
    """Serve a Debian-made base as a tag of the hub's python."""
    name = f"{hub}/python:{tag}"
    engine.must("tag", f"{PROJECT}-base:{kind}", name)
    engine.must("push", *plain(engine), name)
    forget(engine, hub)


def forget(engine: Context, hub: str) -> None:
    """Remove the hub's images from the engine."""
    for column in ("{{.Repository}}:{{.Tag}}", "{{.Repository}}@{{.Digest}}"):
        names = engine.ask("images", "--digests", "--format", column).stdout.split()
        engine.ask("image", "rm", *(name for name in names if name.startswith(f"{hub}/")))


@pytest.mark.container
def test_bases_come_from_a_registry_that_serves_them(tree: Tree, engine: Context, hub: str) -> None:
    """The same Dockerfiles on what a registry has under the hub's names."""
    done = tree.make("prod-build", f"HUB={hub}", "BASE=hub")
    assert done.returncode == 0, done.stderr
    assert f"base images: hub {hub}, not as locked" in done.stderr
    assert "hub.lock has no digests for the base images; make lock" in done.stderr
    assert labels_of(engine)["lighterage.base"].startswith(f"hub {hub}")
    words = ["run", "TASK=2", "ENV=prod", "ARGS=--help", f"HUB={hub}", "BASE=hub"]
    assert "Task 2" in tree.ok(*words)
    error = tree.refused("prod-build", f"HUB={hub}", "BASE=hub", "LOCKED=1")
    assert "LOCKED=1, but docker/base/hub.lock has no digests" in error
    error = tree.refused("prod-build", "HUB=127.0.0.1:1/library", "BASE=hub")
    assert "BASE=hub, but the image registry does not serve" in error


@pytest.mark.container
def test_the_digests_of_bases_are_locked_wherever_their_tags_go(
    tree: Tree, engine: Context, hub: str
) -> None:
    here = Project.from_environment()._replace(root=tree.folder, hub=hub)
    with edited(tree.folder / "docker/base/hub.lock") as lock:
        bases.lock_bases(here)
        locked = dict(line.split() for line in lock.read_text().splitlines()[1:])
        assert list(locked) == ["python:3.11-bookworm", "python:3.11-slim-bookworm"]
        push(engine, hub, "build", "3.11-slim-bookworm")  # the tag moves on
        hubs = [f"HUB={hub}", "BASE=hub", "LOCKED=1"]
        tree.ok("prod-build", *hubs)
        labels = labels_of(engine)
        assert labels["lighterage.base"] == f"hub {hub}"
        digest = labels["org.opencontainers.image.base.digest"]
        assert digest == locked["python:3.11-slim-bookworm"]
        assert labels["org.opencontainers.image.base.name"] == f"{hub}/python"
        lock.write_text(lock.read_text().replace(digest, f"sha256:{'0' * 64}"))
        assert "does not serve" in tree.refused("prod-build", *hubs)
