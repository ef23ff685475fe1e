"""Makes a Python base image from Debian packages, for machines that reach no image registry.

    python3 docker/base/build.py {runtime|build} --tag NAME:TAG --output FILE
    python3 docker/base/build.py lock

The packages of runtime.txt, for `build` those of build.txt as well, are resolved, fetched and
verified by the apt of this machine, with state and settings of its own: nothing of the machine's
apt changes, and root is not needed. They come from the mirror that apt uses here, or DEBIAN_MIRROR.
They are unpacked, never installed, so no script of a package runs; the few files that such scripts
would have made are written here. The archive that comes out is for `docker load` and `podman load`.
Equal packages make equal bytes on every machine.

Which versions is written down in debian.*.lock, by `lock`. Those that the archive has no more are
told, and the current ones taken; with --locked that is an error.

Python 3.9 and the standard library are enough, beside apt-get and dpkg-deb.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn
from urllib.parse import unquote

HERE = Path(__file__).resolve().parent
KINDS = {"runtime": ("runtime.txt",), "build": ("runtime.txt", "build.txt")}

# The release that has Python 3.11, whatever this machine runs.
RELEASE = "bookworm"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# The names under which a source of this machine is one of Debian's, and not of a derivative.
CODENAMES = "buster|bullseye|bookworm|trixie|forky|sid|oldstable|stable|testing|unstable"
SUITES = {
    RELEASE: "Debian",
    f"{RELEASE}-updates": "Debian",
    f"{RELEASE}-security": "Debian-Security",
}

# Folders that are links into usr here, though packages of this release still have files in them.
MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
# For readers and for charsets that nothing here uses. The copyright files stay, as they must.
UNWANTED = re.compile(
    r"usr/share/(bash-completion|bug|doc-base|info|lintian|locale|man|menu|pixmaps)/."
    r"|usr/share/doc/[^/]+/(?!copyright$)"
    r"|usr/share/zoneinfo/(posix|right)/"
    r"|usr/lib/[^/]+/gconv/"
    r"|usr/lib/python3\.11/EXTERNALLY-MANAGED$"  # the image is not a system to protect from pip
)
# What the packages' scripts would have written.
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/timezone": "Etc/UTC\n",
    "etc/resolv.conf": "",  # builds mount over it: one made for that would change /etc's time
}
LINKS = {
    "etc/localtime": "../usr/share/zoneinfo/Etc/UTC",
    "usr/lib/ssl/cert.pem": "../../../etc/ssl/certs/ca-certificates.crt",
    "usr/local/bin/python": "python3.11",
    "usr/local/bin/python3": "python3.11",
    "usr/local/bin/python3.11": "../../bin/python3.11",
}
STATUS = "var/lib/dpkg/status"
BUNDLE = "etc/ssl/certs/ca-certificates.crt"

# What was taken instead of what is locked: a label of the image, that docker/tools reads.
UNLOCKED_LABEL = "lighterage.unlocked"
CREATED = "1970-01-01T00:00:00Z"  # as good as any other time, and needs no clock
CONFIG = {
    "Cmd": ["python3"],
    "Env": [
        "PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG=C.UTF-8",
    ],
}


class Package(NamedTuple):
    """A package's file, as the archive's signed lists have it."""

    file: str
    name: str
    version: str
    sha256: str


class Failure(Exception):  # noqa: N818 - it is what the user reads, not a program's error
    """One line for the user: what, where, what to do."""


def say(line: str) -> None:
    """Print one line on standard error."""
    print(f"base: {line}", file=sys.stderr, flush=True)


def run(
    *command: str | Path, apt_config: Path | None = None, cwd: Path | None = None
) -> tuple[str, str]:
    """Run a command; returns what it printed, and what it complained of.

    Raises:
        Failure: it failed, with the line that says most, or it is not there.
    """
    env = {**os.environ, "LC_ALL": "C", **({"APT_CONFIG": str(apt_config)} if apt_config else {})}
    try:
        done = subprocess.run(
            command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True,
            encoding="utf-8", check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise Failure(
            f"{command[0]} is missing; base images are made on Debian or Ubuntu only,"
            " elsewhere name an image registry that answers (HUB)"
        ) from None
    if done.returncode:
        raise Failure(f"{Path(command[0]).name} failed: {complaint(done.stderr)}")
    return done.stdout, done.stderr


def complaint(stderr: str) -> str:
    """The line that says most of what a command said: apt's first error, else its last words."""
    lines = stderr.strip().splitlines() or ["it does not say why"]
    return next((line for line in lines if line.startswith(("E:", "W:"))), lines[-1])


