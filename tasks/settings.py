"""Settings: one immutable object; each setting is declared, documented and validated here.

setting_types.py has their types; resolve.py finds the values; config_file.py reads config.yaml.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tasks import setting_types
from tasks.fetch.errors import ConfigError
from tasks.fetch.patterns import AfterAction, DatePattern, Marker
from tasks.fetch.progress import ProgressMode
from tasks.fetch.rate import Rate
from tasks.fetch.shards.names import Hosts, RunId
from tasks.fetch.stores.protocol import Layout
from tasks.logs import LogFormat
from tasks.setting_types import Duration, ExitCode, Port, Size, StringList, TimeZone, Url
from tasks.shard_variables import UNSUPPORTED, check_shard

MASK = "********"
VARIANTS = ("dev", "prod")

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
HostKeys = Literal["known", "accept-new"]
OnError = Literal["fail", "continue"]
Verify = Literal["checksum", "size"]
Exec = Literal["auto", "never"]
Columns = Literal["ignore", "evolve", "freeze"]
Parquet = Literal["false", "true", "text"]
HostsHold = Literal["own", "same"]


def _setting(text: str, default: Any = None, *, env: bool = False, **more: Any) -> Any:
    """Declare a setting with its line in `--help`, and whether the env file may set it.

    More: `cli=False` for no option, `least` for the smallest value, `secret=True`.
    """
    return field(
        default=default, metadata={"help": text, "env": env, **more}, repr="secret" not in more
    )


@dataclass(frozen=True)
class Settings:
    """The settings of one run. Times are in seconds, sizes in bytes."""

    task: str = _setting("the task's name: N of tasks/task_N.py", "")
    variant: str = _setting("the build variant whose settings apply", "dev", cli=False)
    remote_file_path: StringList = _setting(
        "the source on the host: a path, a glob, or several", StringList(), env=True
    )
    file_save_path: Path | str | None = _setting(
        "the target: a folder that Lighterage owns, or a store's URL", env=True
    )
    overwrite: bool = _setting("replace the published data", True, env=True)
    publish_layout: Layout = _setting(
        "`plain` adds a copy under plain names to an object store's target", "manifest"
    )
    include: StringList = _setting("globs of the names to publish", StringList())
    exclude: StringList = _setting("globs of the names to leave out", StringList())
    newest: int = _setting("take the N newest of what remote_file_path names; 0: all", 0, least=0)
    date_pattern: DatePattern = _setting(
        "newest by the date in the name, such as %%Y-%%m-%%d, not by time", DatePattern()
    )
    since_last: Duration | None = _setting(
        "of what did not land yet, only files as new as the newest landed one, less this overlap"
    )
    settle: Duration = _setting(
        "land a source once it did not change for so long: `60s`", Duration(0), least=0
    )
    marker: Marker = _setting(
        "land a source once the host has this file: '*.done', `_SUCCESS`", Marker()
    )
    wait_for: Duration = _setting(
        "wait until the source is there and complete: `2h`", Duration(0), least=0
    )
    after: AfterAction = _setting(
        "the source on the host once it has landed: keep, delete, move:FOLDER", AfterAction("keep")
    )
    keep_archive: bool = _setting("keep the archive beside its data", False, env=True)
    mirror: bool = _setting("remove published files that no longer exist on the host", False)
    on_error: OnError = _setting("`continue` publishes the others when one file is broken", "fail")
    verify: Verify = _setting(
        "compare with the remote SHA-256 where the host has one, or sizes only", "checksum"
    )
    columns: Columns = _setting(
        "columns of CSVs that change: `freeze` refuses the data, `evolve` reports them", "ignore"
    )
    parquet: Parquet = _setting(
        "publish CSVs as Parquet; `text`: with no other type in it", "false"
    )
    max_connections: int = _setting(
        "connections to the host at once, of all runs that share connections_folder; 0: no limit",
        0, least=0,
    )  # fmt: skip
    connections_folder: Path = _setting("the locks for max_connections", Path("data/.connections"))
    exec: Exec = _setting("`never` runs no command on the host: SFTP only", "auto")
    force: bool = _setting("download also what has not changed", False)
    checksum: bool = _setting("find changes by content, not by size and time", False)
    dry_run: bool = _setting("show what would be downloaded", False)
    explain: bool = _setting("show which transfer methods were chosen, and why", False)
    max_tries: int = _setting("number of tries at transient faults", 3, env=True, least=1)
    retry_delay: float = _setting(
        "seconds before the second try; doubled at each try, with jitter", 2.0, env=True, least=0
    )
    timeout: float = _setting("longest time without a byte from the host", 30.0, least=0.1)
    wait: float = _setting("seconds to wait for another run of the same target", 0.0, least=0)
    max_rate: Rate = _setting(
        "bytes per second, such as 20MB/s, or '20MB/s 08:00-18:00'; 0: no limit", Rate(0)
    )
    log_level: LogLevel = _setting("how much to log", "INFO", env=True)
    log_format: LogFormat = _setting(
        "`json` writes each line of the log as a JSON object", "text", env=True
    )
    progress: ProgressMode = _setting("how to show progress", "auto")
    quiet: bool = _setting("show warnings and errors only: no progress, no result", False)
    result_file: Path | None = _setting("a file to write the result to as JSON, at the run's end")
    metrics_file: Path | None = _setting("a file to write metrics to, in Prometheus' text format")
    metrics_port: Port = _setting(
        "the port where the service gives these metrics, at /metrics; 0: none",
        Port(0), cli=False, least=0,
    )  # fmt: skip
    metrics_address: str = _setting(
        "where metrics_port listens; 0.0.0.0 in a container", "127.0.0.1", cli=False
    )
    history_runs: int = _setting("runs of a task that the history keeps; 0: none", 1000, least=0)
    ping_url: Url = _setting(
        "where to send pings, <url>/start and <url>/<exit code>", Url(),
        env=True, cli=False, secret=True,
    )  # fmt: skip
    webhook_url: Url = _setting(
        "where to send the result as JSON after a failure, and after the first success",
        Url(), env=True, cli=False, secret=True,
    )  # fmt: skip
    notify_urls: str = _setting(
        "apprise URLs of mail and chat that get a message where webhook_url gets the result",
        "", env=True, cli=False, secret=True,
    )  # fmt: skip
    ping_url_file: Path | None = _setting("a file with ping_url", env=True)
    webhook_url_file: Path | None = _setting("a file with webhook_url", env=True)
    notify_urls_file: Path | None = _setting("a file with notify_urls", env=True)
    unchanged_exit_code: ExitCode = _setting(
        "exit code of a run that found nothing new, such as 99, which Airflow skips", ExitCode(0)
    )
    schedule: str = _setting("cron expression: when the prod service runs it", "", cli=False)
    time_zone: TimeZone = _setting("of `schedule`; without it that of TZ", TimeZone(), cli=False)
    catch_up: bool = _setting("run once for times that the service missed", True, cli=False)
    schedule_jitter: Duration = _setting(
        "start up to so long after the scheduled time", Duration(0), cli=False, least=0
    )
    max_backoff: Duration = _setting(
        "longest delay of the service after failures; 0: none", Duration(3600), cli=False, least=0
    )
    unhealthy_after_failures: int = _setting(
        "failures in a row after which the service is unhealthy; 0: never", 3, cli=False, least=0
    )
    overdue_after: Duration = _setting(
        "unhealthy without a success so long after a scheduled time; 0: never",
        Duration(0), cli=False, least=0,
    )  # fmt: skip
    keep_runs: int = _setting("earlier runs that `prune` keeps in an object store", 1, least=0)
    min_age: Duration = _setting(
        "`prune` keeps what was written later: `2h`, `7d`", Duration(86400), least=3600
    )
    max_members: int = _setting(
        "number of members of an archive, and of files in a listing", 100_000, least=1
    )
    max_unpacked_size: Size = _setting("bytes extracted of one archive", Size(100 * 10**9), least=1)
    max_ratio: float = _setting(
        "extracted bytes per byte of an archive, enforced above 64 MiB", 200.0, least=1
    )
    max_depth: int = _setting("folder levels in an archive", 64, least=1)
    max_unpack_time: float = _setting("seconds for extracting one archive", 86400.0, least=1)
    shard: int = _setting("which shard of the run this is, from 1 on", 0, least=0)
    shards: int = _setting("how many shards land the run together", 0, least=0)
    run_id: RunId = _setting("the id of the run that the shards share", RunId())
    node: str = _setting("the machine's name in the status of a run; else its host name", "")
    hosts_hold: HostsHold = _setting(
        "what several hosts hold: each its own files, or all the same", "own"
    )
    remote_host_address: Hosts = _setting(
        "host or host:port; for shards also several, as a,b", Hosts(), env=True
    )
    username: str = _setting("the account on the host", "", env=True)
    password: str = _setting("the account's password", "", env=True, cli=False, secret=True)
    password_file: Path | None = _setting("a file with the password", env=True)
    ssh_key_file: Path | None = _setting("a private key", env=True)
    ssh_key_passphrase_file: Path | None = _setting("a file with the key's passphrase", env=True)
    gateway_password_file: Path | None = _setting(
        "a file with the password for the jump hosts of ProxyJump", env=True
    )
    host_keys: HostKeys = _setting("which host keys to accept", "known")
    known_hosts_file: Path = _setting("the known host keys", Path("envs/known_hosts"), env=True)
    ssh_config_file: Path = _setting("an OpenSSH client config", Path("envs/ssh_config"), env=True)

    @property
    def target(self) -> Path | str:
        """The folder, or the store's URL, to publish in. Raises `ConfigError` where none is set."""
        if self.file_save_path is None:
            raise _missing(self.task, "file_save_path")
        return self.file_save_path

    def require(self) -> Settings:
        """Return these settings; raise `ConfigError` for a missing value that a run needs."""
        for name in ("remote_file_path", "file_save_path"):
            if not getattr(self, name):
                raise _missing(self.task, name)
        if self.date_pattern and not self.newest:
            raise ConfigError(
                f"date_pattern is {self.date_pattern}, but newest is not set",
                advice="set how many to take, as in newest: 1",
            )
        if self.after != "keep" and self.mirror:
            raise ConfigError(
                f"after is {self.after}, and mirror is set, which would remove the data of the "
                "sources that are no longer on the host",
                advice="set one of them",
            )
        for name in ("metrics_file", "metrics_port"):
            if (value := getattr(self, name)) and not self.history_runs:
                raise ConfigError(
                    f"{name} is {value}, and history_runs is 0: metrics are read from the history",
                    advice="set history_runs to 1 or more",
                )
        if not self.remote_host_address:
            raise ConfigError(
                "REMOTE_HOST_ADDRESS is missing",
                advice=f"set it in envs/{self.variant}.env, or pass --remote-host-address",
            )
        check_shard(
            {"shard": self.shard, "shards": self.shards, "run_id": self.run_id},
            self.remote_host_address.each,
            {name: str(getattr(self, name)) for name in UNSUPPORTED},
        )
        return self


