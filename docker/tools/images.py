"""The images: what goes into each, when to build it again, and from which base."""

from __future__ import annotations

import configparser
import hashlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path, PurePosixPath

import origin
import wheelhouse
from engine import Engine, output_of
from project import Failure, Project, say

INPUTS_LABEL = "lighterage.inputs"
BASE_LABEL = "lighterage.base"
# The names that the Dockerfiles have as defaults: the full Python to build, the slim one to run.
HUB_IMAGES = {"BASE": "python:3.11-bookworm", "RUNTIME": "python:3.11-slim-bookworm"}
DEBIAN_BASES = {"BASE": "build", "RUNTIME": "runtime"}
# BuildKit 0.11 and newer (engine 23) date image and history by it, so that the id is the same, too.
# The Dockerfiles give files the same time: any does, if it is always the same.
MOMENT = {"SOURCE_DATE_EPOCH": "1767225600"}
# An engine that reaches no registry may take minutes to say so.
PULL_SECONDS = 300

SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/cert.pem",  # Alpine, macOS
)


def dockerfile_of(project: Project, image: str) -> Path:
    """The Dockerfile of `dev`, `prod`, ... or `sample-host`."""
    return project.root / "docker" / image / "Dockerfile"


def tag_of(project: Project, image: str) -> str:
    """The image's name in the engine."""
    return f"{project.name}-{image}"


def copied(project: Project, image: str) -> list[str]:
    """What a Dockerfile takes from the tree: paths and globs of its COPY lines and bind mounts."""
    text = dockerfile_of(project, image).read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(r"--mount=type=bind(?:,source=([^,\s]+))?", text)  # without: the whole
    for line in re.findall(r"^COPY +(.+)$", text, re.MULTILINE):
        words = [word for word in line.split() if not word.startswith("--")]
        if "--from=" not in line:
            found += words[:-1]
    return found


def context_files(project: Project, image: str) -> Iterator[Path]:
    """Every file that goes into an image: of what a build can see, what its Dockerfile takes."""
    taken = [PurePosixPath(name).parts for name in copied(project, image)]  # `.` has no parts
    for path in seen_files(project):
        parts = path.relative_to(project.root).parts
        if any(len(glob) <= len(parts) and all(map(fnmatchcase, parts, glob)) for glob in taken):
            yield path


def seen_files(project: Project) -> Iterator[Path]:
    """Every file that a build can see.

    The lines with `!` of .dockerignore, walked, without the names that its lines with `**/` give.
    """
    lines = (project.root / ".dockerignore").read_text(encoding="utf-8").splitlines()
    never = [line[3:].strip() for line in lines if line.startswith("**/")]
    for line in lines:
        if not line.startswith("!"):
            continue
        top = project.root / line[1:].strip()
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            parts = path.relative_to(project.root).parts
            left_out = any(fnmatchcase(part, name) for part in parts for name in never)
            if path.is_file() and not left_out:
                yield path


def base_scripts(project: Project) -> list[Path]:
    """What makes the base images from Debian packages: the script, and its lists of packages."""
    folder = project.root / "docker" / "base"
    return sorted([*folder.glob("*.py"), *folder.glob("*.txt")])


def inputs_of(project: Project, image: str) -> str:
    """The sha256 over all that goes into an image: names, modes, contents; base scripts too."""
    digest = hashlib.sha256()
    for path in [
        dockerfile_of(project, image),
        *base_scripts(project),
        *context_files(project, image),
    ]:
        name = path.relative_to(project.root).as_posix()
        executable = bool(path.stat().st_mode & 0o100)
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{name}\0{executable}\0{content}\n".encode())
    return digest.hexdigest()


def up_to_date(project: Project, engine: Engine, *images: str, quietly: bool = True) -> None:
    """Build those images whose inputs changed, or whose base is not the one asked for.

    Raises:
        Failure: a build failed, or nothing here can build.
    """
    tags = {image: tag_of(project, image) for image in images}
    known = engine.inspect("image", *tags.values())
    for image, tag in tags.items():
        labels = known.get(tag, {}).get("Config", {}).get("Labels") or {}
        inputs = inputs_of(project, image)
        asked = f"hub {project.hub}".strip() if project.base == "hub" else project.base
        same_base = asked in ("", labels.get(BASE_LABEL))
        if labels.get(INPUTS_LABEL) == inputs and same_base:
            if not quietly:
                say(f"image {tag} is up to date")
            continue
        _build(project, engine, image, inputs)
        if tag in known:  # refused, rightly, where a service still runs the replaced one
            engine.ask("image", "rm", known[tag]["Id"])


def _build(project: Project, engine: Engine, image: str, inputs: str) -> None:
    if engine.builder is None:
        raise Failure(
            "no BuildKit-capable docker client on the path: install buildx (Debian: apt-get install"
            " docker.io, or docker-buildx-plugin from your engine's maker)",
            1,
        )
    base, arguments = choose_base(project, engine)
    tag = tag_of(project, image)
    labels = {INPUTS_LABEL: inputs, BASE_LABEL: base, **origin.labels(project)}
    say(f"building image {tag} (base: {base})")
    started = time.monotonic()
    words = [word for name, value in labels.items() for word in ("--label", f"{name}={value}")]
    wheels = wheelhouse.wheels(project)
    build_image(engine, image, project.root, tag, arguments=arguments, wheels=wheels, more=words)
    say(f"built image {tag} in {time.monotonic() - started:.0f} s")


