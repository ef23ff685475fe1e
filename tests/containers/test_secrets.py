"""No secret is in an image, in what the engine shows of it, or in its records of a build.

Every input of the builds gets a unique mark and the input's name; then each image is searched, byte
for byte.
"""

from __future__ import annotations

import configparser
import gzip
import os
import re
import secrets
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from ssl import get_default_verify_paths
from typing import Any
from urllib.parse import urlsplit

import pytest

from docker.setup import envfiles
from docker.tools.context import Context
from images import tree_in
from tree import Tree

PROJECT = f"lighterage-secrets-{os.getpid()}"
MARK = f"canary{secrets.token_hex(8)}"
BESIDE = (
    ".env", ".netrc", ".pypirc", ".ssh/config", "id_rsa", "data/landed.csv", "envs/dev.env",
    "envs/prod.env", "envs/secrets/password", "envs/secrets/ssh_key", "envs/ssh_config",
    ".lighterage/state", "docker/prod/.env", "docker/dev/server.key", ".git/description",
)  # fmt: skip
"""Files that no build is to see."""
AMONG = (
    "tasks/.env", "tasks/id_rsa", "tasks/fetch/prod.env", "tasks/fetch/server.key",
    "tests/ca.pem", "tests/.ssh/config", "benchmarks/.env.local", "tests/id_ed25519.pub",
    "requirements/.netrc", "requirements/.pypirc", "requirements/id_ecdsa_sk",
)  # fmt: skip
"""The same in folders that builds see."""


def plant(tree: Tree) -> None:
    """Put a mark into each file, and into a commit's and a remote's words."""
    for name in (*BESIDE, *AMONG):
        path = tree.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#{MARK}-{name}\n")
    me = ["-c", f"user.name={MARK}-author", "-c", "user.email=me@here.example"]
    remote = f"https://me:{MARK}-remote@git.example/it.git"
    for words in (["init", "-q"], ["remote", "add", "origin", remote],
                  [*me, "commit", "-q", "--allow-empty", "-m", f"{MARK}-message"]):  # fmt: skip
        subprocess.run(["git", *words], cwd=tree.folder, check=True)


def machine(folder: Path) -> dict[str, str]:
    """Give a machine's environment: its CA bundle, its pip.conf, its variables, all marked."""
    conf = configparser.RawConfigParser()
    conf["global"] = {}
    index = urlsplit(pip("global.index-url"))
    if index.netloc:
        place = index.netloc.rpartition("@")[2]
        account = f"{index.scheme}://me:{MARK}-pip.conf@{place}{index.path}"
        conf["global"]["index-url"] = account
    with (folder / "pip.conf").open("w") as file:
        file.write(f"# {MARK}-pip.conf\n")
        conf.write(file)
    bundles = [os.environ.get("PIP_CERT"), pip("global.cert"), get_default_verify_paths().cafile]
    certificates = next((Path(path).read_text() for path in bundles if path), "")
    (folder / "ca.crt").write_text(f"# {MARK}-ca\n{certificates}")
    return {
        "PIP_CONFIG_FILE": str(folder / "pip.conf"),
        "PIP_CERT": str(folder / "ca.crt"),
        "PASSWORD": f"{MARK}-password",
    }


def pip(key: str) -> str:
    """Give a value of this machine's pip configuration."""
    command = [sys.executable, "-m", "pip", "config", "get", key]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def marks(name: str, content: bytes) -> Iterator[str]:
    """Yield which marks are in something, and where."""
    for mark in sorted(set(re.findall(MARK.encode() + rb"[\w./-]*", content))):
        yield f"{mark.decode()} is in {name}"


def in_image(engine: Context, image: str, folder: Path) -> list[str]:
    """Find marks in a saved image, in its history and in its labels."""
    saved = folder / "saved.tar"
    engine.must("save", "--output", str(saved), image)
    found: list[str] = []
    with tarfile.open(saved) as archive:
        # A layer is a tar of its own, whose names and contents lie in it as they are.
        for member in (member for member in archive if member.isreg()):
            file = archive.extractfile(member)
            content = file.read() if file else b""
            if content.startswith(b"\x1f\x8b"):
                content = gzip.decompress(content)
            assert not content.startswith(b"\x28\xb5\x2f\xfd"), "zstd: not to be looked into here"
            found += marks(f"{image}, {member.name}", member.name.encode() + b"\n" + content)
    saved.unlink()
    for words in (["history", "--no-trunc", image], ["image", "inspect", image]):
        found += marks(" ".join(words[:2]), engine.must(*words).encode())
    return found


def in_records(engine: Context) -> list[str]:
    """Find marks in the engine's records of builds, by each way that a client here has."""
    answers = [
        subprocess.run([*engine.build[:-1], *words], capture_output=True, text=True, check=False)
        for words in (
            ("system", "df", "--verbose", "--format", "{{json .}}"),
            ("buildx", "du", "--verbose"),
        )
    ]
    assert any(answer.returncode == 0 for answer in answers)
    return [line for a in answers for line in marks("system df", (a.stdout + a.stderr).encode())]


