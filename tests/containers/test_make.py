"""The Makefile without an engine: its targets and variables, and the tasks in .venv here."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from need import need
from tree import NO_ENGINE, REPOSITORY, Tree
from wheels import cheat, tampered

TARGETS = [
    "build",
    "run",
    "shell",
    "up",
    "down",
    "logs",
    "config",
    "clean",
    "save",
    "push",
    "reproduce",
    "size",
    "sbom",
    "trust",
    "vendor",
    "diff",
    "verify",
    "load",
    "doctor",
    "test",
    "bench",
    "bench-build",
    "check",
    "fmt",
    "lock",
    "audit",
    "help",
]


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


# --- help, and what is refused before anything starts -------------------------------------


@pytest.mark.parametrize("words", [[], ["help"], ["help", "ENV=prod"]])
def test_help_lists_targets_and_values_and_needs_nothing(tree: Tree, words: list[str]) -> None:
    help_text = tree.ok(*words, env={"PATH": "/usr/bin:/bin"})
    for target in TARGETS:
        assert f"  make {target} " in help_text
    assert f"  ENV={'prod' if words[1:] else 'dev'}\n" in help_text
    assert "Variants: dev prod" in help_text
    assert "Tasks: 1 2 3" in help_text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "ENV=prd"], "ENV=prd is not known; allowed: dev prod"),
        (["run", "ENV="], "ENV= is not known; allowed: dev prod"),
        (["run", "ENV=dev prod"], "ENV=dev prod is not known; allowed: dev prod"),
        (["run", "ENV=%"], "ENV=% is not known; allowed: dev prod"),
        (["run", "ENV=../x"], "ENV=../x is not known; allowed: dev prod"),
        (["run", "TASK=9"], "TASK=9 is not known; allowed: 1 2 3"),
        (["run", "TASK=1 2"], "TASK=1 2 is not known; allowed: 1 2 3"),
        (["run", "ENGINE=rkt"], "ENGINE=rkt is not known; allowed: docker podman"),
        (["run", "RUNNER=vm"], "RUNNER=vm is not known; allowed: container host"),
        (["run", "BASE=alpine"], "BASE=alpine is not known; allowed: hub debian"),
        (["trust", "YES=yes"], "YES=yes is not known; allowed: 0 1"),
        (["build", "OFFLINE=yes"], "OFFLINE=yes is not known; allowed: 0 1"),
        (["build", "LOCKED=yes"], "LOCKED=yes is not known; allowed: 0 1"),
        (["build", "EXTRAS=s4"], "EXTRAS=s4 is not known; allowed: s3"),
        (["test", "SETUP=no"], "SETUP=no is not known; allowed: 0 1"),
        (["run", "TSAK=2"], "TSAK=2 is not a variable of this Makefile; known: ENV TASK"),
        (["prod-run", "ENV=dev"], "prod-run and ENV=dev name two variants; say one"),
        *(
            (
                ["run", f"PROJECT={name}"],
                f"PROJECT={name}: use lowercase letters, digits and dashes",
            )
            for name in ("A b", "A", "-a", "a_b", "a/b", "$(shell touch made)")
        ),
        (["run", "ARGS='"], "ARGS=': No closing quotation"),
    ],
)
def test_a_wrong_value_is_one_line_before_anything_starts(
    copy: Tree, words: list[str], says: str
) -> None:
    error = copy.refused(*words)
    lines = [line for line in error.splitlines() if not line.startswith("make: ***")]
    assert says in error
    assert len(lines) <= 1, error
    assert not (copy.folder / "envs/dev.env").exists(), "nothing was prepared"
    assert not (copy.folder / "made").exists(), "and no shell read the text"


def test_requirements_that_are_newer_than_their_lock_are_reported(copy: Tree) -> None:
    assert "make lock" not in copy.make("config").stderr
    with (copy.folder / "requirements/prod.in").open("a", encoding="utf-8") as file:
        file.write("colorama\n")
    error = copy.make("config").stderr
    assert "requirements/prod.in" in error
    assert "make lock ARGS=--no-upgrade" in error


def test_names_of_the_surroundings_do_not_leak(tree: Tree) -> None:
    """ENV is a start-up file of shells, and USERNAME what desktops export."""
    outside = {"ENV": "/etc/profile", "TASK": "7", "USERNAME": "someone", "ARGS": "--nonsense"}
    config = tree.ok("config", "TASK=2", env=outside)
    rows = {line.split()[0]: line.split()[1:] for line in config.splitlines()}
    assert rows["variant"][0] == "dev"
    assert rows["task"][0] == "2"
    assert rows["username"][0] == "dev"
    shell = tree.ok("shell", "ARGS=-c 'echo [${ENV-} ${TASK-}]'", env=outside)
    assert shell == "[ ]\n"


def test_a_variant_in_the_targets_name_is_the_same_as_env(tree: Tree) -> None:
    assert tree.ok("prod-config") == tree.ok("config", "ENV=prod")
    assert tree.ok("dev-config") == tree.ok("config")


def test_make_runs_from_elsewhere_and_in_parallel(tree: Tree, tmp_path: Path) -> None:
    expected = tree.ok("config")
    elsewhere = tree.ok("-C", str(tree.folder), "--no-print-directory", "config", cwd=tmp_path)
    assert elsewhere == expected
    assert tree.ok("-j4", "config") == expected


def test_a_dry_run_shows_the_commands_that_one_can_type(copy: Tree, tmp_path: Path) -> None:
    here = copy.ok("-n", "prod-run", "TASK=2")
    assert "env LIGHTERAGE_VARIANT=prod PYTHONUNBUFFERED=1 .venv/bin/python -m tasks 2" in here
    fake_docker(
        copy, tmp_path, "case $1 in version) echo 20.10.24 ;; compose | buildx) exit 1 ;; esac"
    )
    words = ["TASK=2", "ENV=prod", "ARGS=; touch made"]
    shown = " ".join(copy.ok("-n", "run", *words).split())
    assert (
        "DOCKER_BUILDKIT=1 docker build --file docker/prod/Dockerfile --tag lighterage-p" in shown
    )
    assert "docker-compose -f docker/prod/compose.yaml run --rm tasks 2" in shown
    assert "docker-compose -f docker/prod/compose.yaml up --detach sample-host" in shown
    assert "touch made" not in shown
    assert "ruff check ." in copy.ok("-n", "check-lint")


@pytest.mark.parametrize("text", ["$HOME", "$(touch made)", "`touch made`", "a;touch made", "%s"])
def test_args_reach_the_task_as_they_were_written(tree: Tree, text: str) -> None:
    out = tree.ok("config", f"ARGS=--json --remote-file-path '{text}'")
    assert json.loads(out)["remote_file_path"]["value"] == text
    assert not (tree.folder / "made").exists()


def test_a_third_variant_is_a_folder_and_an_env_file(copy: Tree) -> None:
    shutil.copytree(copy.folder / "docker/prod", copy.folder / "docker/staging")
    example = copy.folder / "envs/prod.env.example"
    shutil.copy(example, copy.folder / "envs/staging.env.example")
    config = (copy.folder / "config.yaml").read_text()
    config = config.replace("variants:\n", "variants:\n  staging:\n    log_level: INFO\n")
    (copy.folder / "config.yaml").write_text(config)
    assert "Variants: dev prod staging" in copy.ok("help")
    rows = copy.ok("staging-config")
    assert rows == copy.ok("config", "ENV=staging")
    assert "config.yaml: variants.staging" in rows
    assert (copy.folder / "envs/staging.env").exists()


# --- env files, secrets, trust --------------------------------------------------------------


def test_env_files_are_made_closed_and_stay_as_they_are(copy: Tree) -> None:
    copy.ok("config", "ENV=prod")
    file = copy.folder / "envs/prod.env"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    text = file.read_text().replace("USERNAME=prod", "USERNAME=me")
    file.write_text(text)
    file.chmod(0o644)
    assert "me" in copy.ok("config", "ENV=prod")
    assert file.read_text() == text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_config_shows_origins_and_masks_the_password(tree: Tree) -> None:
    shown = tree.ok("config", "TASK=2", "ENV=prod")
    assert "prod-sample-only" not in shown
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in shown.splitlines()}
    assert rows["password"] == "******** environment (envs/prod.env)"
    assert rows["log_level"] == "WARNING config.yaml: variants.prod"
    assert rows["schedule"] == "0 3 * * * config.yaml: tasks.2.prod"
    assert rows["max_tries"] == "3 config.yaml: common"


@pytest.mark.parametrize("line", ["export A=b", 'PASSWORD="x"', "PASSWORD=a$b", "PASSWORD=a b "])
def test_a_line_that_readers_take_differently_is_refused(copy: Tree, line: str) -> None:
    copy.ok("config")
    file = copy.folder / "envs/dev.env"
    file.write_text(file.read_text() + line + "\n")
    error = copy.refused("run")
    assert f"envs/dev.env:{len(file.read_text().splitlines())}: " in error


@pytest.fixture
def logged(copy: Tree, tmp_path: Path) -> Path:
    """Give the log of a fake docker that is first on the path of `copy`: every call is in it."""
    log = tmp_path / "calls"
    fake_docker(copy, tmp_path, f'echo "$*" >> {log}; exit 1')
    return log


def fake_docker(tree: Tree, folder: Path, script: str) -> None:
    """Put a fake docker on the tree's path, before the others, for which no engine answers."""
    tools = folder / "bin"
    tools.mkdir()
    for name in ("docker", "podman", "docker-compose"):
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    tree.env["PATH"] = f"{tools}:{os.environ['PATH']}"


