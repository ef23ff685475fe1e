"""The tools behind make, piece by piece: env files, engines, what goes into an image."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from docker.setup import engine as engines
from docker.setup import envfiles, images, locks
from docker.setup.engine import Engine
from docker.setup.errors_of_compose import Errors
from docker.setup.project import Failure, Project
from docker.setup.variants import EXAMPLE_LINE, Variant
from docker.tools import parity
from tree import Tree


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Give a copy of the tree, with no knob turned."""
    for name in list(os.environ):
        if name.startswith(("LIGHTERAGE_", "PIP_", "SSL_", "REQUESTS_")):
            monkeypatch.delenv(name)
    tree = Tree(tmp_path / "clone")
    return replace(Project.from_environment(), root=tree.folder)


# --- knobs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["A", "-a", "a_b", "a b", "a/b"])
def test_a_project_name_that_an_engine_would_refuse_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGHTERAGE_PROJECT", name)
    with pytest.raises(Failure, match="use lowercase letters, digits and dashes"):
        Project.from_environment()


def test_args_are_split_as_by_a_shell_and_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTERAGE_ARGS", """--a 'b c' "d" $HOME `e` ;""")
    assert Project.from_environment().args == ("--a", "b c", "d", "$HOME", "`e`", ";")


# --- env files ------------------------------------------------------------------------------


def test_an_env_file_gives_values_as_every_reader_has_them(tmp_path: Path) -> None:
    file = tmp_path / "x.env"
    file.write_text("# comment\n\nA=b=c\nEMPTY=\nSPACE=a b\nUMLAUT=ä\n", encoding="utf-8")
    assert envfiles.read(file) == {"A": "b=c", "EMPTY": "", "SPACE": "a b", "UMLAUT": "ä"}


@pytest.mark.parametrize(
    "line",
    ["export A=b", "A = b", "A", "1A=b", "A=b # c", "A='b'", 'A="b"', "A=$B", "A=b ", "A=\\n"],
)
def test_a_line_that_one_reader_would_take_differently_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "x.env"
    file.write_text(f"OK=1\n{line}\n", encoding="utf-8")
    with pytest.raises(Failure, match=r"^envs/x\.env:2: "):
        envfiles.read(file)


@pytest.mark.parametrize(
    ("address", "host"),
    [("sample-host:2222", "sample-host"), ("me@host:22", "host"), ("host", "host"), ("", "")],
)
def test_the_host_of_an_address_decides_on_the_sample_host(
    project: Project, address: str, host: str
) -> None:
    variant = Variant(project, "dev")
    variant.env_file.write_text(f"REMOTE_HOST_ADDRESS={address}\n", encoding="utf-8")
    assert envfiles.host_of(variant) == host


def test_the_sample_hosts_key_replaces_its_old_one_and_no_other(project: Project) -> None:
    known = envfiles.known_hosts(project)
    known.write_text("data.example ssh-ed25519 AAAA\n", encoding="utf-8")
    envfiles.trust_sample_host(project, "[sample-host]:2222", "ssh-ed25519 BBBB comment")
    envfiles.trust_sample_host(project, "[sample-host]:2222", "ssh-ed25519 CCCC")
    envfiles.trust_sample_host(project, "[sample-host]:2222", "ssh-ed25519 CCCC")
    assert known.read_text(encoding="utf-8").splitlines() == [
        "data.example ssh-ed25519 AAAA",
        "[sample-host]:2222 ssh-ed25519 CCCC lighterage-sample-host",
    ]
    envfiles.forget_sample_host(project, "[sample-host]:2222")
    assert known.read_text(encoding="utf-8") == "data.example ssh-ed25519 AAAA\n"


@pytest.mark.parametrize("replaced", [False, True])
def test_the_sample_hosts_key_is_added_once_no_task_writes_known_hosts(
    project: Project, *, replaced: bool
) -> None:
    """A task appends a new host's key under a lock on the file; make replaces the file."""
    known = envfiles.known_hosts(project)
    known.write_text("", encoding="utf-8")
    trust = threading.Thread(
        target=envfiles.trust_sample_host, args=(project, "[sample-host]:2222", "ssh-ed25519 BBBB")
    )
    with known.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        trust.start()
        trust.join(0.2)
        assert trust.is_alive()
        if replaced:  # by another make
            other = known.with_name("other")
            other.write_text("other.example ssh-ed25519 CCCC\n", encoding="utf-8")
            other.replace(known)
        else:
            file.write("data.example ssh-ed25519 AAAA\n")
    trust.join()
    lines = known.read_text(encoding="utf-8").splitlines()
    assert lines == [
        "other.example ssh-ed25519 CCCC" if replaced else "data.example ssh-ed25519 AAAA",
        "[sample-host]:2222 ssh-ed25519 BBBB lighterage-sample-host",
    ]


