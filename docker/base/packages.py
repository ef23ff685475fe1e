"""Resolve, lock and download Debian packages by this machine's apt, with settings of its own."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from docker.setup.project import Failure, say, sha256

HERE = Path(__file__).resolve().parent
KINDS = {"runtime": ("runtime.txt",), "build": ("runtime.txt", "build.txt")}

# The release that has Python 3.11, whatever this machine runs.
RELEASE = "bookworm"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# The suites of Debian itself: a source with another one is a derivative's.
CODENAMES = "buster|bullseye|bookworm|trixie|forky|sid|oldstable|stable|testing|unstable"
SUITES = {
    RELEASE: "Debian",
    f"{RELEASE}-updates": "Debian",
    f"{RELEASE}-security": "Debian-Security",
}


class Package(NamedTuple):
    """A package in the mirror's signed lists."""

    file: str
    name: str
    version: str
    sha256: str


def run(
    *command: str | Path, apt_config: Path | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command for its output.

    Raises:
        Failure: it failed or does not exist.
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
    return done


def complaint(stderr: str) -> str:
    """Return apt's first error or warning, else the last line of standard error."""
    lines = stderr.strip().splitlines() or ["it gave no reason"]
    return next((line for line in lines if line.startswith(("E:", "W:"))), lines[-1])


def read_lists(kind: str) -> tuple[list[str], list[str]]:
    """Return the packages of a kind, and those to leave out."""
    texts = ((HERE / name).read_text(encoding="utf-8") for name in KINDS[kind])
    lines = [line.partition("#")[0].strip() for text in texts for line in text.splitlines()]
    wanted = [line for line in lines if line and not line.startswith("-")]
    return wanted, [line[1:] for line in lines if line.startswith("-")]


def architecture() -> str:
    """Return this machine's architecture, as Debian and the image format both call it."""
    return run("apt-config", "dump", "--format", "%v", "APT::Architecture").stdout.strip()


def mirrors(work: Path) -> dict[str, str]:
    """Return the addresses of Debian's packages and of its security updates.

    DEBIAN_MIRROR names them; otherwise the sources of this machine's apt do. Only the address is
    used: each package has to be signed by Debian's keys.

    Raises:
        Failure: neither names one.
    """
    (work / "unfetched" / "partial").mkdir(parents=True, exist_ok=True)
    unfetched = f"Dir::State::lists={work / 'unfetched'}/"  # with empty lists apt names all sources
    uris = run("apt-get", "-q", "update", "--print-uris", "-o", unfetched).stdout
    pattern = rf"^'(\S+?)/?/dists/(?:{CODENAMES})(-security|/updates)?/InRelease'"
    found = {}
    for uri, security in reversed(re.findall(pattern, uris, re.MULTILINE)):  # the first one wins
        # apt leaves packages of file: in place, and copies those of copy: into the cache.
        found["Debian-Security" if security else "Debian"] = re.sub(r"^file:", "copy:", uri)
    if archive := os.environ.get("DEBIAN_MIRROR", "").rstrip("/"):
        found = {"Debian": archive}
    if "Debian" not in found:
        raise Failure(
            "apt on this machine has no source of Debian packages: set DEBIAN_MIRROR to one, as in"
            " DEBIAN_MIRROR=http://mirror.example/debian"
        )
    return {"Debian-Security": f"{found['Debian']}-security", **found}


def sources(work: Path) -> str:
    """Return a sources.list for the release.

    Raises:
        Failure: Debian's keys are missing, or no mirror is known.
    """
    if not KEYRING.exists():
        raise Failure(f"{KEYRING} is missing; run: apt-get install debian-archive-keyring")
    uris = mirrors(work)
    options = f"[arch={architecture()} signed-by={KEYRING}]"
    return "".join(f"deb {options} {uris[of]} {suite} main\n" for suite, of in SUITES.items())


def settings(cache: Path, work: Path) -> str:
    """Return an apt.conf with the network settings of this machine's apt, and no other of it.

    A hook of the machine's `update`, for one, could empty the machine's caches.
    """
    acquire = run("apt-config", "dump", "Acquire").stdout
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
    """Set up an apt in `work`, with current lists, that prefers the pinned versions.

    Raises:
        Failure: no source of packages answers.
    """
    _, left_out = read_lists(kind)
    for folder in (cache / "lists", cache / "archives", work / "empty"):
        (folder / "partial").mkdir(parents=True, exist_ok=True)
    # Packages to leave out count as installed, so that apt resolves nothing behind them.
    claims = "Status: install ok installed\nVersion: 9999\nArchitecture: all\nMulti-Arch: foreign\n"
    stanzas = (f"Package: {name}\n{claims}Description: left out\n\n" for name in left_out)
    (work / "status").write_text("".join(stanzas), encoding="utf-8")
    # Above 1000 a version is taken even where there is a newer one (apt_preferences).
    pinned = (f"Package: {p.name}\nPin: version {p.version}\nPin-Priority: 1001\n\n" for p in pins)
    (work / "preferences").write_text("".join(pinned), encoding="utf-8")
    (work / "sources.list").write_text(sources(work), encoding="utf-8")
    (work / "apt.conf").write_text(settings(cache, work), encoding="utf-8")
    stderr = run("apt-get", "-q", "update", apt_config=work / "apt.conf").stderr
    if len(list((cache / "lists").glob("*_Packages*"))) < len(SUITES):
        raise Failure(f"no package lists: {complaint(stderr)}; check the network, and apt's proxy")
    if "W:" in stderr:  # the cached lists are used
        say(f"apt-get update: {complaint(stderr)}")


def install_command(kind: str) -> list[str]:
    """Return the command that installs the packages of a kind and their dependencies."""
    return ["apt-get", "-qq", "--yes", "--allow-downgrades", "install", *read_lists(kind)[0]]


def plan(kind: str, work: Path) -> list[Package]:
    """Return the packages of a kind, as apt would download them now.

    Raises:
        Failure: one does not exist.
    """
    # With an empty cache, since apt does not list what the cache has.
    elsewhere = ["--print-uris", "-o", f"Dir::Cache::archives={work / 'empty'}"]
    command = install_command(kind)
    text = run(*command, *elsewhere, apt_config=work / "apt.conf").stdout
    found = re.findall(r"^'[^']+' (\S+) \d+ SHA256:(\w+)$", text, re.MULTILINE)
    if not found or len(found) != len(text.splitlines()):
        raise Failure("apt-get --print-uris does not list the packages; is apt 1.1 or newer?")
    packages = []
    for file, digest in sorted(found):
        name, version = file.split("_")[:2]
        packages.append(Package(file, name, unquote(version), digest))
    return packages


def download(kind: str, packages: list[Package], cache: Path, work: Path) -> list[Path]:
    """Return the packages' files in the cache, downloaded where needed and verified.

    Raises:
        Failure: a source does not answer, or a package's bytes are wrong.
    """
    debs = {cache / "archives" / package.file: package.sha256 for package in packages}
    for deb, digest in debs.items():  # apt compares only the size of a cached file
        if deb.exists() and sha256(deb) != digest:
            deb.unlink()
    if not all(deb.exists() for deb in debs):
        run(*install_command(kind), "--download-only", apt_config=work / "apt.conf")
    for deb, digest in debs.items():
        if not deb.exists() or sha256(deb) != digest:
            raise Failure(f"{deb} differs from what Debian signed; run it again, or check the disk")
    return list(debs)


def lock_file() -> Path:
    """Return the lock file of this machine's architecture."""
    return HERE / f"debian.{architecture()}.lock"


def read_lock() -> list[Package]:
    """Return the locked packages; none where this architecture has no lock file."""
    if not lock_file().exists():
        return []
    lines = lock_file().read_text(encoding="utf-8").splitlines()
    words = [line.split() for line in lines if line and not line.startswith("#")]
    return [Package("", name, version, digest) for name, version, digest in words]


def write_lock(cache: Path) -> None:
    """Write the current packages of all kinds into the lock file."""
    found = set()
    with tempfile.TemporaryDirectory(prefix="lighterage-") as folder:
        for kind in KINDS:
            prepare(kind, [], cache, Path(folder))
            found.update(plan(kind, Path(folder)))
    lines = [f"{package.name} {package.version} {package.sha256}\n" for package in sorted(found)]
    head = "# Written by `make lock`: Debian's packages of the base images, version and sha256.\n"
    lock_file().write_text(head + "".join(lines), encoding="utf-8")
    say(f"renewed docker/base/{lock_file().name}")


def unlocked(packages: list[Package], *, strictly: bool) -> str:
    """Return which packages are not the locked ones, and print it.

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
        raise Failure(f"LOCKED=1, but {line}; make lock updates the file")
    say(f"{line}; make lock updates the file")
    return ", ".join(changes)
