"""The images: what goes into each, when to build it again, and from which base."""

from __future__ import annotations

import configparser
import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from docker.setup import bases, locks, origin, wheelhouse
from docker.setup.engine import Engine, output_of
from docker.setup.project import Failure, Project, say

INPUTS_LABEL = "lighterage.inputs"
# The same without the tree as a whole, which is mounted over at run time.
ENVIRONMENT_LABEL = "lighterage.environment"
BASE_LABEL = "lighterage.base"
# BuildKit 0.11 and newer (engine 23) and podman date image and history by it, so that the id is the
# same, too. The Dockerfiles give files the same time: any does, if it is always the same.
MOMENT = "1767225600"

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


def context_files(project: Project, image: str, *, tree: bool = True) -> Iterator[Path]:
    """Every file that goes into an image: of what a build can see, what its Dockerfile takes.

    Args:
        project: Of the files.
        image: `dev`, `prod`, ... or `sample-host`.
        tree: Whether what is taken as a part of the whole tree counts.
    """
    taken = [PurePosixPath(name).parts for name in copied(project, image)]
    taken = [parts for parts in taken if parts or tree]  # `.` has no parts
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


def inputs_of(project: Project, image: str, *, tree: bool = True) -> str:
    """The sha256 over all that goes into an image: names, modes, contents; base scripts too.

    Args:
        project: Of the files.
        image: `dev`, `prod`, ... or `sample-host`.
        tree: As for `context_files`.
    """
    digest = hashlib.sha256()
    for path in [
        dockerfile_of(project, image),
        *bases.scripts(project),
        *context_files(project, image, tree=tree),
    ]:
        name = path.relative_to(project.root).as_posix()
        executable = bool(path.stat().st_mode & 0o100)
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{name}\0{executable}\0{content}\n".encode())
    return digest.hexdigest()


def up_to_date(
    project: Project,
    engine: Engine,
    *images: str,
    mounted: Sequence[str] = (),
    quietly: bool = True,
) -> None:
    """Build those images whose inputs changed, or whose base is not the one asked for.

    Args:
        project: The clone and its knobs.
        engine: Where.
        images: Which.
        mounted: Those of them over whose tree the live one is mounted: edits are seen anyway.
        quietly: Whether images that are up to date are not worth a line.

    Raises:
        Failure: a build failed, or nothing here can build.
    """
    locks.report(project)
    tags = {image: tag_of(project, image) for image in images}
    known = engine.inspect("image", *tags.values())
    for image, tag in tags.items():
        labels = known.get(tag, {}).get("Config", {}).get("Labels") or {}
        label, tree = (ENVIRONMENT_LABEL, False) if image in mounted else (INPUTS_LABEL, True)
        asked = f"hub {project.hub}".strip() if project.base == "hub" else project.base
        base = labels.get(BASE_LABEL, "")
        same_base = asked in ("", base.removesuffix(bases.UNLOCKED))
        same_base &= not (project.locked and base.endswith(bases.UNLOCKED))
        if same_base and labels.get(label) == inputs_of(project, image, tree=tree):
            if not quietly:
                say(f"image {tag} is up to date")
            continue
        _build(project, engine, image)
        if tag in known:  # refused, rightly, where a service still runs the replaced one
            engine.ask("image", "rm", known[tag]["Id"])


def _build(project: Project, engine: Engine, image: str) -> None:
    if engine.builder is None:
        raise Failure(
            "no BuildKit-capable docker client on the path: install buildx (Debian: apt-get install"
            " docker.io, or docker-buildx-plugin from your engine's maker)",
            1,
        )
    base, arguments = bases.choose(project, engine)
    tag = tag_of(project, image)
    labels = {
        INPUTS_LABEL: inputs_of(project, image),
        ENVIRONMENT_LABEL: inputs_of(project, image, tree=False),
        BASE_LABEL: base,
        **origin.labels(project),
    }
    runtime = (
        "RUNTIME" if "{RUNTIME}" in dockerfile_of(project, image).read_text("utf-8") else "BASE"
    )
    labels.update(bases.labels(engine, arguments[runtime]))
    say(f"building image {tag} (base: {base})")
    started = time.monotonic()
    words = [word for name, value in labels.items() for word in ("--label", f"{name}={value}")]
    wheels = wheelhouse.wheels(project)
    words += ["--network", "none"] if wheels else []
    with staged(project, image, wheels) as context:
        build_image(engine, image, context, tag, arguments=arguments, more=words)
    say(f"built image {tag} in {time.monotonic() - started:.0f} s")


@contextlib.contextmanager
def staged(project: Project, image: str, wheels: Sequence[Path]) -> Iterator[Path]:
    """Give a folder with what goes into an image, and nothing else, for a while.

    Not every builder asks .dockerignore about what a Dockerfile mounts: podman 4's does not, and
    would bring .git and the env files into dev.

    Args:
        project: Of the tree.
        image: `dev`, `prod`, ... or `sample-host`.
        wheels: To install from, without a network; where there are none, from the index.
    """
    with tempfile.TemporaryDirectory(prefix="lighterage-") as folder:
        context = Path(folder)
        for path in [dockerfile_of(project, image), *context_files(project, image)]:
            to = context / path.relative_to(project.root)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, to, follow_symlinks=False)
        wheelhouse.lay_out(wheels, context)
        # A clone's umask is no reason to build again: the builder's cache counts the modes.
        for path in [context, *context.rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        yield context


def build_image(
    engine: Engine,
    image: str,
    context: Path,
    tag: str,
    *,
    arguments: Mapping[str, str],
    more: Sequence[str],
) -> None:
    """Build an image from a folder.

    Args:
        engine: One that can build.
        image: `dev`, `prod`, ... or `sample-host`.
        context: As `staged` gives it.
        tag: The name that it gets.
        arguments: Of the build.
        more: Words for the client.

    Raises:
        Failure: A step failed; what it said was shown.
    """
    client, extra = engine.builder or (engine.client, {})
    command = [client, "build", "--file", str(context / "docker" / image / "Dockerfile")]
    command += ["--tag", tag, *more]
    if engine.kind == "podman":
        # Its cache (buildah 1.28) does not look into what a step mounts: dev would stay as it was.
        # Its own format has no HEALTHCHECK.
        command += ["--timestamp", MOMENT, "--no-cache", "--format", "docker"]
    for name, value in arguments.items():
        command += ["--build-arg", f"{name}={value}"]
    for name, path in build_secrets().items():
        command += ["--secret", f"id={name},src={path}"]
    command.append(str(context))
    code = _shown_when_wanted(command, {**os.environ, **extra, "SOURCE_DATE_EPOCH": MOMENT})
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
