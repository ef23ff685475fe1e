"""The set-up that the project grew out of: paramiko's `sftp.get`, then `extractall`.

    python three_scripts.py tar|zip|file|tree PORT USER KEY SOURCE

It was three scripts, one for each kind of source. Lands in `out` of the working directory.
"""

from __future__ import annotations

import os
import stat
import sys
import tarfile
import zipfile

import paramiko


def download_dir(sftp: paramiko.SFTPClient, remote: str, local: str) -> None:
    """Get a folder, file by file."""
    os.makedirs(local, exist_ok=True)  # noqa: PTH103 (as those scripts had it)
    for entry in sftp.listdir_attr(remote):
        path = remote + "/" + entry.filename
        if stat.S_ISDIR(entry.st_mode or 0):
            download_dir(sftp, path, local + "/" + entry.filename)
        else:
            sftp.get(path, local + "/" + entry.filename)


def main(kind: str, port: str, user: str, key: str, source: str) -> None:
    """Fetch, and unpack."""
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())  # noqa: S507 (as it was)
    client.connect("127.0.0.1", port=int(port), username=user, key_filename=key)
    sftp = client.open_sftp()
    if kind == "tree":
        download_dir(sftp, source, "out")
    else:
        sftp.get(source, "out/big.csv" if kind == "file" else "archive")
    sftp.close()
    client.close()
    if kind == "tar":
        with tarfile.open("archive", "r:gz") as tar:
            tar.extractall("out")
    elif kind == "zip":
        with zipfile.ZipFile("archive") as archive:
            archive.extractall("out")


if __name__ == "__main__":
    main(*sys.argv[1:])
