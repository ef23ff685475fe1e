"""Which shard a process is: settings, and the variables that engines set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tasks.fetch.errors import ConfigError
from tasks.resolve import resolve
from tasks.settings import Settings

SLURM = {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_MIN": "4", "SLURM_ARRAY_TASK_COUNT": "3"}
NEEDED = {"remote_file_path": "x", "file_save_path": "out", "remote_host_address": "h"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def settings(environ: Mapping[str, str], **arguments: str) -> Settings:
    return resolve("3", {**NEEDED, **arguments}, environ=environ).settings


@pytest.mark.parametrize(
    ("environ", "shard", "shards"),
    [
        ({"SHARD": "2", "OF": "8"}, 2, 8),
        ({"JOB_COMPLETION_INDEX": "0", "OF": "8"}, 1, 8),
        ({"JOB_COMPLETION_INDEX": "7", "OF": "8"}, 8, 8),
        (SLURM, 2, 3),
        ({**SLURM, "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_ID": "0"}, 1, 3),
        ({"SHARD": "3", "JOB_COMPLETION_INDEX": "2", "OF": "4"}, 3, 4),
    ],
)
def test_variables_of_engines_name_the_shard(
    environ: Mapping[str, str], shard: int, shards: int
) -> None:
    found = settings({**environ, "RUN_ID": "2026-11-28", "NODE": "n1"}).require()
    assert (found.shard, found.shards) == (shard, shards)
    assert (found.run_id, found.node) == ("2026-11-28", "n1")


def test_command_line_overrides_the_variables() -> None:
    environ = {"SHARD": "2", "OF": "8", "RUN_ID": "a"}
    found = settings(environ, shard="3", shards="4", run_id="b").require()
    assert (found.shard, found.shards, found.run_id) == (3, 4, "b")


@pytest.mark.parametrize(
    ("environ", "error"),
    [
        ({"SHARD": "0"}, "SHARD is '0': expected a whole number from 1 on"),
        ({"SHARD": "x"}, "SHARD is 'x': expected a whole number from 1 on"),
        ({"JOB_COMPLETION_INDEX": "-1"}, "JOB_COMPLETION_INDEX is '-1': expected a whole number"),
        ({"SHARD": "1", "OF": "0"}, "OF is '0': expected a whole number from 1 on"),
        (
            {"SHARD": "1", "JOB_COMPLETION_INDEX": "1"},
            r"more than one shard \(counted from 1\): SHARD says 1, JOB_COMPLETION_INDEX says 2",
        ),
        ({**SLURM, "OF": "4"}, "OF says 4, SLURM_ARRAY_TASK_COUNT says 3"),
        ({"SLURM_ARRAY_TASK_ID": "1"}, "SLURM_ARRAY_TASK_MIN is not"),
        ({**SLURM, "SLURM_ARRAY_TASK_ID": "3"}, "SLURM_ARRAY_TASK_ID is '3': expected .* from 4"),
        ({"SHARD": "9", "OF": "8", "RUN_ID": "a"}, "number the shards from 1 to 8"),
        ({"SHARD": "1", "OF": "8"}, "shard is 1, shards is 8, but run_id is missing: set RUN_ID"),
        ({"SHARD": "1", "RUN_ID": "a"}, "but shards is missing: set OF"),
        ({"OF": "2", "RUN_ID": "a"}, "but shard is missing: set SHARD"),
        ({"SHARD": "1", "OF": "2", "RUN_ID": "a/b"}, "run_id is 'a/b': expected 1 to 64 letters"),
        ({"SHARD": "1", "OF": "2", "RUN_ID": "../x"}, "run_id is '../x'"),
        ({"SHARD": "1", "OF": "2", "RUN_ID": "a" * 65}, "expected 1 to 64 letters"),
    ],
)
def test_what_names_no_shard_is_refused(environ: Mapping[str, str], error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        settings(environ).require()


def test_run_id_alone_makes_no_shard() -> None:
    assert settings({"RUN_ID": "a"}).require().shard == 0


def test_hosts_may_be_a_list(tmp_path: Path) -> None:
    text = "common: {remote_host_address: [a, 'b:2222'], remote_file_path: x, file_save_path: y}\n"
    (tmp_path / "config.yaml").write_text(text)
    environ = {"SHARD": "1", "OF": "2", "RUN_ID": "a"}
    found = resolve("3", {}, environ=environ).settings.require()
    assert found.remote_host_address.each == ["a", "b:2222"]
    assert settings(environ, remote_host_address="a, b").remote_host_address.each == ["a", "b"]


@pytest.mark.parametrize("hosts", ["a,a", "a,,b"])
def test_hosts_that_are_empty_or_the_same_are_refused(hosts: str) -> None:
    with pytest.raises(ConfigError, match="a list of different ones"):
        settings({}, remote_host_address=hosts)


@pytest.mark.parametrize("host", ["b:x", "b:99999", "me@b", "b c"])
def test_host_of_a_list_that_is_no_address_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match=f"^command line: .*'{host}': expected host or host:port"):
        settings({}, remote_host_address=f"a,{host},[::1]:22")


def test_several_hosts_need_shards() -> None:
    with pytest.raises(ConfigError, match="names 2 hosts, which a run without shards"):
        settings({}, remote_host_address="a,b").require()


def test_after_is_refused() -> None:
    with pytest.raises(ConfigError, match="after is delete, which shards cannot do"):
        settings({"SHARD": "1", "OF": "2", "RUN_ID": "a"}, after="delete").require()
