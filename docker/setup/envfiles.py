"""The files in envs/: made at the first use, closed to others, checked before anything starts."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

from docker.setup.project import (
    Failure,
    Project,
    make_folder,
    owner,
    say,
    write_atomic,
    write_changed,
)
from docker.setup.variants import Variant
from tasks import env_file as reader
from tasks.fetch.errors import ConfigError

SECRETS = (
    "password", "ssh_key", "ssh_key_passphrase", "gateway_password", "ping_url", "webhook_url",
    "notify_urls",
)  # fmt: skip
SAMPLE_COMMENT = "lighterage-sample-host"


def prepare(variant: Variant) -> None:
    """Create missing files in envs/, and reject an env file that a task would reject.

    Raises:
        Failure: A line of the env file is not portable, or a variable is misspelt.
    """
    make_files(variant)
    values = read(variant.env_file)
    try:
        reader.check_names(
            values, f"envs/{variant.env_file.name}", *setting_names(variant.project.root)
        )
    except ConfigError as error:
        raise Failure(str(error)) from None
    if variant.binds_tree:
        return
    # In the closed folder, but readable: a container's fixed uid reads the copy, as a file, so that
    # `docker inspect` shows none of its values.
    copy, content = variant.container_copy, variant.env_file.read_bytes()
    if not copy.exists() or copy.read_bytes() != content:
        write_atomic(copy, content, 0o644)
    for path in _delivered(variant)[1:]:
        _make_readable(path)


def _make_readable(path: Path) -> None:
    """Let a container's fixed uid read a file that was made under umask 077, or copied closed.

    Not through a link: that would open a key outside of envs/ to others.
    """
    facts = path.lstat()
    if not stat.S_ISREG(facts.st_mode) or facts.st_nlink > 1 or facts.st_mode & 0o004:
        return
    with contextlib.suppress(PermissionError):  # another user's
        path.chmod(0o644)
        say(f"{path.parent.name}/{path.name} is 0644 now: the container's own user must read it")


def make_files(variant: Variant) -> None:
    """Create missing files in envs/, and close those that are open to other users."""
    envs = variant.env_file.parent
    if not variant.env_file.exists():
        write_atomic(variant.env_file, variant.example.read_bytes(), 0o600)
        say(f"made envs/{variant.env_file.name} from its example; edit it to use your own host")
    # The secrets are readable inside a closed folder: a container's fixed uid gets the files alone.
    make_folder(envs / "secrets", 0o700)
    for path, mode in ((variant.env_file, 0o600), (envs / "secrets", 0o700)):
        if path.stat().st_mode & 0o077:
            path.chmod(mode)
            say(f"envs/{path.name} was open to others; it is {mode:04o} now")
    for path in _delivered(variant)[1:]:
        if not path.exists():
            write_atomic(path, b"", 0o644)


def _delivered(variant: Variant) -> list[Path]:
    """Return the files of envs/ that containers of the variant see, the env file first."""
    envs = variant.env_file.parent
    others = ["known_hosts", "ssh_config", *(f"secrets/{name}" for name in SECRETS)]
    return [variant.env_file, *(envs / name for name in others)]


def write_compose_env(variant: Variant, *, as_root: bool) -> None:
    """Write the `.env` beside the compose file, so that compose by hand works too.

    LIGHTERAGE_FILES is a digest of the times and sizes of what containers see of envs/, and of no
    content. A label of the services has it: after an edit, `up` creates them again, since a mounted
    file stays what it was when the container was created.

    Args:
        variant: Of the compose file.
        as_root: The engine maps its root to the caller (podman without root does).
    """
    facts = [path.stat() for path in _delivered(variant)]
    text = " ".join(f"{fact.st_ino} {fact.st_mtime_ns} {fact.st_size}" for fact in facts)
    uid, gid = (0, 0) if as_root else owner()
    lines = f"""# Made by make: what the compose file beside it needs to know of this machine.
COMPOSE_PROJECT_NAME={variant.prefix}
LIGHTERAGE_PROJECT={variant.project.name}
LIGHTERAGE_UID={uid}
LIGHTERAGE_GID={gid}
LIGHTERAGE_FILES={hashlib.sha256(text.encode()).hexdigest()[:16]}
"""
    write_changed(variant.compose_file.with_name(".env"), lines)


def read(path: Path) -> dict[str, str]:
    """Read an env file as the tasks do.

    Raises:
        Failure: It is not readable, or a line is not portable, by file and line.
    """
    try:
        return reader.read(path, f"envs/{path.name}")
    except ConfigError as error:
        raise Failure(str(error)) from None


def setting_names(root: Path) -> tuple[set[str], set[str]]:
    """Return the variables that the settings read, and the names of all settings.

    They are declared in tasks/settings.py, which make's Python may be too old to import.
    """
    source = (root / "tasks" / "settings.py").read_text(encoding="utf-8")
    declared = dict(re.findall(r"(?ms)^    (\w+): [^\n]+? = _setting\((.*?)\)(?:  #.*?)?$", source))
    return {name.upper() for name, text in declared.items() if "env=True" in text}, set(declared)


def host_of(variant: Variant) -> str:
    """Return the host part of the variant's REMOTE_HOST_ADDRESS, without user and port."""
    address = read(variant.env_file).get("REMOTE_HOST_ADDRESS", "")
    return address.rpartition("@")[2].partition(":")[0]


# --- known_hosts ----------------------------------------------------------------------------------


def known_hosts(project: Project) -> Path:
    """Return the file of known host keys, shared by the variants."""
    return project.root / "envs" / "known_hosts"


def known_lines(project: Project) -> list[str]:
    """Return the lines of known_hosts; bytes that are not UTF-8 stay as they are."""
    path = known_hosts(project)
    content = path.read_bytes() if path.exists() else b""
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    return lines if lines[-1] else lines[:-1]


def add_known_hosts(project: Project, lines: Iterable[str]) -> int:
    """Append lines that are not there yet; return how many were added."""
    wanted = dict.fromkeys(lines)
    return _edit_known_hosts(project, lambda have: [*have, *(x for x in wanted if x not in have)])


def trust_sample_host(project: Project, address: str, public_key: str) -> None:
    """Make the bundled sample host known at `address`, in place of what was known there.

    Args:
        project: The clone.
        address: As known_hosts has it: `[host]:port`.
        public_key: Type and base64 key; a comment after them is dropped. Empty: forget the host.
    """
    entry = f"{address} {' '.join(public_key.split()[:2])} {SAMPLE_COMMENT}"

    def replaced(have: list[str]) -> list[str]:
        kept = [x for x in have if not (x.startswith(f"{address} ") and x.endswith(SAMPLE_COMMENT))]
        return [*kept, entry] if public_key else kept

    if not public_key or entry not in known_lines(project):
        _edit_known_hosts(project, replaced)


def _edit_known_hosts(project: Project, change: Callable[[list[str]], list[str]]) -> int:
    """Change lines under the lock that tasks take to append a key; return how many were added."""
    path = known_hosts(project)
    while True:
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                continue  # it was replaced before the lock was ours
            have = known_lines(project)
            wanted = change(have)
            if wanted != have:
                text = "".join(f"{line}\n" for line in wanted)
                write_atomic(path, text.encode("utf-8", "surrogateescape"), 0o644)
            return len(wanted) - len(have)
