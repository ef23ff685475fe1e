"""What installing takes of this machine: a Python, pip.conf, a CA bundle, Debian packages."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from docker.setup import locks
from docker.setup.engine import quiet
from docker.setup.project import Failure, Project, give_to_owner, say, sha256

# The oldest Python that the tasks run on, and the names to look for.
OLDEST = (3, 11)
NAMES = ("python3.11", "python3.12", "python3.13", "python3.14", "python3")
SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/cert.pem",  # Alpine, macOS
)
# The wheels of docker/wheels, and the requirements that pin them, in the form of sha256sum.
SUMS = "SHA256SUMS"
# Programs that tests and benchmarks run, each with its Debian package.
PEERS = {
    "sshd": "openssh-server", "scp": "openssh-client", "rsync": "rsync", "lftp": "lftp",
    "unzip": "unzip", "igzip": "isal", "tar": "tar", "gzip": "gzip",
    "xz": "xz-utils",
}  # fmt: skip
TESTED_WITH = {
    "dropbear": "dropbear-bin", "proftpd": "proftpd-mod-crypto", "fish": "fish", "tcsh": "tcsh",
    "strace": "strace", "zip": "zip",
}  # fmt: skip
BROWSER = {"chromium-headless-shell or chromium": "chromium-headless-shell"}
PURPOSES = {"test": {**PEERS, **TESTED_WITH}, "bench": PEERS, "test-report": BROWSER}

# Installed they would be services of this machine: their packages are only unpacked.
UNPACKED = {
    "prometheus": "prometheus", "promtool": "prometheus",
    "prometheus-node-exporter": "prometheus-node-exporter",
}  # fmt: skip
PROGRAMS = "programs"


def find_python() -> str:
    """Return a Python on the path that is new enough and can make virtual environments.

    Raises:
        Failure: There is none.
    """
    probe = f"import sys; sys.exit(sys.version_info[:2] < {OLDEST})"
    for name in NAMES:
        program = shutil.which(name)
        if program and quiet(program, "-c", probe).returncode == 0:
            if quiet(program, "-c", "import venv, ensurepip").returncode == 0:
                return program
            fix = "cannot make virtual environments; on Debian: apt-get install python3-venv"
            raise Failure(f"{program} {fix}", 1)
    raise Failure("no Python 3.11 or newer on the path; on Debian: apt-get install python3", 1)


def install(project: Project, *command: str) -> None:
    """Run `sh requirements/install.sh FOLDER FILE...`, unless the folder has what the files pin.

    Raises:
        Failure: There is no Python to do it with, or a package was not to be had.
    """
    folder, *files = (project.root / word for word in command[2:])
    stamp, pins = folder / ".lighterage", " ".join(map(sha256, files))
    names = " and ".join(command[3:])
    locks.report(project)
    with project.lock("venv"):
        # Git gives a file that it writes again a new time.
        if (folder / "bin/python").exists() and stamp.exists() and stamp.read_text() == pins:
            stamp.touch()
            return
        if folder.is_symlink():
            raise Failure(f"{command[2]} is a link to what {names} does not pin: remove it", 1)
        if project.offline:
            check_wheels(project)
        say(f"making {command[2]} from {names}")
        if index(project, *command):
            source = "docker/wheels" if project.offline else "the package index"
            raise Failure(f"{source} did not give what it takes; see above", 1)
        stamp.write_text(pins, encoding="utf-8")
        for path in [folder, *folder.rglob("*")] if os.getuid() == 0 else []:
            give_to_owner(path)


def index(project: Project, *command: str) -> int:
    """Run a command with this machine's Python, CA bundle and pip.conf; return its exit code."""
    env = _environment(project)
    return subprocess.run(command, env=env, stdin=subprocess.DEVNULL, check=False).returncode


def _environment(project: Project) -> dict[str, str]:
    env = {**os.environ, "LIGHTERAGE_PYTHON": find_python()}
    env["OFFLINE"] = "1" if project.offline else ""
    env["LIGHTERAGE_WHEELS"] = str(_wheels(project))
    secrets = build_secrets()
    if "pip_conf" in secrets:
        env["LIGHTERAGE_PIP_CONF"] = str(secrets["pip_conf"])
    if "ca" in secrets:
        env["LIGHTERAGE_CA"] = env["SSL_CERT_FILE"] = str(secrets["ca"])
    return env


