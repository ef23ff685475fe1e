"""The steps behind the recipes, piece by piece: variables, env files, engines, locks, errors."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from docker.setup import attach, envfiles, locks, prepare, venv
from docker.setup import engine as engines
from docker.setup.engine import MOMENT, Engine
from docker.setup.messages import Errors
from docker.setup.project import Project
from docker.setup.variants import EXAMPLE_LINE, Variant
from docker.tools import parity
from tree import Tree


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Give a copy of the tree, with every variable at its default."""
    for name in list(os.environ):
        if name.startswith(("LIGHTERAGE_", "PIP_", "SSL_", "REQUESTS_")):
            monkeypatch.delenv(name)
    tree = Tree(tmp_path / "clone")
    return Project.from_environment()._replace(root=tree.folder)


@pytest.mark.parametrize("on_terminal", [True, False])
def test_run_passes_what_is_set_of_the_terminal_on_to_the_container(
    project: Project, monkeypatch: pytest.MonkeyPatch, on_terminal: bool
) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(attach, "_on_terminal", lambda: on_terminal)

    def run(_: Project, words: list[str], *__: object) -> int:
        ran.append(words)
        return 0

    monkeypatch.setattr(attach, "_run", run)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("TERM", raising=False)
    file = f"{project.root}/docker/prod/compose.yaml"
    assert attach.attach(project, "docker-compose", "-f", file, "run", "--rm", "tasks", "2") == 0
    (words,) = ran
    assert ("-e NO_COLOR" in " ".join(words)) is on_terminal
    assert "TERM" not in words
    assert ("-T" in words) is not on_terminal


# --- variables ------------------------------------------------------------------------------