# --- variants -------------------------------------------------------------------------------


def test_variants_and_their_services_are_read_from_the_tree(project: Project) -> None:
    found = {variant.name: variant for variant in Variant.all(project)}
    assert list(found) == ["dev", "prod"]
    assert found["dev"].services == ("task1", "task2", "task3")
    assert found["prod"].services == ("tasks",)
    assert (found["dev"].binds_tree, found["prod"].binds_tree) == (True, False)
    (project.root / "docker/odd").mkdir()
    assert [variant.name for variant in Variant.all(project)] == ["dev", "prod"]


@pytest.mark.parametrize(("task", "service"), [("2", "task2"), ("4", "task1")])
def test_a_task_runs_in_its_own_service_or_the_first(
    project: Project, task: str, service: str
) -> None:
    assert Variant(replace(project, task=task), "dev").service == service
    assert Variant(replace(project, task=task), "prod").service == "tasks"


# --- engines: stand-ins answer as the real clients do, since one machine has but one kind -----


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Give a way to put a client on an otherwise empty path."""
    monkeypatch.setenv("PATH", "")

    def put(folder: str, name: str, **answers: str) -> Path:
        place = tmp_path / folder
        place.mkdir(exist_ok=True)
        cases = "".join(f'  "{key.replace("_", " ")}"*) {do} ;;\n' for key, do in answers.items())
        program = place / name
        program.write_text(f'#!/bin/sh\ncase "$*" in\n{cases}  *) exit 1 ;;\nesac\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{os.environ['PATH']}:{place}".strip(":"))
        return program

    return put


def versions(version: str) -> str:
    """Answer the question for a client's or a server's version."""
    return f"echo {version}"


def test_the_first_client_whose_engine_answers_is_taken(client: Callable[..., Path]) -> None:
    client("one", "docker", version="echo no daemon >&2; exit 1")
    second = client("two", "docker", version=versions("20.10.24"))
    found = Engine.find("docker")
    assert found == Engine("docker", str(second))
    assert Engine.find("podman") is None


def test_the_client_that_can_build_need_not_be_the_first(client: Callable[..., Path]) -> None:
    """A static client of 28 has neither buildx nor BuildKit; 20.10 has BuildKit inside."""
    first = client("one", "docker", version=versions("28.2.2"))
    second = client("two", "docker", version=versions("20.10.24"))
    builder = Engine("docker", str(first)).builder
    assert builder == (str(second), {"DOCKER_BUILDKIT": "1"})


def test_buildx_is_told_to_build_where_the_local_images_are(client: Callable[..., Path]) -> None:
    only = client(
        "one", "docker", version=versions("28.2.2"), buildx_version="echo v0.12",
        context_show="echo desktop",
    )  # fmt: skip
    builder = Engine("docker", str(only)).builder
    assert builder == (str(only), {"DOCKER_BUILDKIT": "1", "BUILDX_BUILDER": "desktop"})


def test_no_client_that_can_build_is_none(client: Callable[..., Path]) -> None:
    only = client("one", "docker", version=versions("28.2.2"))
    assert Engine("docker", str(only)).builder is None


def test_compose_is_the_plugin_or_the_program(client: Callable[..., Path]) -> None:
    docker = client("one", "docker", version=versions("28.2.2"))
    assert Engine("docker", str(docker)).compose is None
    program = client("two", "docker-compose", version="echo 1.29.2")
    assert Engine("docker", str(docker)).compose == ((str(program),), {})
    plugin = client("three", "docker", compose_version="echo v2.24")
    assert Engine("docker", str(docker)).compose == ((str(plugin), "compose"), {})


def test_a_client_that_hangs_counts_as_none(
    client: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    client("one", "docker", version="exec /bin/sleep 60")
    real = engines.quiet
    monkeypatch.setattr(engines, "quiet", lambda *words, timeout: real(*words, timeout=0.2))
    assert Engine.find("docker") is None


@pytest.mark.parametrize(
    ("wanted", "known", "same"),
    [
        ("a", "/a", True), ("a", "a:latest", True), ("a", "localhost/a:latest", True),
        ("a:b", "a:b", True), ("a", "a:b", False), ("a", "b/a:latest", False),
    ],
)  # fmt: skip
def test_names_of_an_engine_are_told_apart(wanted: str, known: str, *, same: bool) -> None:
    assert engines._same_name(wanted, known) is same


POOL = "could not find an available, non-overlapping IPv4 address pool among the defaults"
TAKEN = (
    "Cannot start service task2: driver failed programming external connectivity on endpoint x (1):"
    " Error starting userland proxy: listen tcp4 127.0.0.1:5679: bind: address already in use"
)


@pytest.mark.parametrize(
    ("written", "codes", "shown"),
    [
        ("a\n3\n", {3}, "a\n"),
        ("a\nERROR: 130\n", {130}, "a\n"),
        ("a\n3\n", {4}, "a\n3\n"),
        ("3\nb\n3\n", {3}, "3\nb\n"),
        ("a\nERROR: 3\nb\n", {3}, "a\nERROR: 3\nb\n"),
        ("ERROR: mine\n", {1}, "ERROR: mine\n"),
        (f"{POOL} to assign to the network\n", {0}, f"{POOL} to assign to the network\n"),
        (
            f'Creating network "x"\n{POOL} to assign to the network\n',
            {1},
            'Creating network "x"\nlighterage: the container engine has no free address range',
        ),
        (f"a\nERROR: for task2  {TAKEN}\nERROR: 1\n", {1},
         "a\nlighterage: port 127.0.0.1:5679 is in use, and service task2 publishes it"),
        ("Error response from daemon: error while creating mount source path '/c/data': mkdir"
         " /c/data: read-only file system\n1\n", {1},
         "lighterage: /c/data: the file system is read-only"),
    ],
)  # fmt: skip
def test_errors_of_compose_are_put_plainly_and_the_rest_stays(
    project: Project, written: str, codes: set[int], shown: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The texts are what compose 1.29 wrote with an engine of 20.10."""
    read, write = os.pipe()
    with open(read, "rb") as stream:  # noqa: PTH123 - a pipe
        errors = Errors(stream, Variant(project, "dev").compose_file)
        for byte in written.encode():  # in the smallest pieces
            os.write(write, bytes([byte]))
        os.close(write)
        errors.finish(codes)
    err = capfd.readouterr().err
    assert err.startswith(shown)
    assert err == shown or "lighterage: " in shown


