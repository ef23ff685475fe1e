"""Both variants in a real engine, all through make, on a copy with names of its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from docker.setup.engine import Engine
from tree import REPOSITORY, Tree, engine_or_skip

PROJECT = f"lighterage-test-{os.getpid()}"
VARIANTS = ("dev", "prod")
pytestmark = pytest.mark.container


@pytest.fixture(scope="module")
def engine() -> Engine:
    """Give the engine, or skip loudly."""
    return engine_or_skip("both images, their services and limits")


@pytest.fixture(scope="module")
def tree(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """Give a tree with both images built; in the end nothing of it is left in the engine."""
    tree = Tree(tmp_path_factory.mktemp("containers") / "a clone", PROJECT)
    packages = REPOSITORY / ".lighterage/debian"
    if packages.is_dir():
        shutil.copytree(packages, tree.folder / ".lighterage/debian")
    try:
        for variant in VARIANTS:
            done = tree.make("build", f"ENV={variant}", timeout=600)
            assert done.returncode == 0, done.stderr
            assert f"built image {PROJECT}-{variant} in" in done.stderr
        yield tree
    finally:
        for variant in VARIANTS:
            tree.make("clean", f"ENV={variant}")
        for volume in names_of(engine, "volume"):
            engine.ask("volume", "rm", volume)
        remaining = {kind: names_of(engine, kind) for kind in ("container", "image", "network")}
        assert not any(remaining.values()), remaining


def names_of(engine: Engine, kind: str) -> list[str]:
    """Name all of a kind that is this test's."""
    fields = {"container": "{{.Names}}", "image": "{{.Repository}}", "network": "{{.Name}}"}
    words = ["ls", "--format", fields.get(kind, "{{.Name}}")]
    listed = engine.must(kind, *words, *(["--all"] if kind == "container" else [])).split()
    return [name for name in listed if name.startswith(PROJECT)]


def in_shell(tree: Tree, variant: str, script: str) -> str:
    """Run a script in a variant's container; no double quotes in it."""
    return tree.ok("shell", f"ENV={variant}", f'ARGS=-c "{script}"')


def files_in(tree: Tree, variant: str, folder: str) -> list[str]:
    """List the files below a folder of a variant's container, relative to it."""
    loop = "for f in **; do [ ! -f $f ] || echo $f; done"
    return in_shell(tree, variant, f"shopt -s globstar dotglob; cd {folder}; {loop}").split()


def inspect(engine: Engine, name: str) -> Any:
    """Give what the engine knows of a container."""
    return json.loads(engine.must("container", "inspect", name))[0]


def crash(container: Any) -> None:
    """Kill the one process that the engine names as the container's main one."""
    pid = container["State"]["Pid"]
    cgroup = Path(f"/proc/{pid}/cgroup")
    if os.getuid() or not cgroup.exists() or container["Id"] not in cgroup.read_text():
        pytest.skip("THE ENGINE'S PROCESSES ARE NOT ROOT'S ON THIS MACHINE: crash not tested")
    os.kill(pid, signal.SIGKILL)


def wait_for(what: Callable[[], object], seconds: float = 60) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.1)


# --- builds ---------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_is_built_again_while_nothing_changed(tree: Tree, variant: str) -> None:
    done = tree.make("build", f"ENV={variant}")
    assert f"image {PROJECT}-{variant} is up to date" in done.stderr
    assert "building" not in done.stderr


def test_prod_holds_what_it_needs_and_nothing_else(tree: Tree) -> None:
    """The environment and the tasks, file by file: no pip, no compiler, no tests, no tools."""
    found = [name for name in files_in(tree, "prod", "/app") if not name.startswith("data/")]
    expected = {
        path.relative_to(REPOSITORY).as_posix() for path in REPOSITORY.glob("tasks/**/*.py")
    }
    others = {"config.yaml"} | {name for name in found if name.startswith("envs/")}
    assert {name for name in found if not name.endswith(".pyc")} == expected | others
    tools = "pip pip3 uv gcc cc make git ssh curl apt dpkg ruff mypy pytest debugpy"
    assert in_shell(tree, "prod", f"command -v {tools} || true") == ""
    script = "import pip, setuptools, pytest, debugpy"
    for module in script.removeprefix("import ").split(", "):
        assert "No module" in in_shell(tree, "prod", f"python -c 'import {module}' 2>&1 || true")


def test_dev_has_debugger_tests_and_linters(tree: Tree) -> None:
    assert in_shell(tree, "dev", "python -c 'import debugpy, pytest, mypy' && ruff --version")