@pytest.fixture(scope="module")
def tree(engine: Context, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """Give a tree full of marks, on a machine with marks, with both images built."""
    folder = tmp_path_factory.mktemp("secrets")
    marked = machine(folder)
    with tree_in(folder / "clone", engine, env=marked, bases_of_its_own=True) as tree:
        # A step that is in the engine's cache would see none of the secrets.
        with (tree.folder / "requirements/install.sh").open("a") as script:
            script.write(f"# {folder}\n")
        # The packages that only dev has are many, and need no secret.
        shutil.copy(tree.folder / "requirements/prod.txt", tree.folder / "requirements/dev.txt")
        plant(tree)
        for variant in ("dev", "prod"):
            (tree.folder / f"envs/{variant}.env").write_text(f"PASSWORD={MARK}-{variant}.env\n")
            tree.ok("build", f"ENV={variant}", timeout=600)
        yield tree


@pytest.mark.container
@pytest.mark.parametrize("variant", ["prod", "dev"])
def test_an_image_has_no_secret(tree: Tree, engine: Context, variant: str, tmp_path: Path) -> None:
    assert in_image(engine, f"{PROJECT}-{variant}", tmp_path) == []


@pytest.mark.container
def test_the_records_of_builds_have_no_secret(tree: Tree, engine: Context) -> None:
    assert in_records(engine) == []


def build(engine: Context, context: Path, *words: str, **more: Any) -> str:
    """Build an image by hand; returns what the build printed."""
    done = subprocess.run(
        [*engine.build, *words, str(context)], capture_output=True, check=False, **more
    )
    output: str = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, output[-2000:]
    return output


@pytest.mark.container
def test_the_search_finds_a_secret_in_each_place(
    tree: Tree, engine: Context, tmp_path: Path
) -> None:
    """With a careless Dockerfile; otherwise the tests above prove nothing."""
    (tmp_path / "Dockerfile").write_text(
        f"FROM {PROJECT}-base:runtime\n"
        "ARG TOKEN\nENV SEEN=$TOKEN\n"
        "RUN --mount=type=secret,id=pip_conf cp /run/secrets/pip_conf /usr/pip.conf\n"
        "RUN rm /usr/pip.conf\n"
        f"RUN touch /usr/{MARK}-name # {PROJECT}\n"
    )
    tag, secret = f"{PROJECT}-careless", f"id=pip_conf,src={tree.env['PIP_CONFIG_FILE']}"
    words = ["--build-arg", f"TOKEN={MARK}-argument", "--secret", secret]
    try:
        build(engine, tmp_path, "--tag", tag, *words, "--label", f"url={MARK}-label")
        found = "\n".join(in_image(engine, tag, tmp_path) + in_records(engine))
    finally:
        engine.ask("image", "rm", tag)
    places = [f"pip.conf is in {tag}", f"name is in {tag}", "argument is in history"]
    places += ["label is in image inspect"]
    places += ["name is in system df"] if engine.engine == "docker" else []  # podman keeps none
    for place in places:
        assert f"{MARK}-{place}" in found


@pytest.mark.container
def test_the_cache_of_packages_has_no_account(tree: Tree, engine: Context, tmp_path: Path) -> None:
    """It stays on the machine, for each build that asks for a cache of that name."""
    text = (tree.folder / "docker/prod/Dockerfile").read_text()
    mount = re.search(r"--mount=(type=cache,target=(\S+))", text)
    assert mount is not None
    (tmp_path / "mark").write_text(MARK)
    (tmp_path / "Dockerfile").write_text(
        f"FROM {PROJECT}-base:build\n"
        # Without --no-cache, which would give an empty one.
        f"RUN --mount={mount[1]} --mount=type=secret,id=mark : {tmp_path}; "
        f"ls {mount[2]}/uv && ! grep -raoFf /run/secrets/mark {mount[2]}\n"
    )
    label = f"of={PROJECT}"
    try:
        build(engine, tmp_path, "--label", label, "--secret", f"id=mark,src={tmp_path / 'mark'}")
    finally:
        engine.ask("image", "prune", "--force", "--filter", f"label={label}")


@pytest.mark.container
def test_a_build_sees_no_file_that_it_must_not(tree: Tree, engine: Context, tmp_path: Path) -> None:
    output = tmp_path / "seen.tar"
    dockerfile = b"FROM scratch\nCOPY . /\n"
    words = ["--file", "-", "--output", f"type=tar,dest={output}"]
    build(engine, tree.folder, *words, input=dockerfile)
    with tarfile.open(output) as archive:
        names = {member.name for member in archive if member.isreg()}
    assert "tasks/task_1.py" in names
    assert not names & {*BESIDE, *AMONG}


@pytest.mark.container
def test_a_running_container_shows_no_secret_of_a_file(tree: Tree, engine: Context) -> None:
    for name in envfiles.SECRETS:
        (tree.folder / "envs/secrets" / name).write_text(f"{MARK}-{name}")
    (tree.folder / "envs/ssh_config").write_text("")
    (tree.folder / "envs/prod.env").write_text(
        "REMOTE_HOST_ADDRESS=data.invalid\nUSERNAME=me\nPASSWORD_FILE=envs/secrets/password\n"
    )
    tree.ok("up", "ENV=prod")
    try:
        (container,) = engine.must("ps", "--quiet", "--filter", f"name={PROJECT}-prod").split()
        python = ("exec", container, "python", "-c")
        password = engine.must(*python, "print(open('/app/envs/secrets/password').read())")
        assert password == f"{MARK}-password", "it is delivered"
        shown = engine.must("inspect", container) + engine.ask("logs", container).stderr
        assert "LIGHTERAGE_ENV_FILE" in shown
        assert MARK not in shown
        assert MARK not in engine.must(*python, "print(open('/proc/1/environ').read())")
    finally:
        tree.ok("down", "ENV=prod")
