"""Kubernetes: an Indexed Job, and a CronJob for a task with a schedule (1.29 and later)."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import yaml

from docker.setup.project import Failure
from docker.tools.cluster.job import RESTARTS, Job, mebibytes, size_of
from docker.tools.context import Context

PERMANENT = [1, 2, 3, 4, 7, 8, 10]
"""The exit codes of failures that another start does not remedy (docs/orchestrators.md)."""
KEEP_S = 7 * 86400
"""How long an ended Job and its logs can be read."""
CONTAINER = "tasks"
NO_NEW_PRIVILEGES = "no-new-privileges:true"
JOB_NAME = "metadata.labels['batch.kubernetes.io/job-name']"
CRON_NAME_LIMIT = 52
"""A CronJob's name, to which the controller adds 11 characters for the name of each Job."""


def image(context: Context, job: Job) -> str:
    """Return the name under which `make push` pushes the image to REGISTRY."""
    project = tomllib.loads((context.root / "pyproject.toml").read_text(encoding="utf-8"))
    registry = f"{context.registry.rstrip('/')}/" if context.registry else ""
    return f"{registry}{job.prefix}:{project['project']['version']}"


def render(job: Job) -> str:
    """Return the documents for `kubectl apply`; the secret is the user's to create."""
    files = {name: text["file"] for name, text in job.compose["secrets"].items()}
    options = " ".join(
        f"--from-file={name}={files[name].removeprefix('../../')}" for name in job.secrets
    )
    documents = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": _metadata(job, f"{job.prefix}-config", "config"),
            "data": {"config.yaml": job.config},
        },
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": _metadata(job, job.name, "run"),
            "spec": _job(job, {"value": job.run_id}),
        },
    ]
    if job.schedule:
        documents.append(_cron_job(job))
    text = yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=100)
    return f"# Needs: kubectl create secret generic {job.prefix} {options}\n{text}"


class _Dumper(yaml.SafeDumper):
    """Writes a text of several lines as such."""

    def represent_text(self, text: str) -> yaml.Node:
        style = "|" if "\n" in text else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)


def _metadata(job: Job, name: str, component: str) -> dict[str, Any]:
    labels = {"name": job.prefix, "component": component}
    return {
        "name": name,
        "labels": {f"app.kubernetes.io/{key}": value for key, value in labels.items()},
    }


def _cron_job(job: Job) -> dict[str, Any]:
    """Return the task's schedule; the name of each Job is the id of its run.

    Raises:
        Failure: Kubernetes does not know the schedule, or the name is too long.
    """
    name = f"{job.prefix}-{job.command[0]}"
    if re.search(r"(?i)#|(?<![a-z])L", job.schedule) or len(job.schedule.split()) != 5:
        raise Failure(
            f"schedule of task {job.command[0]}: {job.schedule} has what Kubernetes does not know:"
            " write five fields, without L and #"
        )
    if len(name) > CRON_NAME_LIMIT:
        raise Failure(f"PROJECT: {name} has more than {CRON_NAME_LIMIT} characters: shorten it")
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": _metadata(job, name, "schedule"),
        "spec": {
            "schedule": job.schedule,
            "timeZone": job.time_zone,
            "concurrencyPolicy": "Forbid",
            "jobTemplate": {
                "spec": _job(job, {"valueFrom": {"fieldRef": {"fieldPath": JOB_NAME}}})
            },
        },
    }


def _job(job: Job, run_id: Mapping[str, Any]) -> dict[str, Any]:
    """Return the specification of a Job whose pods are the shards."""
    return {
        "completionMode": "Indexed",
        "completions": job.shards,
        "parallelism": job.shards,
        "backoffLimitPerIndex": RESTARTS,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {
            "rules": [
                # A node that is drained or lost is no failure of the shard.
                {"action": "Ignore", "onPodConditions": [
                    {"type": "DisruptionTarget", "status": "True"}]},
                {"action": "FailIndex", "onExitCodes": {
                    "containerName": CONTAINER, "operator": "In", "values": PERMANENT}},
            ]
        },
        "ttlSecondsAfterFinished": KEEP_S,
        "template": {
            "metadata": {"labels": {"app.kubernetes.io/name": job.prefix}},
            "spec": _pod(job, run_id),
        },
    }  # fmt: skip


