"""Files for other programs: bake, devcontainers, compose's watch, CI workflow, git hooks."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from docker.setup.bases import HUB_IMAGES
from docker.setup.project import Failure
from docker.tools.bake import bake
from docker.tools.context import Context
from docker.tools.reference import reference
from makefile import targets
from tasks.settings import FIELDS
from tree import REPOSITORY, Tree

DIGEST = f"sha256:{'1' * 64}"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Give a copy of the repository."""
    return Tree(tmp_path / "clone")


def context(tree: Tree, **values: Any) -> Context:
    return Context(tree.folder, registry="registry.example/team/", **values)


def printed(context: Context, capsys: pytest.CaptureFixture[str], *names: str) -> dict[str, Any]:
    assert bake(context, *map(context.variant, names)) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def yaml_of(path: str) -> Any:
    return yaml.safe_load((REPOSITORY / path).read_text(encoding="utf-8"))


def test_bake_has_each_variant_for_two_architectures_with_attestations(
    tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree.folder / "docker/staging").mkdir()
    for name in ("Dockerfile", "compose.yaml"):
        text = (REPOSITORY / "docker/prod" / name).read_text()
        (tree.folder / "docker/staging" / name).write_text(text)
    (tree.folder / "envs/staging.env.example").write_text("")
    found = printed(context(tree, extras="parquet s3"), capsys)
    assert found["group"]["default"]["targets"] == ["dev", "prod", "staging"]
    for name, target in found["target"].items():
        dockerfile = (tree.folder / target["context"] / target["dockerfile"]).read_text()
        assert target["tags"] == [f"registry.example/team/lighterage-{name}:0.1.0"]
        assert target["platforms"] == ["linux/amd64", "linux/arm64"]
        assert target["attest"] == ["type=provenance,mode=max", "type=sbom"]
        assert target["args"]["EXTRAS"] == "parquet s3"
        for argument, image in re.findall(r"^ARG (\w+)=(\S+)$", dockerfile, re.MULTILINE):
            assert target["args"][argument] == image  # no digest is locked here


def test_bake_takes_the_locked_digests_of_a_mirror_and_named_variants(
    tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = "".join(f"{image} {DIGEST}\n" for image in HUB_IMAGES.values())
    (tree.folder / "docker/base/hub.lock").write_text(lock)
    found = printed(context(tree, hub="mirror.example/library"), capsys, "prod")
    assert list(found["target"]) == ["prod"]
    args = found["target"]["prod"]["args"]
    assert args == dict.fromkeys(("BASE", "RUNTIME"), f"mirror.example/library/python@{DIGEST}")


@pytest.mark.parametrize(("values", "text"), [({"base": "debian"}, "BASE"), ({}, "REGISTRY")])
def test_bake_refuses_what_it_cannot_build(tree: Tree, values: dict[str, Any], text: str) -> None:
    with pytest.raises(Failure, match=text):
        bake(Context(tree.folder, **values))


def test_the_devcontainer_is_a_service_of_dev() -> None:
    path = REPOSITORY / ".devcontainer/devcontainer.json"
    lines = path.read_text(encoding="utf-8").splitlines()
    found = json.loads("\n".join(line for line in lines if not line.lstrip().startswith("//")))
    compose = (path.parent / found["dockerComposeFile"]).resolve()
    assert compose == REPOSITORY / "docker/dev/compose.yaml"
    service = yaml.safe_load(compose.read_text())["services"][found["service"]]
    assert found["runServices"] == [found["service"]]
    assert f"../..:{found['workspaceFolder']}" in service["volumes"]
    assert found["initializeCommand"].split()[1] in targets()
    python = found["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    dockerfile = (compose.parent / "Dockerfile").read_text()
    assert f"PATH={Path(python).parent}:" in dockerfile


def test_editors_attach_to_each_service_of_dev() -> None:
    """By .vscode/launch.json: its port on this machine, and the live tree in the container."""
    lines = (REPOSITORY / ".vscode/launch.json").read_text(encoding="utf-8").splitlines()
    found = json.loads("\n".join(line for line in lines if not line.lstrip().startswith("//")))
    *in_containers, here = found["configurations"]
    services = yaml_of("docker/dev/compose.yaml")["services"]
    ports = {
        name: service["ports"][0].split(":")
        for name, service in services.items()
        if "ports" in service
    }
    assert {
        one["name"].replace("task ", "task").split()[0]: [
            one["connect"]["host"], str(one["connect"]["port"]), "5678"
        ]
        for one in in_containers
    } == ports  # fmt: skip
    mapping = [{"localRoot": "${workspaceFolder}", "remoteRoot": "/app"}]
    assert all(one["pathMappings"] == mapping for one in in_containers)
    assert f"DEBUG_PORT={here['connect']['port']}" in here["name"]
    assert "pathMappings" not in here, "the same paths"


def test_compose_watches_for_each_task_of_dev() -> None:
    services = set(yaml_of("docker/dev/compose.yaml")["services"]) - {"sample-host"}
    watched = yaml_of("docker/dev/compose.watch.yaml")["services"]
    assert set(watched) == services
    for service in watched.values():
        for rule in service["develop"]["watch"]:
            assert (REPOSITORY / "docker/dev" / rule["path"]).exists(), rule
        build = service["build"]
        assert (REPOSITORY / "docker/dev" / build["context"] / build["dockerfile"]).exists()


def test_the_workflow_runs_targets_that_exist_on_each_variant() -> None:
    jobs = yaml_of(".github/workflows/ci.yaml")["jobs"]
    steps = [step.get("run", "") for job in jobs.values() for step in job["steps"]]
    goals = {goal for step in steps for goal in re.findall(r"\bmake ([a-z-]+)", step)}
    assert {"doctor", "run", "verify", "sbom", "push"} <= goals <= targets()
    assert ".ci/run" in steps
    assert jobs["variant"]["strategy"]["matrix"]["variant"] == ["dev", "prod"]


def test_the_git_hooks_accept_the_tree_and_refuse_a_lint_error(tree: Tree) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, cwd=tree.folder, capture_output=True, text=True, check=False,
            env={**tree.environ(), "PRE_COMMIT_HOME": str(tree.folder.parent / "hooks"),
                 "GIT_CONFIG_GLOBAL": "/dev/null"},
        )  # fmt: skip

    hooks = [hook["id"] for hook in yaml_of(".pre-commit-config.yaml")["repos"][0]["hooks"]]
    assert run("git", "init", "--quiet").returncode == 0
    run("git", "add", "--all", ".")
    done = run(".venv/bin/pre-commit", "run", "--all-files")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Passed") == len(hooks), done.stdout
    (tree.folder / "tasks/task_4.py").write_text('"""Task 4."""\n\nimport os\n')
    run("git", "add", "tasks/task_4.py")
    refused = run(".venv/bin/pre-commit", "run")
    assert refused.returncode == 1
    assert "`os` imported but unused" in refused.stdout


def test_the_reference_has_each_setting_and_where_it_can_stand(
    tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reference(context(tree)) == 0
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", capsys.readouterr().out, re.MULTILINE)
    assert [name for name, _ in rows] == sorted(set(FIELDS) - {"variant"})
    found = {name: [cell.strip() for cell in row.split(" | ")] for name, row in rows}
    assert found["max_members"][:3] == ["a whole number, at least 1", "`100000`", "yaml, option"]
    assert found["password"][1:3] == ["", "env"]
    assert found["columns"][0] == "one of ignore, evolve, freeze"