def test_a_part_of_a_line_is_shown_before_the_line_ends(
    project: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    read, write = os.pipe()
    with open(read, "rb") as stream:  # noqa: PTH123 - a pipe
        errors = Errors(stream, Variant(project, "dev").compose_file)
        os.write(write, b"Password: ")
        shown = ""
        while not shown:  # the test's own timeout ends it
            shown = capfd.readouterr().err
        os.write(write, b"3\n")
        os.close(write)
        errors.finish({3})
    assert shown + capfd.readouterr().err == "Password: 3\n"


# --- images ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["tasks/task_1.py", "config.yaml", "requirements/prod.txt", "docker/prod/Dockerfile",
     "docker/base/build.py", "docker/base/runtime.txt", "docker/base/build.txt"],
)  # fmt: skip
def test_what_goes_into_an_image_makes_it_stale(project: Project, name: str) -> None:
    before = images.inputs_of(project, "prod")
    file = project.root / name
    file.write_bytes(file.read_bytes() + b"\n")
    assert images.inputs_of(project, "prod") != before


@pytest.mark.parametrize(
    ("image", "name", "stale"),
    [
        ("prod", "tests/containers/test_tools.py", False), ("prod", "requirements/dev.txt", False),
        ("prod", "pyproject.toml", False), ("dev", "tests/containers/test_tools.py", True),
        ("dev", "tasks/fetch/api.py", True), ("prod", "tasks/fetch/api.py", True),
        ("sample-host", "tasks/task_1.py", False), ("sample-host", "config.yaml", False),
        ("sample-host", "docker/sample-host/server.py", True),
        ("sample-host", "requirements/sample-host.txt", True),
        ("prod", "docker/sample-host/server.py", False),
    ],
)  # fmt: skip
def test_only_what_an_image_takes_makes_it_stale(
    project: Project, image: str, name: str, *, stale: bool
) -> None:
    before = images.inputs_of(project, image)
    file = project.root / name
    file.write_bytes(file.read_bytes() + b"\n")
    assert (images.inputs_of(project, image) != before) is stale


@pytest.mark.parametrize(
    ("name", "stale"),
    [
        ("tasks/task_1.py", False), ("config.yaml", False), ("tests/support/tree.py", False),
        ("requirements/dev.txt", True), ("docker/dev/Dockerfile", True),
        ("docker/sbom/bom.py", True),
    ],
)  # fmt: skip
def test_what_is_mounted_over_makes_no_environment_stale(
    project: Project, name: str, *, stale: bool
) -> None:
    before = images.inputs_of(project, "dev", tree=False)
    file = project.root / name
    file.write_bytes(file.read_bytes() + b"\n")
    assert (images.inputs_of(project, "dev", tree=False) != before) is stale


# --- locks ----------------------------------------------------------------------------------


