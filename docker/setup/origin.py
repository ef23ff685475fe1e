"""What an image is of: version, commit and source, as far as the clone knows them."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from docker.setup.engine import quiet
from docker.setup.project import Project


def version_of(project: Project) -> str:
    """The version that pyproject.toml gives."""
    text = (project.root / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^version = "([^"]+)"$', text, re.MULTILINE)
    return found.group(1) if found else "0"


def labels(project: Project) -> dict[str, str]:
    """What an image is of, in the OCI's terms (image-spec, annotations); git knows most of it."""
    prefix = "org.opencontainers.image."
    found = {prefix + "title": project.name, prefix + "version": version_of(project)}
    revision = _git(project, "rev-parse", "HEAD")
    if revision:
        dirty = "-dirty" if _git(project, "status", "--porcelain") else ""
        found[prefix + "revision"] = revision + dirty
        found[prefix + "created"] = _git(project, "show", "-s", "--format=%cI", "HEAD")
    source = _public(_git(project, "remote", "get-url", "origin"))
    if source:
        found[prefix + "source"] = source
    return found


def _git(project: Project, *words: str) -> str:
    """What git says of the clone; nothing where there is no git, or no history."""
    answer = quiet("git", "-C", str(project.root), *words)
    return answer.stdout.strip() if answer.returncode == 0 else ""


def _public(url: str) -> str:
    """A remote's address without an account; nothing where it is a path of this machine."""
    scp = re.fullmatch(r"(?:[^@/]+@)?([^:/]+):(?!//)(.+)", url)
    if scp:
        return f"ssh://{scp.group(1)}/{scp.group(2)}"
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http", "ssh", "git") or not parts.hostname:
        return ""
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"