UNREADABLE = {
    "misspelt": (b"USERNAM=x\n", "unknown variable USERNAM (did you mean USERNAME?)"),
    "config only": (b"MAX_RATE=1\n", "set max_rate in config.yaml"),
    "byte order mark": (b"\xef\xbb\xbfUSERNAME=x\n", ":1: starts with a byte order mark"),
    "UTF-16": ("USERNAME=x\n".encode("utf-16"), "is UTF-16"),
    "CRLF": (b"USERNAME=x\r\nPASSWORD=y\r\n", ":1: ends with CRLF"),
    "Latin-1": (b"USERNAME=x\nPASSWORD=p\xe4ss\n", ":2: byte 0xe4 is not UTF-8"),
    "control": (b"USERNAME=a\x0cb\n", ":1: the value of USERNAME has a control character"),
}


@pytest.mark.parametrize("runner", ["host", "container"])
@pytest.mark.parametrize("variant", ["dev", "prod"])
@pytest.mark.parametrize("fault", UNREADABLE)
def test_a_faulty_env_file_is_refused_alike_before_anything_starts(
    copy: Tree, logged: Path, fault: str, variant: str, runner: str
) -> None:
    """Neither an engine nor the sample host is asked for anything."""
    content, says = UNREADABLE[fault]
    file = copy.folder / f"envs/{variant}.env"
    file.write_bytes(content)
    for verb in ("run", "config", "shell", "up"):
        if verb == "up" and runner == "host":
            continue
        done = copy.make(verb, f"ENV={variant}", f"RUNNER={runner}")
        assert "Error 2" in done.stderr, done.stderr
        line = done.stderr.splitlines()[-2]
        assert line.startswith(f"lighterage: envs/{variant}.env:")
        assert says in line
    assert not logged.exists(), logged.read_text()
    assert not list((copy.folder / ".lighterage").glob("*-sample-host.json")), "no sample host"
    assert file.read_bytes() == content


