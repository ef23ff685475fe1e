"""The Makefile where no network or no engine answers: what it does then, and what it says."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from need import need
from tree import NO_ENGINE, REPOSITORY, Tree, fake_docker
from wheels import cheat, tampered


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """Give a tree where no engine answers, in a folder with a space in its name."""
    tree = Tree(tmp_path_factory.mktemp("make") / "a clone", env=NO_ENGINE)
    yield tree
    for variant in ("dev", "prod"):
        tree.make("down", f"ENV={variant}")


@pytest.fixture
def copy(tmp_path: Path) -> Tree:
    """Give a tree to change."""
    return Tree(tmp_path / "clone", env=NO_ENGINE)


# --- without a network ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def vendored(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """Give a tree of one small requirement, with its wheels and no .venv; no index answers."""
    tree = Tree(tmp_path_factory.mktemp("offline") / "a clone", env=NO_ENGINE)
    (tree.folder / ".venv").unlink()
    pins = (REPOSITORY / "requirements/dev.txt").read_text()
    (one,) = re.findall(r"^iniconfig==.*\n(?: .*\n)+", pins, re.MULTILINE)
    for file in tree.folder.glob("requirements/*.txt"):
        if file.name != "uv.txt":
            file.write_text(one)
    assert "run make vendor where there is a network" in tree.refused("build", "OFFLINE=1")
    done = tree.make("vendor")
    assert done.returncode == 0, done.stderr
    assert "2 wheels, " in done.stderr
    tree.env |= {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "UV_INDEX": "http://127.0.0.1:9"}
    return tree


def test_offline_the_environment_is_made_of_the_wheelhouse_alone(vendored: Tree) -> None:
    vendored.ok("build", "OFFLINE=1")
    (made,) = vendored.folder.glob(".venv/lib/python3.*/site-packages/iniconfig-*")
    assert made.is_dir()
    sums = vendored.folder / "docker/wheels"
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=sums, check=True)


def test_a_wheel_that_was_tampered_with_is_refused_twice(vendored: Tree) -> None:
    """By the sums, and where those were made to fit, by the pins."""
    shutil.rmtree(vendored.folder / ".venv", ignore_errors=True)
    with tampered(vendored, "iniconfig") as wheel:
        error = vendored.refused("build", "OFFLINE=1")
        assert f"{wheel.name} is not what make vendor saw: hash mismatch" in error
        cheat(wheel)
        error = vendored.refused("build", "OFFLINE=1")
        assert "Hash mismatch for `iniconfig==" in error
        assert "docker/wheels did not give what it takes" in error


def test_what_the_wheelhouse_lacks_is_one_line(vendored: Tree) -> None:
    shutil.rmtree(vendored.folder / ".venv", ignore_errors=True)
    (wheel,) = vendored.folder.glob("docker/wheels/iniconfig-*")
    content = wheel.read_bytes()
    wheel.unlink()
    lines = vendored.refused("build", "OFFLINE=1").splitlines()
    assert f"OFFLINE=1, but docker/wheels/{wheel.name} is missing" in lines[-2]
    wheel.write_bytes(content)
    pins = vendored.folder / "requirements/prod.txt"
    text = pins.read_text()
    pins.write_text(text + "\n")
    error = vendored.refused("build", "OFFLINE=1")
    assert "requirements/prod.txt is not what make vendor saw" in error
    pins.write_text(text)
    assert "run it without" in vendored.refused("vendor", "OFFLINE=1")


# --- what needs an engine, and doctor -------------------------------------------------------


DENIED = (
    "permission denied while trying to connect to the Docker daemon socket at"
    " unix:///run/x.sock: Get http: dial unix /run/x.sock: connect: permission denied"
)
NO_DAEMON = "Cannot connect to the Docker daemon at unix:///run/x.sock. Is it running?"
CAUSES = {"denied": (DENIED, "no permission to use the socket /run/x.sock"),
          "stopped": (NO_DAEMON, "no docker engine answers")}  # fmt: skip


@pytest.mark.parametrize("cause", CAUSES)
def test_the_reason_why_no_engine_can_be_used_is_shown(
    copy: Tree, tmp_path: Path, cause: str
) -> None:
    text, says = CAUSES[cause]
    fake_docker(copy, tmp_path, f'echo "{text}" >&2; exit 1')
    other = next(words for name, (_, words) in CAUSES.items() if name != cause)
    for words in (["up"], ["run", "RUNNER=container"], ["logs", "ENV=prod"]):
        error = copy.refused(*words)
        assert says in error
        assert other not in error
        assert "Error 1" in error
    assert says in copy.make("doctor").stdout
    assert says in copy.make("down").stderr
    # As after a run by a user who may use the engine.
    (copy.folder / ".lighterage/docker-clients.json").write_text("")
    down = copy.make("down")
    assert (down.returncode == 0) == (cause == "stopped"), "running containers are not ignored"
    assert says in down.stderr


def test_down_ends_what_runs_here_where_the_engine_is_closed_to_this_user(
    copy: Tree, tmp_path: Path
) -> None:
    fake_docker(copy, tmp_path, f'echo "{DENIED}" >&2; exit 1')
    copy.ok("run", "TASK=2", "ARGS=--dry-run")
    done = copy.make("down")
    assert done.returncode == 0, done.stderr
    assert "ended the sample host on loopback" in done.stderr


def test_an_engine_that_is_not_installed_is_named(copy: Tree, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "sh", "env", "awk", "mkdir", "touch", "git"):
        (tools / name).symlink_to(shutil.which(name) or name)
    (tools / "python3").symlink_to(sys.executable)
    copy.env["PATH"] = str(tools)
    done = subprocess.run(
        [shutil.which("make") or "make", "up", "ENV=prod"], cwd=copy.folder, env=copy.environ(),
        text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "docker is not installed: install it" in done.stderr


@pytest.mark.parametrize(("variant", "cause"), [("dev", "denied"), ("prod", "stopped")])
def test_prod_never_runs_without_isolation_in_silence(
    copy: Tree, tmp_path: Path, variant: str, cause: str
) -> None:
    text, says = CAUSES[cause]
    fake_docker(copy, tmp_path, f'echo "{text}" >&2; exit 1')
    done = copy.make("config", f"ENV={variant}")
    assert done.returncode == 0, done.stderr
    assert says in done.stderr
    assert ("WARNING: prod runs without isolation" in done.stderr) == (variant == "prod")
    rows = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines()}
    assert rows["variant"] == variant
    assert rows["host_keys"] == ("known" if variant == "prod" else "accept-new")
    asked_for = copy.make("config", f"ENV={variant}", "RUNNER=host")
    assert asked_for.stdout == done.stdout
    assert asked_for.stderr == ""


@pytest.mark.skipif(os.getuid() != 0, reason="ONLY ROOT CAN MAKE A SOCKET OF ANOTHER USER'S")
def test_a_socket_closed_to_this_user_is_named(copy: Tree, tmp_path: Path) -> None:
    """With the real client, as a user who is in no group of the engine's."""
    need("docker", "docker.io", "a closed socket of the engine's")
    need("setpriv", "util-linux", "a closed socket of the engine's")
    with tempfile.TemporaryDirectory(prefix="lw") as name, socket.socket(socket.AF_UNIX) as closed:
        folder = Path(name)
        folder.chmod(0o755)
        closed.bind(str(folder / "engine.sock"))
        closed.listen()
        (folder / "engine.sock").chmod(0o600)
        shutil.copytree(copy.folder, folder / "clone", symlinks=True)
        for path in [folder / "clone", *(folder / "clone").rglob("*")]:
            os.chown(path, 12345, 12345, follow_symlinks=False)
        env = copy.environ({"DOCKER_HOST": f"unix://{folder}/engine.sock", "HOME": name})
        env["PATH"] = "/usr/local/bin:/usr/bin:/bin"
        done = subprocess.run(
            ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", "make", "up"],
            cwd=folder / "clone", env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert f"no permission to use the socket {name}/engine.sock" in done.stderr
    assert "Error 1" in done.stderr


# --- what is exported for other programs ----------------------------------------------------


def test_modules_of_the_surroundings_do_not_reach_the_tools(copy: Tree, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('not the json module')")
    for env in ({"PYTHONPATH": str(tmp_path)}, {"PYTHONSAFEPATH": "1"}, {"PYTHONHOME": "/none"}):
        assert json.loads(copy.ok("config", "ARGS=--json", env=env))["task"]["value"] == "1"


def test_exported_settings_of_compose_reach_no_recipe(copy: Tree) -> None:
    names = ("COMPOSE_PROJECT_NAME", "COMPOSE_FILE", "COMPOSE_PROFILES", "DOCKER_DEFAULT_PLATFORM",
             "LIGHTERAGE_UID", "LIGHTERAGE_ENTRYPOINT", "LIGHTERAGE_ENV_FILE")  # fmt: skip
    exported = dict.fromkeys(names, "surroundings")
    assert "surroundings" not in copy.ok("shell", "ARGS=-c env", env=exported)


@pytest.mark.skipif(os.getuid() != 0, reason="ONLY ROOT CAN MOUNT A TREE READ-ONLY")
@pytest.mark.parametrize("used", [False, True])
def test_a_read_only_tree_is_one_plain_line(copy: Tree, *, used: bool) -> None:
    need("unshare", "util-linux", "a read-only clone")
    if used:
        copy.ok("config")
        (copy.folder / "envs/dev.env").unlink()
    script = f"mount --bind . . && mount -o remount,bind,ro . && cd {copy.folder} && exec make run"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], cwd=copy.folder, env=copy.environ(),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "mount:" in done.stderr:
        pytest.skip(f"NO RIGHT TO MOUNT HERE: {done.stderr}")
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
    assert len(lines) == 1, done.stderr
    assert "make writes to .lighterage/, envs/, data/" in lines[0]
    assert done.returncode == 2


def test_what_needs_an_engine_says_so(tree: Tree) -> None:
    assert "logs needs a container engine, and no docker engine answers" in tree.refused("logs")
    assert "up needs a container engine; RUNNER=host has" in tree.refused("up", "RUNNER=host")
    error = tree.refused("run", "RUNNER=container")
    assert "RUNNER=container, but no docker engine answers" in error


def test_doctor_names_each_thing_with_its_fix(tree: Tree) -> None:
    out = tree.make("doctor").stdout
    rows = {line.split()[1]: line for line in out.splitlines()}
    assert rows["engine"].startswith("- ")
    assert "no docker engine answers: start it" in rows["engine"]
    assert {"Python", ".venv", "disk", "envs/dev.env", "envs/prod.env"} <= set(rows)


def test_clean_keeps_data_and_env_files(tree: Tree) -> None:
    tree.ok("run", "TASK=1")
    assert "kept: data/, envs/" in tree.make("clean").stderr
    assert (tree.folder / "data/task_1/events/manifest.json").exists()
    assert (tree.folder / "envs/dev.env").exists()


@pytest.mark.parametrize(
    ("file", "words"),
    [("setup/prepare.py", ["config"]), ("tools/doctor.py", ["doctor"])],
)
def test_a_bug_of_the_tools_is_one_line_with_its_place(
    copy: Tree, file: str, words: list[str]
) -> None:
    path = copy.folder / "docker" / file
    path.write_text(re.sub(r'(?m)(^def (prepare|doctor)\((.|\n)*?""".*?"""\n)', r"\1    {}[1]\n",
                           path.read_text(), flags=re.DOTALL | re.MULTILINE))  # fmt: skip
    line = copy.refused(*words).splitlines()[0]
    name = re.escape(path.name)
    assert re.fullmatch(rf"lighterage: a bug, please report it: KeyError at {name}:\d+: 1", line)


def test_a_variant_that_no_image_can_be_named_after_is_refused(copy: Tree) -> None:
    shutil.copytree(copy.folder / "docker/prod", copy.folder / "docker/Pro.d")
    shutil.copy(copy.folder / "envs/prod.env.example", copy.folder / "envs/Pro.d.env.example")
    said = "docker/Pro.d: name variants in lowercase letters, digits, dashes"
    assert said in copy.refused("build", "ENV=Pro.d")
