"""The pods that `make k8s` prints, each run under docker with all that the pod states."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import pytest
import yaml

from docker.tools.context import Context
from images import in_shell
from tree import Tree

PROJECT = f"lighterage-kubernetes-{os.getpid()}"
pytestmark = pytest.mark.container
SHARDS = 3


def volume_options(documents: dict[str, Any], volume: Any, mount: Any, folder: Path) -> list[str]:
    """Mount a volume of a pod as the kubelet does."""
    at, gid = mount["mountPath"], 10001
    match volume:
        case {"secret": secret}:
            made = folder / "secret"
            for item in secret["items"]:
                path = made / item["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / "files" / item["key"], path)
                path.chmod(secret["defaultMode"])
                os.chown(path, 0, gid)  # fsGroup
                for above in path.relative_to(made).parents:
                    (made / above).chmod(0o755)  # whatever the umask
            return ["--volume", f"{made}:{at}:ro"]
        case {"configMap": {"name": name}}:
            config = documents["ConfigMap"]
            assert config["metadata"]["name"] == name
            path = folder / mount["subPath"]
            path.write_text(config["data"][mount["subPath"]])
            path.chmod(0o644)
            return ["--volume", f"{path}:{at}:ro"]
        case {"emptyDir": {"medium": "Memory", "sizeLimit": limit}}:
            return ["--tmpfs", f"{at}:size={limit[:-2].lower()}m,mode=0777"]
        case {"persistentVolumeClaim": {"claimName": name}}:
            return ["--volume", f"{name}:{at}"]
    raise AssertionError(volume)


def docker_options(documents: dict[str, Any], index: int, folder: Path) -> list[str]:
    """Return the words of `docker run` for one index of the Job."""
    job = documents["Job"]
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    user, security = pod["securityContext"], container["securityContext"]
    fields = {"spec.nodeName": "node-1"}
    words = ["--user", f"{user['runAsUser']}:{user['runAsGroup']}"]
    words += ["--group-add", str(user["fsGroup"])]
    words += ["--read-only"] if security["readOnlyRootFilesystem"] else []
    words += [f"--cap-drop={name}" for name in security["capabilities"]["drop"]]
    if not security["allowPrivilegeEscalation"]:
        words += ["--security-opt", "no-new-privileges:true"]
    limits = container["resources"]["limits"]
    words += ["--cpus", limits["cpu"], "--memory", limits["memory"].replace("Mi", "m")]
    for item in container["env"]:
        value = item.get("value") or fields[item["valueFrom"]["fieldRef"]["fieldPath"]]
        words += ["--env", f"{item['name']}={value}"]
    # Kubernetes sets it in each pod of an Indexed Job.
    words += ["--env", f"JOB_COMPLETION_INDEX={index}"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for mount in container["volumeMounts"]:
        words += volume_options(documents, volumes[mount["name"]], mount, folder)
    return [*words, container["image"], *container["args"]]


@pytest.mark.skipif(os.getuid() != 0, reason="ONLY ROOT GIVES FILES TO A GROUP: pods untested")
def test_each_index_of_a_job_lands_its_part_as_the_pod_states(
    tree: Tree, engine: Context, tmp_path: Path
) -> None:
    tree.ok("run", "ENV=prod", "TASK=1")  # starts the sample host
    text = tree.ok("k8s", "TASK=3", f"SHARDS={SHARDS}", "RUN_ID=r1")
    documents = {one["kind"]: one for one in yaml.safe_load_all(text)}
    (tmp_path / "files").mkdir()
    for option in text.partition("\n")[0].split():
        if option.startswith("--from-file="):
            _, name, source = option.split("=")
            shutil.copyfile(tree.folder / source, tmp_path / "files" / name)
    image = documents["Job"]["spec"]["template"]["spec"]["containers"][0]["image"]
    engine.must("tag", f"{PROJECT}-prod", image)
    start = [*engine.docker, "run", "--rm", "--network", f"{PROJECT}-prod-tasks"]
    pods = []
    for index in range(SHARDS):
        folder = tmp_path / str(index)
        shutil.copytree(tmp_path / "files", folder / "files")
        words = docker_options(documents, index, folder)
        pods.append(Popen([*start, *words], stdout=PIPE, stderr=PIPE, text=True))
    ended = [(*pod.communicate(timeout=120), pod.returncode) for pod in pods]
    engine.must("image", "rm", image)
    assert [code for *_, code in ended] == [0] * SHARDS, ended
    assert "the run is published" in "".join(output for output, *_ in ended)
    manifest = json.loads(in_shell(tree, "prod", "cat data/task_3/events/manifest.json"))
    tree.ok("run", "ENV=prod", "TASK=3", "ARGS=--file-save-path data/alone")
    alone = json.loads(in_shell(tree, "prod", "cat data/alone/manifest.json"))

    def files(manifest: Any) -> list[tuple[str, int, str]]:
        return sorted((file["path"], file["size"], file["sha256"]) for file in manifest["files"])

    assert files(manifest) == files(alone)
    assert files(alone)
