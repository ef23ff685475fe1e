"""The files in envs/: made at the first use, closed to others, checked for portability."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from project import Failure, Project, give_to_owner, say, write_atomic
from variants import Variant

SECRETS = ("password", "ssh_key", "ssh_key_passphrase", "gateway_password")
SAMPLE_COMMENT = "lighterage-sample-host"


def prepare(variant: Variant) -> None:
    """Make what is missing in envs/, and refuse an env file that not all readers read alike.

    Raises:
        Failure: a line of the env file is not portable.
    """
    envs = variant.project.root / "envs"
    if not variant.env_file.exists():
        write_atomic(variant.env_file, variant.example.read_text(encoding="utf-8"), 0o600)
        say(f"made envs/{variant.env_file.name} from its example; edit it to use your own host")
    elif variant.env_file.stat().st_mode & 0o077:
        variant.env_file.chmod(0o600)
        say(f"envs/{variant.env_file.name} was open to others; it is 0600 now")
    # The secrets are readable inside a closed folder: a container's fixed uid gets the files alone.
    folder = envs / "secrets"
    if not folder.is_dir():
        folder.mkdir(mode=0o700, exist_ok=True)
        give_to_owner(folder)
    for path in [envs / "known_hosts", envs / "ssh_config", *(folder / name for name in SECRETS)]:
        if not path.exists():
            write_atomic(path, "", 0o644)
    read(variant.env_file)


def read(path: Path) -> dict[str, str]:
    """Read an env file as docker, compose 1.29 and compose v2 all would.

    Raises:
        Failure: a line that some of them read differently, by file and line.
    """
    values: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        where = f"envs/{path.name}:{number}"
        match = re.fullmatch(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", line)
        if not match:
            raise Failure(f"{where}: expected KEY=value, without `export` or spaces around KEY")
        key, value = match.groups()
        if re.search(r"[\"'$#`\\]", value) or value != value.strip():
            raise Failure(
                f"{where}: the value of {key} has a quote, $, #, `, \\ or a space at an end, which"
                " env file readers take differently; a password like that goes into"
                " envs/secrets/password, with PASSWORD_FILE=envs/secrets/password here"
            )
        values[key] = value
    return values


def host_of(variant: Variant) -> str:
    """The host part of the variant's REMOTE_HOST_ADDRESS, without user and port."""
    address = read(variant.env_file).get("REMOTE_HOST_ADDRESS", "")
    return address.rpartition("@")[2].partition(":")[0]


def known_hosts(project: Project) -> Path:
    """The file of known host keys, shared by the variants."""
    return project.root / "envs" / "known_hosts"


def add_known_hosts(project: Project, lines: Iterable[str]) -> int:
    """Append lines that are not there yet; returns how many were added."""
    path = known_hosts(project)
    have = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    new = [line for line in dict.fromkeys(lines) if line not in have]
    if new:
        write_atomic(path, "\n".join([*have, *new]) + "\n", 0o644)
    return len(new)


def trust_sample_host(project: Project, address: str, public_key: str) -> None:
    """Make the bundled sample host known at `address`, in place of what was known there.

    Args:
        project: the clone.
        address: as known_hosts has it: `[host]:port`.
        public_key: type and base64 key; a comment after them is dropped.
    """
    entry = f"{address} {' '.join(public_key.split()[:2])} {SAMPLE_COMMENT}"
    path = known_hosts(project)
    have = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    if entry in have:
        return
    kept = [
        line for line in have if not (line.startswith(f"{address} ") and SAMPLE_COMMENT in line)
    ]
    write_atomic(path, "\n".join([*kept, entry]) + "\n", 0o644)


def forget_sample_host(project: Project, address: str) -> None:
    """Drop the sample host's line for `address`: another server may get that port."""
    path = known_hosts(project)
    have = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [
        line for line in have if not (line.startswith(f"{address} ") and SAMPLE_COMMENT in line)
    ]
    if kept != have:
        write_atomic(path, "".join(f"{line}\n" for line in kept), 0o644)