def read_lists(kind: str) -> tuple[list[str], list[str]]:
    """The packages of a kind, and those to leave out."""
    lines: list[str] = []
    for name in KINDS[kind]:
        text = (HERE / name).read_text(encoding="utf-8")
        lines += filter(None, (line.partition("#")[0].strip() for line in text.splitlines()))
    wanted = [line for line in lines if not line.startswith("-")]
    return wanted, [line[1:] for line in lines if line.startswith("-")]


def architecture() -> str:
    """This machine's, as Debian and the image format both call it."""
    return run("apt-config", "dump", "--format", "%v", "APT::Architecture")[0].strip()


def mirrors(work: Path) -> dict[str, str]:
    """Return where Debian's packages and its security updates come from.

    DEBIAN_MIRROR and DEBIAN_SECURITY_MIRROR name them; without, the sources of this machine's apt
    do. Only the address is taken over: each package has to be signed by Debian's keys.

    Raises:
        Failure: Neither names one.
    """
    (work / "unfetched" / "partial").mkdir(parents=True, exist_ok=True)
    unfetched = f"Dir::State::lists={work / 'unfetched'}/"  # hence all that apt asks for
    known, _ = run("apt-get", "-q", "update", "--print-uris", "-o", unfetched)
    found = {}
    pattern = rf"^'(\S+?)/?/dists/(?:{CODENAMES})(-security|/updates)?/InRelease'"
    for uri, security in reversed(re.findall(pattern, known, re.MULTILINE)):  # the first one wins
        # apt leaves packages of file: where they are; those of copy: come to the cache.
        found["Debian-Security" if security else "Debian"] = re.sub(r"^file:", "copy:", uri)
    archive = os.environ.get("DEBIAN_MIRROR", "").rstrip("/")
    if archive:
        found = {"Debian": archive, "Debian-Security": f"{archive}-security"}
    if security_archive := os.environ.get("DEBIAN_SECURITY_MIRROR", "").rstrip("/"):
        found["Debian-Security"] = security_archive
    if "Debian" not in found:
        raise Failure(
            "apt on this machine has no source of Debian packages: set DEBIAN_MIRROR to one, as in"
            " DEBIAN_MIRROR=http://mirror.example/debian"
        )
    return {"Debian-Security": f"{found['Debian']}-security", **found}


def sources(work: Path) -> str:
    """Return a sources.list for the release that is needed.

    Raises:
        Failure: Debian's keys are missing, or no mirror is known.
    """
    if not KEYRING.exists():
        raise Failure(f"{KEYRING} is missing; run: apt-get install debian-archive-keyring")
    uris = mirrors(work)
    options = f"[arch={architecture()} signed-by={KEYRING}]"
    lines = (f"deb {options} {uris[label]} {suite} main" for suite, label in SUITES.items())
    return "\n".join(lines) + "\n"


def settings(cache: Path, work: Path) -> str:
    """An apt.conf: how this machine's apt reaches the network, and nothing else of its settings.

    Not its hooks, pins and folders: as root, a hook of `update` could empty its caches.
    """
    acquire, _ = run("apt-config", "dump", "Acquire")
    lines = [line for line in acquire.splitlines() if "::IndexTargets" not in line]
    own = {
        "Dir::State": work,
        "Dir::State::lists": cache / "lists",
        "Dir::State::status": work / "status",
        "Dir::Cache": work,
        "Dir::Cache::archives": cache / "archives",
        "Dir::Log": work,
        "Dir::Etc::main": "/dev/null",
        "Dir::Etc::parts": "/dev/null",
        "Dir::Etc::preferences": work / "preferences",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::Etc::sourcelist": work / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",  # root would become a user who cannot write here
        "Acquire::AllowInsecureRepositories": "false",
        "Acquire::ForceHash": "SHA256",  # the one that --print-uris prints
        "Acquire::Languages": "none",
    }
    return "\n".join([*lines, *(f'{name} "{value}";' for name, value in own.items())]) + "\n"


