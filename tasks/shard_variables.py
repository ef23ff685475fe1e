"""Which shard this process is: what the variables of engines say, and what the settings lack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.fetch.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FIRST = {"SHARD": 1, "JOB_COMPLETION_INDEX": 0}
"""The number of the first shard, in each variable that counts from a fixed one."""
UNSUPPORTED = {
    "after": "keep", "columns": "ignore", "parquet": "false", "publish_layout": "manifest",
}  # fmt: skip
"""Settings with the only value that a run in shards takes."""
SLURM_ID, SLURM_FIRST, SLURM_COUNT = (f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "MIN", "COUNT"))


def shard_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return `shard`, `shards`, `run_id` and `node`, as far as the environment states them.

    Raises:
        ConfigError: A number is none, or two variables name different shards.
    """
    shard = {
        name: _number(environ, name, first) - first + 1
        for name, first in FIRST.items()
        if environ.get(name)
    }
    if environ.get(SLURM_ID):
        first = _number(environ, SLURM_FIRST, 0) if environ.get(SLURM_FIRST) else None
        if first is None:
            raise ConfigError(
                f"{SLURM_ID} is set, but {SLURM_FIRST} is not, and Slurm sets both",
                advice="start the task as a Slurm job array, or set SHARD and OF",
            )
        shard[SLURM_ID] = _number(environ, SLURM_ID, first) - first + 1
    shards = {name: _number(environ, name, 1) for name in ("OF", SLURM_COUNT) if environ.get(name)}
    found = {"shard": _one(shard, "shard"), "shards": _one(shards, "number of shards")}
    found |= {name: environ.get(name.upper(), "") for name in ("run_id", "node")}
    return {name: value for name, value in found.items() if value}


def _number(environ: Mapping[str, str], name: str, least: int) -> int:
    text = environ[name]
    if not (text.isascii() and text.isdigit()) or int(text) < least:
        raise ConfigError(f"{name} is {text!r}", advice=f"expected a whole number from {least} on")
    return int(text)


def _one(values: Mapping[str, int], what: str) -> str:
    """Return the value that all variables have."""
    if len(set(values.values())) > 1:
        stated = ", ".join(f"{name} says {value}" for name, value in values.items())
        raise ConfigError(
            f"the environment names more than one {what} (counted from 1): {stated}",
            advice="unset one",
        )
    return str(next(iter(values.values()), ""))


def check_shard(
    values: Mapping[str, int | str], hosts: Sequence[str], others: Mapping[str, str]
) -> None:
    """Check the settings that name a shard; without one, that there is one host.

    Args:
        values: Of `shard`, `shards` and `run_id`.
        hosts: Those of `remote_host_address`.
        others: Settings that shards do not support, see `UNSUPPORTED`.

    Raises:
        ConfigError: One is missing or out of range, or a setting needs a run without shards.
    """
    if not (values["shard"] or values["shards"]):
        if len(hosts) > 1:
            raise ConfigError(
                f"remote_host_address names {len(hosts)} hosts, which a run without shards cannot "
                "read",
                advice="name one, or start shards (docs/shards.md)",
            )
        return
    missing = next((name for name, value in values.items() if not value), "")
    if missing:
        given = ", ".join(f"{name} is {value}" for name, value in values.items() if value)
        variable = "OF" if missing == "shards" else missing.upper()
        raise ConfigError(
            f"{given}, but {missing} is missing",
            advice=f"set {variable} in the environment, or pass "
            f"--{missing.replace('_', '-')} (docs/shards.md)",
        )
    shard, shards = values["shard"], values["shards"]
    if int(shard) > int(shards):
        raise ConfigError(
            f"shard is {shard}, but shards is {shards}",
            advice=f"number the shards from 1 to {shards}",
        )
    for name, value in UNSUPPORTED.items():
        if others[name] != value:
            raise ConfigError(
                f"{name} is {others[name]}, which shards cannot do",
                advice=f"set {name} to {value}, or run the task without shards",
            )
