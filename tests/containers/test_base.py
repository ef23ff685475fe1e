"""The base images that are made from Debian packages."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from docker.base import packages
from docker.base.build import build
from docker.setup.project import Failure
from images import context_or_skip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FOLDER = Path(__file__).resolve().parents[2] / "docker" / "base"
KINDS = ("runtime", "build")

needs_apt = pytest.mark.skipif(
    shutil.which("apt-get") is None, reason="NOT TESTED: base images are made on Debian only"
)


def make(kind: str, folder: Path, cache: Path) -> Path:
    output = folder / f"{kind}.tar"
    tag = f"lighterage-test-base:{kind}-{os.getpid()}"
    build(kind, tag, output, cache, strictly=False)
    return output


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session", params=KINDS)
def image(
    request: pytest.FixtureRequest, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return make(request.param, tmp_path_factory.mktemp("image"), cache)


def only(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("image", [kind], indirect=True)


@pytest.fixture(scope="session")
def layer(image: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(image) as outer, tarfile.open(fileobj=outer.extractfile("layer.tar")) as tar:
        return {member.name: member for member in tar}


@pytest.fixture(scope="session")
def in_container(image: Path) -> Iterator[Callable[[str], str]]:
    """Give a way to run a shell command in a container of the image; it returns the output."""
    engine = context_or_skip("base images in containers")
    tag = engine.must("load", "--input", str(image)).split()[-1]
    container = ("run", "--rm", "--network=none", "--user=10001", tag, "sh", "-ec")
    yield lambda command: engine.must(*container, command)
    engine.must("image", "rm", "--force", tag)


@needs_apt
def test_equal_packages_make_equal_bytes(image: Path, tmp_path: Path) -> None:
    again = make(image.stem, tmp_path, tmp_path / "another cache")
    assert again.read_bytes() == image.read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@needs_apt
@only("runtime")
def test_a_damaged_package_in_the_cache_is_downloaded_again(
    image: Path, cache: Path, tmp_path: Path
) -> None:
    packages = sorted((cache / "archives").glob("*.deb"))
    packages[0].write_bytes(packages[0].read_bytes()[::-1])
    packages[1].write_bytes(packages[1].read_bytes()[:-1])
    assert make("runtime", tmp_path, cache).read_bytes() == image.read_bytes()


@needs_apt
def test_python_is_compiled_and_pip_may_install(
    layer: dict[str, tarfile.TarInfo],
) -> None:
    assert layer["usr/bin/python3.11"].isreg()
    assert layer["usr/local/bin/python"].linkname == "python3.11"
    assert layer["usr/lib/python3.11/__pycache__/ssl.cpython-311.pyc"].isreg()
    assert layer["etc/ssl/certs/ca-certificates.crt"].size > 100_000
    assert not [name for name in layer if name.endswith("EXTERNALLY-MANAGED")]


@needs_apt
def test_no_file_is_set_uid_or_owned_by_a_user(layer: dict[str, tarfile.TarInfo]) -> None:
    assert not [name for name, member in layer.items() if member.mode & 0o6000]
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in layer.values()} == {
        (0, 0, "", "", 0)
    }
    assert layer["tmp"].mode == 0o1777


@needs_apt
@only("runtime")
def test_the_runtime_has_no_installers_and_is_small(
    image: Path, layer: dict[str, tarfile.TarInfo]
) -> None:
    installers = re.compile(r"usr/(local/)?s?bin/(pip.*|apt.*|dpkg.*|perl.*)|.*/(pip|ensurepip)")
    assert not [name for name in layer if installers.fullmatch(name)]
    assert image.stat().st_size < 75_000_000


@needs_apt
def test_the_image_has_its_configuration(image: Path, tmp_path: Path) -> None:
    with tarfile.open(image) as tar:
        tar.extractall(tmp_path, [m for m in tar if m.name.endswith(".json")], filter="data")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    config = json.loads((tmp_path / manifest[0]["Config"]).read_text())
    assert manifest[0]["RepoTags"] == [f"lighterage-test-base:{image.stem}-{os.getpid()}"]
    assert config["created"] == "1970-01-01T00:00:00Z"
    assert "LANG=C.UTF-8" in config["config"]["Env"]


@needs_apt
@pytest.mark.container
def test_python_works_in_a_container(in_container: Callable[[str], str]) -> None:
    code = (
        "import bz2, ctypes, curses, lzma, sqlite3, ssl, sys, uuid, zlib, zoneinfo;"
        "zoneinfo.ZoneInfo('Europe/Berlin');"
        "print(sys.version_info[:2], len(ssl.create_default_context().get_ca_certs()) > 100)"
    )
    assert in_container(f'python -c "{code}"') == "(3, 11) True"
    assert in_container("bash -c 'locale charmap; rm -rf /tmp/none' 2>&1") == "UTF-8"


@needs_apt
@pytest.mark.container
@only("build")
def test_the_build_image_makes_virtual_environments(in_container: Callable[[str], str]) -> None:
    made = in_container("python3 -m venv /tmp/v; /tmp/v/bin/pip --version; strip --version")
    assert made.startswith("pip ")


NO_SOURCES = 'Dir::Etc::sourcelist "/dev/null"; Dir::Etc::sourceparts "/dev/null";'
MIRROR = "http://127.0.0.1:9/debian"


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"PATH": "none"}, "is missing"),
        pytest.param({"http_proxy": MIRROR}, "check the network", marks=needs_apt),
        pytest.param({"APT_CONFIG": "apt.conf"}, "set DEBIAN_MIRROR to one", marks=needs_apt),
        pytest.param(
            {"APT_CONFIG": "apt.conf", "DEBIAN_MIRROR": MIRROR}, "127.0.0.1", marks=needs_apt
        ),
    ],
)
def test_an_error_is_one_line_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, env: dict[str, str], message: str
) -> None:
    """A machine without apt, without a network, and without a Debian source."""
    (tmp_path / "apt.conf").write_text(NO_SOURCES)
    monkeypatch.chdir(tmp_path)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Failure, match=f"^.*{message}.*$"):
        build("runtime", "a:b", tmp_path / "x", tmp_path / "cache", strictly=False)
    assert not {path.name for path in tmp_path.iterdir()} - {"apt.conf", "cache"}


# --- the lock -----------------------------------------------------------------------------------


class Locked:
    """A lock that may be changed.

    Attributes:
        lock: The lock of this machine's architecture.
    """

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder / "base"
        self.cache = cache
        shutil.copytree(FOLDER, self.folder)
        self.lock = self.folder / packages.lock_file().name
        if not self.lock.exists():
            pytest.skip(f"NOT TESTED: no package is locked for {packages.architecture()}")

    def make(self, *, strictly: bool = False) -> dict[str, str]:
        """Make the runtime; returns the versions and labels of the image."""
        output = self.folder / "runtime.tar"
        output.unlink(missing_ok=True)
        build("runtime", "a:b", output, self.cache, strictly=strictly)
        with tarfile.open(output) as tar:
            (name,) = (n for n in tar.getnames() if re.fullmatch(r"\w{64}\.json", n))
            config = json.load(tar.extractfile(name) or io.BytesIO())
            with tarfile.open(fileobj=tar.extractfile("layer.tar")) as layer:
                status = (layer.extractfile("var/lib/dpkg/status") or io.BytesIO()).read()
        pairs = re.findall(
            r"^Package: (.*)(?:\n.+)*?\nVersion: (.*)$", status.decode(), re.MULTILINE
        )
        return {**config["config"]["Labels"], **dict(pairs)}

    def renewed(self) -> dict[str, str]:
        """Lock what the archive has today; returns the versions."""
        packages.write_lock(self.cache)
        lines = self.lock.read_text().splitlines()[1:]
        return {name: version for name, version, _ in map(str.split, lines)}

    def set(self, name: str, version: str, sha256: str) -> None:
        """Lock another version of a package."""
        text, count = re.subn(
            rf"^{name} .*$", f"{name} {version} {sha256}", self.lock.read_text(), flags=re.MULTILINE
        )
        assert count == 1
        self.lock.write_text(text)


@pytest.fixture
def locked(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Locked:
    locked = Locked(tmp_path, cache)
    monkeypatch.setattr(packages, "HERE", locked.folder)
    return locked


@needs_apt
def test_a_missing_version_is_replaced_and_reported_or_refused(
    locked: Locked, capfd: pytest.CaptureFixture[str]
) -> None:
    now = locked.renewed()
    locked.set("tzdata", "1999a-1", "0" * 64)
    facts = locked.make()
    change = f"tzdata 1999a-1 -> {now['tzdata']}"
    said = f"Debian has other packages than {locked.lock.name}: {change};"
    assert said in capfd.readouterr().err
    assert facts["tzdata"] == now["tzdata"]
    assert facts["lighterage.unlocked"] == change, "the image itself says so"
    with pytest.raises(Failure) as failure:
        locked.make(strictly=True)
    assert f"LOCKED=1, but {said}" in str(failure.value)
    assert not (locked.folder / "runtime.tar").exists()


@needs_apt
def test_a_package_with_another_digest_is_not_the_locked_one(locked: Locked) -> None:
    now = locked.renewed()
    locked.set("netbase", now["netbase"], "0" * 64)
    with pytest.raises(Failure) as failure:
        locked.make(strictly=True)
    assert f"netbase {now['netbase']} -> {now['netbase']}" in str(failure.value)


@needs_apt
def test_the_locked_version_is_preferred_to_a_newer_one(locked: Locked, tmp_path: Path) -> None:
    locked.renewed()
    packages.prepare("runtime", [], locked.cache, tmp_path)
    apt = tmp_path / "apt.conf"
    names = [package.name for package in packages.plan("runtime", tmp_path)]
    table = packages.run("apt-cache", "madison", *names, apt_config=apt).stdout
    rows = [[cell.strip() for cell in line.split("|")] for line in table.splitlines()]
    alone = {"tzdata", "netbase", "media-types", "ca-certificates"}  # nothing needs their version
    older = [(row[0], row[1]) for n, row in enumerate(rows) if n and rows[n - 1][0] == row[0]
             and rows[n - 1][1] != row[1] and row[0] in alone]  # fmt: skip
    if not older:
        pytest.skip("NOT TESTED: Debian has one version of each package today")
    name, version = older[0]
    shown = packages.run("apt-cache", "show", f"{name}={version}", apt_config=apt).stdout
    locked.set(name, version, re.findall(r"^SHA256: (\w+)$", shown, re.MULTILINE)[0])
    facts = locked.make(strictly=True)
    assert facts[name] == version
    assert "lighterage.unlocked" not in facts


@needs_apt
def test_an_architecture_without_a_lock_is_reported(
    locked: Locked, capfd: pytest.CaptureFixture[str]
) -> None:
    locked.lock.unlink()
    facts = locked.make()
    assert f"no package is locked for {packages.architecture()}" in capfd.readouterr().err
    assert facts["lighterage.unlocked"]
    with pytest.raises(Failure):
        locked.make(strictly=True)