def prepare(kind: str, pins: list[Package], cache: Path, work: Path) -> None:
    """Lay out an apt of its own in `work`, with current lists, that prefers the pinned versions.

    Raises:
        Failure: no source of packages answers.
    """
    _, left_out = read_lists(kind)
    for folder in (cache / "lists", cache / "archives", work / "empty"):
        (folder / "partial").mkdir(parents=True, exist_ok=True)
    # Nothing is installed, except that what is left out claims to be: that ends the search.
    claims = "Status: install ok installed\nVersion: 9999\nArchitecture: all\nMulti-Arch: foreign\n"
    stanzas = (f"Package: {name}\n{claims}Description: left out\n\n" for name in left_out)
    (work / "status").write_text("".join(stanzas), encoding="utf-8")
    # Above 1000 a version is taken even where there is a newer one; one that is gone, never.
    pinned = (f"Package: {p.name}\nPin: version {p.version}\nPin-Priority: 1001\n\n" for p in pins)
    (work / "preferences").write_text("".join(pinned), encoding="utf-8")
    (work / "sources.list").write_text(sources(work), encoding="utf-8")
    (work / "apt.conf").write_text(settings(cache, work), encoding="utf-8")
    _, stderr = run("apt-get", "-q", "update", apt_config=work / "apt.conf")
    if len(list((cache / "lists").glob("*_Packages*"))) < len(SUITES):
        raise Failure(f"no package lists: {complaint(stderr)}; check the network, and apt's proxy")
    if "W:" in stderr:  # the lists of the last time do
        say(f"apt-get update: {complaint(stderr)}")


def install_command(kind: str) -> list[str]:
    """How apt is asked for the packages of a kind and all that they need."""
    return ["apt-get", "-qq", "--yes", "--allow-downgrades", "install", *read_lists(kind)[0]]


def plan(kind: str, work: Path) -> list[Package]:
    """The packages of a kind, as apt would fetch them now.

    Raises:
        Failure: one is not there.
    """
    # Against an empty folder, or what the cache has would not be told.
    elsewhere = ["--print-uris", "-o", f"Dir::Cache::archives={work / 'empty'}"]
    command = install_command(kind)
    text, _ = run(*command, *elsewhere, apt_config=work / "apt.conf")
    found = re.findall(r"^'[^']+' (\S+) \d+ SHA256:(\w+)$", text, re.MULTILINE)
    if not found or len(found) != len(text.splitlines()):
        raise Failure("apt-get --print-uris does not say what to fetch; is apt 1.1 or newer?")
    packages = []
    for file, digest in sorted(found):
        name, version = file.split("_")[:2]
        packages.append(Package(file, name, unquote(version), digest))
    return packages


def fetch(kind: str, packages: list[Package], cache: Path, work: Path) -> list[Path]:
    """Have packages in the cache, as Debian signed them.

    Raises:
        Failure: a source does not answer, or a package's bytes are wrong.
    """
    debs = {cache / "archives" / package.file: package.sha256 for package in packages}
    for deb, digest in debs.items():  # apt takes any file of the right size for the right one
        if deb.exists() and sha256(deb) != digest:
            deb.unlink()
    if not all(deb.exists() for deb in debs):
        run(*install_command(kind), "--download-only", apt_config=work / "apt.conf")
    for deb, digest in debs.items():
        if not deb.exists() or sha256(deb) != digest:
            raise Failure(f"{deb} is not what Debian signed; run it again, or check the disk")
    return list(debs)


def lock_file() -> Path:
    """Where the packages of this machine's architecture are locked."""
    return HERE / f"debian.{architecture()}.lock"


def read_lock() -> list[Package]:
    """The locked packages; none where nobody has locked this architecture's."""
    if not lock_file().exists():
        return []
    lines = lock_file().read_text(encoding="utf-8").splitlines()
    words = [line.split() for line in lines if line and not line.startswith("#")]
    return [Package("", name, version, digest) for name, version, digest in words]