def test_a_changed_task_rebuilds_and_dev_sees_it_live(tree: Tree) -> None:
    task = tree.folder / "tasks/task_1.py"
    text = task.read_text()
    try:
        task.write_text(text.replace("one zip archive", "one changed archive"))
        live = in_shell(tree, "dev", "head -1 tasks/task_1.py")
        assert "one changed archive" in live
        done = tree.make("run", "ENV=prod", "ARGS=--help")
        assert f"built image {PROJECT}-prod" in done.stderr
        assert "one changed archive" in done.stdout
    finally:
        task.write_text(text)
    assert "one zip archive" in tree.ok("run", "ENV=prod", "ARGS=--help")


def test_an_image_is_replaced_by_the_next_and_the_old_one_removed(
    tree: Tree, engine: Engine
) -> None:
    """An edited task makes the last layer of prod again, and no other."""

    def layers() -> tuple[str, list[str]]:
        facts = engine.inspect("image", f"{PROJECT}-prod")
        return facts["Id"], facts["RootFS"]["Layers"]

    tree.ok("build", "ENV=prod")
    (before, first), file = layers(), tree.folder / "tasks/fetch/api.py"
    text = file.read_text()
    try:
        file.write_text(text + "# edited\n")
        tree.ok("build", "ENV=prod")
        after, second = layers()
        assert after != before
        assert first[:-1] == second[:-1]
        assert engine.ask("image", "inspect", before).returncode != 0
    finally:
        file.write_text(text)
    tree.ok("build", "ENV=prod")
    assert layers()[1] == first, "the same tree makes the same layers"


