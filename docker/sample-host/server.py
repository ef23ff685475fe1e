"""The bundled SSH host: the sample datasets over read-only SFTP and four commands.

    python server.py --root DIR --host-key FILE [--host ADDRESS] [--port PORT] [--ready-file FILE]
    python server.py public-key --host-key FILE

One implementation for the container and for the host runner. Each account sees its own
folder under --root as `/`, and nothing else. The commands are Python here, never a shell
or a program of the host:

    cat [--] PATH...
    sha256sum [--] PATH...
    tail -c +N [--] PATH
    tar -cf - [-C DIR] [--] PATH...
"""

import argparse
import asyncio
import errno
import getopt
import hashlib
import hmac
import json
import logging
import os
import posixpath
import shlex
import signal
import stat
import sys
import tarfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import asyncssh

import datasets

PASSWORDS: Mapping[str, str] = {
    name: os.environ.get(f"SAMPLE_HOST_PASSWORD_{name.upper()}", f"{name}-sample-only")
    for name in datasets.ACCOUNTS
}
"""Each account's password: the one that envs/*.env.example documents, or the environment's."""

BLOCK = 1024 * 1024
"""Bytes read, and handed to a channel, at once."""
BUFFERED = 4 * BLOCK
"""Bytes that may wait in a channel before its command pauses."""
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes256-ctr", "aes128-ctr")

log = logging.getLogger("sample-host")


def resolve(home: Path, path: str, *, follow: bool = True) -> Path:
    """Find the file that an account means by `path`.

    Args:
        home: the account's folder, which the account sees as `/`; without links.
        path: relative or absolute, both from `home`; `..` stops there.
        follow: whether a link at the end of `path` is followed. Others always are.

    Raises:
        PermissionError: links lead out of `home`.
    """
    relative = posixpath.normpath(posixpath.join("/", path)).lstrip("/")
    wanted = home / relative
    if follow or not relative:
        found = Path(os.path.realpath(wanted))
    else:
        found = Path(os.path.realpath(wanted.parent)) / wanted.name
    if not found.is_relative_to(home):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    return found


# --- SFTP ---------------------------------------------------------------------------------


def _refuse(*_: object, **__: object) -> NoReturn:
    """Answer an SFTP request that would change something."""
    raise asyncssh.SFTPPermissionDenied("this host is read-only")


class ReadOnlySFTP(asyncssh.SFTPServer):
    """An account's folder over SFTP: reading only, and links only within the folder."""

    def __init__(self, channel: asyncssh.SSHServerChannel[bytes], root: Path) -> None:
        self._home = root / channel.get_extra_info("username")
        super().__init__(channel, chroot=os.fsencode(self._home))

    def map_path(self, path: bytes) -> bytes:
        """Give the real path of `path`; the base class would follow links anywhere."""
        return os.fsencode(resolve(self._home, os.fsdecode(path)))

    def lstat(self, path: bytes) -> os.stat_result:
        """Describe `path`, a link itself rather than what it leads to."""
        return resolve(self._home, os.fsdecode(path), follow=False).lstat()

    def readlink(self, path: bytes) -> bytes:
        """Tell where a link leads, as the account sees it."""
        link = resolve(self._home, os.fsdecode(path), follow=False)
        link.readlink()  # fails, as it must, where it is no link
        return self.reverse_map_path(self.map_path(path))

    def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> object:
        """Open a file for reading (SFTP 3 and 4)."""
        if pflags & ~asyncssh.FXF_READ:
            _refuse()
        return super().open(path, asyncssh.FXF_READ, attrs)

    def open56(
        self, path: bytes, desired_access: int, flags: int, attrs: asyncssh.SFTPAttrs
    ) -> object:
        """Open a file for reading (SFTP 5 and 6, which this host does not offer)."""
        _refuse(path, desired_access, flags, attrs)

    write = setstat = lsetstat = fsetstat = _refuse
    remove = mkdir = rmdir = rename = posix_rename = symlink = link = _refuse


# --- commands -----------------------------------------------------------------------------


class RefusedError(Exception):
    """A command that this host does not run; the text says why."""


async def _read(path: Path, start: int = 0, size: int | None = None) -> AsyncIterator[bytes]:
    """Yield the bytes of `path` from `start`, `size` of them or all, a BLOCK at a time."""
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        left = path.stat().st_size if size is None else size
        while left > 0 and (block := file.read(min(BLOCK, left))):
            left -= len(block)
            yield block
            await asyncio.sleep(0)  # other connections' turn


def _operands(arguments: Sequence[str], options: str = "") -> tuple[dict[str, str], list[str]]:
    """Split `arguments` into options (as getopt's `options`) and the paths, at least one."""
    try:
        found, paths = getopt.getopt(list(arguments), options)
    except getopt.GetoptError as error:
        raise RefusedError(f"{error.msg}; this host knows few options") from None
    if not paths:
        raise RefusedError("a path is missing")
    return dict(found), paths


