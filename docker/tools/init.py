"""Set up a variant and a task for a host of your own, and check it: `make init HOST=...`."""

from __future__ import annotations

import getpass
import re
import sys
from pathlib import Path

from docker.setup import envfiles
from docker.setup.project import Failure, say, write_atomic
from docker.tools import config_text
from docker.tools.context import Context, Variant
from docker.tools.trust import add_keys, run_tasks, scan
from tasks import env_file
from tasks.fetch.errors import ConfigError

PASSWORD, KEY = "envs/secrets/password", "envs/secrets/ssh_key"
LOGIN_FAILED = 4
ASKED = {
    "HOST": "The host, as host or host:port",
    "REMOTE_USER": "The account on it",
    "REMOTE_PATH": "The source on it: a file, a folder or a glob",
}
"""The variables of make, and the question for each."""


def init(context: Context, variant: Variant) -> int:
    """Write the env file and the task's path, trust the host, and end with a dry run.

    Where a step fails, the env file, config.yaml and the password are as they were. The keys of a
    host that was trusted stay.

    Raises:
        Failure: A value is missing or unusable, another one would be replaced, or a step failed.
    """
    host, user, path = _values(context)
    env_path, config = variant.env_file, context.root / "config.yaml"
    files = (env_path, config.resolve(), context.root / PASSWORD)
    before = {file: file.read_bytes() if file.exists() else None for file in files}
    secret = _secret(context)
    wanted = {
        "REMOTE_HOST_ADDRESS": host, "USERNAME": user, "PASSWORD": "",
        "PASSWORD_FILE": PASSWORD if secret or not _has(context, KEY) else "",
        "SSH_KEY_FILE": "" if secret or not _has(context, KEY) else KEY,
    }  # fmt: skip
    text = _env_text(context, variant, wanted)
    config_after = config_text.with_path(config, context.task, path, replace=context.yes)
    known = set(envfiles.known_lines(context))
    keys = scan(context, variant, host)
    if not known.issuperset(keys):
        add_keys(context, host, keys)
    modes = {file: file.stat().st_mode & 0o777 for file in files if file.exists()}
    try:
        write_atomic(env_path, text.encode(), 0o600)
        write_atomic(files[1], config_after.encode(), modes.get(files[1], 0o644))
        if secret:
            write_atomic(files[2], f"{secret}\n".encode(), modes.get(files[2], 0o644))
        envfiles.prepare(variant)
        print(_dry_run(context, variant), end="")
    except BaseException:
        for file, content in before.items():
            if content is None:
                file.unlink(missing_ok=True)
            else:
                write_atomic(file, content, modes[file])
        envfiles.prepare(variant)
        raise
    say(
        f"wrote envs/{env_path.name} and tasks.{context.task} in config.yaml; "
        f"next: make run TASK={context.task} ENV={variant.name}"
    )
    return 0


def _dry_run(context: Context, variant: Variant) -> str:
    """Return what a dry run of the task shows, which logs in and lists the source.

    Raises:
        Failure: It failed.
    """
    done = run_tasks(context, variant, context.task, "--dry-run")
    sys.stderr.write(done.stderr)
    if done.returncode:
        advice = "see above"
        if done.returncode == LOGIN_FAILED:
            advice = f"write the password to {PASSWORD}, or a private key to {KEY}"
        raise Failure(f"nothing was changed but envs/known_hosts: {advice}", done.returncode)
    return done.stdout


def _values(context: Context) -> tuple[str, str, str]:
    """Return host, account and path, which are asked for on a terminal.

    Raises:
        Failure: One is missing, or an env file cannot have it.
    """
    values = dict(zip(ASKED, (context.host, context.remote_user, context.remote_path), strict=True))
    missing = [name for name, value in values.items() if not value]
    if missing and not sys.stdin.isatty():
        raise Failure(
            f"init lacks {', '.join(missing)}: make init HOST=host[:port] REMOTE_USER=account "
            "REMOTE_PATH=exports/today.tar.gz"
        )
    for name in missing:
        values[name] = _answer(f"{ASKED[name]}: ")
    for name, value in values.items():
        if not value or any(ord(letter) < 32 for letter in value):
            raise Failure(f"{name}={value}: needs text without control characters")
    if not re.fullmatch(r"[^\s@,/]+", values["HOST"]):
        raise Failure(f"HOST={values['HOST']}: use host or host:port; REMOTE_USER is the account")
    return values["HOST"], values["REMOTE_USER"], values["REMOTE_PATH"]


def _answer(question: str) -> str:
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()


def _has(context: Context, name: str) -> bool:
    path = context.root / name
    return path.exists() and path.stat().st_size > 0


def _secret(context: Context) -> str:
    """Return a password that was typed; nothing where a file in envs/secrets has one, or a key.

    Raises:
        Failure: There is neither a file nor a terminal.
    """
    if _has(context, PASSWORD) or _has(context, KEY):
        return ""
    if not sys.stdin.isatty():
        raise Failure(
            f"init has no secret: write the password to {PASSWORD}, or a private key to {KEY}"
        )
    typed = getpass.getpass("The account's password (for a key press Ctrl-C): ")
    if not typed:
        raise Failure(f"no password was given; for a key, write it to {KEY} first")
    return typed


def _env_text(context: Context, variant: Variant, wanted: dict[str, str]) -> str:
    """Return the text of the env file with other values; an empty one is commented out.

    Raises:
        Failure: It has values that are neither the example's nor the wanted ones, without YES=1.
    """
    path = variant.env_file
    source = path if path.exists() else variant.example
    have, example = envfiles.read(source), envfiles.read(variant.example)
    others = [
        key
        for key, value in wanted.items()
        if have.get(key, "") not in {value, example.get(key, ""), ""}
    ]
    if others and not context.yes:
        raise Failure(
            f"envs/{path.name} has other values of {', '.join(others)}: YES=1 replaces them"
        )
    text = source.read_text(encoding="utf-8")
    for key, value in wanted.items():
        line = f"{key}={value}" if value else f"#{key}="
        matches = [
            *re.finditer(rf"(?m)^{key}=.*$", text), *re.finditer(rf"(?m)^#{key}=.*$", text)
        ]  # fmt: skip
        if not value and not (matches and matches[0][0].startswith(key)):
            continue
        if matches:
            text = text[: matches[0].start()] + line + text[matches[0].end() :]
        else:
            text = f"{text.rstrip()}\n{line}\n"
    _require_portable(path, text)
    return text


def _require_portable(path: Path, text: str) -> None:
    """Raise `Failure` where readers of env files would read a value differently."""
    trial = path.with_name(f".{path.name}.init")
    try:
        write_atomic(trial, text.encode(), 0o600)
        env_file.read(trial, f"envs/{path.name}")
    except ConfigError as error:
        raise Failure(str(error)) from None
    finally:
        trial.unlink(missing_ok=True)
