"""The wheelhouse: all wheels that requirements/*.txt pin, for builds without a network."""

from __future__ import annotations

import os
import re
from pathlib import Path

from docker.setup.project import Failure, Project, give_to_owner, say, sha256

# In the form of sha256sum: `sha256sum -c SHA256SUMS` in that folder says the same as OFFLINE=1.
SUMS = "SHA256SUMS"


def folder_of(project: Project) -> Path:
    """Return the folder, of which builds see the wheels."""
    return project.root / "docker" / "wheels"


def record_wheels(project: Project) -> None:
    """Write down of which wheels, for which requirements, it is; remove what nothing pins."""
    folder, files = folder_of(project), sorted((project.root / "requirements").glob("*.txt"))
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    pinned = set(re.findall(r"--hash=sha256:([0-9a-f]{64})", text))
    digests = {wheel: sha256(wheel) for wheel in sorted(folder.glob("*.whl"))}
    for wheel in [wheel for wheel, digest in digests.items() if digest not in pinned]:
        wheel.unlink()
        del digests[wheel]
    seen = {**{file: sha256(file) for file in files}, **digests}
    lines = (f"{digest}  {os.path.relpath(path, folder)}\n" for path, digest in seen.items())
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")
    for path in [*digests, folder / SUMS]:
        give_to_owner(path)
    size = sum(wheel.stat().st_size for wheel in digests) / 1e6
    say(f"{len(digests)} wheels, {size:.0f} MB, in docker/wheels; use: OFFLINE=1")


def check(project: Project) -> None:
    """Check that every wheel is there and what `make vendor` downloaded.

    Raises:
        Failure: A file is missing or differs.
    """
    folder = folder_of(project)
    if not (folder / SUMS).is_file():
        raise Failure("OFFLINE=1 needs docker/wheels: run make vendor where there is a network")
    for line in (folder / SUMS).read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        path = Path(os.path.normpath(folder / name))
        shown = path.relative_to(project.root)
        if not path.is_file():
            raise Failure(f"OFFLINE=1, but {shown} is missing; run make vendor again", 8)
        if sha256(path) != digest:
            raise Failure(f"{shown} is not what make vendor saw: hash mismatch; run it again", 6)