# --- tasks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["1", "2", "3"])
def test_dev_lands_in_data_here_keeps_the_archive_and_says_all(tree: Tree, task: str) -> None:
    done = tree.make("run", f"TASK={task}", "ARGS=--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["status"], report["variant"]) == ("landed", "dev")
    assert " DEBUG tasks.fetch" in done.stderr
    target = tree.folder / f"data/task_{task}/events"
    manifest = json.loads((target / "manifest.json").read_text())
    assert [str(path) for path in sorted(p["path"] for p in manifest["archives"])]
    owner = tree.folder.stat()
    for path in [tree.folder / "data", *target.parent.rglob("*")]:
        assert (path.stat().st_uid, path.stat().st_gid) == (owner.st_uid, owner.st_gid), path
    for file in [*manifest["files"], *manifest["archives"]]:
        assert (target / file["path"]).stat().st_size == file["size"]
    again = tree.make("run", f"TASK={task}")
    assert again.returncode == 0
    assert f"task {task} (dev): unchanged since" in again.stdout


@pytest.mark.parametrize("task", ["1", "2", "3"])
def test_prod_lands_in_its_volume_keeps_no_archive_and_is_quiet(tree: Tree, task: str) -> None:
    done = tree.make("run", f"TASK={task}", "ENV=prod")
    assert done.returncode == 0, done.stderr
    assert f"task {task} (prod): landed" in done.stdout
    assert "DEBUG" not in done.stderr
    assert "INFO" not in done.stderr
    assert f"data/ is in the volume {PROJECT}-prod-data" in done.stderr
    found = files_in(tree, "prod", f"data/task_{task}/events")
    assert "manifest.json" in found
    assert {Path(name).suffix for name in found} == {".csv", ".json"}
    assert len(found) > 1
    again = tree.ok("run", f"TASK={task}", "ENV=prod")
    assert f"task {task} (prod): unchanged since" in again


def test_the_variants_see_different_accounts(tree: Tree) -> None:
    """The prod account has the full datasets: more than the small ones of dev."""
    sizes = {
        variant: json.loads(tree.ok("run", "TASK=2", f"ENV={variant}", "ARGS=--json"))["bytes"]
        for variant in VARIANTS
    }
    assert sizes["prod"] > 5 * sizes["dev"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_task_of_ones_own_runs_in_both_variants(tree: Tree, variant: str) -> None:
    section = (REPOSITORY / "README.md").read_text().partition("## Your own task")[2]
    config, task = tree.folder / "config.yaml", tree.folder / "tasks/task_4.py"
    before = config.read_text()
    try:
        task.write_text(section.partition("```python\n")[2].partition("```")[0])
        config.write_text(before + section.partition("```yaml\n")[2].partition("```")[0])
        assert f"task 4 ({variant}): landed" in tree.ok("run", "TASK=4", f"ENV={variant}")
    finally:
        task.unlink()
        config.write_text(before)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_failed_tasks_exit_code_is_explained(tree: Tree, variant: str) -> None:
    words = ["run", "TASK=1", f"ENV={variant}", "ARGS=--remote-file-path 'no such.zip'"]
    done = tree.make(*words)
    assert done.returncode == 2
    assert "lighterage: remote path: no such.zip: no such file" in done.stderr
    assert f"task 1 ({variant}) ended with exit code 3: remote path" in done.stderr


def test_no_password_is_in_logs_nor_where_a_file_holds_it_in_the_container(
    tree: Tree, engine: Engine
) -> None:
    env, secret = tree.folder / "envs/prod.env", tree.folder / "envs/secrets/password"
    before = env.read_text()
    password = "prod-sample-only"
    try:
        env.write_text(
            before.replace(f"PASSWORD={password}", "PASSWORD_FILE=envs/secrets/password")
        )
        secret.write_text(password + "\n")
        done = tree.make("run", "TASK=2", "ENV=prod", "ARGS=--force --log-level DEBUG")
        assert done.returncode == 0, done.stderr
        assert password not in done.stdout + done.stderr
        assert password not in tree.ok("config", "TASK=2", "ENV=prod")
        tree.ok("up", "ENV=prod")
        (name,) = [n for n in names_of(engine, "container") if "tasks" in n]
        assert password not in engine.must("container", "inspect", name)
    finally:
        env.write_text(before)
        secret.write_text("")
        tree.ok("down", "ENV=prod")


# --- shells and what holds in them ------------------------------------------------------------


def test_prod_is_locked_down(tree: Tree) -> None:
    status = in_shell(tree, "prod", "cat /proc/self/status; id -u; id -g; whoami")
    rows = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert rows["CapEff"].strip() == rows["CapBnd"].strip() == "0" * 16
    assert rows["NoNewPrivs"].strip() == "1"
    assert rows["Seccomp"].strip() == "2"
    assert status.splitlines()[-3:] == ["10001", "10001", "lighterage"]
    writes = "for f in /x /app/x /app/tasks/x /opt/venv/x /etc/x; do touch $f; done 2>&1 || true"
    said = in_shell(tree, "prod", writes).splitlines()
    assert len(said) == 5
    assert all("Read-only file system" in line for line in said)
    assert in_shell(tree, "prod", "touch /tmp/x data/x && rm data/x && echo yes") == "yes\n"


def test_dev_is_the_developers_own(tree: Tree) -> None:
    owner = tree.folder.stat()
    found = in_shell(tree, "dev", "id -u; id -g; touch made && rm made && pwd").split()
    assert found == [str(owner.st_uid), str(owner.st_gid), "/app"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_shells_exit_code_is_makes_failure(tree: Tree, variant: str) -> None:
    assert tree.make("shell", f"ENV={variant}", "ARGS=-c 'exit 3'").returncode == 2


def test_a_shell_on_a_terminal_is_interactive(tree: Tree) -> None:
    """A terminal of its own, as a user has: a prompt, a command, an answer."""
    import pty

    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tree.folder)
        os.execvpe(  # noqa: S606 (after a fork, and with no shell)
            "make", ["make", "shell", "ENV=prod"], tree.environ({"TERM": "dumb"})
        )
    said = b""
    try:
        deadline = time.monotonic() + 60
        while b"$ " not in said and time.monotonic() < deadline:
            said += os.read(terminal, 4096)
        os.write(terminal, b"echo $((40 + 2)) $-; echo ~lighterage; exit 0\n")
        with contextlib.suppress(OSError):  # the end of a terminal
            while block := os.read(terminal, 4096):
                said += block
    finally:
        _, status = os.waitpid(pid, 0)
        os.close(terminal)
    assert b"42 hi" in said, said
    assert b"lighterage@" in said, "a prompt with a name"
    assert b"/tmp" in said.rpartition(b"42 hi")[2], said
    assert os.waitstatus_to_exitcode(status) == 0


# --- the sample host --------------------------------------------------------------------------


def lose_the_alias(engine: Engine, name: str) -> None:
    """Leave the container running, and unreachable by the name that tasks use."""
    (network,) = inspect(engine, name)["NetworkSettings"]["Networks"]
    engine.must("network", "disconnect", "--force", network, name)
    engine.must("network", "connect", network, name)


def pause(engine: Engine, name: str) -> None:
    """Leave the container running in name only: it answers nothing."""
    engine.must("pause", name)


@pytest.mark.parametrize("harm", [lose_the_alias, pause])
def test_a_sample_host_that_cannot_be_reached_is_started_again(
    tree: Tree, engine: Engine, harm: Callable[[Engine, str], None]
) -> None:
    tree.ok("down", "ENV=prod")
    tree.ok("run", "ENV=prod")
    harm(engine, f"{PROJECT}-prod-sample-host")
    tree.ok("run", "ENV=prod")


def test_a_sample_host_that_stopped_is_reported_with_its_last_line(tree: Tree) -> None:
    server = tree.folder / "docker/sample-host/server.py"
    text = server.read_text()
    tree.ok("down", "ENV=prod")
    try:
        server.write_text("raise SystemExit('the sample host has no harbour')\n")
        error = tree.refused("run", "ENV=prod")
    finally:
        server.write_text(text)
    assert "the sample host has no harbour" in error
    tree.ok("run", "ENV=prod")


def test_a_clone_made_under_a_closed_umask_runs(tree: Tree, tmp_path: Path) -> None:
    """Files of 0600 and folders of 0700, and all that make creates likewise."""
    clone = Tree(tmp_path / "clone", f"{PROJECT}-closed")
    packages = tree.folder / ".lighterage/debian"
    if packages.is_dir():
        shutil.copytree(packages, clone.folder / ".lighterage/debian")
    for path in [clone.folder, *clone.folder.rglob("*")]:
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & 0o700)
    try:
        for variant in VARIANTS:
            done = clone.make("run", "TASK=2", f"ENV={variant}", umask=0o077, timeout=600)
            assert done.returncode == 0, done.stderr
            assert f"task 2 ({variant}): landed" in done.stdout
    finally:
        for variant in VARIANTS:
            clone.make("clean", f"ENV={variant}")


# --- services ---------------------------------------------------------------------------------


def test_dev_up_starts_three_services_apart_from_each_other(tree: Tree, engine: Engine) -> None:
    shutil.rmtree(tree.folder / "data", ignore_errors=True)
    tree.ok("up")
    try:
        found = {
            name: inspect(engine, name)
            for name in names_of(engine, "container")
            if "_task" in name or "-task" in name
        }
        services = {c["Config"]["Labels"]["com.docker.compose.service"]: c for c in found.values()}
        assert set(services) == {"task1", "task2", "task3"}
        for name, container in services.items():
            assert container["Config"]["Cmd"] == [name[-1]], "its default command"
            assert container["HostConfig"]["RestartPolicy"]["Name"] in {"", "no"}
            (port,) = container["HostConfig"]["PortBindings"].values()
            assert port[0]["HostIp"] == "127.0.0.1"
            assert set(container["NetworkSettings"]["Networks"]) == {f"{PROJECT}-dev-{name}"}
        for task in "123":
            target = tree.folder / f"data/task_{task}/events/manifest.json"
            wait_for(target.exists)
        logs = tree.ok("logs")
        assert "task 2 (dev): landed" in logs
        assert "\x1b" not in logs, "no colours in a pipe"
    finally:
        tree.ok("down")
    assert not [name for name in names_of(engine, "container") if "-dev" in name]


def test_prod_up_runs_by_schedule_answers_health_comes_back_and_ends_soon(
    tree: Tree, engine: Engine
) -> None:
    config = tree.folder / "config.yaml"
    before = config.read_text()
    try:
        config.write_text(before.replace('schedule: "0 3 * * *"', 'schedule: "* * * * *"'))
        tree.ok("run", "TASK=2", "ENV=prod", "ARGS=--help")
        in_shell(tree, "prod", "rm -rf data/task_2")
        tree.ok("up", "ENV=prod")
        (name,) = [n for n in names_of(engine, "container") if "tasks" in n]
        first = inspect(engine, name)
        assert first["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
        assert not first["HostConfig"]["PortBindings"]
        assert [mount["Type"] for mount in first["Mounts"] if mount["RW"]] == ["volume"]
        assert first["HostConfig"]["PidsLimit"] == 128
        assert first["HostConfig"]["Memory"] == 2**30
        # It has a start-up to get through first, as its start_period says.
        health = ["exec", name, "python", "-m", "tasks", "health"]
        wait_for(lambda: engine.ask(*health).returncode == 0)
        # a crash: the main process is killed, and the engine starts another
        crash(first)
        wait_for(lambda: inspect(engine, name)["RestartCount"] > first["RestartCount"])
        wait_for(lambda: "task 2 (prod): landed" in tree.ok("logs", "ENV=prod"), 150)
        begun = time.monotonic()
        engine.must("stop", name)
        assert time.monotonic() - begun < 9, "before the engine's patience ends"
        assert inspect(engine, name)["State"]["ExitCode"] in {0, 143}
    finally:
        config.write_text(before)
        tree.ok("down", "ENV=prod")


def test_the_commands_of_a_dry_run_work_when_typed(tree: Tree) -> None:
    tree.ok("run", "TASK=2")
    tree.ok("run", "TASK=2", "ENV=prod")
    for variant, says in (("dev", "task 2 (dev): unchanged"), ("prod", "task 2 (prod): unchanged")):
        lines = tree.ok("-n", "run", "TASK=2", f"ENV={variant}").replace("\\\n", " ").splitlines()
        commands = [re.sub(r"^\S+ -S -m docker.setup \S+ ", "", line) for line in lines]
        assert commands[0].startswith("env SOURCE_DATE_EPOCH="), lines
        assert " run --rm " in commands[-1]
        done = subprocess.run(
            ["bash", "-euc", "\n".join(commands)], env=tree.environ(), cwd=tree.folder,
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert says in done.stdout


# --- interrupts, two at once, the debugger ------------------------------------------------------


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_signal_ends_a_run_and_its_container(
    tree: Tree, engine: Engine, variant: str, signum: signal.Signals, code: int
) -> None:
    where = f"--file-save-path data/task_1/s{code}"
    process = tree.start(
        "run", f"ENV={variant}", f"ARGS={where} --max-rate 20kB --progress lines --log-level DEBUG"
    )
    try:
        container = wait_for_run(engine, variant)
        wait_for(lambda: "bytes, from 0" in logs_of(engine, container))
        os.killpg(process.pid, signum)  # as terminals do, and init systems
        _, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode != 0
    assert "nothing was changed" in err
    assert f"ended with exit code {code}" in err
    assert "ERROR:" not in err, "no error of compose"
    assert str(code) not in err.splitlines()
    assert not [name for name in names_of(engine, "container") if "-run-" in name]
    found = in_shell(tree, variant, "mkdir -p data/task_1; ls -A data/task_1").split()
    found = [name for name in found if f"s{code}" in name]
    kept = [f".s{code}.part"] if variant == "dev" else []
    assert found == kept, "nothing half-landed, but what an archive that is kept has so far"


def wait_for_run(engine: Engine, variant: str) -> str:
    """Wait until a one-off container runs; returns its name."""
    found: list[str] = []

    def running() -> bool:
        found[:] = [n for n in names_of(engine, "container") if f"-{variant}-run-" in n]
        return bool(found) and inspect(engine, found[0])["State"]["Running"]

    wait_for(running)
    return found[0]


def logs_of(engine: Engine, container: str) -> str:
    """Give all that a container said so far."""
    answer = engine.ask("logs", container)
    return answer.stdout + answer.stderr


def test_two_runs_at_once_do_not_harm_each_other(tree: Tree) -> None:
    words = ["run", "TASK=2", "ENV=prod", "ARGS=--force"]
    runs = [tree.start(*words), tree.start(*words), tree.start("run", "TASK=3", "ENV=prod")]
    ends = [run.communicate(timeout=120) for run in runs]
    codes = [run.returncode for run in runs]
    assert codes[2] == 0, ends[2]
    assert 0 in codes[:2], ends
    for code, (_, err) in zip(codes, ends, strict=True):
        assert code == 0 or "ended with exit code 9: busy" in err


def test_a_debugger_is_waited_for_in_dev_only(tree: Tree, engine: Engine) -> None:
    refused = tree.refused("run", "ENV=prod", "DEBUGGER=1")
    assert "the prod variant has no debugger; use ENV=dev" in refused
    process = tree.start("run", "TASK=1", "DEBUGGER=1")
    try:
        name = wait_for_run(engine, "dev")
        port = inspect(engine, name)["HostConfig"]["PortBindings"]["5678/tcp"][0]
        assert (port["HostIp"], port["HostPort"]) == ("127.0.0.1", "5678")

        def answers() -> bool:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", 5678), 1) as s,
            ):
                s.settimeout(1)
                return b"Content-Length" in s.recv(100)
            return False

        wait_for(answers)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def test_a_tree_of_another_user_keeps_its_owner(tree: Tree, tmp_path: Path) -> None:
    """Root's engine, another user's clone: what lands in data/ is that user's."""
    if os.getuid() or sys.platform != "linux":
        pytest.skip("ONLY ROOT CAN HAVE A CLONE OF ANOTHER USER'S")
    other = Tree(tmp_path / "theirs", PROJECT)
    for path in [other.folder, *other.folder.rglob("*")]:
        if not path.is_symlink():
            os.chown(path, 12345, 12346)
    tree.ok("down")
    try:
        assert "task 1 (dev): landed" in other.ok("run", "TASK=1")
        made = [other.folder / "data", *(other.folder / "data").rglob("*"), *(
            other.folder / "envs").glob("*.env")]  # fmt: skip
        assert {(p.stat().st_uid, p.stat().st_gid) for p in made} == {(12345, 12346)}
    finally:
        other.ok("down")
