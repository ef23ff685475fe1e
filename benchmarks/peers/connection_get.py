"""The plain way with Fabric: `Connection.get`, then tarfile or zipfile.

    python connection_get.py tar|zip|file|tree PORT USER KEY SOURCE

Lands in the folder `out` of the working directory. Nothing is checked, nothing is staged.
"""

from __future__ import annotations

import stat
import sys
import tarfile
import zipfile
from pathlib import Path

import fabric


def get_tree(connection: fabric.Connection, source: str, target: Path) -> None:
    """Get a folder, file by file."""
    target.mkdir(exist_ok=True)
    for entry in connection.sftp().listdir_attr(source):
        name = f"{source}/{entry.filename}"
        if stat.S_ISDIR(entry.st_mode):
            get_tree(connection, name, target / entry.filename)
        else:
            connection.get(name, local=str(target / entry.filename))


def main(kind: str, port: str, user: str, key: str, source: str) -> None:
    """Fetch, and unpack."""
    with fabric.Connection(
        "127.0.0.1", user=user, port=int(port), connect_kwargs={"key_filename": key}
    ) as connection:
        if kind == "tree":
            get_tree(connection, source, Path("out"))
        elif kind == "file":
            connection.get(source, local=f"out/{Path(source).name}")
        else:
            connection.get(source, local="archive")
    if kind == "tar":
        with tarfile.open("archive") as tar:
            tar.extractall("out")
    elif kind == "zip":
        with zipfile.ZipFile("archive") as archive:
            archive.extractall("out")


if __name__ == "__main__":
    main(*sys.argv[1:])