def test_args_are_split_as_by_a_shell_and_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTERAGE_ARGS", """--a 'b c' "d" $HOME `e` ;""")
    assert Project.from_environment().args == ("--a", "b c", "d", "$HOME", "`e`", ";")


# --- env files ------------------------------------------------------------------------------


def test_an_env_file_gives_values_as_every_reader_has_them(tmp_path: Path) -> None:
    file = tmp_path / "x.env"
    file.write_text("# comment\n\nA=b=c\nEMPTY=\nSPACE=a b\nUMLAUT=ä\n", encoding="utf-8")
    assert envfiles.read(file) == {"A": "b=c", "EMPTY": "", "SPACE": "a b", "UMLAUT": "ä"}


@pytest.mark.parametrize(
    ("address", "host"),
    [("sample-host:2222", "sample-host"), ("me@host:22", "host"), ("host", "host"), ("", "")],
)
def test_the_host_of_an_address_is_found(project: Project, address: str, host: str) -> None:
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
    envfiles.trust_sample_host(project, "[sample-host]:2222", "")
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
    (project.root / "docker/odd").mkdir()
    found = {variant.name: variant for variant in Variant.all(project)}
    assert list(found) == ["dev", "prod"]
    assert found["dev"].services == ("task1", "task2", "task3")
    assert found["prod"].services == ("tasks",)
    assert (found["dev"].binds_tree, found["prod"].binds_tree) == (True, False)


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


def test_the_first_client_whose_engine_answers_is_taken(client: Callable[..., Path]) -> None:
    client("one", "docker", version="echo no daemon >&2; exit 1")
    second = client("two", "docker", version="echo 28.2.2")
    assert Engine.find("docker") == Engine("docker", str(second)), "and no client here can build"
    assert Engine.find("podman") is None


def test_the_client_that_can_build_need_not_be_the_first(client: Callable[..., Path]) -> None:
    """A static client of 28 has neither buildx nor BuildKit; 20.10 has BuildKit inside."""
    first = client("one", "docker", version="echo 28.2.2")
    second = client("two", "docker", version="echo 20.10.24")
    build = ("env", f"SOURCE_DATE_EPOCH={MOMENT}", "DOCKER_BUILDKIT=1", str(second), "build")
    assert Engine.find("docker") == Engine("docker", str(first), build)


def test_buildx_builds_where_the_local_images_are(client: Callable[..., Path]) -> None:
    only = client(
        "one", "docker", version="echo 28.2.2", buildx_version="echo v0.12",
        context_show="echo desktop",
    )  # fmt: skip
    found = Engine.find("docker")
    assert found is not None
    assert found.build[2:] == ("BUILDX_BUILDER=desktop", str(only), "build")


def test_compose_is_the_plugin_or_the_program(client: Callable[..., Path]) -> None:
    client("one", "docker", version="echo 28.2.2")
    program = client("two", "docker-compose", version="echo 1.29.2")
    found = Engine.find("docker")
    assert found is not None
    assert found.compose == (str(program),)
    plugin = client("three", "docker", compose_version="echo v2.24")
    found = Engine.find("docker")
    assert found is not None
    assert found.compose == (str(plugin), "compose")


def test_a_client_that_hangs_counts_as_none(
    client: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    client("one", "docker", version="exec /bin/sleep 60")
    real = engines.quiet
    monkeypatch.setattr(engines, "quiet", lambda *words, timeout: real(*words, timeout=0.2))
    assert Engine.find("docker") is None


def test_only_values_that_make_reads_as_they_are_reach_its_file(
    project: Project, client: Callable[..., Path]
) -> None:
    """A client in a folder with a space, a quote, a dollar sign and a hash."""
    client("one", "docker", version="exit 1")
    folder = "a $(false) '#"
    client(folder, "docker", version="echo 20.10.24")
    client(folder, "docker-compose", version="echo 1.29.2")
    output = project.state / "docker.mk"
    prepare.prepare(project, str(output), "prod-build")
    makefile = project.root / "test.mk"
    makefile.write_text(f"include {output.name}\nshow:\n\t@$(DOCKER) version\n")
    done = subprocess.run(
        ["/usr/bin/env", "make", "-f", str(makefile), "-I", str(output.parent), "show"],
        env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "20.10.24\n", done.stderr


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("git@host.example:team/x.git", "ssh://host.example/team/x.git"),
        ("https://me:secret@host.example:8443/x.git", "https://host.example:8443/x.git"),
        ("ssh://git@git.example/it", "ssh://git.example/it"),
        ("/srv/x.git", ""), ("file:///srv/x.git", ""), ("../it", ""), ("", ""),
    ],
)  # fmt: skip
def test_the_address_of_the_source_shows_no_account_and_no_path(url: str, shown: str) -> None:
    assert prepare.public_address(url) == shown


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


# --- locks ----------------------------------------------------------------------------------


def test_the_locks_are_those_of_their_requirements(project: Project) -> None:
    assert locks.stale(project) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "stale"),
    [
        ("prod.in", "fabric>=3.2,<4\n", "fabric>=3.2,<4\ncolorama\n", ["prod", "dev"]),
        ("prod.in", "fabric>=3.2,<4\n", "fabric>=3.3\n", ["prod", "dev"]),
        ("prod.in", "fabric>=3.2,<4\n", "", ["prod", "dev"]),
        ("dev.in", "debugpy\n", "", ["dev"]),
        ("uv.in", "uv\n", "uv<1\n", ["uv"]),
        ("prod.in", "fabric>=3.2,<4\n", "fabric>=3.2,<4    # SSH\n\n# more\n", []),
        ("prod.in", "pyyaml>=6\npython-dotenv>=1\n", "python-dotenv>=1\npyyaml>=6\n", []),
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
        locks.record_lock(project, lock)
    assert locks.stale(project) == []


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
    assert venv.build_secrets() == {"pip_conf": conf, "ca": bundle}
    monkeypatch.setenv("PIP_CERT", str(other))
    assert venv.build_secrets() == {"pip_conf": conf, "ca": other}
    monkeypatch.setenv("PIP_CERT", str(tmp_path / "gone.pem"))
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "gone.conf"))
    assert "pip_conf" not in venv.build_secrets()
    monkeypatch.setenv("PIP_CONFIG_FILE", str(conf))
    conf.write_text("not a pip.conf")
    assert venv.build_secrets()["pip_conf"] == conf


def test_pip_conf_is_translated_for_uv(tmp_path: Path) -> None:
    conf = tmp_path / "pip.conf"
    conf.write_text(
        "[global]\nindex_url = https://a.example/simple\n"
        "[install]\nextra-index-url =\n  https://b.example\n  https://c.example\n"
    )
    script = Path(__file__).parents[2] / "requirements/pip_settings.py"

    def exported(text: str) -> tuple[int, str]:
        conf.write_text(text)
        done = subprocess.run(
            [sys.executable, script, conf], env={}, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    code, out = exported(conf.read_text())
    assert code == 0
    assert "export UV_DEFAULT_INDEX=https://a.example/simple\n" in out
    assert "export UV_INDEX='https://b.example https://c.example'\n" in out
    assert exported("no pip.conf") == (1, "pip.conf: File contains no section headers.\n")


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


@pytest.mark.parametrize(("name", "opened"), [("prod", True), ("dev", False)])
def test_a_closed_secret_becomes_readable_where_a_fixed_uid_reads_it(
    project: Project, name: str, opened: bool
) -> None:
    variant = Variant(project, name)
    envfiles.make_files(variant)
    key = project.root / "envs/secrets/ssh_key"
    key.chmod(0o600)
    envfiles.prepare(variant)
    assert bool(key.stat().st_mode & 0o004) is opened
    assert not key.parent.stat().st_mode & 0o077


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_a_key_outside_of_envs_is_never_opened_to_others(
    project: Project, tmp_path: Path, link: str
) -> None:
    variant = Variant(project, "prod")
    envfiles.make_files(variant)
    outside = tmp_path / "id"
    outside.write_text("key")
    outside.chmod(0o600)
    key = project.root / "envs/secrets/ssh_key"
    key.unlink()
    getattr(key, link)(outside)
    envfiles.prepare(variant)
    assert outside.stat().st_mode & 0o077 == 0


# --- Debian packages --------------------------------------------------------------------------


@pytest.mark.parametrize(("purpose", "package"), [("test", "strace"), ("bench", "lftp")])
def test_packages_are_named_and_not_installed_where_setup_refuses(
    project: Project,
    purpose: str,
    package: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LIGHTERAGE_SETUP", "0")
    monkeypatch.setenv("PATH", "/none")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("nothing may be run"))
    programs = {"test": {"no-strace-here": "strace"}, "bench": {"no-lftp-here": "lftp"}}
    monkeypatch.setattr(venv, "PURPOSES", programs)
    venv.packages(project, purpose)
    lines = capfd.readouterr().err.splitlines()
    assert f"no-{package}-here" in lines[0]
    assert package in lines[1].split()


@pytest.mark.parametrize("works", [True, False])
def test_programs_that_would_be_services_are_only_unpacked(
    project: Project,
    works: bool,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Apt and dpkg-deb are stand-ins; a download that fails leaves nothing."""
    bin_folder = project.root / "bin"
    bin_folder.mkdir()
    for name, script in {
        "apt-get": 'case "$*" in *download*) touch a.deb "b c.deb";; esac; '
        f'case "$*" in *install*) exit 9;; *download*) {"exit 0" if works else "exit 1"};; esac',
        "dpkg-deb": "mkdir -p usr/bin; touch usr/bin/prometheus; chmod +x usr/bin/*",
    }.items():
        (bin_folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (bin_folder / name).chmod(0o755)
    monkeypatch.delenv("LIGHTERAGE_SETUP", raising=False)
    monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setattr(os, "chown", lambda *_, **__: None)
    monkeypatch.setattr(venv, "PEERS", {})
    monkeypatch.setattr(venv, "TESTED_WITH", {})
    monkeypatch.setattr(venv, "UNPACKED", {"prometheus": "prometheus"})
    for _ in range(2):
        venv.packages(project, "test")
    folder = project.root / ".lighterage/programs"
    assert folder.exists() is works
    assert not folder.with_name("programs.new").exists()
    said = capfd.readouterr().err
    assert said.count("unpacking prometheus into") == (1 if works else 2)
    assert ("download prometheus failed; tests that run them are skipped" in said) is not works
    if works:
        assert {path.name for path in folder.rglob("*")} == {"usr", "bin", "prometheus"}
