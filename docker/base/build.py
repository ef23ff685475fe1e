"""Make a Python base image from Debian packages, for machines that reach no image registry.

The apt of this machine resolves, downloads and verifies the packages of runtime.txt, for `build`
those of build.txt as well. It uses state and settings of its own: nothing of the machine's apt
changes, and root is not needed. The mirror is the one of the machine's apt sources, or
DEBIAN_MIRROR. Packages are unpacked, not installed: none of their scripts runs, and the few files
that those would write are written here. The output is for `docker load` and `podman load`. Equal
packages make equal bytes on every machine.

Where the mirror no longer has a version of debian.*.lock, the build says so and takes the current
one; with LOCKED=1 that is an error.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from docker.base.packages import architecture, download, plan, prepare, read_lock, run, unlocked
from docker.setup.project import Failure, sha256

# Folders that are links into usr here, though packages of this release still have files in them.
MERGED = ("bin", "sbin", "lib", "lib64")
# Documentation, translations and character sets. The copyright files must stay.
UNWANTED = re.compile(
    r"usr/share/(bash-completion|bug|doc-base|info|lintian|locale|man|menu|pixmaps)/."
    r"|usr/share/doc/[^/]+/(?!copyright$)"
    r"|usr/share/zoneinfo/(posix|right)/"
    r"|usr/lib/[^/]+/gconv/"
    r"|usr/lib/python3\.11/EXTERNALLY-MANAGED$"  # the image is not a system to protect from pip
)
# What the packages' scripts would write.
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

# The label with the packages that are not the locked ones.
UNLOCKED_LABEL = "lighterage.unlocked"
CREATED = "1970-01-01T00:00:00Z"  # the same in each build
CONFIG = {
    "Cmd": ["python3"],
    "Env": [
        "PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG=C.UTF-8",
    ],
}


def unpack(debs: list[Path], root: Path) -> None:
    """Unpack packages into the root, less the unwanted files.

    Raises:
        Failure: a package is damaged.
    """
    for name in MERGED:
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(f"usr/{name}")
    tar = ("tar", "--extract", "--directory", root, "--keep-directory-symlink", "--no-same-owner")
    for deb in debs:
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as pipe:
            done = subprocess.run(
                [*tar, "--same-permissions"], stdin=pipe.stdout, stderr=subprocess.PIPE, check=False
            )
        if pipe.returncode or done.returncode:
            raise Failure(f"{deb} cannot be unpacked; remove it and run it again")
    for top, folders, files in os.walk(root):
        for name in [*folders, *files]:
            path = Path(top, name)
            inside = str(path.relative_to(root))
            if UNWANTED.match(inside):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            elif path.is_symlink() and (target := str(path.readlink())).startswith("/"):
                # Relative, it stays inside the root while that is a folder here.
                path.unlink()
                path.symlink_to(os.path.relpath(target, f"/{Path(inside).parent}"))
        folders[:] = [name for name in folders if Path(top, name).is_dir()]


def assemble(debs: list[Path], root: Path) -> None:
    """Unpack the packages, and write what their scripts would write."""
    unpack(debs, root)
    # For scanners, which read the versions there.
    fields = (run("dpkg-deb", "--field", deb).stdout.rstrip() for deb in debs)
    status = "".join(f"{field}\nStatus: install ok installed\n\n" for field in fields)
    certificates = sorted((root / "usr/share/ca-certificates").rglob("*.crt"))
    bundle = "".join(path.read_text(encoding="utf-8") for path in certificates)
    for name, text in {**FILES, STATUS: status, BUNDLE: bundle}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    for name, target in LINKS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(target)
    # With the packages' own programs and loader: this machine's may be of another release.
    run(root / "usr/sbin/ldconfig", "-X", "-r", root)
    shutil.rmtree(root / "var/cache/ldconfig", ignore_errors=True)
    loader = next(root.glob("usr/lib/*/ld-linux-*.so.*")).relative_to(root)
    python = (f"./{loader}", "--library-path", str(loader.parent), "usr/bin/python3.11")
    # -B: what compileall itself imports would be compiled with time stamps.
    compileall = ("-B", "-I", "-S", "-m", "compileall", "-q", "-p", "/")
    mode = ("--invalidation-mode", "unchecked-hash")
    run(*python, *compileall, *mode, "usr/lib/python3.11", cwd=root)


def uniform(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """Return an archive's entry without owner, time and set-user-ID bits."""
    info.mode &= 0o1777
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mtime = 0
    return info


def write_tar(path: Path, folder: Path, names: list[str]) -> None:
    """Archive these names of a folder, in order, with all that is below them."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, encoding="utf-8") as tar:
        for name in names:
            tar.add(folder / name, name, filter=uniform)


def pack(root: Path, tag: str, labels: dict[str, str], work: Path) -> Path:
    """Write the archive of an image with one layer; returns its path."""
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


def build(kind: str, tag: str, output: Path, cache: Path, *, strictly: bool) -> None:
    """Make the image of a kind, and move its archive to `output` in one step.

    Args:
        kind: `runtime` or `build`.
        tag: NAME:TAG of the image.
        output: The archive to write.
        cache: The folder that caches packages.
        strictly: Refuse other packages than the locked ones.
    """
    os.umask(0o022)
    # Beside the output: on its file system, and an error at once where that is not writable.
    with tempfile.TemporaryDirectory(prefix=".base-", dir=output.parent) as folder:
        work, root = Path(folder), Path(folder, "root")
        root.mkdir()
        prepare(kind, read_lock(), cache, work)
        packages = plan(kind, work)
        changes = unlocked(packages, strictly=strictly)
        assemble(download(kind, packages, cache, work), root)
        labels = {UNLOCKED_LABEL: changes} if changes else {}
        pack(root, tag, labels, work).replace(output)
