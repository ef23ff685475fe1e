"""The completion of make: in a real bash, which completes as it does at a prompt; zsh's syntax."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tree import NO_ENGINE, Tree

SCRIPT = """
eval "$(make --silent completion ARGS=bash)" || exit
cd "$folder" || exit
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMP_POINT=${#COMP_LINE}
_lighterage_make make "${!#}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """Give a tree in a folder whose name has a space and a letter that is not ASCII."""
    return Tree(tmp_path_factory.mktemp("completion") / "my clöne", env=NO_ENGINE)


def completed(tree: Tree, *words: str, folder: Path | None = None, script: str = "") -> list[str]:
    """Return what bash offers for the last word, which is being typed."""
    done = subprocess.run(
        ["bash", "--norc", "-c", script + SCRIPT, "bash", "make", *words],
        cwd=tree.folder, env=tree.environ({"folder": str(folder or tree.folder)}),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines() if done.stdout != "\n" else []


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["hi"], ["history"]),
        (["diff"], ["diff-data", "diff"]),
        (["prod-r"], ["prod-run", "prod-resume", "prod-reproduce"]),
        (["run", "EN"], ["ENV=", "ENGINE="]),
        (["run", "ENV", "="], ["dev", "prod"]),
        (["run", "ENV", "=", "p"], ["prod"]),
        (["run", "ENV=p"], ["ENV=prod"]),
        (["run", "TASK", "=", ""], ["1", "2", "3"]),
        (["run", "RUNNER", "="], ["container", "host"]),
        (["run", "ENGINE", "=", "p"], ["podman"]),
        (["build", "BASE", "="], ["hub", "debian"]),
        (["build", "EXTRAS", "="], ["s3", "parquet", "apprise"]),
        (["new-task", "KIND", "="], ["archive", "tree"]),
        (["build", "OFFLINE", "="], ["0", "1"]),
        (["run", "ARGS", "="], []),
        (["nothing-like-this"], []),
        (["run", "NOTHING", "="], []),
    ],
)
def test_bash_offers_targets_variables_and_values(
    tree: Tree, words: list[str], offered: list[str]
) -> None:
    assert completed(tree, *words) == offered


def test_an_empty_word_offers_every_target_but_not_each_with_a_variant(tree: Tree) -> None:
    offered = completed(tree, "")
    assert {"run", "show", "diff-data", "completion", "ENV=", "TASK="} <= set(offered)
    assert not [word for word in offered if word.startswith(("prod-", "dev-", "+"))]
    assert "help-targets" not in offered
    assert {"dev", "prod"} <= set(completed(tree, "diff", ""))


def test_new_tasks_and_variants_are_offered(tree: Tree, tmp_path: Path) -> None:
    copy = Tree(tmp_path / "clone", env=NO_ENGINE)
    shutil.copy(copy.folder / "tasks/task_1.py", copy.folder / "tasks/task_47.py")
    shutil.copytree(copy.folder / "docker/prod", copy.folder / "docker/staging")
    shutil.copy(copy.folder / "envs/prod.env.example", copy.folder / "envs/staging.env.example")
    assert completed(copy, "run", "TASK", "=", "4") == ["47"]
    assert completed(copy, "run", "ENV", "=", "s") == ["staging"]
    assert "staging-run" in completed(copy, "stag")


def test_file_names_with_spaces_are_offered_whole(tree: Tree) -> None:
    for name in ("my image.tar.gz", "my imäge 2.tar.gz", "other.tar.gz"):
        (tree.folder / name).touch()
    both = ["my image.tar.gz", "my imäge 2.tar.gz"]
    assert sorted(completed(tree, "load", "FILE", "=", "my")) == both
    assert sorted(completed(tree, "load", "FILE", "=", r"my\ im")) == both
    assert completed(tree, "load", "FILE=oth") == ["FILE=other.tar.gz"]


def test_elsewhere_make_is_completed_as_before(tree: Tree, tmp_path: Path) -> None:
    assert completed(tree, "r", folder=tmp_path) == []
    before = "_make() { COMPREPLY=(theirs); }\n"
    assert completed(tree, "r", folder=tmp_path, script=before) == ["theirs"]
    loader = "_completion_loader() { _make() { COMPREPLY=(loaded); }; complete -F _make make; }\n"
    assert completed(tree, "r", folder=tmp_path, script=loader) == ["loaded"]
    assert completed(tree, "hi", script=loader) == ["history"]


def test_the_script_is_that_of_the_users_shell(tree: Tree) -> None:
    assert "for zsh" in tree.ok("completion", env={"SHELL": "/bin/zsh"})
    assert "for bash" in tree.ok("completion", env={"SHELL": "/bin/bash"})
    assert "for bash" in tree.ok("completion", "ARGS=bash", env={"SHELL": "/bin/zsh"})
    assert "ARGS=fish is not known; allowed: bash zsh" in tree.refused("completion", "ARGS=fish")


@pytest.mark.skipif(not shutil.which("zsh"), reason="NO ZSH HERE: the syntax of its completion")
def test_zsh_accepts_the_script(tree: Tree) -> None:
    script = tree.ok("completion", "ARGS=zsh")
    done = subprocess.run(
        ["zsh", "-f", "-n", "/dev/stdin"],
        input=script, capture_output=True, text=True, check=False, timeout=20,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
