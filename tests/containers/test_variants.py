"""`make diff` and `make verify`: on this tree, on broken copies, and on a third variant."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from docker.setup.engine import on_path
from docker.tools.context import Context
from images import VARIANTS, edited, tree_in
from tree import ENGINE, REPOSITORY, Tree

PROJECT = f"lighterage-test-variants-{os.getpid()}"
pytestmark = pytest.mark.container


@pytest.fixture(scope="module")
def tree(engine: Context, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """Give a tree with both images built, and with the ports that contracts declare."""
    with tree_in(tmp_path_factory.mktemp("variants") / "clone", engine, *VARIANTS) as tree:
        yield tree


@pytest.fixture
def change(tree: Tree) -> Iterator[Callable[..., Path]]:
    """Give a way to replace texts in a file of the tree, which is restored afterwards."""
    with contextlib.ExitStack() as stack:
        yield lambda name, *texts: stack.enter_context(edited(tree.folder / name, *texts))


def test_both_variants_are_what_they_declare(tree: Tree) -> None:
    done = tree.make("verify")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok   differences of dev and prod" in done.stdout


def test_diff_measures_each_property_on_both_sides(tree: Tree) -> None:
    shown = tree.ok("diff", "prod", "dev", "ARGS=--json")
    assert "sample-only" not in shown, "no secret of an env file"
    rows = json.loads(shown)
    assert rows["setting log_level"] == {"differs": True, "prod": "WARNING", "dev": "DEBUG"}
    assert not rows["setting timeout"]["differs"]
    sizes = {name: float(rows["image size"][name].split()[0]) for name in ("dev", "prod")}
    assert sizes["prod"] < sizes["dev"]
    names = {line.split()[0] for line in rows["packages"]["dev"]}
    assert {"debugpy", "pytest", "fabric"} <= names
    shown = tree.ok("diff")
    assert re.search(r"^restart +no +unless-stopped$", shown, re.MULTILINE)
    assert "setting timeout" not in shown
    assert "setting timeout" in tree.ok("diff", "ARGS=--all")


def test_readme_has_the_table_as_it_is_measured(tree: Tree) -> None:
    """Drifted? `make diff ARGS=--readme` writes it."""
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    table = re.search(r"<!-- make diff.*?-->\n(.*?)<!-- end -->", readme, re.DOTALL)
    assert table is not None
    assert table.group(1).strip() == tree.ok("diff", "ARGS=--markdown").strip()


def test_size_accounts_for_each_megabyte(tree: Tree, engine: Context) -> None:
    planted = tree.folder / "tasks/task_7.py"
    planted.write_text("#" * 7_000_000)
    try:
        rows = json.loads(tree.ok("prod-size", "ARGS=--json"))
    finally:
        planted.unlink()
    components = {row["name"]: row["bytes"] for row in rows["components"]}
    assert sum(components.values()) == rows["bytes"]
    assert sum(row["bytes"] for row in rows["layers"]) == rows["bytes"]
    assert 7_000_000 < rows["layers"][-1]["bytes"] < 10_000_000, "an edit makes one small layer"
    assert max(row["bytes"] for row in rows["layers"][1:-1]) > 10_000_000, "the packages"
    size = engine.inspect("image", f"{PROJECT}-prod")["Size"]
    # podman counts the blocks of what it stores, and not the bytes of the files.
    near = 0.001 if engine.engine == "docker" else 0.05
    assert rows["bytes"] == pytest.approx(size, rel=near), "as the engine has it"
    assert components["tasks"] > 7_000_000, "the added file is counted"
    assert components["cryptography"] > components["paramiko"] > 1_000_000
    assert "size knows no --jsn; known: --json" in tree.refused("prod-size", "ARGS=--jsn")


def test_a_report_shows_runs_of_the_volume_and_both_images(tree: Tree) -> None:
    tree.ok("run", "TASK=2", "ENV=prod", "ARGS=--force")
    done = tree.make("report")
    assert (done.returncode, done.stdout) == (0, ".lighterage/report.html\n"), done.stderr
    page = (tree.folder / ".lighterage/report.html").read_text(encoding="utf-8")
    runs, images = page.partition('id="images"')[::2]
    assert "<td>prod</td>" in runs
    assert "cryptography" in images
    assert "No image is shown" not in page


@pytest.mark.parametrize("variant", ["dev", "prod"])
def test_an_image_has_no_caches_and_no_replaced_files(tree: Tree, variant: str) -> None:
    """No cache of what it was made from, and nothing that a later layer removes."""
    done = tree.make("size", f"ENV={variant}")
    assert re.search(r"MB in \d+ layers$", done.stdout, re.MULTILINE)
    assert re.search(r"package +cryptography$", done.stdout, re.MULTILINE)
    assert not re.search(r"(/tmp|/root|hidden by a later layer)$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("diff", "dev"), "compares two variants"),
        (("diff", "dev", "pord"), "'pord' is not a variant"),
        (("diff", "ARGS=--jsn"), "diff knows no --jsn"),
    ],
)
def test_a_wrong_argument_is_one_line(tree: Tree, words: tuple[str, ...], said: str) -> None:
    assert said in tree.refused(*words)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("contract", "a: [\n", "docker/prod/contract.yaml: while parsing a flow node"),
        ("contract", "a: 1\n", "docker/prod/contract.yaml: expected a second document, `holds:`"),
        ("contract", "a: 1\n---\n- 3\n", "contract.yaml: expected a second document, `holds:`"),
        (
            "contract",
            "a: 1\n---\nholds: {restart: {any: [a]}}\n",
            "contract.yaml: restart: expected",
        ),
        ("compose", "a: [\n", "docker/prod/compose.yaml: "),
        ("compose", "services: {tasks: {}}\n", "docker/prod/compose.yaml: "),
    ],
)
def test_an_unusable_file_is_one_line(
    tree: Tree, change: Callable[..., Path], name: str, text: str, said: str
) -> None:
    change(f"docker/prod/{name}.yaml").write_text(text)
    lines = tree.refused("verify", "ENV=prod").splitlines()
    ours = [line for line in lines if line.startswith("lighterage: ")]
    assert said in ours[-1]
    assert lines[-2] == ours[-1], "one line, and make's own"


def test_an_unknown_setting_is_reported_before_anything_is_compared(
    tree: Tree, change: Callable[..., Path]
) -> None:
    change("config.yaml", ("log_level: WARNING", "log_level: WARNING\n    nosuch: 1"))
    error = tree.refused("diff").splitlines()[-2]
    assert "config.yaml: variants.prod: unknown key nosuch: correct the name" in error


def test_each_broken_promise_of_a_container_is_named(
    tree: Tree, change: Callable[..., Path]
) -> None:
    """Compose file and settings: what is declared and not there, and what is there undeclared."""
    change(
        "docker/prod/compose.yaml",
        ("    cap_drop: [ALL]\n", ""),
        ("    read_only: true\n", ""),
        ('    security_opt: ["no-new-privileges:true"]\n', ""),
        ("pids_limit: 128", "pids_limit: 129"),
        ("mem_limit: 1g", "mem_limit: 2g"),
        ("memswap_limit: 1g", "memswap_limit: 3g"),
        ("cpus: 1.0", "cpus: 0.5"),
        ("core: 0", "core: 1"),
        ("{soft: 1024, hard: 1024}", "{soft: 1024, hard: 1025}"),
        ("max-size: 10m", "max-size: 11m"),
        ("restart: unless-stopped", 'restart: "no"'),
        ("interval: 30s", "interval: 31s"),
        ('tmpfs: ["/tmp:size=64m,mode=1777"]', "tmpfs: /tmp:size=63m,mode=1777"),
        ("      - data:/app/data\n", "      - data:/app/data\n      - /scratch\n"),
        (
            "      HOME: /tmp\n",
            "      HOME: /tmp\n      MORE: and more\n      A_TOKEN: not-to-be-shown\n",
        ),
        ("    environment:\n", "    env_file: ../../envs/prod.env\n    environment:\n"),
        ("    stop_grace_period", "    shm_size: 128m\n    stop_grace_period"),
        ("-prod-tasks\n", "-prod-tasks\n    labels: {a: b}\n"),
        ("    networks: [tasks]\n", '    networks: [tasks]\n    ports: ["127.0.0.1::9999"]\n'),
    )
    change(
        "config.yaml",
        ("log_level: WARNING", "log_level: INFO"),
        ("keep_archive: false", "keep_archive: true\n    timeout: 31"),
        ("  3:\n", "  3:\n    prod: {retry_delay: 9}\n"),
    )
    done = tree.make("verify", "ENV=prod")
    assert done.returncode == 2
    lines = {line.strip().partition(": ")[0]: line for line in done.stdout.splitlines()}
    for row in (
        "capabilities dropped", "available capabilities", "root filesystem", "NoNewPrivs",
        "security options", "limits", "processes in force", "memory in force", "restart",
        "cpus in force", "swap in force", "open files in force", "core dumps in force",
        "log files", "log files in force",
        "restart in force", "ports", "setting log_level", "a run logs", "setting keep_archive",
        "a run keeps the archive", "setting timeout", "setting retry_delay",
        "health check", "variables", "compose shm_size", "compose file networks",
        "data", "tmpfs",
    ):  # fmt: skip
        assert row in lines, done.stdout
    assert "INFO, where WARNING is declared" in lines["setting log_level"]
    both = "not declared in docker/dev/contract.yaml and docker/prod/contract.yaml"
    assert f"dev 30.0, prod 31.0; {both}" in lines["setting timeout"]
    assert "task 3: 9.0" in lines["setting retry_delay"]
    assert "a new volume -> /scratch, where" in lines["data"]
    assert "tmpfs: /tmp:size=63m,mode=1777, where" in lines["tmpfs"]
    assert "MORE=and more" in lines["variables"]
    assert "A_TOKEN=********" in lines["variables"]
    assert "FAIL no secret in the environment of prod" in done.stdout
    shown = {
        line.split()[0] for line in done.stdout.splitlines() if "is shown by `inspect`" in line
    }
    assert shown == {"A_TOKEN", "PASSWORD"}, "an env file that the engine reads"
    assert "sample-only" not in done.stdout + done.stderr
    assert "compose env_file" in lines
    assert "compose shm_size: dev none, prod 128m; not declared" in done.stdout
    assert "image of prod" not in done.stdout.partition("FAIL")[2]


def test_each_broken_promise_of_an_image_is_named(tree: Tree, change: Callable[..., Path]) -> None:
    """A package of dev's, a compiler, an open file and root, in prod."""
    more = "sed -n '/^iniconfig==/,/via/p' requirements/dev.txt >> requirements/prod.txt"
    change(
        "docker/prod/Dockerfile",
        ("uv.txt requirements/prod.txt", "uv.txt requirements/prod.txt requirements/dev.txt"),
        ("    && sh requirements/install.sh", f"    && {more} && sh requirements/install.sh"),
        (
            "USER 10001:10001",
            "COPY --from=builder /usr/bin/strip /usr/bin/gcc\n"
            "ENV MORE=1\nRUN chmod 777 /opt && chmod u+s /usr/bin/gcc",
        ),
        ('CMD ["python", "-m", "tasks", "health"]', 'CMD ["true"]'),
        ("    && echo 'lighterage:x:10001:10001::/tmp:/bin/bash' >> /etc/passwd \\\n", ""),
    )
    change("docker/prod/contract.yaml", ("  layers: ", "  layer: "))
    done = tree.make("verify", "ENV=prod")
    assert done.returncode == 2
    assert "packages: has iniconfig" in done.stdout
    assert "compilers: gcc, where none is declared" in re.sub(r"[\[\]']", "", done.stdout)
    assert "setuid programs: /usr/bin/gcc, where none" in done.stdout
    assert re.search("writable: .*/opt", done.stdout)
    assert "image environment: has MORE=1, which is not declared" in done.stdout
    assert "image health check: has Test CMD true, which is not declared" in done.stdout
    assert "account: none, where lighterage, home /tmp, shell /bin/bash is" in done.stdout
    assert "image user: root, where 10001:10001 is declared" in done.stdout
    if ENGINE == "docker":  # container-structure-test knows no other
        assert re.search(r"FAIL image of prod\n.*user", done.stdout, re.IGNORECASE)
    assert "layer: is declared, and nothing measures it; did you mean layers?" in done.stdout