def test_services_can_be_stopped_with_a_faulty_env_file(copy: Tree) -> None:
    (copy.folder / "envs/prod.env").write_bytes(b"USERNAM=\xff\n")
    copy.ok("down", "ENV=prod")
    copy.ok("clean", "ENV=prod")


def test_variables_of_the_users_own_reach_their_task(copy: Tree) -> None:
    task = copy.folder / "tasks/task_1.py"
    more = "import os\nimport time\nprint(os.environ['REGION'], time.tzname)\n"
    task.write_text(task.read_text() + more)
    (copy.folder / "envs/dev.env").write_text("REGION=north\nTZ=UTC-3\n")
    out = copy.make("run", "ARGS=--remote-host-address 127.0.0.1:1 --max-tries 1").stdout
    assert "north ('UTC', 'UTC')" in out


def test_known_hosts_keeps_bytes_that_are_no_text(copy: Tree) -> None:
    """OpenSSH reads bytes: a comment may be in any encoding."""
    copy.ok("config")
    known = copy.folder / "envs/known_hosts"
    other = b"other.example ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8 # K\xf6ln\n"
    known.write_bytes(other)
    done = copy.make("trust", "HOST=127.0.0.1:1", "YES=1")
    assert "a bug" not in done.stderr
    copy.make("run")  # starts the sample host, and trusts it
    trusted = known.read_bytes()
    copy.ok("down")
    assert trusted.startswith(other)
    assert b"lighterage-sample-host" in trusted
    assert known.read_bytes() == other


