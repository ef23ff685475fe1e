"""No secret is in an image, in what an engine tells of it, or in what a build leaves behind.

A mark that no file has is put into every input of the builds, with the input's name behind it;
then each image is searched, byte for byte.
"""

from __future__ import annotations

import configparser
import gzip
import os
import re
import secrets
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from docker.setup import images
from docker.setup.engine import Engine, quiet
from docker.setup.project import Project
from tree import REPOSITORY, Tree, engine_or_skip

PROJECT = f"lighterage-secrets-{os.getpid()}"
MARK = f"canary{secrets.token_hex(8)}"
BESIDE = (
    ".env", ".netrc", ".pypirc", ".ssh/config", "id_rsa", "data/landed.csv", "envs/dev.env",
    "envs/prod.env", "envs/secrets/password", "envs/secrets/ssh_key", "envs/ssh_config",
    ".lighterage/kept", "docker/prod/.env", "docker/dev/server.key", ".git/description",
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
    here = images.pip_configuration()
    conf = configparser.RawConfigParser()
    conf.read([here] if here else [])
    if "global" not in conf:
        conf.add_section("global")
    index = urlsplit(conf.get("global", "index-url", fallback="https://pypi.org/simple"))
    place = index.netloc.rpartition("@")[2]
    account = f"{index.scheme}://me:{MARK}-pip.conf@{place}{index.path}"
    conf.set("global", "index-url", account)
    with (folder / "pip.conf").open("w") as file:
        conf.write(file)
    bundle = images.ca_bundle(here)
    certificates = bundle.read_text() if bundle else ""
    (folder / "ca.crt").write_text(f"# {MARK}-ca\n{certificates}")
    return {
        "PIP_CONFIG_FILE": str(folder / "pip.conf"),
        "PIP_CERT": str(folder / "ca.crt"),
        "PIP_INDEX_URL": account.replace("pip.conf", "variable"),
        "PASSWORD": f"{MARK}-password",
    }


def marks(name: str, content: bytes) -> Iterator[str]:
    """Yield which marks are in something, and where."""
    for mark in sorted(set(re.findall(MARK.encode() + rb"[\w./-]*", content))):
        yield f"{mark.decode()} is in {name}"


def told(engine: Engine, image: str, folder: Path) -> list[str]:
    """Find marks in an image as it is saved, in its history and in its labels."""
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


def recorded(engine: Engine) -> list[str]:
    """Find marks in what the engine tells of its builds, by each way that a client here has."""
    ways = [["system", "df", "--verbose", "--format", "{{json .}}"], ["buildx", "du", "--verbose"]]
    builder = engine.builder[0] if engine.builder else engine.client
    answers = [quiet(builder, *words, timeout=120) for words in ways]
    assert any(answer.returncode == 0 for answer in answers)
    return [line for a in answers for line in marks("system df", (a.stdout + a.stderr).encode())]


@pytest.fixture(scope="module")
def engine() -> Engine:
    """Give the engine, or skip loudly."""
    return engine_or_skip("that images keep no secret goes unproved")


@pytest.fixture(scope="module")
def tree(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """Give a tree that is full of marks, on a machine that is, with both images built."""
    folder = tmp_path_factory.mktemp("secrets")
    tree = Tree(folder / "clone", PROJECT, machine(folder))
    packages = REPOSITORY / ".lighterage/debian"
    if packages.is_dir():
        shutil.copytree(packages, tree.folder / ".lighterage/debian")
    # A step that is in the engine's cache would see none of the secrets.
    with (tree.folder / "requirements/install.sh").open("a") as script:
        script.write(f"# {folder}\n")
    # The packages that only dev has are many, and no secret's business.
    shutil.copy(tree.folder / "requirements/prod.txt", tree.folder / "requirements/dev.txt")
    before = [inputs(tree, image) for image in ("dev", "prod")]
    plant(tree)
    assert [inputs(tree, image) for image in ("dev", "prod")] == before, "what no build sees counts"
    for variant in ("dev", "prod"):
        (tree.folder / f"envs/{variant}.env").write_text(f"PASSWORD={MARK}-{variant}.env\n")
    try:
        for variant in ("dev", "prod"):
            tree.ok("build", f"ENV={variant}", timeout=600)
        yield tree
    finally:
        for variant in ("dev", "prod"):
            tree.make("clean", f"ENV={variant}")
        engine.ask("volume", "rm", f"{PROJECT}-prod-data")


def inputs(tree: Tree, image: str) -> str:
    """Give the digest by which an image is up to date."""
    return images.inputs_of(replace(Project.from_environment(), root=tree.folder), image)


@pytest.mark.container
@pytest.mark.parametrize("variant", ["prod", "dev"])
def test_an_image_keeps_no_secret(tree: Tree, engine: Engine, variant: str, tmp_path: Path) -> None:
    assert told(engine, f"{PROJECT}-{variant}", tmp_path) == []


@pytest.mark.container
def test_the_records_of_builds_keep_no_secret(tree: Tree, engine: Engine) -> None:
    assert recorded(engine) == []


@pytest.mark.container
def test_the_search_finds_a_secret_in_each_place(
    tree: Tree, engine: Engine, tmp_path: Path
) -> None:
    """As a careless Dockerfile has them; otherwise the test above says nothing."""
    (tmp_path / "Dockerfile").write_text(
        f"FROM {PROJECT}-base:runtime\n"
        "ARG TOKEN\nENV SEEN=$TOKEN\n"
        "RUN --mount=type=secret,id=pip_conf cp /run/secrets/pip_conf /usr/pip.conf\n"
        "RUN rm /usr/pip.conf\n"
        f"RUN touch /usr/{MARK}-name # {PROJECT}\n"
    )
    client, env = engine.builder or ("", {})
    tag, token = f"{PROJECT}-careless", f"{MARK}-argument"
    try:
        subprocess.run(
            [client, "build", "--tag", tag, "--build-arg", f"TOKEN={token}",
             "--secret", f"id=pip_conf,src={tree.env['PIP_CONFIG_FILE']}",
             "--label", f"url={MARK}-label", str(tmp_path)],
            env={**os.environ, **env}, capture_output=True, check=True,
        )  # fmt: skip
        found = "\n".join(told(engine, tag, tmp_path) + recorded(engine))
    finally:
        engine.ask("image", "rm", tag)
    places = [f"pip.conf is in {tag}", f"name is in {tag}", "argument is in history"]
    places += ["label is in image inspect"]
    places += ["name is in system df"] if engine.kind == "docker" else []  # podman keeps none
    for place in places:
        assert f"{MARK}-{place}" in found


@pytest.mark.container
def test_the_cache_of_packages_keeps_no_account(tree: Tree, engine: Engine, tmp_path: Path) -> None:
    """It stays on the machine, for each build that asks for a cache of that name."""
    text = (tree.folder / "docker/prod/Dockerfile").read_text()
    mount = re.search(r"--mount=(type=cache,target=(\S+))", text)
    assert mount is not None
    (tmp_path / "mark").write_text(MARK)
    (tmp_path / "Dockerfile").write_text(
        f"FROM {PROJECT}-base:build\n"
        # Nothing of --no-cache: it would give an empty one.
        f"RUN --mount={mount[1]} --mount=type=secret,id=mark : {tmp_path}; "
        f"ls {mount[2]}/uv && ! grep -raoFf /run/secrets/mark {mount[2]}\n"
    )
    client, env = engine.builder or ("", {})
    command = [client, "build", "--label", f"of={PROJECT}"]
    done = subprocess.run(
        [*command, "--secret", f"id=mark,src={tmp_path / 'mark'}", str(tmp_path)],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    engine.ask("image", "prune", "--force", "--filter", f"label=of={PROJECT}")
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.container
def test_a_build_sees_what_the_tools_think_and_nothing_else(
    tree: Tree, engine: Engine, tmp_path: Path
) -> None:
    """The engine reads .dockerignore by its rules, the tools by theirs."""
    client, env = engine.builder or ("", {})
    seen = tmp_path / "seen.tar"
    subprocess.run(
        [client, "build", "--file", "-", "--output", f"type=tar,dest={seen}", str(tree.folder)],
        input=b"FROM scratch\nCOPY . /\n",
        env={**os.environ, **env}, capture_output=True, check=True,
    )  # fmt: skip
    with tarfile.open(seen) as archive:
        names = {member.name for member in archive if member.isreg()}
    project = replace(Project.from_environment(), root=tree.folder)
    thought = {str(path.relative_to(tree.folder)) for path in images.seen_files(project)}
    assert names == thought
    assert not names & {*BESIDE, *AMONG}


@pytest.mark.container
def test_a_running_container_tells_no_secret_that_is_a_file(tree: Tree, engine: Engine) -> None:
    for name in ("password", "ssh_key", "ssh_key_passphrase", "gateway_password"):
        (tree.folder / "envs/secrets" / name).write_text(f"{MARK}-{name}")
    (tree.folder / "envs/ssh_config").write_text("")
    (tree.folder / "envs/prod.env").write_text(
        "REMOTE_HOST_ADDRESS=data.invalid\nUSERNAME=me\nPASSWORD_FILE=envs/secrets/password\n"
    )
    tree.ok("up", "ENV=prod")
    try:
        running = engine.must("ps", "--quiet", "--filter", f"name={PROJECT}-prod")
        (container,) = running.split()
        read = engine.must("exec", container, "python", "-c",
                           "print(open('/app/envs/secrets/password').read())")  # fmt: skip
        assert read == f"{MARK}-password", "it is there"
        shown = engine.must("inspect", container) + engine.ask("logs", container).stderr
        assert "LIGHTERAGE_ENV_FILE" in shown
        assert MARK not in shown
        assert MARK not in engine.must("exec", container, "python", "-c",
                                       "print(open('/proc/1/environ').read())")  # fmt: skip
    finally:
        tree.ok("down", "ENV=prod")