def build_image(
    engine: Engine,
    image: str,
    root: Path,
    tag: str,
    *,
    arguments: Mapping[str, str],
    wheels: Sequence[Path],
    more: Sequence[str],
) -> None:
    """Build an image from a tree.

    Args:
        engine: One that can build.
        image: `dev`, `prod`, ... or `sample-host`.
        root: The tree.
        tag: The name that it gets.
        arguments: Of the build.
        wheels: To install from, without a network; where there are none, from the index.
        more: Words for the client.

    Raises:
        Failure: A step failed; what it said was shown.
    """
    client, extra = engine.builder or (engine.client, {})
    command = [client, "build", "--file", str(root / "docker" / image / "Dockerfile")]
    command += ["--tag", tag, *(["--network", "none"] if wheels else []), *more]
    for name, value in arguments.items():
        command += ["--build-arg", f"{name}={value}"]
    for name, path in build_secrets().items():
        command += ["--secret", f"id={name},src={path}"]
    command.append(str(root))
    with wheelhouse.laid_out(wheels, root):
        code = _shown_when_wanted(command, {**os.environ, **extra, **MOMENT})
    if code:
        raise Failure(f"image {tag} was not built; the step that failed is above", 1)


def _shown_when_wanted(command: list[str], env: Mapping[str, str]) -> int:
    """Run a build: on a terminal its steps are seen, elsewhere only the end of a failed one."""
    if sys.stderr.isatty():
        return subprocess.run(command, env=env, stdout=sys.stderr, check=False).returncode
    code, output = output_of(command, env)
    if code:
        sys.stderr.write(output[-8000:])
    return code


def build_secrets() -> dict[str, Path]:
    """This machine's CA bundle and pip.conf, for builds only; an image keeps neither."""
    secrets: dict[str, Path] = {}
    pip_conf = pip_configuration()
    if pip_conf:
        secrets["pip_conf"] = pip_conf
    bundle = ca_bundle(pip_conf)
    if bundle:
        secrets["ca"] = bundle
    return secrets


def pip_configuration() -> Path | None:
    """The pip.conf that pip on this machine would read last, hence wins; None without any."""
    home = Path.home()
    config_home = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    named = os.environ.get("PIP_CONFIG_FILE")
    if named:
        return Path(named) if Path(named).is_file() else None
    for path in (config_home / "pip/pip.conf", home / ".pip/pip.conf", Path("/etc/pip.conf")):
        if path.is_file():
            return path
    return None


def ca_bundle(pip_conf: Path | None) -> Path | None:
    """The CA bundle that this machine's Python tools trust: a variable, pip.conf, or the system."""
    named = [os.environ.get(name) for name in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")]
    parser = configparser.RawConfigParser()
    if pip_conf:
        try:
            parser.read(pip_conf, encoding="utf-8")
        except configparser.Error:
            say(f"{pip_conf} is not readable as a pip.conf; its CA bundle is not used")
    named += [parser.get(part, "cert", fallback=None) for part in ("global", "install")]
    for candidate in [*named, *SYSTEM_BUNDLES]:
        if candidate and Path(candidate).is_file():
            return Path(candidate)
    return None


@cache
def choose_base(project: Project, engine: Engine) -> tuple[str, dict[str, str]]:
    """Which bases to build on, ready in the engine: a label for them, and the build arguments.

    Raises:
        Failure: the hub was asked for and does not answer, or Debian's packages failed.
    """
    if project.base != "debian":
        prefix = f"{project.hub}/" if project.hub else ""
        if engine.kind == "podman" and not project.hub:
            prefix = "docker.io/library/"
        arguments = {name: prefix + image for name, image in HUB_IMAGES.items()}
        refused = _pull(engine, list(arguments.values()), offline=project.offline)
        if refused is None:
            return f"hub {project.hub}".strip(), arguments
        if project.base == "hub":
            raise Failure(f"BASE=hub, but the image registry does not serve: {refused}", 1)
        say("no image registry answers; the base images are made from Debian packages instead")
    bases = {name: _debian_base(project, engine, kind) for name, kind in DEBIAN_BASES.items()}
    return "debian", bases


def _pull(engine: Engine, images: list[str], *, offline: bool) -> str | None:
    """Have the images in the engine; the reason when the registry does not serve one."""
    have = engine.inspect("image", *images)
    for image in images:
        if image in have:
            continue
        if offline:
            return f"{image} (OFFLINE=1 asks only the engine)"
        answer = engine.ask("pull", image, timeout=PULL_SECONDS)
        if answer.returncode:
            return (answer.stderr.strip().splitlines() or [image])[-1]
    return None


def _debian_base(project: Project, engine: Engine, kind: str) -> str:
    """The Debian-made base of that kind, built when its script changed; returns its name.

    A second tag carries the script's hash, so that the engine itself knows what is current.
    """
    script = project.root / "docker" / "base" / "build.py"
    digest = hashlib.sha256()
    for path in base_scripts(project):
        digest.update(path.read_bytes())
    name = f"{project.name}-base:{kind}"
    current = f"{name}-{digest.hexdigest()[:12]}"
    if engine.inspect("image", current, name).keys() == {current, name}:
        return name
    output = project.state / f"base-{kind}-{os.getpid()}.tar"
    cache = project.state / "debian"
    command = [sys.executable, str(script), kind, "--tag", name]
    command += ["--output", str(output), "--cache", str(cache)]
    say(f"making base image {name} from Debian packages")
    try:
        code, said = output_of(command, os.environ)
        if code:
            raise Failure(f"{name}: {said.strip()[-2000:] or 'docker/base/build.py failed'}", 1)
        engine.must("load", "--input", str(output))
    finally:
        output.unlink(missing_ok=True)
    engine.must("tag", name, current)
    return name
