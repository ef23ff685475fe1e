"""The images of both variants, the tasks in them, and shells: all through make, on a copy."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from docker.tools.context import Context
from images import VARIANTS, edited, in_shell
from results import last_line, valid
from tree import REPOSITORY, Tree, on_terminal

PROJECT = f"lighterage-test-{os.getpid()}"
pytestmark = pytest.mark.container


def files_in(tree: Tree, variant: str, folder: str) -> list[str]:
    """List the files below a folder of a variant's container, relative to it."""
    loop = "for f in **; do [ ! -f $f ] || echo $f; done"
    return in_shell(tree, variant, f"shopt -s globstar dotglob; cd {folder}; {loop}").split()


# --- builds ---------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_is_built_again_while_nothing_changed(tree: Tree, variant: str) -> None:
    done = tree.make("build", f"ENV={variant}")
    assert f"image {PROJECT}-{variant} is up to date" in done.stderr
    assert "building" not in done.stderr


def test_prod_contains_what_it_needs_and_nothing_else(tree: Tree) -> None:
    """The environment and the tasks, file by file: no pip, no compiler, no tests, no tools."""
    found = [name for name in files_in(tree, "prod", "/app") if not name.startswith("data/")]
    expected = {
        path.relative_to(REPOSITORY).as_posix() for path in REPOSITORY.glob("tasks/**/*.py")
    }
    others = {"config.yaml"} | {name for name in found if name.startswith("envs/")}
    assert {name for name in found if not name.endswith(".pyc")} == expected | others
    tools = "pip pip3 uv gcc cc make git ssh curl apt dpkg ruff mypy pytest debugpy"
    modules = "pip setuptools pytest debugpy"
    script = f"for m in {modules}; do python -c 'import '$m 2>&1 | tail -1; done"
    said = in_shell(tree, "prod", f"command -v {tools} || true; {script}").splitlines()
    assert said == [f"ModuleNotFoundError: No module named '{name}'" for name in modules.split()]


def test_the_bill_of_materials_of_an_image_is_printed(tree: Tree) -> None:
    bill = json.loads(tree.ok("sbom", "ENV=prod"))
    assert bill["bomFormat"] == "CycloneDX"
    assert "fabric" in {component["name"] for component in bill["components"]}


def test_a_changed_task_rebuilds_and_dev_sees_it_live(tree: Tree) -> None:
    with edited(tree.folder / "tasks/task_1.py", ("one zip archive", "one changed archive")):
        live = in_shell(tree, "dev", "head -1 tasks/task_1.py")
        assert "one changed archive" in live
        done = tree.make("run", "ENV=prod", "ARGS=--help")
        assert f"built image {PROJECT}-prod" in done.stderr
        assert "one changed archive" in done.stdout
    assert "one zip archive" in tree.ok("run", "ENV=prod", "ARGS=--help")


def test_an_image_is_replaced_by_the_next_and_the_old_one_removed(
    tree: Tree, engine: Context
) -> None:
    """An edited task makes the last layer of prod again, and no other."""

    def layers() -> tuple[str, list[str]]:
        tree.ok("build", "ENV=prod")
        facts = engine.inspect("image", f"{PROJECT}-prod")
        return facts["Id"], facts["RootFS"]["Layers"]

    before, first = layers()
    with edited(tree.folder / "tasks/fetch/api.py", ("class Fetch:", "# edited\nclass Fetch:")):
        after, second = layers()
        assert after != before
        assert first[:-1] == second[:-1]
        assert engine.ask("image", "inspect", before).returncode != 0
    assert layers()[1] == first, "the same tree makes the same layers"


# --- tasks ----------------------------------------------------------------------------------


def test_dev_lands_in_data_here_and_keeps_archives_and_prod_in_its_volume_alone(tree: Tree) -> None:
    sizes = {}
    owner = tree.folder.stat()
    for task in "123":
        done = tree.make("run", f"TASK={task}", "ARGS=--json")
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert (report["status"], report["variant"]) == ("landed", "dev")
        assert " DEBUG tasks.fetch" in done.stderr
        sizes["dev", task] = report["bytes"]
        target = tree.folder / f"data/task_{task}/events"
        manifest = json.loads((target / "manifest.json").read_text())
        assert [str(path) for path in sorted(p["path"] for p in manifest["archives"])]
        for path in [tree.folder / "data", *target.parent.rglob("*")]:
            assert (path.stat().st_uid, path.stat().st_gid) == (owner.st_uid, owner.st_gid), path
        for file in [*manifest["files"], *manifest["archives"]]:
            assert (target / file["path"]).stat().st_size == file["size"]

        done = tree.make("run", f"TASK={task}", "ENV=prod", "ARGS=--json")
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert (report["status"], report["variant"]) == ("landed", "prod")
        assert not re.search("DEBUG|INFO", done.stderr)
        assert f"data/ is in the volume {PROJECT}-prod-data" in done.stderr
        sizes["prod", task] = report["bytes"]
    assert sizes["prod", "2"] > 5 * sizes["dev", "2"], "the prod account has the full datasets"
    found = files_in(tree, "prod", "data")
    for task in "123":
        landed = {name for name in found if name.startswith(f"task_{task}/events/")}
        assert f"task_{task}/events/manifest.json" in landed
        assert len(landed) > 1
        assert {Path(name).suffix for name in landed} == {".csv", ".json"}


