"""The files in envs/: made at the first use, closed to others, checked before anything starts."""

from __future__ import annotations

import ast
import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from docker.setup.engine import Engine
from docker.setup.project import Failure, Project, give_to_owner, say, write_atomic
from docker.setup.variants import Variant
from tasks import env_file as reader
from tasks.fetch.errors import ConfigError

SECRETS = ("password", "ssh_key", "ssh_key_passphrase", "gateway_password")
SAMPLE_COMMENT = "lighterage-sample-host"


def prepare(variant: Variant) -> None:
    """Create missing files in envs/, and reject an env file that a task would reject.

    Raises:
        Failure: a line of the env file is not portable, or a variable is misspelt.
    """
    make_files(variant)
    check(variant)
    if not variant.binds_tree:
        _copy_for_containers(variant)


def check(variant: Variant) -> None:
    """Reject an env file that a task would reject.

    Raises:
        Failure: a line is not portable, or a variable is misspelt.
    """
    values = read(variant.env_file)
    try:
        reader.check_names(
            values, f"envs/{variant.env_file.name}", *_setting_names(variant.project)
        )
    except ConfigError as error:
        raise Failure(str(error)) from None


def make_files(variant: Variant) -> None:
    """Create missing files in envs/, and close those that are open to other users."""
    envs = variant.project.root / "envs"
    if not variant.env_file.exists():
        write_atomic(variant.env_file, variant.example.read_bytes(), 0o600)
        say(f"made envs/{variant.env_file.name} from its example; edit it to use your own host")
    elif variant.env_file.stat().st_mode & 0o077:
        variant.env_file.chmod(0o600)
        say(f"envs/{variant.env_file.name} was open to others; it is 0600 now")
    # The secrets are readable inside a closed folder: a container's fixed uid gets the files alone.
    folder = envs / "secrets"
    if not folder.is_dir():
        folder.mkdir(mode=0o700, exist_ok=True)
        give_to_owner(folder)
    elif folder.stat().st_mode & 0o077:
        folder.chmod(0o700)
        say("envs/secrets was open to others; it is 0700 now")
    for path in _delivered(variant)[1:]:
        if not path.exists():
            write_atomic(path, b"", 0o644)


def container_copy(variant: Variant) -> Path:
    """The copy of the env file that compose mounts where the tree is not mounted."""
    return variant.env_file.parent / "secrets" / variant.env_file.name


def _copy_for_containers(variant: Variant) -> None:
    """Copy the env file into the closed folder, readable: a container's fixed uid reads the copy.

    It reaches the container as a file, so that `docker inspect` shows none of its values.
    """
    copy, content = container_copy(variant), variant.env_file.read_bytes()
    if not copy.exists() or copy.read_bytes() != content:
        write_atomic(copy, content, 0o644)


def _delivered(variant: Variant) -> list[Path]:
    """The files of envs/ that containers of the variant see, the env file first."""
    envs = variant.env_file.parent
    others = ["known_hosts", "ssh_config", *(f"secrets/{name}" for name in SECRETS)]
    return [variant.env_file, *(envs / name for name in others)]


def write_compose_env(variant: Variant, engine: Engine) -> None:
    """Write the `.env` beside the compose file.

    LIGHTERAGE_FILES is a digest of the times and sizes of what containers see of envs/, and of no
    content. A label of the services has it: after an edit, `up` creates them again, since a mounted
    file stays what it was when the container was created.
    """
    facts = [path.stat() for path in _delivered(variant)]
    text = " ".join(f"{fact.st_ino} {fact.st_mtime_ns} {fact.st_size}" for fact in facts)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    variant.write_compose_env(digest, as_root=engine.root_is_caller)


def read(path: Path) -> dict[str, str]:
    """Read an env file as the tasks do.

    Raises:
        Failure: it is not readable, or a line is not portable, by file and line.
    """
    try:
        return reader.read(path, f"envs/{path.name}")
    except ConfigError as error:
        raise Failure(str(error)) from None


def _setting_names(project: Project) -> tuple[set[str], set[str]]:
    """The variables that the settings read, and the names of all settings.

    They are declared in tasks/settings.py, which make's Python may be too old to import.
    """
    source = (project.root / "tasks" / "settings.py").read_text(encoding="utf-8")
    variables, names = set(), set()
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Call)):
            continue
        if ast.unparse(node.value.func) == "_setting":
            name = ast.unparse(node.target)
            names.add(name)
            if any(word.arg == "env" for word in node.value.keywords):
                variables.add(name.upper())
    return variables, names


def host_of(variant: Variant) -> str:
    """The host part of the variant's REMOTE_HOST_ADDRESS, without user and port."""
    address = read(variant.env_file).get("REMOTE_HOST_ADDRESS", "")
    return address.rpartition("@")[2].partition(":")[0]


def known_hosts(project: Project) -> Path:
    """The file of known host keys, shared by the variants."""
    return project.root / "envs" / "known_hosts"


def add_known_hosts(project: Project, lines: Iterable[str]) -> int:
    """Append lines that are not there yet; returns how many were added."""
    with _locked_known_hosts(project):
        have = known_lines(project)
        new = [line for line in dict.fromkeys(lines) if line not in have]
        if new:
            _write_known_hosts(project, [*have, *new])
    return len(new)


@contextlib.contextmanager
def _locked_known_hosts(project: Project) -> Iterator[None]:
    """Hold the lock that tasks take on known_hosts before they append a new host's key."""
    path = known_hosts(project)
    while True:
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                yield
                return  # else it was replaced before the lock was ours


def known_lines(project: Project) -> list[str]:
    """The lines of known_hosts; bytes that are not UTF-8 stay as they are."""
    path = known_hosts(project)
    content = path.read_bytes() if path.exists() else b""
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    return lines if lines[-1] else lines[:-1]


def _write_known_hosts(project: Project, lines: Iterable[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    write_atomic(known_hosts(project), text.encode("utf-8", "surrogateescape"), 0o644)


def trust_sample_host(project: Project, address: str, public_key: str) -> None:
    """Make the bundled sample host known at `address`, in place of what was known there.

    Args:
        project: the clone.
        address: as known_hosts has it: `[host]:port`.
        public_key: type and base64 key; a comment after them is dropped.
    """
    entry = f"{address} {' '.join(public_key.split()[:2])} {SAMPLE_COMMENT}"
    with _locked_known_hosts(project):
        have = known_lines(project)
        if entry not in have:
            _write_known_hosts(project, [*_without_sample_host(have, address), entry])


def forget_sample_host(project: Project, address: str) -> None:
    """Drop the sample host's line for `address`: another server may get that port."""
    with _locked_known_hosts(project):
        have = known_lines(project)
        kept = _without_sample_host(have, address)
        if kept != have:
            _write_known_hosts(project, kept)


def _without_sample_host(lines: list[str], address: str) -> list[str]:
    return [x for x in lines if not (x.startswith(f"{address} ") and SAMPLE_COMMENT in x)]