def _missing(task: str, name: str) -> ConfigError:
    return ConfigError(
        f"{name} is missing for task {task}",
        advice=f"set it in config.yaml under tasks.{task}, or pass --{name.replace('_', '-')}",
    )


FIELDS = {f.name: f for f in dataclasses.fields(Settings)}
TYPES: dict[str, Any] = typing.get_type_hints(Settings)
_ONCE = {
    "task",
    "variant",
    "password",
    "ping_url",
    "webhook_url",
    "notify_urls",
    "force",
    "checksum",
    "dry_run",
    "explain",
    "unchanged_exit_code",
}
CONFIGURABLE = [n for n in FIELDS if n not in _ONCE]
ENVIRONMENT = {n.upper(): n for n, f in FIELDS.items() if f.metadata["env"]}


def convert(name: str, value: Any, origin: str) -> Any:
    """Validate a setting's value, and convert it to its type.

    Args:
        name: The setting.
        value: From YAML, the environment or the command line.
        origin: Where it comes from, for the error.

    Raises:
        ConfigError: The value is not of the setting's type.
    """
    about = FIELDS[name].metadata
    try:
        return setting_types.read(value, TYPES[name], about.get("least"))
    except ConfigError as error:
        raise ConfigError(f"{origin}: {error.text}", advice=error.advice) from error
    except (ValueError, OverflowError, RuntimeError, LookupError, OSError) as error:
        # RuntimeError: `~name` of an unknown account; LookupError and OSError: no such time zone
        shown = MASK if about.get("secret") else repr(value)
        at_least = f" of at least {about['least']}" if "least" in about else ""
        raise ConfigError(
            f"{origin}: {name} is {shown}",
            advice=f"expected {setting_types.expected(TYPES[name])}{at_least}",
        ) from error


def choices(name: str) -> str:
    """Return the words that a setting may be, as `a|b`; nothing for other settings."""
    return "|".join(setting_types.choices(TYPES[name]))