async def cat(home: Path, arguments: Sequence[str]) -> AsyncIterator[bytes]:
    """Yield files' bytes: `cat [--] PATH...`."""
    _, paths = _operands(arguments)
    for path in paths:
        async for block in _read(resolve(home, path)):
            yield block


async def tail(home: Path, arguments: Sequence[str]) -> AsyncIterator[bytes]:
    """Yield a file's bytes from its Nth, counted from 1: `tail -c +N [--] PATH`."""
    options, paths = _operands(arguments, "c:")
    start = options.get("-c", "")
    if len(paths) != 1 or not (start.startswith("+") and start[1:].isdecimal()):
        raise RefusedError("only `tail -c +N [--] PATH`")
    async for block in _read(resolve(home, paths[0]), max(int(start) - 1, 0)):
        yield block


async def sha256sum(home: Path, arguments: Sequence[str]) -> AsyncIterator[bytes]:
    """Yield a line of digest and path for each file: `sha256sum [--] PATH...`."""
    _, paths = _operands(arguments)
    for path in paths:
        digest = hashlib.sha256()
        async for block in _read(resolve(home, path)):
            digest.update(block)
        yield f"{digest.hexdigest()}  {path}\n".encode()


async def tar(home: Path, arguments: Sequence[str]) -> AsyncIterator[bytes]:
    """Yield a tar of files and folders: `tar -cf - [-C DIR] [--] PATH...`.

    The blocks are written here, around the files' bytes, because TarFile would write
    them to a blocking file, and so need a thread for each stream.
    """
    options, paths = _operands(arguments, "cf:C:")
    if "-c" not in options or options.get("-f", "-") != "-":
        raise RefusedError("only `tar -cf - [-C DIR] [--] PATH...`")
    top = options.get("-C", "/")
    written = 0
    for path in paths:
        for name, file in _walk(path, resolve(home, posixpath.join("/", top, path), follow=False)):
            facts = file.lstat()
            header = _header(name, file, facts)
            yield header
            written += len(header)
            if stat.S_ISREG(facts.st_mode):
                sent = 0
                async for block in _read(file, size=facts.st_size):
                    yield block
                    sent += len(block)
                padding = facts.st_size - sent + -facts.st_size % tarfile.BLOCKSIZE
                yield bytes(padding)
                written += sent + padding
    end = 2 * tarfile.BLOCKSIZE
    yield bytes(end + -(written + end) % tarfile.RECORDSIZE)


def _walk(name: str, path: Path) -> list[tuple[str, Path]]:
    """List `path`, called `name`, and all below it, sorted; links are not followed."""
    found = [(name, path)]
    if path.is_dir() and not path.is_symlink():
        for child in sorted(path.iterdir()):
            found += _walk(posixpath.join(name, child.name), child)
    return found


def _header(name: str, path: Path, facts: os.stat_result) -> bytes:
    """Make the tar header of `path`; its owner is 0, not this machine's."""
    info = tarfile.TarInfo(name.lstrip("/") or ".")
    info.mode, info.mtime = stat.S_IMODE(facts.st_mode), int(facts.st_mtime)
    if stat.S_ISDIR(facts.st_mode):
        info.type = tarfile.DIRTYPE
    elif stat.S_ISLNK(facts.st_mode):
        info.type, info.linkname = tarfile.SYMTYPE, str(path.readlink())
    else:
        info.size = facts.st_size
    return info.tobuf(tarfile.GNU_FORMAT)


COMMANDS: Mapping[str, Callable[[Path, Sequence[str]], AsyncIterator[bytes]]] = {
    command.__name__: command for command in (cat, sha256sum, tail, tar)
}


def parse(line: str) -> list[str]:
    """Split a command line as a shell would, and refuse what only a shell could do.

    Raises:
        RefusedError: operators (`;`, `|`, `>`...), or quotes that do not close.
    """
    words = shlex.shlex(line, posix=True, punctuation_chars=True)
    words.whitespace_split, words.commenters = True, ""
    try:
        split = list(words)
    except ValueError as error:
        raise RefusedError(f"cannot be split into words: {error}") from None
    if any(word and set(word) <= set(words.punctuation_chars) for word in split):
        raise RefusedError("there is no shell here: one plain command at a time")
    return split


async def execute(process: asyncssh.SSHServerProcess[bytes], root: Path) -> None:
    """Run a client's command and end it with an exit code, as a shell's.

    0 done, 1 a file's error, 126 refused, 127 no such command.
    """
    home = root / process.get_extra_info("username")
    known = ", ".join(COMMANDS)
    name, code, message = "sample-host", 0, ""
    try:
        words = parse(process.command or "")
        name, *arguments = words or [name]
        if name in COMMANDS:
            process.channel.set_write_buffer_limits(BUFFERED)
            async for block in COMMANDS[name](home, arguments):
                process.stdout.write(block)
                await process.stdout.drain()
        elif words:
            code, message = 127, f"command not found; this host has {known}"
        else:
            code, message = 126, f"no shell here, but SFTP and the commands {known}"
    except RefusedError as error:
        code, message = 126, str(error)
    except (ConnectionError, asyncssh.Error):  # the client went away
        return
    except OSError as error:
        # Never the file's own path: the account knows only its view of it.
        code, message = 1, f"{shlex.join(arguments)}: {error.strerror}"
    if message:
        process.stderr.write(f"{name}: {message}\n".encode())
    process.exit(code)