def write_lock(cache: Path | None) -> None:
    """Write down what the archive has now, for all kinds together."""
    with tempfile.TemporaryDirectory(prefix="lighterage-") as folder:
        work = Path(folder)
        cache = (cache or work / "cache").absolute()
        found = set()
        with locked(cache):
            for kind in KINDS:
                prepare(kind, [], cache, work)
                found.update(plan(kind, work))
    lines = [f"{package.name} {package.version} {package.sha256}\n" for package in sorted(found)]
    head = "# Written by `make lock`: Debian's packages of the base images, version and sha256.\n"
    lock_file().write_text(head + "".join(lines), encoding="utf-8")
    say(f"renewed docker/base/{lock_file().name}")


def unlocked(packages: list[Package], *, strictly: bool) -> str:
    """Say which packages are not the locked ones.

    Raises:
        Failure: `strictly`, and some are not.
    """
    lock = {package.name: package for package in read_lock()}
    changes = [
        f"{package.name} {lock[package.name].version if package.name in lock else 'unlocked'}"
        f" -> {package.version}"
        for package in packages
        if package.name not in lock or lock[package.name].sha256 != package.sha256
    ]
    if not changes:
        return ""
    if not lock:
        changes = [f"no package is locked for {architecture()}"]
    line = f"Debian has other packages than {lock_file().name}: {', '.join(changes)}"
    if strictly:
        raise Failure(f"LOCKED=1, but {line}; make lock takes them over")
    say(f"{line}; make lock takes them over")
    return ", ".join(changes)


def sha256(path: Path) -> str:
    """The digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def merged(name: str) -> str:
    """A path as packages have it, where it is once the top folders are links into usr."""
    name = name.removeprefix("./")
    return f"usr/{name}" if name.split("/")[0] in MERGED else name


def unpack(deb: Path, root: Path) -> None:
    """Bring a package's files, less the unwanted, to the root.

    Raises:
        Failure: dpkg-deb does not read it.
    """
    command = ["dpkg-deb", "--fsys-tarfile", str(deb)]
    try:
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE) as pipe,
            tarfile.open(fileobj=pipe.stdout, mode="r|", encoding="utf-8") as tar,
        ):
            for member in tar:
                name = merged(member.name)
                if not UNWANTED.match(name):
                    place(tar, member, root, root / name)
    except tarfile.TarError as error:
        raise Failure(f"{deb} cannot be unpacked: {error}; remove it and run it again") from None


def place(tar: tarfile.TarFile, member: tarfile.TarInfo, root: Path, path: Path) -> None:
    """Make one file, folder or link of a package; owners and set-uid bits are left behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if member.issym():
        target = member.linkname
        if target.startswith("/"):  # relative, it stays inside while the root is a folder here
            target = os.path.relpath(target, "/" / path.parent.relative_to(root))
        path.symlink_to(target)
    elif member.islnk():
        os.link(root / merged(member.linkname), path)
    else:
        if member.isdir():
            path.mkdir(exist_ok=True)
        else:
            content = tar.extractfile(member)
            path.write_bytes(content.read() if content else b"")
        path.chmod(member.mode & 0o1777)


def assemble(debs: list[Path], root: Path) -> None:
    """Unpack the packages, and do what their scripts would have done."""
    # For scanners, which read the versions there.
    fields = (run("dpkg-deb", "--field", deb)[0].rstrip() for deb in debs)
    status = "".join(f"{field}\nStatus: install ok installed\n\n" for field in fields)
    for deb in debs:
        unpack(deb, root)
    certificates = sorted((root / "usr/share/ca-certificates").rglob("*.crt"))
    bundle = "".join(path.read_text(encoding="utf-8") for path in certificates)
    for name, text in {**FILES, STATUS: status, BUNDLE: bundle}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    folders = {name: f"usr/{name}" for name in MERGED if (root / "usr" / name).is_dir()}
    for name, target in {**folders, **LINKS}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(target)
    # By the packages' own programs and loader: those of this machine may be of another release.
    run(root / "usr/sbin/ldconfig", "-X", "-r", root)
    shutil.rmtree(root / "var/cache/ldconfig", ignore_errors=True)
    loader = next(root.glob("usr/lib/*/ld-linux-*.so.*")).relative_to(root)
    python = (f"./{loader}", "--library-path", str(loader.parent), "usr/bin/python3.11")
    # What it imports meanwhile it must not compile by itself (-B): that would carry times.
    compileall = ("-B", "-I", "-S", "-m", "compileall", "-q", "-p", "/")
    mode = ("--invalidation-mode", "unchecked-hash")
    run(*python, *compileall, *mode, "usr/lib/python3.11", cwd=root)