def test_the_result_that_readme_shows_is_that_of_a_run(tree: Tree) -> None:
    readme = (REPOSITORY / "README.md").read_text()
    shown = readme.partition("```text\n")[2].partition("```")[0]
    printed = tree.ok("run", "TASK=2", "ENV=prod", "ARGS=--force")
    measured = re.compile(r"in [0-9.]+ s \([0-9.]+ [kM]B/s\);")
    # What has changed since a run before it follows, as in docs/output.md.
    assert measured.sub("", printed).startswith(measured.sub("", shown))
    assert measured.search(shown)


def test_a_task_of_ones_own_runs_in_both_variants(tree: Tree) -> None:
    section = (REPOSITORY / "README.md").read_text().partition("## Your own task")[2]
    config, task = tree.folder / "config.yaml", tree.folder / "tasks/task_4.py"
    before = config.read_text()
    try:
        task.write_text(section.partition("```python\n")[2].partition("```")[0])
        config.write_text(before + section.partition("```yaml\n")[2].partition("```")[0])
        for variant in VARIANTS:
            assert f"task 4 ({variant}): landed" in tree.ok("run", "TASK=4", f"ENV={variant}")
    finally:
        task.unlink()
        config.write_text(before)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_result_file_is_written_below_data_and_prod_refuses_its_read_only_root(
    tree: Tree, variant: str
) -> None:
    options = "--result-file=data/results/2.json --json=line --unchanged-exit-code=99"
    tree.ok("run", "TASK=2", f"ENV={variant}")
    done = tree.make("run", "TASK=2", f"ENV={variant}", f"ARGS={options}")
    assert done.returncode == 2, "make's own"
    assert last_line(done.stdout, 99)["status"] == "unchanged"
    assert "ended with exit code 99: unchanged (--unchanged-exit-code)" in done.stderr
    assert last_line(tree.ok("run", "TASK=2", f"ENV={variant}", f"ARGS={options} --force"), 0)
    landed = in_shell(tree, variant, "cat data/results/2.json")
    assert valid(landed, 0)["status"] == "landed"
    if variant == "dev":
        path = tree.folder / "data/results/2.json"
        assert path.read_text() == landed
        assert path.stat().st_uid == tree.folder.stat().st_uid
        return
    done = tree.make("run", "TASK=2", "ENV=prod", "ARGS=--result-file=result.json --force")
    assert "result file result.json: Read-only file system: choose a path" in done.stderr
    assert "ended with exit code 8: local disk" in done.stderr
    assert not done.stdout


def test_the_commands_of_a_dry_run_work_when_typed(tree: Tree) -> None:
    for variant in VARIANTS:
        tree.ok("run", "TASK=2", f"ENV={variant}")
        lines = tree.ok("-n", "run", "TASK=2", f"ENV={variant}").replace("\\\n", " ").splitlines()
        commands = [re.sub(r"^\S+ -S -m docker.setup \S+ ", "", line) for line in lines]
        assert commands[0].startswith("env SOURCE_DATE_EPOCH="), lines
        assert " run --rm " in commands[-1]
        done = subprocess.run(
            ["bash", "-euc", "\n".join(commands)], env=tree.environ(), cwd=tree.folder,
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert f"task 2 ({variant}): unchanged" in done.stdout


# --- shells and what holds in them ------------------------------------------------------------


def test_prod_is_locked_down(tree: Tree) -> None:
    writes = "for f in /x /app/x /app/tasks/x /opt/venv/x /etc/x; do touch $f; done 2>&1 || true"
    allowed = "touch /tmp/x data/x && rm data/x && echo yes"
    said = in_shell(
        tree, "prod", f"cat /proc/self/status; id -u; id -g; whoami; {writes}; {allowed}"
    ).splitlines()
    rows = dict(line.split(":\t", 1) for line in said if ":\t" in line)
    assert rows["CapEff"].strip() == rows["CapBnd"].strip() == "0" * 16
    assert rows["NoNewPrivs"].strip() == "1"
    assert rows["Seccomp"].strip() == "2"
    assert said[-9:-6] == ["10001", "10001", "lighterage"]
    assert all("Read-only file system" in line for line in said[-6:-1]), said
    assert said[-1] == "yes"


def test_dev_is_the_developers_own_and_has_debugger_tests_and_linters(tree: Tree) -> None:
    owner = tree.folder.stat()
    tools = "python -c 'import debugpy, pytest, mypy' && ruff --version >/dev/null"
    found = in_shell(tree, "dev", f"{tools}; id -u; id -g; touch made && rm made && pwd").split()
    assert found == [str(owner.st_uid), str(owner.st_gid), "/app"]


def test_a_shell_on_a_terminal_is_interactive(tree: Tree) -> None:
    """A terminal of its own, as a user has: a prompt, a command, an answer."""
    said, code = on_terminal(
        tree, ["shell", "ENV=prod"], lambda said: b"$ " in said,
        b"echo $((40 + 2)) $-; echo ~lighterage; exit 0\n",
    )  # fmt: skip
    assert b"42 hi" in said, said
    assert b"lighterage@" in said, "a prompt with a name"
    assert b"/tmp" in said.rpartition(b"42 hi")[2], said
    assert code == 0