# A client that starts nothing of a compose file, and runs nothing in a container of one. It writes
# down each command that it refuses.
GUARD = """#!/bin/sh
case " $* " in
*" exec "*-sample-host" "* | *" up --detach sample-host "*) ;;
*" exec "* | *" kill "*) refused=yes ;;
*" compose "* | *" -f "*)
    case " $* " in *" run "* | *" up "* | *" start "* | *" create "*) refused=yes ;; esac ;;
esac
[ -z "${refused:-}" ] || { echo "$*" >>'%(log)s'; exit 99; }
exec '%(program)s' "$@"
"""


def test_verify_reports_an_unsafe_compose_file_and_starts_nothing(
    tree: Tree, change: Callable[..., Path], tmp_path: Path
) -> None:
    for name in ("docker", "docker-compose", "podman", "podman-compose"):
        for number, program in enumerate(on_path(name)):
            # A folder each: there may be several clients of one name, each for something else.
            guard = tmp_path / str(number) / name
            guard.parent.mkdir(exist_ok=True)
            guard.write_text(GUARD % {"log": tmp_path / "started", "program": program})
            guard.chmod(0o755)
    path = [*map(str, sorted(tmp_path.iterdir())), os.environ["PATH"]]
    unsafe = "    pid: ${PID_OF:-host}\n    volumes:\n      - /var/run/docker.sock:/tmp/s\n"
    change("docker/prod/compose.yaml", ("    volumes:\n", unsafe))
    done = tree.make("verify", "ENV=prod", env={"PATH": os.pathsep.join(path)})
    started = tmp_path / "started"
    assert not started.exists(), started.read_text()
    assert done.returncode == 2, done.stdout + done.stderr
    assert "FAIL containers of prod: not started" in done.stdout
    assert "tasks asks for pid: host" in done.stdout
    assert "tasks asks for a mount of /var/run/docker.sock" in done.stdout
    assert "compose pid: " in done.stdout, "the differences are reported as well"


