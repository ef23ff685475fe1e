"""A task that runs as shards on a cluster: the prod service, and what it is to run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from docker.setup.project import Failure
from docker.tools.context import Context, Variant, written
from tasks.fetch.errors import ConfigError
from tasks.options import parse
from tasks.resolve import resolve
from tasks.settings import FIELDS

RESTARTS = 3
"""How often an engine starts a failed shard again; the task retries transient faults by itself."""
NAME_LIMIT = 63
"""The longest name of a service or pod (RFC 1123, of a DNS label)."""


@dataclass(frozen=True)
class Job:
    """A task that runs as shards.

    Attributes:
        compose: The variant's compose file, with the names of this clone.
        service: Of that file, the service of the task.
        prefix: The start of the names of image, volumes and secrets.
        image: As the nodes find it.
        command: The task and its options.
        shards: How many.
        run_id: What the shards share.
        shared_data: Whether the target is a folder, so that all nodes must see the volume.
        schedule: The task's cron expression; empty for none.
        time_zone: Of the schedule.
        config: The text of config.yaml.
    """

    compose: Mapping[str, Any]
    service: Mapping[str, Any]
    prefix: str
    image: str
    command: list[str]
    shards: int
    run_id: str
    shared_data: bool = True
    schedule: str = ""
    time_zone: str = "Etc/UTC"
    config: str = ""
    name: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", f"{self.prefix}-{self.command[0]}-{self.run_id}")

    @property
    def volumes(self) -> dict[str, str]:
        """The target of each named volume, by its key in the compose file."""
        found = {source: target for source, target, *_ in
                 (text.split(":") for text in self.service["volumes"])}  # fmt: skip
        if unnamed := found.keys() - self.compose["volumes"].keys():
            raise ValueError(f"{min(unnamed)} is no named volume")
        return found

    @property
    def secrets(self) -> dict[str, str]:
        """The target of each secret, by its name."""
        return {item["source"]: item["target"] for item in self.service["secrets"]}

    @property
    def tmpfs(self) -> dict[str, dict[str, str]]:
        """The options of each tmpfs, by its target."""
        parts = (text.partition(":") for text in self.service["tmpfs"])
        return {
            target: dict(option.split("=") for option in options.split(","))
            for target, _, options in parts
        }


def job_of(context: Context, variant: Variant) -> Job:
    """Return the job of TASK, SHARDS, RUN_ID and ARGS, without an image.

    Raises:
        Failure: The variant, a setting or a name cannot be used on a cluster.
    """
    if variant.binds_tree:
        raise Failure(
            f"{variant.name} mounts the working tree, which the nodes of a cluster lack: use a"
            " variant whose image has the tasks, such as ENV=prod"
        )
    try:
        _, parsed = parse([context.task, *context.args])
        given = {name: value for name, value in vars(parsed).items() if name in FIELDS}
        resolved = resolve(
            context.task, given, config_file=parsed.config_file,
            environ={
                "LIGHTERAGE_VARIANT": variant.name, "RUN_ID": context.run_id,
                "SHARD": context.shards, "OF": context.shards,
            },
        )  # fmt: skip
        if variant.env_file.exists():  # else only the nodes have one
            resolved.settings.require()
        target = str(resolved.settings.target)
    except ConfigError as error:
        raise Failure(str(error)) from None
    compose = written(variant, LIGHTERAGE_PROJECT=context.name)
    job = Job(
        compose,
        compose["services"][variant.service],
        variant.prefix,
        "",
        [context.task, *context.args],
        int(context.shards),
        context.run_id,
        "://" not in target,
        resolved.settings.schedule,
        str(resolved.settings.time_zone)
        or resolved.others.get("TZ", "").removeprefix(":")
        or "Etc/UTC",
        (context.root / "config.yaml").read_text(encoding="utf-8"),
    )
    longest = f"{job.name}-{job.shards - 1}"
    if len(longest) > NAME_LIMIT or job.name.endswith("-"):
        raise Failure(
            f"RUN_ID={job.run_id}: {longest} is no name for a shard, which has at most {NAME_LIMIT}"
            " characters, and no dash at the end of the run's id: take another RUN_ID"
        )
    return job


def mebibytes(size: str) -> int:
    """Return a size of a compose file, such as 1g or 64m, in MiB."""
    match = re.fullmatch(r"(\d+)([mg])b?", size)
    if not match:
        raise Failure(f"compose.yaml: {size} is not a size in m or g, such as 64m")
    return int(match[1]) * (1024 if match[2] == "g" else 1)


def size_of(mebibytes: int) -> str:
    """Return a number of MiB as a compose file has it."""
    return f"{mebibytes // 1024}g" if mebibytes % 1024 == 0 else f"{mebibytes}m"