def uniform(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """An archive's entry, the same whoever makes it, and when."""
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mtime = 0
    return info


def write_tar(path: Path, folder: Path, names: list[str]) -> None:
    """Archive what a folder has by those names; what is below comes in order by itself."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, encoding="utf-8") as tar:
        for name in names:
            tar.add(folder / name, name, filter=uniform)


def pack(root: Path, tag: str, labels: dict[str, str], work: Path) -> Path:
    """Make the archive of an image with one layer; returns where it is."""
    write_tar(work / "layer.tar", root, sorted(path.name for path in root.iterdir()))
    config = {
        "architecture": architecture(),
        "config": {**CONFIG, "Labels": labels},
        "created": CREATED,
        "history": [{"created": CREATED, "created_by": "docker/base/build.py"}],
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha256(work / 'layer.tar')}"]},
    }
    text = json.dumps(config)
    name = f"{hashlib.sha256(text.encode()).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [tag], "Layers": ["layer.tar"]}]
    (work / name).write_text(text, encoding="utf-8")
    (work / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    write_tar(work / "image.tar", work, ["manifest.json", name, "layer.tar"])
    return work / "image.tar"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one at a time use a cache; the others wait."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def build(kind: str, tag: str, output: Path, cache: Path | None, *, strictly: bool) -> None:
    """Make the image of a kind, and put its archive at `output` in one step.

    Raises:
        Failure: it cannot be made, and why.
    """
    # Beside the output: on its file system, and found at once when nothing can be written there.
    with tempfile.TemporaryDirectory(prefix=".base-", dir=output.parent) as folder:
        work, root = Path(folder), Path(folder, "root")
        root.mkdir()
        cache = (cache or work / "cache").absolute()
        with locked(cache):
            prepare(kind, read_lock(), cache, work)
            packages = plan(kind, work)
            changes = unlocked(packages, strictly=strictly)
            debs = fetch(kind, packages, cache, work)
        assemble(debs, root)
        labels = {UNLOCKED_LABEL: changes} if changes else {}
        pack(root, tag, labels, work).replace(output)


class Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line, and no usage."""

    def error(self, message: str) -> NoReturn:
        """Raise what `main` prints.

        Raises:
            Failure: always.
        """
        raise Failure(f"{message}; see --help")


def main() -> int:
    """Read the command line; returns the exit code."""
    parser = Parser(description="Make a Python base image from Debian packages.")
    parser.add_argument("kind", choices=[*KINDS, "lock"], help="an image, or the lock of all")
    parser.add_argument("--tag", default="", help="NAME:TAG of the image")
    parser.add_argument("--output", type=Path, help="the archive to write")
    parser.add_argument("--cache", type=Path, help="keeps packages for the next time")
    parser.add_argument("--locked", action="store_true", help="refuse other packages than locked")
    os.umask(0o022)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # tidily: it leaves no folder behind
    try:
        args = parser.parse_args()
        if args.kind == "lock":
            write_lock(args.cache)
            return 0
        if not re.fullmatch(r"[a-z0-9][a-z0-9._/:-]*:\w[\w.-]*", args.tag):
            parser.error(f"--tag {args.tag}: use NAME:TAG, the name in lowercase")
        if args.output is None:
            parser.error("--output is needed: the archive to write")
        build(args.kind, args.tag, args.output.absolute(), args.cache, strictly=args.locked)
    except Failure as error:
        say(str(error))
        return 2
    except OSError as error:
        say(f"{error}; use folders that are writable and have space")
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
