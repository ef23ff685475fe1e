"""The recipes of docs/orchestrators.md that need a container engine, with the prod image."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import images
from docker.tools.context import Context
from recipes import recipe, run
from results import valid
from tree import Tree

PROJECT = f"lighterage-recipes-{os.getpid()}"
pytestmark = pytest.mark.container


@pytest.fixture(scope="module")
def tree(engine: Context, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """Give a tree with the prod image, its sample host running, and task 2 landed."""
    folder = tmp_path_factory.mktemp("images") / "clone"
    with images.tree_in(folder, engine, "prod") as tree:
        tree.ok("run", "TASK=2", "ENV=prod")
        yield tree


DOCKER_RUNS = """
from airflow.exceptions import AirflowException, AirflowSkipException
land, use = made.get_task("land"), made.get_task("use")
for more in ([], ["--force"], ["--remote-file-path=missing.tar.gz"]):
    land.command = [*land.command[:3], *more]
    try:
        use.python_callable(land.execute({}))
    except AirflowSkipException:
        print("skipped")
    except AirflowException as error:
        print("failed", error)
"""


def test_airflow_docker_operator_lands_skips_and_fails(tree: Tree, tmp_path: Path) -> None:
    text = recipe(
        "python", "DockerOperator", ("/srv/lighterage/envs", str(tree.folder / "envs")),
        ('"lighterage-prod"', f'"{PROJECT}-prod"'),
        ("lighterage-prod-data", f"{PROJECT}-prod-data"),
        ('mem_limit="1g"', f'mem_limit="1g", network_mode="{PROJECT}-prod-tasks"'),
        ("\nlighterage_docker()\n", "\nmade = lighterage_docker()\n"),
    )  # fmt: skip
    out = run("airflow", tmp_path, text + DOCKER_RUNS)
    ends = re.findall(r"(?m)^(?:skipped|failed|\d+ files).*$", out)
    assert [end.split()[0] for end in ends] == ["skipped", "3", "failed"]
    assert "files in data/task_2/events" in ends[1]
    assert "'StatusCode': 3" in ends[2]


KUBE_CONFIG = """
current-context: none
contexts: [{name: none, context: {cluster: none, user: none}}]
clusters: [{name: none, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: none, user: {}}]
"""
POD = """
import json
from kubernetes.client import ApiClient, models as k8s
from airflow.exceptions import AirflowException, AirflowSkipException
land = made.get_task("land")
print("pod", json.dumps(ApiClient().sanitize_for_serialization(land.build_pod_request_obj())))
pushed = []
land._push_xcom_with_fan_out = lambda _, value: pushed.append(value)
for request in ("process_pod_deletion", "patch_already_checked", "is_istio_enabled"):
    setattr(land, request, lambda *_, **__: None)
for code in (0, 99, 5):
    ended = k8s.V1ContainerStateTerminated(exit_code=code)
    status = k8s.V1ContainerStatus(
        name="base", image="x", image_id="x", ready=False, restart_count=0,
        state=k8s.V1ContainerState(terminated=ended),
    )
    phase = "Failed" if code else "Succeeded"
    pod = k8s.V1Pod(
        metadata=k8s.V1ObjectMeta(name="p", namespace="n"),
        status=k8s.V1PodStatus(phase=phase, container_statuses=[status]),
    )
    try:
        land.cleanup(pod=pod, remote_pod=pod, xcom_result=code, context={"ti": None})
        print("ended success")
    except AirflowSkipException:
        print("ended skipped")
    except AirflowException:
        print("ended failed")
print("pushed", pushed)
"""


def test_airflow_kubernetes_operator_builds_a_pod_whose_sidecar_reads_the_result(
    tree: Tree, engine: Context, tmp_path: Path
) -> None:
    """There is no cluster: the container runs as the pod says, with a folder as an emptyDir."""
    text = recipe(
        "python", "KubernetesPodOperator",
        ("\nlighterage_kubernetes()\n", "\nmade = lighterage_kubernetes()\n"),
    )  # fmt: skip
    (tmp_path / ".kube").mkdir()
    (tmp_path / ".kube/config").write_text(KUBE_CONFIG)
    lines = [line.partition(" ") for line in run("airflow", tmp_path, text + POD).splitlines()]
    pod = json.loads(next(rest for word, _, rest in lines if word == "pod"))
    assert [rest for word, _, rest in lines if word == "ended"] == ["success", "skipped", "failed"]
    assert [rest for word, _, rest in lines if word == "pushed"] == ["[99, 5]"], "beside success"
    base, sidecar = pod["spec"]["containers"]
    assert sidecar["name"] == "airflow-xcom-sidecar"
    assert {"name": "xcom", "mountPath": "/airflow/xcom"} in base["volumeMounts"]
    assert base["securityContext"]["readOnlyRootFilesystem"]
    xcom = tmp_path / "xcom"
    xcom.mkdir()
    xcom.chmod(0o777)
    envs = tree.folder / "envs"
    done = engine.ask(
        "run", "--rm", "--read-only", "--cap-drop=ALL", "--tmpfs=/tmp",
        f"--network={PROJECT}-prod-tasks", f"--volume={xcom}:/airflow/xcom",
        f"--volume={envs}/secrets/prod.env:/app/envs/prod.env:ro",
        f"--volume={envs}/known_hosts:/app/envs/known_hosts:ro",
        f"--volume={PROJECT}-prod-data:/app/data",
        *(f"--env={one['name']}={one['value']}" for one in base["env"] if "value" in one),
        f"{PROJECT}-prod", *base["args"],
    )  # fmt: skip
    assert done.returncode == 99, done.stderr
    path = xcom / "return.json"
    assert path.stat().st_mode & 0o444 == 0o444, "the sidecar runs as another user"
    assert valid(path.read_text(), 99)["status"] == "unchanged"


def shell(tree: Tree, engine: Context, script: str) -> int:
    """Run a recipe's commands in the tree, with this machine's compose; return the exit code."""
    script = script.replace("docker compose", shlex.join(engine.compose))
    return subprocess.run(
        ["bash", "-euc", script], cwd=tree.folder, env=tree.environ(), check=False,
        stdin=subprocess.DEVNULL,
    ).returncode  # fmt: skip


def test_compose_writes_the_result_to_a_mounted_folder(tree: Tree, engine: Context) -> None:
    assert shell(tree, engine, recipe("sh", "install -d")) == 99
    assert valid((tree.folder / "results/2.json").read_text(), 99)["status"] == "unchanged"


def test_cron_appends_a_line_for_each_run(tree: Tree, engine: Context) -> None:
    command = recipe("sh", "0 3 * * *", ("/srv/lighterage", shlex.quote(str(tree.folder))))
    for count in (1, 2):
        assert shell(tree, engine, command.partition("0 3 * * *  ")[2]) == 0
        lines = (tree.folder / "results.jsonl").read_text().splitlines()
        assert len([valid(line, 0) for line in lines]) == count