def build_secrets() -> dict[str, Path]:
    """Return this machine's CA bundle and pip.conf, for builds only; an image keeps neither."""
    home = Path.home()
    config_home = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    # The pip.conf that pip would read last, hence wins.
    files = [config_home / "pip/pip.conf", home / ".pip/pip.conf", Path("/etc/pip.conf")]
    if os.environ.get("PIP_CONFIG_FILE"):
        files = [Path(os.environ["PIP_CONFIG_FILE"])]
    pip_conf = next(filter(Path.is_file, files), None)
    parser = configparser.RawConfigParser()
    try:
        parser.read(pip_conf or [], encoding="utf-8")
    except configparser.Error:
        say(f"{pip_conf} is not readable as a pip.conf; its CA bundle is not used")
    named = [os.environ.get(name) for name in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")]
    named += [parser.get(part, "cert", fallback=None) for part in ("global", "install")]
    bundles = (Path(name) for name in [*named, *SYSTEM_BUNDLES] if name)
    found = {"pip_conf": pip_conf, "ca": next(filter(Path.is_file, bundles), None)}
    return {name: path for name, path in found.items() if path}


def _wheels(project: Project) -> Path:
    return project.root / "docker" / "wheels"


def record_wheels(project: Project) -> None:
    """Write down of which wheels, for which requirements, it is; remove what nothing pins."""
    folder, files = _wheels(project), sorted((project.root / "requirements").glob("*.txt"))
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


def check_wheels(project: Project) -> None:
    """Check that every wheel is there and what `make vendor` downloaded.

    Raises:
        Failure: A file is missing or differs.
    """
    folder = _wheels(project)
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


def packages(project: Project, purpose: str) -> None:
    """Install the programs that tests or benchmarks run and that are missing, where possible.

    Args:
        project: The clone; what is only unpacked goes into its `.lighterage/programs`.
        purpose: The make target: `test`, `bench` or `test-report`.
    """
    without = "tests that run them are skipped" if purpose != "bench" else "they are left out"
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin"
    missing = _missing(PURPOSES[purpose], path)
    words = sorted(set(missing.values()))
    install = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", *words]
    if missing and _may_install(missing, without):
        say(f"make {purpose} runs {', '.join(missing)}; installing the Debian packages")
        say(f"  {' '.join(words)} (SETUP=0 refuses)")
        _run_all([install], project.root, f"{without}: {', '.join(missing)}")
    folder = project.state / PROGRAMS
    missing = _missing(UNPACKED, f"{path}:{folder}/usr/bin") if purpose == "test" else {}
    words = sorted(set(missing.values()))
    if missing and _may_install(missing, without):
        say(f"unpacking {' '.join(words)} into .lighterage/{PROGRAMS}, 108 MB (SETUP=0 refuses)")
        _unpack(words, folder, f"{without}: {', '.join(missing)}")


def _missing(programs: Mapping[str, str], path: str) -> dict[str, str]:
    return {
        names: word
        for names, word in programs.items()
        if not any(shutil.which(name, path=path) for name in names.split(" or "))
    }


def _may_install(missing: Mapping[str, str], without: str) -> bool:
    """Whether make may install packages; say what is missing where it may not."""
    if os.environ.get("LIGHTERAGE_SETUP") != "0" and not os.getuid() and shutil.which("apt-get"):
        return True
    say(f"not here: {', '.join(missing)}; {without}; on Debian, as root: apt-get install")
    say(f"  {' '.join(sorted(set(missing.values())))}")
    return False


def _run_all(commands: Sequence[Sequence[str]], folder: Path, without: str) -> bool:
    """Run commands of apt after an update; say what failed."""
    # RUNLEVEL is policy-rc.d's way to install a service without starting it.
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for command in (["apt-get", "update", "-qq"], *commands):
        done = subprocess.run(command, cwd=folder, env=env, stdout=subprocess.DEVNULL, check=False)
        if done.returncode:
            say(f"{' '.join(command)} failed; {without}")
            return False
    return True


def _unpack(words: Sequence[str], folder: Path, without: str) -> None:
    """Unpack Debian packages into a folder, all or nothing."""
    new = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    # Root of a folder that apt's own user cannot enter; apt warns of it otherwise.
    download = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *words]
    unpack = ["sh", "-c", 'for file in *.deb; do dpkg-deb -x "$file" . && rm "$file"; done']
    if _run_all([download, unpack], new, without):
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)
        for path in [folder, *folder.rglob("*")]:
            give_to_owner(path)
    shutil.rmtree(new, ignore_errors=True)