def test_trust_asks_where_it_can_and_adds_a_key_once(tree: Tree) -> None:
    tree.ok("run")
    state = tree.folder / ".lighterage/lighterage-dev-sample-host.json"
    address = f"127.0.0.1:{json.loads(state.read_text())['port']}"
    assert "make trust HOST=host[:port]" in tree.refused("trust")
    assert "say YES=1" in tree.refused("trust", f"HOST={address}")
    known = tree.folder / "envs/known_hosts"
    known.write_text("")
    done = tree.make("trust", f"HOST={address}", "YES=1")
    assert done.returncode == 0, done.stderr
    assert "SHA256:" in done.stderr, "the fingerprint is shown"
    (line,) = known.read_text().splitlines()
    assert line.startswith(f"[{address.partition(':')[0]}]:{address.partition(':')[2]} ssh-ed25519")
    tree.ok("trust", f"HOST={address}", "YES=1")
    assert known.read_text() == line + "\n"


def test_a_host_that_is_not_there_is_a_network_error(tree: Tree) -> None:
    error = tree.refused("trust", "HOST=127.0.0.1:1", "YES=1", "ENV=prod")
    assert "lighterage: network: " in error


# --- tasks here -----------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["dev", "prod"])
@pytest.mark.parametrize("task", ["1", "2", "3"])
def test_without_an_engine_a_task_runs_here_with_its_variants_settings(
    tree: Tree, task: str, variant: str
) -> None:
    words = ["run", f"TASK={task}", f"ENV={variant}"]
    done = tree.make(*words, "ARGS=--force")
    assert done.returncode == 0, done.stderr
    assert "no docker engine answers; running in .venv on this machine" in done.stderr
    assert f"task {task} ({variant}): landed" in done.stdout
    target = tree.folder / f"data/task_{task}/events"
    manifest = json.loads((target / "manifest.json").read_text())
    assert {str(p.relative_to(target)) for p in target.rglob("*.csv")} == {
        file["path"] for file in manifest["files"]
    }
    assert bool(manifest["archives"]) == (variant == "dev"), "archives are kept in dev only"
    assert bool(list(target.rglob("*.zip")) + list(target.rglob("*.gz"))) == (variant == "dev")
    assert (" DEBUG tasks.fetch" in done.stderr) == (variant == "dev")
    again = tree.ok(*words)
    assert f"task {task} ({variant}): unchanged since" in again