def test_a_third_variant_is_a_folder_an_example_and_a_section(
    tree: Tree, change: Callable[..., Path]
) -> None:
    """With the steps of README; no Makefile and no Python is touched."""
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## Your own variant\n")[2].partition("\n## ")[0]
    script = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    line = re.search(r"`(staging: .*?)`", section)
    assert script is not None
    assert line is not None
    subprocess.run(["sh", "-euc", script.group(1)], cwd=tree.folder, check=True)
    change("config.yaml", ("variants:\n", f"variants:\n  {line.group(1)}\n"))
    assert "Variants: dev prod staging" in tree.ok("help")
    landed = tree.make("run", "ENV=staging")
    assert landed.returncode == 0, landed.stderr
    done = tree.make("verify", "ENV=staging")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok   differences of prod and staging" in done.stdout


def test_prod_has_the_optional_packages_on_request(tree: Tree) -> None:
    def has(package: str, extras: str) -> bool:
        words = f"ARGS=-c \"python -c 'import {package}'\""
        done = tree.make("shell", "ENV=prod", words, f"EXTRAS={extras}")
        assert not done.returncode or f"No module named '{package}'" in done.stderr
        return not done.returncode

    packages = {"s3": "obstore", "parquet": "duckdb", "apprise": "apprise"}
    for extras in ("s3 parquet apprise", "parquet", "s3", "apprise", ""):
        found = {extra for extra, package in packages.items() if has(package, extras)}
        assert found == {*extras.split()}
