"""The Makefile without an engine: its targets and variables, and the tasks in .venv here."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import wait_for
from results import last_line, valid
from tree import NO_ENGINE, Tree, fake_docker, on_terminal

TARGETS = (
    "build run shell up down logs config clean save push reproduce size sbom trust vendor diff "
    "tasks verify load schedule history pause resume doctor test bench bench-build check fmt lock "
    "audit help k8s cluster-up cluster-run cluster-status cluster-logs cluster-down new-task init "
    "site bench-swarm show diff-data list completion watch debug"
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """Give a tree where no engine answers, in a folder with a space in its name."""
    tree = Tree(tmp_path_factory.mktemp("make") / "a clone", env=NO_ENGINE)
    yield tree
    for variant in ("dev", "prod"):
        tree.make("down", f"ENV={variant}")


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """Give a tree in which nothing has run."""
    return Tree(tmp_path_factory.mktemp("untouched") / "clone", env=NO_ENGINE)


@pytest.fixture
def copy(tmp_path: Path) -> Tree:
    """Give a tree to change."""
    return Tree(tmp_path / "clone", env=NO_ENGINE)


# --- help, and what is refused before anything starts -------------------------------------


@pytest.mark.parametrize("words", [[], ["help"], ["help", "ENV=prod"]])
def test_help_lists_targets_and_values_and_needs_nothing(tree: Tree, words: list[str]) -> None:
    help_text = tree.ok(*words, env={"PATH": "/usr/bin:/bin"})
    named = {word for line in help_text.splitlines() for word in line.split()}
    assert set(TARGETS.split()) <= named
    assert f"Values: ENV={'prod' if words[1:] else 'dev'} TASK=1 " in help_text
    assert "Variants: dev prod" in help_text
    assert "Tasks: 1 2 3" in help_text


def test_help_fits_a_terminal_and_starts_with_what_is_used_most(tree: Tree) -> None:
    lines = tree.ok("help").splitlines()
    assert len(lines) <= 40
    assert [line for line in lines if len(line) > 80] == []
    assert lines[1] == "Run"
    assert lines[2].startswith("  make run ")
    groups = [line.partition(":")[0] for line in lines[1:] if not line.startswith(" ")]
    assert groups == [
        "Run", "Data", "Service", "Image", "Cluster", "Develop", "Measure", "Variants", "Values"
    ]  # fmt: skip


def test_list_explains_every_target(tree: Tree) -> None:
    lines = tree.ok("list").splitlines()
    explained = {line.split()[1]: line.split()[2:] for line in lines if line.startswith("  make ")}
    assert explained.keys() >= set(TARGETS.split())
    assert all(explained.values())


def test_help_has_a_target_that_states_no_group(copy: Tree) -> None:
    with (copy.folder / "Makefile").open("a", encoding="utf-8") as file:
        file.write("\nmine: ## what I add\n\t@echo mine\n")
    assert "Other: mine\n" in copy.ok("help")
    assert "  make mine               what I add\n" in copy.ok("list")
    assert copy.ok("mine") == "mine\n"


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
        (["build", "EXTRAS=s4"], "EXTRAS=s4 is not known; allowed: s3, parquet"),
        (["test", "SETUP=no"], "SETUP=no is not known; allowed: 0 1"),
        (["run", "TSAK=2"], "TSAK=2 is not a variable of this Makefile; known: ENV TASK"),
        *(
            (["k8s", f"SHARDS={text}"], f"SHARDS={text}: use a whole number from 1 on")
            for text in ("", "0", "08", "x", "1 2", "-1", "%", "$(shell touch made)")
        ),
        *(
            (["k8s", f"RUN_ID={text}"], f"RUN_ID={text}: use lowercase letters, digits and dashes")
            for text in ("A", "a b", "-a", "a/b", "$(shell touch made)")
        ),
        (["k8s", "ENV=dev"], "dev mounts the working tree, which the nodes of a cluster lack"),
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
    untouched: Tree, words: list[str], says: str
) -> None:
    error = untouched.refused(*words)
    lines = [line for line in error.splitlines() if not line.startswith("make: ***")]
    assert says in error
    assert len(lines) <= 1, error
    assert not (untouched.folder / "envs/dev.env").exists(), "nothing was prepared"
    assert not (untouched.folder / "made").exists(), "and no shell read the text"


def test_requirements_that_are_newer_than_their_lock_are_reported(copy: Tree) -> None:
    assert "make lock" not in copy.make("config").stderr
    with (copy.folder / "requirements/prod.in").open("a", encoding="utf-8") as file:
        file.write("colorama\n")
    error = copy.make("config").stderr
    assert "requirements/prod.in" in error
    assert "make lock ARGS=--no-upgrade" in error


def test_a_setting_that_the_schema_lacks_fails_the_check_until_fmt(copy: Tree) -> None:
    settings = copy.folder / "tasks/settings.py"
    settings.write_text(settings.read_text().replace("how to show progress", "show progress"))
    error = copy.make("check-generated")
    assert error.returncode != 0
    assert "make fmt writes it" in error.stderr
    assert (
        "+| `progress` | one of auto, bar, lines, none | `auto` | yaml, option | show progress |"
        in (error.stdout)
    )
    copy.ok("fmt")
    copy.ok("check-generated")


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


def test_args_reach_the_task_as_they_were_written(tree: Tree) -> None:
    text = "$HOME $(touch made) `touch made` a;touch made %s"
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


def test_a_line_that_readers_take_differently_is_refused(copy: Tree) -> None:
    copy.ok("config")
    file = copy.folder / "envs/dev.env"
    file.write_text(file.read_text() + "PASSWORD=a$b\n")
    error = copy.refused("run")
    assert f"envs/dev.env:{len(file.read_text().splitlines())}: " in error


@pytest.fixture
def logged(copy: Tree, tmp_path: Path) -> Path:
    """Give the log of a fake docker that is first on the path of `copy`: every call is in it."""
    log = tmp_path / "calls"
    fake_docker(copy, tmp_path, f'echo "$*" >> {log}; exit 1')
    return log


UNREADABLE = {
    "misspelt": (b"USERNAM=x\n", "unknown variable USERNAM (did you mean USERNAME?)"),
    "config only": (b"MAX_RATE=1\n", "set max_rate in config.yaml"),
    "byte order mark": (b"\xef\xbb\xbfUSERNAME=x\n", ":1: starts with a byte order mark"),
    "UTF-16": ("USERNAME=x\n".encode("utf-16"), "is UTF-16"),
    "CRLF": (b"USERNAME=x\r\nPASSWORD=y\r\n", ":1: ends with CRLF"),
    "Latin-1": (b"USERNAME=x\nPASSWORD=p\xe4ss\n", ":2: byte 0xe4 is not UTF-8"),
    "control": (b"USERNAME=a\x0cb\n", ":1: the value of USERNAME has a control character"),
}


@pytest.mark.parametrize(("variant", "runner"), [("dev", "container"), ("prod", "host")])
@pytest.mark.parametrize("fault", UNREADABLE)
def test_a_faulty_env_file_is_refused_alike_before_anything_starts(
    copy: Tree, logged: Path, fault: str, variant: str, runner: str
) -> None:
    """Neither an engine nor the sample host is asked for anything."""
    content, says = UNREADABLE[fault]
    file = copy.folder / f"envs/{variant}.env"
    file.write_bytes(content)
    verbs = ["run"]
    if fault == "misspelt":
        verbs += ["config", "shell", *(["up"] if runner == "container" else [])]
    for verb in verbs:
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


# --- init -----------------------------------------------------------------------------------


@pytest.fixture
def address(copy: Tree) -> Iterator[str]:
    """Give the address of a host that `copy` does not know by it, and write its password."""
    copy.ok("run")
    state = copy.folder / ".lighterage/lighterage-dev-sample-host.json"
    (copy.folder / "envs/known_hosts").write_text("")
    (copy.folder / "envs/secrets/password").write_text("dev-sample-only\n")
    yield f"127.0.0.1:{json.loads(state.read_text())['port']}"
    (copy.folder / "envs/dev.env").unlink()
    copy.ok("down")


def changed_by_init(tree: Tree) -> dict[str, bytes]:
    """Return what init may change."""
    names = ("envs/dev.env", "config.yaml", "envs/secrets/password")
    return {name: (tree.folder / name).read_bytes() for name in names}


def test_init_sets_up_a_host_by_arguments(copy: Tree, address: str) -> None:
    before = (copy.folder / "config.yaml").read_text()
    words = ["init", f"HOST={address}", "REMOTE_USER=dev", "REMOTE_PATH=datasets/*.csv.zip"]
    assert "not trusted yet: YES=1" in copy.refused(*words)
    outside = {"REMOTE_USER": "x", "REMOTE_PATH": "x", "USERNAME": "x", "YES": "0"}
    done = copy.make(*words, "YES=1", env=outside)
    assert done.returncode == 0, done.stderr
    assert "SHA256:" in done.stderr
    assert "Traceback" not in done.stderr
    assert "task 1 (dev): would download 1 file" in done.stdout
    env_file = copy.folder / "envs/dev.env"
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600
    lines = env_file.read_text().splitlines()
    assert {f"REMOTE_HOST_ADDRESS={address}", "USERNAME=dev", "#PASSWORD="} <= set(lines)
    assert "PASSWORD_FILE=envs/secrets/password" in lines
    example = (copy.folder / "envs/dev.env.example").read_text().splitlines()
    assert len(lines) == len(example), "lines are changed, with their comments"
    after = (copy.folder / "config.yaml").read_text()
    path = 'remote_file_path: "datasets/*.csv.zip"'
    assert after == before.replace("remote_file_path: datasets/events.csv.zip", path)
    assert "task 1 (dev): landed" in copy.ok("run", "ARGS=--force")
    known = (copy.folder / "envs/known_hosts").read_text()
    copy.ok(*words)
    assert (copy.folder / "envs/known_hosts").read_text() == known, "trusted: nothing is asked"


@pytest.mark.parametrize(
    ("words", "env_line", "says"),
    [
        ([], "", "init lacks HOST, REMOTE_USER, REMOTE_PATH: make init HOST="),
        (["REMOTE_PATH=x", "REMOTE_USER=dev"], "", "init lacks HOST: "),
        (["HOST=me@x", "REMOTE_USER=dev", "REMOTE_PATH=x"], "", "REMOTE_USER is the account"),
        (["HOST=", "REMOTE_USER=a$b", "REMOTE_PATH=x"], "", "the value of USERNAME has a quote, $"),
        (["HOST=", "REMOTE_USER=dev", "REMOTE_PATH=missing", "YES=1"], "", "missing: no such file"),
        (["HOST=127.0.0.1:1", "REMOTE_USER=dev", "REMOTE_PATH=x", "YES=1"], "", "network: "),
        (
            ["HOST=", "REMOTE_USER=dev", "REMOTE_PATH=x"],
            "USERNAME=me",
            "other values of USERNAME: ",
        ),
        (["HOST=", "REMOTE_USER=no", "REMOTE_PATH=x", "YES=1"], "", "write the password to envs/"),
    ],
)
def test_init_that_fails_changes_nothing(
    copy: Tree, address: str, words: list[str], env_line: str, says: str
) -> None:
    env_file = copy.folder / "envs/dev.env"
    if env_line:
        env_file.write_text(env_file.read_text().replace("USERNAME=dev", env_line))
    before = changed_by_init(copy)
    given = [f"HOST={address}" if word == "HOST=" else word for word in words]
    error = copy.refused("init", *given)
    assert says in error
    assert changed_by_init(copy) == before


def test_init_without_a_secret_says_where_to_write_it(copy: Tree) -> None:
    words = ["init", "HOST=127.0.0.1:1", "REMOTE_USER=dev", "REMOTE_PATH=x"]
    assert "write the password to envs/secrets/password" in copy.refused(*words)


def test_init_asks_on_a_terminal_for_what_is_missing(copy: Tree, address: str) -> None:
    typed = f"{address}\ndev\ndatasets/events.tar.gz\nyes\n".encode()
    said, code = on_terminal(copy, ["init", "TASK=2"], lambda shown: b"host:port: " in shown, typed)
    assert code == 0, said
    assert b"Trust these keys of" in said
    assert b"task 2 (dev): would download 1 file" in said
    assert f"REMOTE_HOST_ADDRESS={address}\n" in (copy.folder / "envs/dev.env").read_text()


# --- doctor ---------------------------------------------------------------------------------


def verdicts(tree: Tree, *words: str, code: int) -> tuple[str, str]:
    """Return the verdicts of doctor, which ends with an exit code, on dev and prod."""
    done = tree.make("doctor", *words)
    assert (done.returncode != 0) == bool(code), done.stdout + done.stderr
    dev, prod = done.stdout.splitlines()[-2:]
    assert dev.startswith("dev: ")
    assert prod.startswith("prod: ")
    return dev, prod


HERE = "ready, in .venv on this machine, WITHOUT ISOLATION"


def test_doctor_ends_with_a_verdict_for_each_variant(copy: Tree) -> None:
    for words in ([], ["RUNNER=host"]):
        assert verdicts(copy, *words, code=0) == (f"dev: {HERE}", f"prod: {HERE}")
    for verdict in verdicts(copy, "RUNNER=container", code=1):
        assert ": cannot run: no docker engine answers: " in verdict


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("envs/prod.env", "USERNAM=x\n", "envs/prod.env: unknown variable USERNAM"),
        ("envs/prod.env", "USERNAME=x\n", "envs/prod.env: has no REMOTE_HOST_ADDRESS"),
        ("envs/prod.env", "REMOTE_HOST_ADDRESS=h\nMAX_TRIES=x\n", "max_tries is 'x'"),
        ("config.yaml", "variants: {prod: {max_trys: 1}}\n", "unknown key max_trys"),
    ],
)
def test_doctor_says_which_variant_a_faulty_file_stops(
    copy: Tree, file: str, text: str, says: str
) -> None:
    (copy.folder / "envs/prod.env").touch()
    (copy.folder / file).write_text(text)
    (copy.folder / "envs/prod.env").chmod(0o600)
    if file == "config.yaml":
        (copy.folder / "envs/prod.env").unlink()
    dev, prod = verdicts(copy, "RUNNER=host", code=1)
    assert prod.startswith("prod: cannot run: ")
    assert says in prod
    assert ("cannot run" in dev) == (file == "config.yaml"), "it is one file for both"


def test_doctor_finds_an_engine_without_what_a_build_takes(copy: Tree, tmp_path: Path) -> None:
    fake_docker(copy, tmp_path, "case $1 in version) echo 28.0.0 ;; *) exit 1 ;; esac")
    (tmp_path / "bin/docker-compose").unlink()
    for name in ("bash", "sh", "env", "awk", "mkdir", "touch", "git", "make"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name) or name)
    (tmp_path / "bin/python3").symlink_to(sys.executable)
    copy.env["PATH"] = str(tmp_path / "bin")
    for verdict in verdicts(copy, code=1):
        assert ": cannot run: BuildKit client: install docker-buildx-plugin" in verdict
        assert verdict.endswith(" more above)")


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
    if task == "2":
        assert f"task {task} ({variant}): unchanged since" in tree.ok(*words)


def test_tasks_lists_what_landed(copy: Tree) -> None:
    assert copy.ok("tasks", "ENV=prod") == copy.ok("prod-tasks")
    copy.ok("run", "TASK=2", "ENV=prod")
    lines = copy.ok("tasks", "ENV=prod").splitlines()
    assert [line.split()[1] for line in lines[:3]] == ["1", "2", "3"]
    assert "nothing landed yet" in lines[0]
    assert " landed 20" in lines[1]
    copy.ok("down", "ENV=prod")


def test_the_exit_code_of_a_task_is_printed(tree: Tree) -> None:
    done = tree.make("run", "TASK=2", "ENV=prod", "ARGS=--remote-file-path missing.tar.gz")
    assert done.returncode == 2
    assert "lighterage: remote path: missing.tar.gz: no such file" in done.stderr
    assert "task 2 (prod) ended with exit code 3: remote path" in done.stderr


def test_the_result_alone_is_on_standard_output(tree: Tree) -> None:
    report = json.loads(tree.ok("run", "TASK=2", "ARGS=--json --force"))
    assert (report["status"], report["variant"]) == ("landed", "dev")


@pytest.mark.parametrize("variant", ["dev", "prod"])
def test_the_result_file_of_a_run_here(tree: Tree, variant: str) -> None:
    """With the options of docs/orchestrators.md, also for a task that fails."""
    words = ["run", "TASK=2", f"ENV={variant}", "RUNNER=host"]
    tree.ok(*words)
    options = "ARGS=--result-file=result.json --json=line --unchanged-exit-code=99"
    for more, code, meaning in (
        ("", 99, "unchanged (--unchanged-exit-code)"),
        (" --force", 0, ""),
        (" --remote-file-path=missing", 3, "remote path"),
    ):
        done = tree.make(*words, options + more)
        assert done.returncode == (2 if code else 0), "make's own"
        written = (tree.folder / "result.json").read_text()
        assert valid(written, code) == last_line(done.stdout, code)
        assert (f"ended with exit code {code}: {meaning}" in done.stderr) == bool(code)


def test_help_of_a_task_starts_nothing(copy: Tree) -> None:
    out = copy.ok("run", "TASK=3", "ARGS=--help")
    assert "Task 3: a directory of CSVs and zips" in out
    assert "--file-save-path" in out
    assert not list((copy.folder / ".lighterage").glob("*-sample-host.json"))


def test_down_ends_the_sample_host(copy: Tree) -> None:
    copy.ok("run", "ENV=prod")
    state = copy.folder / ".lighterage/lighterage-prod-sample-host.json"
    process = Path(f"/proc/{json.loads(state.read_text())['pid']}")
    assert process.exists()
    copy.ok("down", "ENV=prod")
    assert not state.exists()
    wait_for(lambda: not _lives(process))


def _lives(process: Path) -> bool:
    """Whether a process is there and has not ended: its parent may not have waited for it yet."""
    try:
        return ") Z" not in (process / "stat").read_text()
    except OSError:
        return False


def test_ctrl_c_ends_a_run_clean(copy: Tree) -> None:
    copy.ok("config")
    slow = "--force --max-rate 20kB --timeout 60"
    process = copy.start("run", "TASK=3", "ENV=prod", f"ARGS={slow}")
    wait_for((copy.folder / "data/task_3/.events.staging").exists)
    os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "nothing was changed" in err
    assert not list(copy.folder.glob("data/task_3/*"))
    copy.ok("down", "ENV=prod")
