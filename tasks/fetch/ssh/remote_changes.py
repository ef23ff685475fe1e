"""The changes that a run makes on the host: files are removed or moved, over SFTP."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tasks.fetch.errors import RemotePathError
from tasks.fetch.ssh import sftp_packets as packets
from tasks.fetch.ssh.remote_files import RemoteFile
from tasks.fetch.ssh.sftp_session import Session

NO_ATTRIBUTES = bytes(4)
_MAY_CHANGE = "have this account allowed to change the directory on the host, or set after to keep"


def home(session: Session) -> str:
    """Return the absolute path of the folder that the session starts in."""
    [(_, kind, body)] = session.answers(packets.REALPATH, {".": packets.path_string(".")})
    if kind != packets.NAME:
        raise packets.error_of(".", kind, body)
    return packets.read_string(body[4:]).decode(errors="surrogateescape")


def remove(session: Session, paths: Iterable[str]) -> dict[str, RemotePathError | None]:
    """Remove files; return why each could not be, or None."""
    return _changed(session, packets.REMOVE, {path: packets.path_string(path) for path in paths})


def move(session: Session, moves: Mapping[str, str], top: str) -> dict[str, RemotePathError | None]:
    """Move files to new paths in a folder that exists; return why each could not be, or None.

    The folders below `top` are created. No file is replaced: of a path that exists this is checked
    here, and again by the server (draft-ietf-secsh-filexfer-02, 6.5).
    """
    folders = {parent for path in moves.values() for parent in _parents(path, top)}
    for folder in sorted(folders):  # those that exist are refused, which does not matter
        request = packets.path_string(folder) + NO_ATTRIBUTES
        _changed(session, packets.MKDIR, {folder: request})
    facts = session.stats(list(moves.values()))
    found: dict[str, RemotePathError | None] = {}
    requests = {}
    for (path, new), fact in zip(moves.items(), facts, strict=True):
        if isinstance(fact, RemoteFile):
            found[path] = RemotePathError(
                f"{path}: {new} exists on the host",
                advice="remove it on the host, or set another directory in `after`",
            )
        elif not isinstance(fact, FileNotFoundError):
            found[path] = RemotePathError(
                f"{path}: {new} cannot be looked up: {fact}", advice=_MAY_CHANGE
            )
        else:
            requests[path] = packets.path_string(path) + packets.path_string(new)
    return found | _changed(session, packets.RENAME, requests)


def _parents(path: str, top: str) -> list[str]:
    """Return the folders of a path that are below `top`."""
    parts = path.removeprefix(top).strip("/").split("/")[:-1]
    return [f"{top}/{'/'.join(parts[: number + 1])}" for number in range(len(parts))]


def _changed(
    session: Session, kind: int, requests: Mapping[str, bytes]
) -> dict[str, RemotePathError | None]:
    found = {}
    for path, answer, body in session.answers(kind, requests):
        code, text = packets.read_status(body) if answer == packets.STATUS else (-1, "")
        reason = text or f"status {code}"
        if code == packets.PERMISSION_DENIED:
            reason = "this account has no permission"
        found[path] = RemotePathError(f"{path}: {reason}", advice=_MAY_CHANGE) if code else None
    return found
