"""The sides: the project and each of its peers, as the command that a person would type.

Every command runs in an empty folder with an empty folder `out` in it, where the data must be
at its end. It finds in its environment: HOST and PORT of the server, LOGIN, KEY, SOURCE (the
remote path), and SSH_CONFIG, a file with all of that for the host name `bench` and, on the gcm
sides, the one line `Ciphers aes128-gcm@openssh.com`. All else is each tool's own default.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

Kind = Literal["tar", "zip", "file", "tree"]
Cipher = Literal["default", "gcm"]
OURS = "Lighterage"
REPOSITORY = Path(__file__).parents[1]
_TASKS: dict[Kind, str] = {"zip": "1", "tar": "2", "file": "3", "tree": "3"}


@dataclass(frozen=True)
class Side:
    """One way to fetch.

    Attributes:
        name: As the table has it.
        command: What is run.
        needs: Programs that must be there.
        cipher: Which ssh_config it is given.
    """

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    cipher: Cipher = "default"

    @property
    def missing(self) -> list[str]:
        """Programs that are not there."""
        return [program for program in self.needs if shutil.which(program) is None]


def ours(kind: Kind, *options: str, target: str = "out") -> Side:
    """Give the project's own way: the task as the prod image runs it, logging warnings only.

    A single file is fetched as a folder that holds one: that is what task 3 is for.
    """
    words = [sys.executable, "-m", "tasks", _TASKS[kind], "--log-level=WARNING", *options]
    name = " ".join([OURS, *options])
    # The address and the rest come by a shell too, as at a peer: its start is 2 ms.
    rest = (
        '--remote-host-address="$HOST:$PORT" --username="$LOGIN" --ssh-key-file="$KEY" '
        '--known-hosts-file="$KNOWN_HOSTS" --remote-file-path="${SOURCE%/big.csv}" '
        f'--file-save-path="{target}"'
    )
    return Side(name, ("bash", "-c", f'exec "$0" "$@" {rest}', *words))


def _shell(name: str, script: str, *needs: str) -> Side:
    return Side(name, ("bash", "-euo", "pipefail", "-c", script), ("bash", *needs))


def _both(name: str, script: str, *needs: str) -> list[Side]:
    """Give a side of OpenSSH with its default cipher and with the fastest one."""
    side = _shell(name, script, "ssh", *needs)
    return [side, replace(side, name=f"{name}, gcm", cipher="gcm")]


def _python(name: str, script: str, kind: Kind) -> Side:
    path = str(Path(__file__).parent / "peers" / script)
    line = f'exec "$0" "$1" {kind} "$PORT" "$LOGIN" "$KEY" "$SOURCE"'
    return Side(name, ("bash", "-c", line, sys.executable, path))


SCP = 'scp -q -F "$SSH_CONFIG" bench:"$SOURCE"'
SFTP = 'sftp -q -F "$SSH_CONFIG" bench:"$SOURCE"'
RSYNC = 'rsync -e "ssh -F $SSH_CONFIG"'
CAT = """ssh -F "$SSH_CONFIG" bench "cat '$SOURCE'" """
LFTP = (
    'lftp -c "set cmd:fail-exit true; set net:max-retries 2; '
    "set sftp:connect-program 'ssh -a -x -F $SSH_CONFIG'; open -u $LOGIN, sftp://bench:$PORT; "
)
RCLONE = (
    'rclone {command} --config "" --sftp-host "$HOST" --sftp-port "$PORT" --sftp-user "$LOGIN" '
    '--sftp-key-file "$KEY" --sftp-known-hosts-file "$KNOWN_HOSTS" {arguments}'
)
COPY = RCLONE.format(command="copy --transfers 16", arguments=':sftp:"$SOURCE" out')
EXTRACT = RCLONE.format(command="archive extract", arguments=':sftp:"$SOURCE" out')
_UNPACK: dict[Kind, tuple[str, str]] = {
    "tar": ("tar xzf", "tar xzf archive -C out"),
    "zip": ("unzip", "unzip -q archive -d out"),
}


def of_archive(kind: Literal["tar", "zip"]) -> list[Side]:
    """Give the peers that fetch an archive and unpack it."""
    tool, unpack = _UNPACK[kind]
    program = tool.split()[0]
    sides = [
        *_both(f"scp + {tool}", f"{SCP} archive; {unpack}", "scp", program),
        *_both(f"sftp + {tool}", f"{SFTP} archive; {unpack}", "sftp", program),
        *_both(f"rsync + {tool}", f'{RSYNC} bench:"$SOURCE" archive; {unpack}', "rsync", program),
        _lftp(f"lftp pget + {tool}", "pget -n 4 $SOURCE -o archive", program, then=unpack),
        _shell("rclone archive extract", EXTRACT, "rclone"),
    ]
    if kind == "tar":
        sides += _both("ssh cat | tar xz", f"{CAT} | tar xz -C out", "tar")
        sides += _both("ssh cat | igzip | tar x", f"{CAT} | igzip -dc | tar x -C out", "igzip")
    module = "tarfile" if kind == "tar" else "zipfile"
    return [
        *sides,
        _python(f"Connection.get + {module}", "connection_get.py", kind),
        _python("three scripts (paramiko)", "three_scripts.py", kind),
    ]


def of_file() -> list[Side]:
    """Return the peers that copy one file unchanged."""
    return [
        *_both("scp", f"{SCP} out/", "scp"),
        *_both("sftp", f"{SFTP} out/", "sftp"),
        *_both("rsync", f'{RSYNC} bench:"$SOURCE" out/', "rsync"),
        _lftp("lftp pget", "pget -n 4 $SOURCE -o out/"),
        *_both("ssh cat", f'{CAT} > "out/${{SOURCE##*/}}"'),
        _shell("rclone copy", COPY, "rclone"),
        _python("Connection.get", "connection_get.py", "file"),
        _python("three scripts (paramiko)", "three_scripts.py", "file"),
    ]


def of_tree() -> list[Side]:
    """Give the peers that fetch a folder of many files."""
    stream = """ssh -F "$SSH_CONFIG" bench "tar c -C '$SOURCE' ." | tar x -C out"""
    return [
        *_both("rsync -r", f'{RSYNC} -r bench:"$SOURCE/" out/', "rsync"),
        *_both("scp -r", 'rmdir out; scp -q -r -F "$SSH_CONFIG" bench:"$SOURCE" out', "scp"),
        *_both("sftp -r", 'rmdir out; sftp -q -r -F "$SSH_CONFIG" bench:"$SOURCE" out', "sftp"),
        *_both("ssh tar | tar x", stream, "tar"),
        _shell("rclone copy", COPY, "rclone"),
        _lftp("lftp mirror", "mirror $SOURCE out"),
        _lftp("lftp mirror -P 4", "mirror --parallel=4 $SOURCE out"),
        _python("Connection.get", "connection_get.py", "tree"),
        _python("three scripts (paramiko)", "three_scripts.py", "tree"),
    ]


def of_mirror() -> list[Side]:
    """Give the peers that bring a folder up to date, with the times of its files."""
    return [
        *_both("rsync -a", f'{RSYNC} -a bench:"$SOURCE/" out/', "rsync"),
        _shell("rclone copy", COPY, "rclone"),
    ]


def of_zips() -> list[Side]:
    """Give the peers that fetch a folder of zips and unpack each."""
    unpack = 'for zip in zips/*.zip; do unzip -q "$zip" -d out; done'
    return [
        *_both("scp -r, unzip each", f'scp -q -r -F "$SSH_CONFIG" bench:"$SOURCE" zips; {unpack}',
               "scp", "unzip"),
        *_both("rsync -r, unzip each", f'{RSYNC} -r bench:"$SOURCE/" zips; {unpack}',
               "rsync", "unzip"),
    ]  # fmt: skip


def of_xz() -> list[Side]:
    """Give the peers that fetch a tar.xz and unpack it."""
    return [
        *_both("scp + tar xJf", f"{SCP} archive; tar xJf archive -C out", "scp", "tar", "xz"),
        *_both("ssh cat | tar xJ", f"{CAT} | tar xJ -C out", "tar", "xz"),
    ]


TO_BUCKET = (
    ':s3:"$TARGET" --s3-provider Other --s3-env-auth --s3-endpoint "$AWS_ENDPOINT_URL" '
    "--s3-no-check-bucket"
)
UPLOAD = f'rclone copy --config "" --transfers 16 out {TO_BUCKET}'


def of_archive_to_bucket() -> list[Side]:
    """Give the peers that fetch a tar.gz, and upload what is in it."""
    fetch = RCLONE.format(command="copyto", arguments=':sftp:"$SOURCE" archive')
    extract = RCLONE.format(command="archive extract", arguments=f':sftp:"$SOURCE" {TO_BUCKET}')
    unpack = f"{_UNPACK['tar'][1]}; {UPLOAD}"
    return [
        *_both("scp, tar xzf, rclone copy", f"{SCP} archive; {unpack}", "scp", "tar", "rclone"),
        _shell("rclone copy, tar xzf, rclone copy", f"{fetch}; {unpack}", "tar", "rclone"),
        _shell("rclone archive extract", extract, "rclone"),
    ]


def of_tree_to_bucket() -> list[Side]:
    """Give the peers that copy a folder of many files to a bucket."""
    copy = RCLONE.format(command="copy --transfers 16", arguments=f':sftp:"$SOURCE" {TO_BUCKET}')
    return [
        _shell("rclone copy", copy, "rclone"),
        *_both("scp -r, rclone copy",
               f'rmdir out; scp -q -r -F "$SSH_CONFIG" bench:"$SOURCE" out; {UPLOAD}',
               "scp", "rclone"),
    ]  # fmt: skip


def _lftp(name: str, command: str, *needs: str, then: str = "") -> Side:
    return _shell(name, f'{LFTP} {command}"; {then}', "lftp", "ssh", *needs)