def test_the_locks_are_those_of_their_requirements(project: Project) -> None:
    assert locks.stale(project) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "stale"),
    [
        ("prod.in", "fabric>=3.2\n", "fabric>=3.2\ncolorama\n", ["prod", "dev"]),
        ("prod.in", "fabric>=3.2\n", "fabric>=3.3\n", ["prod", "dev"]),
        ("prod.in", "fabric>=3.2\n", "", ["prod", "dev"]),
        ("dev.in", "debugpy\n", "", ["dev"]),
        ("uv.in", "uv\n", "uv<1\n", ["uv"]),
        ("prod.in", "fabric>=3.2\n", "fabric>=3.2    # SSH\n\n# more\n", []),
        ("prod.in", "fabric>=3.2\npyyaml>=6\n", "pyyaml>=6\nfabric>=3.2\n", []),
    ],
)
def test_a_lock_is_stale_by_content_and_not_by_time(
    project: Project, name: str, old: str, new: str, stale: list[str]
) -> None:
    file = project.root / "requirements" / name
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")
    for path in file.parent.iterdir():
        os.utime(path, (1, 2) if path.suffix == ".in" else (2, 1))
    assert locks.stale(project) == stale
    for lock in stale:
        locks.record(project, lock)
    assert locks.stale(project) == []


def test_a_files_mode_and_name_count_and_its_time_does_not(project: Project) -> None:
    file = project.root / "tasks/task_1.py"
    before = images.inputs_of(project, "prod")
    os.utime(file, (1, 1))
    assert images.inputs_of(project, "prod") == before
    file.chmod(0o755)
    changed = images.inputs_of(project, "prod")
    assert changed != before
    file.rename(file.with_name("task_8.py"))
    assert images.inputs_of(project, "prod") not in {before, changed}


@pytest.mark.parametrize(
    "name",
    ["README.md", "Makefile", "envs/prod.env", "envs/secrets/password", "data/x.csv", ".env",
     "docker/dev/Dockerfile", "tasks/__pycache__/x.pyc", ".lighterage/x"],
)  # fmt: skip
def test_what_stays_outside_makes_nothing_stale(project: Project, name: str) -> None:
    before = images.inputs_of(project, "prod")
    file = project.root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("new", encoding="utf-8")
    assert images.inputs_of(project, "prod") == before


def test_the_ca_and_pip_conf_of_the_machine_go_to_builds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    conf, bundle, other = tmp_path / "pip.conf", tmp_path / "ca.pem", tmp_path / "other.pem"
    bundle.write_text("x")
    other.write_text("x")
    conf.write_text(f"[global]\ncert = {bundle}\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(conf))
    assert images.build_secrets() == {"pip_conf": conf, "ca": bundle}
    monkeypatch.setenv("PIP_CERT", str(other))
    assert images.build_secrets() == {"pip_conf": conf, "ca": other}
    monkeypatch.setenv("PIP_CERT", str(tmp_path / "gone.pem"))
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "gone.conf"))
    assert "pip_conf" not in images.build_secrets()
    monkeypatch.setenv("PIP_CONFIG_FILE", str(conf))
    conf.write_text("not a pip.conf")
    assert images.build_secrets()["pip_conf"] == conf


# --- env examples ---------------------------------------------------------------------------


def test_the_examples_mention_what_is_read_and_agree(project: Project) -> None:
    assert parity.faults(project.root) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("envs/prod.env.example", "#LOG_LEVEL=WARNING\n", "", "prod.env.example lacks LOG_LEVEL"),
        ("envs/dev.env.example", "#MAX_TRIES=", "#MAX_TRYS=", "has MAX_TRYS, which nothing reads"),
        ("docker/dev/compose.yaml", "HOME: /tmp", "HOME: ${FOLDER}", "compose.yaml reads FOLDER"),
        ("tasks/task_1.py", "archive(connection", 'archive(os.environ["KIND"]', "reads KIND"),
        ("tasks/task_1.py", "archive(connection", 'archive(os.getenv("KIND")', "reads KIND"),
    ],
)
def test_a_variable_that_one_place_alone_knows_is_named(
    project: Project, name: str, old: str, new: str, said: str
) -> None:
    path = project.root / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    assert any(said in line for line in parity.faults(project.root)), parity.faults(project.root)


def test_examples_may_differ_where_both_contracts_say_so(project: Project) -> None:
    path = project.root / "envs/prod.env.example"
    path.write_text(path.read_text(encoding="utf-8").replace("#OVERWRITE=true\n", ""))
    for name in ("dev", "prod"):
        example = (project.root / f"envs/{name}.env.example").read_text(encoding="utf-8")
        keys = ", ".join(EXAMPLE_LINE.findall(example))
        with (project.root / f"docker/{name}/contract.yaml").open("a") as contract:
            contract.write(f"  env example: [{keys}]\n")
    assert parity.faults(project.root) == []