def test_the_exit_code_of_a_task_is_printed(tree: Tree) -> None:
    done = tree.make("run", "TASK=2", "ENV=prod", "ARGS=--remote-file-path missing.tar.gz")
    assert done.returncode == 2
    assert "lighterage: remote path: missing.tar.gz: no such file" in done.stderr
    assert "task 2 (prod) ended with exit code 3: remote path" in done.stderr


def test_the_result_alone_is_on_standard_output(tree: Tree) -> None:
    report = json.loads(tree.ok("run", "TASK=2", "ARGS=--json --force"))
    assert (report["status"], report["variant"]) == ("landed", "dev")


def test_help_of_a_task_starts_nothing(copy: Tree) -> None:
    out = copy.ok("run", "TASK=3", "ARGS=--help")
    assert "Task 3: a directory of CSVs and zips" in out
    assert "--file-save-path" in out
    assert not list((copy.folder / ".lighterage").glob("*-sample-host.json"))


def test_the_task_of_readme_needs_no_other_edit(copy: Tree) -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## Your own task")[2]
    code = section.partition("```python\n")[2].partition("```")[0]
    lines = section.partition("```yaml\n")[2].partition("```")[0]
    (copy.folder / "tasks/task_4.py").write_text(code)
    config = copy.folder / "config.yaml"
    config.write_text(config.read_text() + lines)
    for variant in ("dev", "prod"):
        assert f"task 4 ({variant}): landed" in copy.ok("run", "TASK=4", f"ENV={variant}")
        copy.ok("down", f"ENV={variant}")


def test_down_ends_the_sample_host(copy: Tree) -> None:
    copy.ok("run", "ENV=prod")
    state = copy.folder / ".lighterage/lighterage-prod-sample-host.json"
    process = Path(f"/proc/{json.loads(state.read_text())['pid']}")
    assert process.exists()
    copy.ok("down", "ENV=prod")
    assert not state.exists()
    deadline = time.monotonic() + 10
    while _lives(process) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _lives(process)


def _lives(process: Path) -> bool:
    """Whether a process is there and has not ended: its parent may not have waited for it yet."""
    try:
        return ") Z" not in (process / "stat").read_text()
    except OSError:
        return False


def test_two_runs_at_once_both_end_well(tree: Tree) -> None:
    """Different tasks side by side; one task twice: the second has nothing to do, or is refused."""
    runs = [tree.start("run", "TASK=1"), tree.start("run", "TASK=3"), tree.start("run", "TASK=1")]
    ends = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs[:2]] == [0, 0] or "busy" in ends[0][1]
    for run, (_, err) in zip(runs, ends, strict=True):
        assert run.returncode == 0 or "ended with exit code 9: busy" in err


def test_ctrl_c_ends_a_run_clean(copy: Tree) -> None:
    copy.ok("config")
    slow = "--force --max-rate 20kB --timeout 60"
    process = copy.start("run", "TASK=3", "ENV=prod", f"ARGS={slow}")
    deadline = time.monotonic() + 60
    staging = copy.folder / "data/task_3/.events.staging"
    while not staging.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "nothing was changed" in err
    assert not list(copy.folder.glob("data/task_3/*"))
    copy.ok("down", "ENV=prod")


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
    down = copy.make("down")
    assert (down.returncode == 0) == (cause == "stopped"), "running containers are not ignored"
    assert says in down.stderr


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


@pytest.mark.parametrize("variant", ["dev", "prod"])
@pytest.mark.parametrize("cause", CAUSES)
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


@pytest.mark.parametrize("verb", ["up", "logs"])
def test_what_needs_an_engine_says_so(tree: Tree, verb: str) -> None:
    assert f"{verb} needs a container engine, and no docker engine answers" in tree.refused(verb)
    assert f"{verb} needs a container engine; RUNNER=host has" in tree.refused(verb, "RUNNER=host")


def test_runner_container_is_not_replaced_by_the_host(tree: Tree) -> None:
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
