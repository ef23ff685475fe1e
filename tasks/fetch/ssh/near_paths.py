"""Names near a missing remote path, for its error: the directory that exists is listed once."""

from __future__ import annotations

import logging
import posixpath
from collections.abc import Callable
from difflib import get_close_matches
from itertools import islice

from tasks.fetch.ssh.remote_files import RemoteFile
from tasks.fetch.ssh.sftp_listing import Limits, Lister
from tasks.fetch.ssh.sftp_session import Session

log = logging.getLogger(__name__)

MAX_NAMES = 1000
"""Names of the directory that are read: the error must not take long."""
MAX_SHOWN = 5
_GLOB = "*?["


def near(open_session: Callable[[], Session], path: str, timeout: float) -> str:
    """Return what a missing path may have been, to follow the text of its error; else nothing.

    A failure here is logged only: that of the path is the one to report.

    Args:
        open_session: Returns one with no other user; at the end answers may still be under way.
        path: It may be a glob.
        timeout: Seconds that the listing may take.
    """
    try:
        return _near(open_session(), path.rstrip("/"), timeout)
    except Exception as error:  # noqa: BLE001 (of a host or of paramiko, which raises any)
        log.debug("%s: near names: %r", path, error)
        return ""


def _near(session: Session, path: str, timeout: float) -> str:
    folders = _above(path)
    facts = session.stats([folder or "." for folder in folders])
    existing = [
        folder
        for folder, fact in zip(folders, facts, strict=True)
        if isinstance(fact, RemoteFile) and fact.folder
    ]
    if not existing:
        return ""
    folder = existing[-1]
    wanted = path[len(folder) :].lstrip("/").partition("/")[0]
    lister = Lister(session, folder or ".", 0, Limits(MAX_NAMES * 10, timeout))
    found = sorted(name for name, _ in islice(lister.entries(), MAX_NAMES))
    shown = folder or "the home directory"
    if not found:
        return f"; {shown} is empty"
    by_lower = {name.lower(): name for name in found}
    close = get_close_matches(wanted.lower(), by_lower, n=3, cutoff=0.6)
    if close and not any(char in wanted for char in _GLOB):
        paths = [posixpath.join(folder, by_lower[name]) for name in close]
        return f" (did you mean {' or '.join(paths)}?)"
    more = ", ..." if len(found) > MAX_SHOWN else ""
    return f"; {shown} contains {', '.join(found[:MAX_SHOWN])}{more}"


def _above(path: str) -> list[str]:
    """Return the directories above a path, the topmost first; "" is that of relative paths."""
    folders = []
    while path not in {"", "/"}:
        path = posixpath.dirname(path)
        folders.append(path)
    return folders[::-1]