# --- the server ---------------------------------------------------------------------------


class Login(asyncssh.SSHServer):
    """Lets an account in by its password, and logs each try."""

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """Remember who is calling."""
        self._peer = conn.get_extra_info("peername")

    def begin_auth(self, username: str) -> bool:  # noqa: ARG002 -- the same for everyone
        """Ask everyone for a password, whether there is such an account or not."""
        return True

    def password_auth_supported(self) -> bool:
        """Offer passwords: the one way in."""
        return True

    def validate_password(self, username: str, password: str) -> bool:
        """Compare in constant time, also where there is no such account."""
        right = PASSWORDS.get(username, "")
        same = hmac.compare_digest(password.encode(), right.encode())
        allowed = same and bool(right)
        log.info(
            "login %s: %r from %s", "allowed" if allowed else "denied", username, self._peer[0]
        )
        return allowed


def host_key(path: Path) -> asyncssh.SSHKey:
    """Read the host's ed25519 key, made at the first use (mode 0600).

    Raises:
        OSError, asyncssh.KeyImportError: it can be neither read nor made.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = path.with_name(f".{path.name}.{os.getpid()}")
        made.unlink(missing_ok=True)
        with open(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123 -- born 0600
            file.write(asyncssh.generate_private_key("ssh-ed25519").export_private_key())
        try:
            path.hardlink_to(made)  # unlike a rename, never over the key of another server
        except FileExistsError:
            pass
        finally:
            made.unlink()
    return asyncssh.read_private_key(path)


def public_line(key: asyncssh.SSHKey) -> str:
    """Give the public half as known_hosts wants it: `ssh-ed25519 AAAA...`."""
    return " ".join(key.export_public_key().decode().split()[:2])


async def serve(arguments: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        OSError, asyncssh.KeyImportError: it cannot listen, or its files cannot be made.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    key = host_key(arguments.host_key)
    root = arguments.root.resolve()
    datasets.generate(root)
    listener = await asyncssh.listen(
        arguments.host,
        arguments.port,
        server_factory=Login,
        server_host_keys=[key],
        sftp_factory=lambda channel: ReadOnlySFTP(channel, root),
        process_factory=lambda process: execute(process, root),
        encoding=None,
        encryption_algs=CIPHERS,
        compression_algs=["none"],  # archives do not shrink twice
        allow_pty=False,
        agent_forwarding=False,
        line_editor=False,
        kbdint_auth=False,
        public_key_auth=False,
    )
    if arguments.ready_file is not None:
        state = {"port": listener.get_port(), "pid": os.getpid(), "public_key": public_line(key)}
        arguments.ready_file.parent.mkdir(parents=True, exist_ok=True)
        part = arguments.ready_file.with_name(f".{arguments.ready_file.name}.{os.getpid()}")
        part.write_text(json.dumps(state) + "\n")
        part.replace(arguments.ready_file)
    log.info("listening on %s port %d", arguments.host, listener.get_port())
    await stop.wait()
    listener.close()
    if arguments.ready_file is not None:
        arguments.ready_file.unlink(missing_ok=True)


def main() -> int:
    """Do what the command line says; return the exit code: 0, or 1 with a line of why."""
    parser = argparse.ArgumentParser(description="Serve the sample datasets over SSH.")
    parser.add_argument("action", nargs="?", choices=("serve", "public-key"), default="serve")
    parser.add_argument("--host-key", type=Path, required=True, help="made at the first use")
    parser.add_argument("--root", type=Path, help="the datasets' folder; made when missing")
    parser.add_argument("--host", default="127.0.0.1", help="address (default: %(default)s)")
    parser.add_argument("--port", type=int, default=2222, help="0 is any (default: %(default)s)")
    parser.add_argument("--ready-file", type=Path, help="gets port, pid and public_key, as JSON")
    parser.add_argument("--verbose", action="store_true", help="a line for each login")
    arguments = parser.parse_args()
    if arguments.action == "serve" and arguments.root is None:
        parser.error("--root is missing: the folder of the datasets")
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("asyncssh").setLevel(logging.ERROR)
    log.setLevel(logging.INFO if arguments.verbose else logging.WARNING)
    try:
        if arguments.action == "public-key":
            print(public_line(host_key(arguments.host_key)))
        else:
            asyncio.run(serve(arguments))
    except asyncssh.KeyImportError as error:
        print(
            f"sample-host: {arguments.host_key} is no host key ({error}); delete it for a new one",
            file=sys.stderr,
        )
        return 1
    except OSError as error:
        print(f"sample-host: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
