"""Settings: one immutable object; each setting is declared, documented and validated here.

resolve.py finds the values; config_file.py reads config.yaml.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from tasks.fetch.errors import ConfigError
from tasks.fetch.patterns import AfterAction, DatePattern, Marker
from tasks.fetch.progress import ProgressMode
from tasks.fetch.rate import Rate

MASK = "********"
VARIANTS = ("dev", "prod")

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
HostKeys = Literal["known", "accept-new"]
OnError = Literal["fail", "continue"]
Verify = Literal["checksum", "size"]
Exec = Literal["auto", "never"]

_SIZE_UNITS = ["", "k", "m", "g", "t"]
_SIZE = re.compile(r"(\d+(?:\.\d+)?) *([kmgt]?)(i?)b?(?:/s)?", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?) *([smhd]?)", re.IGNORECASE)
_DURATION_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_BOOLEANS = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}


class Size(int):
    """A number of bytes; written as a number, or with a unit: `500MB`, `2GiB`, `20MB/s`."""


class Duration(float):
    """Seconds; written as a number, or with a unit: `90s`, `15m`, `2h`, `7d`."""


class ExitCode(int):
    """An exit code that a user may choose: 0, or one without another meaning, 10 to 124.

    1 to 9 are failures of Lighterage, 125 to 127 of a container engine or shell, 128 and above
    signals.
    """


class StringList(tuple[str, ...]):
    """Some texts; written as one, as a list, or as an option given several times."""

    __slots__ = ()

    def __str__(self) -> str:
        return ", ".join(self)


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
    progress: ProgressMode = _setting("how to show progress", "auto")
    result_file: Path | None = _setting("a file to write the result to as JSON, at the run's end")
    unchanged_exit_code: ExitCode = _setting(
        "exit code of a run that found nothing new, such as 99, which Airflow skips", ExitCode(0)
    )
    schedule: str = _setting("cron expression: when the prod service runs it", "", cli=False)
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
    remote_host_address: str = _setting("host or host:port", "", env=True)
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
            raise ConfigError(_missing(self.task, "file_save_path"))
        return self.file_save_path

    def require(self) -> Settings:
        """Return these settings; raise `ConfigError` for a missing value that a run needs."""
        for name in ("remote_file_path", "file_save_path"):
            if not getattr(self, name):
                raise ConfigError(_missing(self.task, name))
        if self.date_pattern and not self.newest:
            raise ConfigError(
                f"date_pattern is {self.date_pattern}, but newest is not set: set how many to "
                "take, as in newest: 1"
            )
        if self.after != "keep" and self.mirror:
            raise ConfigError(
                f"after is {self.after}, and mirror is set, which would remove the data of the "
                "sources that are no longer on the host: set one of them"
            )
        if not self.remote_host_address:
            raise ConfigError(
                f"REMOTE_HOST_ADDRESS is missing: set it in envs/{self.variant}.env, "
                "or pass --remote-host-address"
            )
        return self


def _missing(task: str, name: str) -> str:
    option = "--" + name.replace("_", "-")
    where = f"set it in config.yaml under tasks.{task}, or pass {option}"
    return f"{name} is missing for task {task}: {where}"


FIELDS = {f.name: f for f in dataclasses.fields(Settings)}
TYPES: dict[str, Any] = typing.get_type_hints(Settings)
_ONCE = {
    "task",
    "variant",
    "password",
    "force",
    "checksum",
    "dry_run",
    "explain",
    "unchanged_exit_code",
}
CONFIGURABLE = [n for n in FIELDS if n not in _ONCE]
ENVIRONMENT = {n.upper(): n for n, f in FIELDS.items() if f.metadata["env"]}

_TEXT = Annotated[str, msgspec.Meta(pattern="^[^\0]*$")]
_EXPECTED = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    Size: "a size such as 500MB",
    Duration: "a time such as 90s, 15m, 2h or 7d",
    Duration | None: "a time such as 0, 15m, 2h or 7d",
    Rate: "a rate such as 20MB/s, or '20MB/s 08:00-18:00, 50MB/s 18:00-22:00'",
    AfterAction: "keep, delete, or move:FOLDER",
    DatePattern: "a date such as %Y-%m-%d, of %Y %y %m %d %j %b %H %M %S, with a year",
    Marker: "a name such as _SUCCESS or '*.done', with * for the source's name",
    ExitCode: "an exit code without another meaning: 0, or 10 to 124",
    StringList: "text, or a list of texts (in quotes, where YAML reads it as something else)",
    str: "text (in quotes, where YAML reads it as something else)",
}


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
        return _converted(value, TYPES[name], about.get("least"))
    except (ValueError, OverflowError, RuntimeError) as error:  # ~nobody has no home folder
        shown = MASK if about.get("secret") else repr(value)
        at_least = f" of at least {about['least']}" if "least" in about else ""
        raise ConfigError(
            f"{origin}: {name} is {shown}: expected {_expected(TYPES[name])}{at_least}"
        ) from error


def _converted(value: Any, wanted: Any, least: float | None) -> Any:
    if value == "" and type(None) in typing.get_args(wanted):
        return None
    if str in typing.get_args(wanted):  # a path, or the URL of a store
        wanted = str if isinstance(value, str) and "://" in value else Path
    converted = msgspec.convert(
        _normalized(value, wanted),
        _constrained(wanted, least),
        strict=not (wanted in {int, float} and isinstance(value, str)),
        dec_hook=_decode,
    )
    if (
        wanted in {Size, Duration} and converted < least
    ):  # msgspec checks the limits of its own types only
        raise ValueError(value)
    return converted


def choices(name: str) -> str:
    """Return the words that a setting may be, as `a|b`; nothing for other settings."""
    return "|".join(_words(TYPES[name]))


def _words(wanted: Any) -> tuple[str, ...]:
    return typing.get_args(wanted) if typing.get_origin(wanted) is Literal else ()


def _expected(wanted: Any) -> str:
    words = ", ".join(_words(wanted))
    return f"one of {words}" if words else _EXPECTED.get(wanted, "a path")


def _normalized(value: Any, wanted: Any) -> Any:
    """Map the spellings that people use to those of msgspec."""
    if not isinstance(value, str):
        return value
    if wanted is bool:
        return _BOOLEANS.get(value.lower(), value)
    return next((word for word in _words(wanted) if word.lower() == value.lower()), value)


def _constrained(wanted: Any, least: float | None) -> Any:
    if wanted is str:
        return _TEXT
    if wanted is int:
        return Annotated[int, msgspec.Meta(ge=least)]
    if wanted is float:
        return Annotated[float, msgspec.Meta(ge=least, lt=1e12)]  # neither nan nor infinite
    return wanted


def _decode(wanted: Any, value: Any) -> Any:
    """Convert to a type that msgspec does not know."""
    if wanted is Rate:
        return Rate.parse(str(value).strip(), lambda text: _decode(Size, text))
    if wanted in {AfterAction, DatePattern, Marker}:
        return wanted.parse(msgspec.convert(value, _TEXT))
    if wanted is Duration:
        match = _DURATION.fullmatch(str(value).strip())
        if match is None:
            raise ValueError(value)
        return Duration(float(match[1]) * _DURATION_UNITS[match[2].lower()])
    if wanted is Size:
        match = _SIZE.fullmatch(str(value).strip())
        if match is None:
            raise ValueError(value)
        digits, unit, binary = match.groups()
        return Size(float(digits) * (1024 if binary else 1000) ** _SIZE_UNITS.index(unit.lower()))
    if wanted is ExitCode:
        if not re.fullmatch("0|[1-9][0-9]|1[01][0-9]|12[0-4]", str(value)):
            raise ValueError(value)
        return ExitCode(str(value))
    if wanted is StringList:
        texts = value if isinstance(value, list | tuple) else [value] if value != "" else []
        if "" in texts:
            raise ValueError(value)
        return StringList(msgspec.convert(texts, list[_TEXT]))
    # a number is no path: 1.10 and 12:30 are other numbers to YAML, and what was written is lost
    text = msgspec.convert(value, _TEXT)
    if not text:
        raise ValueError(value)
    return Path(text).expanduser()
