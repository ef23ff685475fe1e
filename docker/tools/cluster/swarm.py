"""Docker Swarm: the words of `docker service create`, one in a line, quoted as xargs reads them.

A replicated service, whose slots are the shards: a replicated job of engine 20.10 gives two of its
tasks the same slot. Swarm has no option for no-new-privileges; the image has no setuid programs.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping
from typing import Any

from docker.setup.project import Failure
from docker.tools.cluster.job import RESTARTS, Job
from docker.tools.context import Context

RESTART_DELAY = "5s"
SECRET_NAME_LIMIT = 64


def image(context: Context, job: Job) -> str:
    """Return the image's id: for a name, each node would first ask a registry.

    Raises:
        Failure: The target is a folder that each node would have for itself.
    """
    names = [job.compose["volumes"][name]["name"] for name in job.volumes]
    alone = [name for name in names if not _has_options(context, name)]
    if job.shared_data and alone and len(context.must("node", "ls", "--quiet").split()) > 1:
        raise Failure(
            f"the target of task {job.command[0]} is a folder, and each node has a volume"
            f" {alone[0]} for itself: create it on all nodes, of a file system that they share"
            " (docs/cluster.md), or set file_save_path to s3://BUCKET/PREFIX"
        )
    return str(context.inspect("image", job.prefix)["Id"])


def _has_options(context: Context, volume: str) -> bool:
    """Return whether a volume is of another file system than the engine's own."""
    found = context.ask("volume", "inspect", "--format", "{{json .Options}}", volume)
    return found.returncode == 0 and json.loads(found.stdout) not in (None, {})


def render(job: Job) -> str:
    """Return the words of `docker service create`.

    Raises:
        Failure: The name of a secret is too long.
    """
    service = job.service
    secrets = {f"{job.name}-{name}": target for name, target in job.secrets.items()}
    longest = max(secrets, key=len, default="")
    if len(longest) > SECRET_NAME_LIMIT:
        raise Failure(
            f"RUN_ID={job.run_id}: the secret {longest} would have more than {SECRET_NAME_LIMIT}"
            " characters: take a shorter RUN_ID"
        )
    uid, gid = service["user"].split(":")
    environment = {
        **service["environment"],
        "SHARD": "{{.Task.Slot}}",
        "OF": job.shards,
        "RUN_ID": job.run_id,
        "NODE": "{{.Node.Hostname}}",
    }
    names = {name: job.compose["volumes"][name]["name"] for name in job.volumes}
    owner = f"uid={uid},gid={gid},mode=0400"
    options: list[tuple[str, Any]] = [
        ("name", job.name),
        ("replicas", job.shards),
        ("restart-condition", "on-failure"),
        ("restart-delay", RESTART_DELAY),
        # No window: with one, the engine starts a shard again without end.
        ("restart-max-attempts", RESTARTS),
        ("user", service["user"]),
        *(("cap-drop", name) for name in service["cap_drop"]),
        ("limit-cpu", service["cpus"]),
        ("limit-memory", service["mem_limit"]),
        ("limit-pids", service["pids_limit"]),
        *(("ulimit", f"{name}={_ulimit(value)}") for name, value in service["ulimits"].items()),
        *(("mount", f"type=tmpfs,target={target},tmpfs-size={o['size']},tmpfs-mode={o['mode']}")
          for target, o in job.tmpfs.items()),
        *(("mount", f"type=volume,source={names[name]},target={target}")
          for name, target in job.volumes.items()),
        *(("secret", f"source={name},target={target},{owner}")
          for name, target in secrets.items()),
        *(("env", f"{name}={value}") for name, value in environment.items()),
        ("log-driver", service["logging"]["driver"]),
        *(("log-opt", f"{name}={text}") for name, text in service["logging"]["options"].items()),
        ("stop-grace-period", service["stop_grace_period"]),
    ]  # fmt: skip
    flags = ["detach", "no-healthcheck", "no-resolve-image"]
    flags += [name for key, name in FLAGS.items() if service[key]]
    words = [*(f"--{name}" for name in flags), *(f"--{name}={text}" for name, text in options)]
    return "".join(f"{shlex.quote(word)}\n" for word in [*words, job.image, *job.command])


FLAGS = {"read_only": "read-only", "init": "init"}
"""The option of each key of a compose service that is true or false."""


def _ulimit(value: Any) -> str:
    return f"{value['soft']}:{value['hard']}" if isinstance(value, Mapping) else str(value)


def service(text: str, job: Job) -> Mapping[str, Any]:
    """Return what the words say, in the words of a compose service."""
    parser = argparse.ArgumentParser()
    names = {word.partition("=")[0] for word in shlex.split(text) if word.startswith("--")}
    for name in names:
        parser.add_argument(name, action="append", nargs="?")
    parser.add_argument("command", nargs="*")
    found = vars(parser.parse_args(shlex.split(text)))
    mounts = [dict(item.split("=") for item in text.split(",")) for text in found["mount"]]
    secrets = [dict(item.split("=") for item in text.split(",")) for text in found["secret"]]
    tmpfs = [mount for mount in mounts if mount["type"] == "tmpfs"]
    return {
        "command": found["command"][1:],
        "environment": dict(text.split("=", 1) for text in found["env"]),
        "tmpfs": [f"{m['target']}:size={m['tmpfs-size']},mode={m['tmpfs-mode']}" for m in tmpfs],
        "volumes": [
            f"{mount['source'].removeprefix(f'{job.prefix}-')}:{mount['target']}"
            for mount in mounts
            if mount not in tmpfs
        ],
        "secrets": [
            {"source": item["source"].removeprefix(f"{job.name}-"), "target": item["target"]}
            for item in secrets
        ],
        "user": found["user"][0],
        "read_only": "read_only" in found,
        "init": "init" in found,
        "cap_drop": found["cap_drop"],
        "cpus": float(found["limit_cpu"][0]),
        "mem_limit": found["limit_memory"][0],
        "pids_limit": int(found["limit_pids"][0]),
        "ulimits": {
            name: {"soft": int(soft), "hard": int(hard)} if hard else int(soft)
            for name, soft, hard in map(_ulimit_of, found["ulimit"])
        },
        "logging": {
            "driver": found["log_driver"][0],
            "options": dict(text.split("=") for text in found["log_opt"]),
        },
        "restart": found["restart_condition"][0],
        "stop_grace_period": found["stop_grace_period"][0],
    }


def _ulimit_of(text: str) -> tuple[str, str, str]:
    name, _, value = text.partition("=")
    soft, _, hard = value.partition(":")
    return name, soft, hard