def _pod(job: Job, run_id: Mapping[str, Any]) -> dict[str, Any]:
    service = job.service
    uid, gid = map(int, service["user"].split(":"))
    limits = {"cpu": f"{service['cpus']:g}", "memory": f"{mebibytes(service['mem_limit'])}Mi"}
    variables: dict[str, dict[str, Any]] = {
        name: {"value": str(value)} for name, value in service["environment"].items()
    }
    variables |= {
        "OF": {"value": str(job.shards)},
        "RUN_ID": dict(run_id),
        "NODE": {"valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
    }
    volumes = _volumes(job)
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": int(service["stop_grace_period"].removesuffix("s")),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # The pause container is then process 1, and does what an init does.
        "shareProcessNamespace": bool(service["init"]),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": uid,
            "runAsGroup": gid,
            "fsGroup": gid,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": CONTAINER,
                "image": job.image,
                "args": job.command,
                "env": [{"name": name, **value} for name, value in variables.items()],
                "resources": {"requests": dict(limits), "limits": limits},
                "securityContext": {
                    "privileged": False,
                    "allowPrivilegeEscalation": NO_NEW_PRIVILEGES not in service["security_opt"],
                    "readOnlyRootFilesystem": service["read_only"],
                    "capabilities": {"drop": service["cap_drop"]},
                },
                "volumeMounts": [{"name": volume["name"], **at} for volume, at in volumes],
            }
        ],
        "volumes": [volume for volume, _ in volumes],
    }


def _volumes(job: Job) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return each volume, and where it is mounted."""
    # One folder with all secrets: Kubernetes mounts no single file that can change.
    envs = os.path.commonpath([PurePosixPath(target).parent for target in job.secrets.values()])
    items = [
        {"key": name, "path": os.path.relpath(path, envs)} for name, path in job.secrets.items()
    ]
    secret = {"secretName": job.prefix, "defaultMode": 0o440, "items": items}
    config = {"name": f"{job.prefix}-config"}
    found: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"name": "envs", "secret": secret}, {"mountPath": envs, "readOnly": True}),
        ({"name": "config", "configMap": config},
         {"mountPath": "/app/config.yaml", "subPath": "config.yaml", "readOnly": True}),
    ]  # fmt: skip
    for number, (target, options) in enumerate(job.tmpfs.items()):
        memory = {"medium": "Memory", "sizeLimit": f"{mebibytes(options['size'])}Mi"}
        found.append(({"name": f"tmpfs-{number}", "emptyDir": memory}, {"mountPath": target}))
    for name, target in job.volumes.items():
        claim = {"claimName": job.compose["volumes"][name]["name"]}
        data = ("persistentVolumeClaim", claim) if job.shared_data else ("emptyDir", {})
        found.append(({"name": name, data[0]: data[1]}, {"mountPath": target}))
    return found


def service(text: str, job: Job) -> Mapping[str, Any]:
    """Return what the Job's pod says, in the words of a compose service."""
    documents = yaml.safe_load_all(text)
    (found,) = (one for one in documents if one["metadata"]["name"] == job.name)
    pod = found["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    security, limits = container["securityContext"], container["resources"]["limits"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    said: dict[str, Any] = {"tmpfs": [], "volumes": [], "secrets": [], "configs": []}
    for mount in container["volumeMounts"]:
        volume, target = volumes[mount["name"]], mount["mountPath"]
        if volume.get("emptyDir"):
            size = int(volume["emptyDir"]["sizeLimit"].removesuffix("Mi"))
            said["tmpfs"].append(f"{target}:size={size_of(size)}")
        elif "secret" in volume:
            said["secrets"] += [
                {"source": item["key"], "target": f"{target}/{item['path']}"}
                for item in volume["secret"]["items"]
            ]
        elif "configMap" in volume:
            said["configs"].append({"source": volume["name"], "target": target})
        else:
            said["volumes"].append(f"{mount['name']}:{target}")
    user = pod["securityContext"]
    privileges = [] if security["allowPrivilegeEscalation"] else [NO_NEW_PRIVILEGES]
    return said | {
        "command": container["args"],
        "environment": {
            item["name"]: item.get("value") or item["valueFrom"]["fieldRef"]["fieldPath"]
            for item in container["env"]
        },
        "user": f"{user['runAsUser']}:{user['runAsGroup']}",
        "read_only": security["readOnlyRootFilesystem"],
        "cap_drop": security["capabilities"]["drop"],
        "security_opt": privileges,
        "cpus": float(limits["cpu"]),
        "mem_limit": size_of(int(limits["memory"].removesuffix("Mi"))),
        "init": pod["shareProcessNamespace"],
        "restart": pod["restartPolicy"],
        "stop_grace_period": f"{pod['terminationGracePeriodSeconds']}s",
    }
