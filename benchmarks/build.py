"""The prod image beside the one that the project grew out of: size, builds, start.

    python -m benchmarks.build [--rounds N] [--only NAME ...]

Both are built on the same bases, by the same client, from copies of the sources, in turn. A figure
is the median of the rounds. The exit code is 0 when all could be measured, whatever the figures.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks import machine, report
from benchmarks.data import MB
from docker.setup import bases, venv
from docker.setup.engine import Engine
from docker.setup.project import Failure, Project
from docker.tools.context import Context
from docker.tools.saved import saved
from docker.tools.size import Content
from tree import REPOSITORY, Tree

SCHEMA = "lighterage-bench-build/1"
HERE = Path(__file__).parent
HELP = """
import statistics, subprocess, sys, time
def once():
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", "tasks", "2", "--help"], stdout=subprocess.DEVNULL)
    return time.monotonic() - start
print(statistics.median(once() for _ in range(5)))
"""


@dataclass
class Row:
    """One thing that is measured.

    Attributes:
        title: For people.
        unit: Of the figures.
        most: The largest figure that is good; none without.
        share: The largest part of the peer's figure that is good; none without.
        ours: A figure a round.
        peer: The same of the peer, where it has one.
        note: More to say.
    """

    title: str
    unit: str
    most: float | None = None
    share: float | None = None
    ours: list[float] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Our median as a part of the peer's."""
        if not (self.ours and self.peer and statistics.median(self.peer)):
            return None
        return statistics.median(self.ours) / statistics.median(self.peer)

    def verdicts(self) -> Iterator[str]:
        """Say of each goal whether it is met."""
        if self.most is not None and self.ours:
            met = statistics.median(self.ours) <= self.most
            yield f"<= {self.most:g} {self.unit} {'met' if met else 'NOT met'}"
        if self.share is not None and self.ratio is not None:
            yield f"<= {self.share:g}x {'met' if self.ratio <= self.share else 'NOT met'}"

    def line(self) -> str:
        """Give it for people."""
        ratio = f"{self.ratio:.2f}x" if self.ratio is not None else ""
        words = [*self.verdicts(), self.note]
        return (
            f"  {self.title:<38} {_figures(self.ours, self.unit):>23} "
            f"{_figures(self.peer, self.unit):>23} {ratio:>6}  {'; '.join(filter(None, words))}"
        ).rstrip()

    def as_data(self) -> dict[str, Any]:
        """Give it for programs."""
        return {**vars(self), "ratio": self.ratio, "goals": list(self.verdicts())}


def _figures(figures: list[float], unit: str) -> str:
    if not figures:
        return ""
    digits = 0 if unit == "packages" else 2
    spread = f" {min(figures):.{digits}f}..{max(figures):.{digits}f}" if len(figures) > 1 else ""
    return f"{statistics.median(figures):.{digits}f} {unit}{spread}"


class Yard:
    """Where images are built: a copy of the project, a copy of the peer, an engine.

    Args:
        folder: For both copies.
        engine: One that can build.
    """

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.engine = engine
        self.name = f"lighterage-bench-{os.getpid()}"
        self.image, self.peer_image = f"{self.name}-prod", f"{self.name}-peer"
        self.tree = Tree(folder / "ours", self.name)
        packages = REPOSITORY / ".lighterage/debian"
        if packages.is_dir():
            shutil.copytree(packages, self.tree.folder / ".lighterage/debian")
        me = ["-c", "user.name=me", "-c", "user.email=me@here.example"]
        for words in (["init", "-q"], ["add", "."], [*me, "commit", "-qm", "all"]):
            subprocess.run(["git", *words], cwd=self.tree.folder, check=True)
        self.peer = folder / "peer"
        self.peer.mkdir()
        shutil.copy(HERE / "peers/Dockerfile", self.peer)
        for number in (1, 2, 3):
            shutil.copy(HERE / "peers/three_scripts.py", self.peer / f"task_{number}.py")
        self.pin()
        project = Project.from_environment()
        self.project = project._replace(root=self.tree.folder, name=self.name, args=())

    def pin(self) -> None:
        """Give the peer what our lock file pins, as people write it: without hashes."""
        locked = (self.tree.folder / "requirements/prod.txt").read_text()
        pins = re.findall(r"^[A-Za-z0-9._-]+==[^\\\n]+", locked, re.MULTILINE)
        (self.peer / "requirements.txt").write_text("\n".join(pins) + "\n")

    @cached_property
    def bases(self) -> tuple[str, dict[str, str]]:
        """The base images that both are built on: a label, and the build arguments."""
        return bases.choose(self.project, self.engine)

    def ours(self, *more: str) -> str:
        """Build ours by the engine alone; gives what it said."""
        dockerfile = self.project.root / "docker/prod/Dockerfile"
        return self._build(self.tree.folder, dockerfile, f"{self.name}-cold", *more)

    def peers(self, *more: str) -> str:
        """Build the peer; gives what it said."""
        return self._build(self.peer, self.peer / "Dockerfile", self.peer_image, *more)

    def _build(self, root: Path, dockerfile: Path, tag: str, *more: str) -> str:
        command = [*self.engine.build, "--progress", "plain", "--file", str(dockerfile)]
        command += ["--tag", tag]
        command += ["--label", f"of={self.name}"]
        command += [f"--build-arg={name}={value}" for name, value in self.bases[1].items()]
        command += [f"--secret=id={key},src={path}" for key, path in venv.build_secrets().items()]
        done = subprocess.run(
            [*command, *more, str(root)], text=True, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        if done.returncode:
            raise Failure(f"{tag} was not built: {done.stdout[-1500:]}", 1)
        return done.stdout

    def forget(self) -> None:
        """Remove the images that this made."""
        self.tree.make("clean", "ENV=prod")
        self.engine.ask("volume", "rm", f"{self.name}-prod-data")
        self.engine.ask("image", "rm", f"{self.name}-cold", self.peer_image)
        self.engine.ask("image", "prune", "--force", "--filter", f"label=of={self.name}")


def timed(work: Callable[[], object]) -> float:
    """Give the seconds of a piece of work."""
    started = time.monotonic()
    work()
    return time.monotonic() - started


# --- what is measured -----------------------------------------------------------------------


def size(yard: Yard, rounds: int) -> Iterator[Row]:
    """Sizes do not vary: one round."""
    yard.tree.ok("prod-build", timeout=600)
    yard.peers()
    whole = Row("image, all files", "MB", most=95, share=0.6)
    gzip = Row("its layers, gzip -6 (docker push)", "MB", most=31, share=0.6)
    zstd = Row("its layers, zstd -3", "MB", most=31, share=0.6)
    for image, figures in ((yard.image, "ours"), (yard.peer_image, "peer")):
        with saved(_context(yard.engine), image) as layers:
            getattr(whole, figures).append(Content.of(layers).size / MB)
        with saved(_context(yard.engine), image) as layers:
            packed = [_packed(layer.files.fileobj) for layer in layers]
        getattr(gzip, figures).append(sum(one for one, _ in packed) / MB)
        if shutil.which("zstd"):
            getattr(zstd, figures).append(sum(two for _, two in packed) / MB)
    with saved(_context(yard.engine), yard.bases[1]["RUNTIME"]) as layers:
        whole.note = f"{Content.of(layers).size / MB:.1f} MB of both are the base"
    yield from (whole, gzip, zstd)


def _packed(layer: Any) -> tuple[int, int]:
    """How many bytes a layer is in gzip, and in zstd where there is a program for it."""
    layer.seek(0)
    content = layer.read()
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    gzip = len(packer.compress(content)) + len(packer.flush())
    if not shutil.which("zstd"):
        return gzip, 0
    done = subprocess.run(["zstd", "-3", "-c"], input=content, capture_output=True, check=True)
    return gzip, len(done.stdout)


def cold(yard: Yard, rounds: int) -> Iterator[Row]:
    """Time builds without any cache: neither steps nor packages."""
    row = Row("build, cold", "s", share=0.5)
    for number in range(rounds):
        turn = [(yard.ours, row.ours), (yard.peers, row.peer)]
        for build, figures in reversed(turn) if number % 2 else turn:
            figures.append(timed(lambda build=build: build("--no-cache")))  # type: ignore[misc]
    yield row


def unchanged(yard: Yard, rounds: int) -> Iterator[Row]:
    """Time builds of what is built: `make prod-build` as a whole, and the peer's client."""
    row = Row("build, nothing changed", "s", most=1)
    yard.tree.ok("prod-build", timeout=600)
    yard.peers()
    for _ in range(rounds):
        row.ours.append(timed(lambda: yard.tree.ok("prod-build")))
        row.peer.append(timed(yard.peers))
    yield row


def source(yard: Yard, rounds: int) -> Iterator[Row]:
    """Time builds after an edit of a task, and weigh the layers that are new."""
    row = Row("build, a task edited", "s", most=1.5)
    layers = Row("new layers of it", "MB")
    builds: list[tuple[Callable[[], str], str, Path, str]] = [
        (lambda: yard.tree.ok("prod-build"), yard.image, yard.tree.folder / "tasks", "ours"),
        (yard.peers, yard.peer_image, yard.peer, "peer"),
    ]
    for build, *_ in builds:
        build()
    for number in range(rounds):
        for build, image, folder, figures in builds:
            before = _layers(yard.engine, image)
            with (folder / "task_2.py").open("a") as task:
                task.write(f"# {number} of {yard.name}\n")  # or the engine knows it
            getattr(row, figures).append(timed(build))
            new = [
                size for digest, size in _layers(yard.engine, image) if (digest, size) not in before
            ]
            getattr(layers, figures).append(sum(new) / MB)
    yield from (row, layers)


def _context(engine: Engine) -> Context:
    return Context(REPOSITORY, docker=(engine.client,))


def _layers(engine: Engine, image: str) -> list[tuple[str, int]]:
    """Give the digest and the size of each layer."""
    digests: list[str] = engine.inspect("image", image)["RootFS"]["Layers"]
    with saved(_context(engine), image) as layers:
        sizes = [size for _, size in Content.of(layers).layers]
    return list(zip(digests, sizes, strict=True))


def dependency(yard: Yard, rounds: int) -> Iterator[Row]:
    """Build with one package more, and count what is fetched."""
    row = Row("build, a package added", "s")
    number_fetched = Row("packages fetched for it", "packages", most=1)
    script = yard.tree.folder / "requirements/install.sh"
    quiet = script.read_text()
    script.write_text(quiet.replace(" --quiet", ""))
    lock = yard.tree.folder / "requirements/prod.txt"
    before = lock.read_text()
    more = re.search(r"(?ms)^iniconfig==.*?# via", lock.with_name("dev.txt").read_text())
    yard.ours()
    yard.peers()
    for number in range(rounds):
        lock.write_text(f"{before}{more[0] if more else ''} bench\n# {number} of {yard.name}\n")
        yard.pin()
        with (yard.peer / "requirements.txt").open("a") as file:
            file.write(f"# {number} of {yard.name}\n")
        for build, figures in ((yard.ours, "ours"), (yard.peers, "peer")):
            said: list[str] = []
            getattr(row, figures).append(timed(lambda: said.append(build())))  # noqa: B023
            getattr(number_fetched, figures).append(fetched(said[0]))
    lock.write_text(before)
    script.write_text(quiet)
    yard.pin()
    yield from (row, number_fetched)


def fetched(said: str) -> int:
    """Count the packages that uv or pip say they fetched."""
    prepared = sum(int(count) for count in re.findall(r"Prepared (\d+) package", said))
    return prepared + len(re.findall(r"Downloading \S+\.whl", said))


def start(yard: Yard, rounds: int) -> Iterator[Row]:
    """Time `make run` that finds nothing to fetch, and the bare engine, in turn."""
    compose = compose_version(yard.engine)
    run = Row("make run, nothing to fetch", "s", note="beside it: docker run --rm BASE true")
    most = 0.9 if compose.startswith("1.") else 0.5
    above = Row("over a bare docker run", "s", most=most, note=f"compose {compose}")
    cpu = Row("CPU time of both, clients only", "s")
    first = Row("make run ARGS=--help, to its first line", "s")
    helping = Row("python -m tasks 2 --help, inside", "s", most=0.15)
    client = yard.engine.client
    bare = [client, "run", "--rm", "--entrypoint", "true", yard.bases[1]["RUNTIME"]]
    inside = [client, "run", "--rm", "--entrypoint", "python", yard.image, "-c", HELP]
    words = ("run", "TASK=2", "ENV=prod")
    for more in ((), ("ARGS=--help",)):
        yard.tree.ok(*words, *more, timeout=600)
    for _ in range(rounds):
        before = _client_cpu_s()
        run.peer.append(timed(lambda: subprocess.run(bare, check=True)))
        between = _client_cpu_s()
        run.ours.append(timed(lambda: yard.tree.ok(*words)))
        cpu.peer.append(between - before)
        cpu.ours.append(_client_cpu_s() - between)
        above.ours.append(run.ours[-1] - run.peer[-1])
        first.ours.append(_first_line(yard.tree, *words, "ARGS=--help"))
        done = subprocess.run(inside, capture_output=True, text=True, check=True)
        helping.ours.append(float(done.stdout))
    yield from (run, above, cpu, first, helping)


def compose_version(engine: Engine) -> str:
    """Give the version of compose that make uses."""
    done = subprocess.run(
        [*engine.compose, "version", "--short"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip().removeprefix("v") or "unknown"


def _client_cpu_s() -> float:
    """Give the CPU seconds of all processes that this one waited for; the engine's are not."""
    times = os.times()
    return times.children_user + times.children_system


def _first_line(tree: Tree, *words: str) -> float:
    """Give the seconds until a run says something; its end is waited for all the same."""
    started = time.monotonic()
    process = tree.start(*words)
    line = process.stdout.readline() if process.stdout else ""
    seconds = time.monotonic() - started
    _, errors = process.communicate()
    if process.returncode or not line:
        raise Failure(f"make run failed: {errors}", 1)
    return seconds


PARTS = {part.__name__: part for part in (size, cold, unchanged, source, dependency, start)}


def main(arguments: list[str] | None = None) -> int:
    """Measure; returns the exit code."""
    parser = argparse.ArgumentParser(description="Compare the prod image with its predecessor.")
    parser.add_argument("--rounds", type=int, default=3, help="figures of each (default: 3)")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="NAME",
        help=f"some of {', '.join(PARTS)}",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, default=REPOSITORY / ".lighterage/bench",
        help="folder for the JSON (default: .lighterage/bench)",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    engine = Engine.find("docker")
    if engine is None or not engine.build:
        report.say("there is no engine here that can build; see make doctor")
        return 2
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="lighterage-bench-") as folder:
        yard = Yard(Path(folder), engine)
        try:
            base, _ = yard.bases
            for name in options.only:
                report.note(name)
                rows += PARTS[name](yard, max(options.rounds, 1))
        finally:
            yard.forget()
        box = machine.facts(Path(folder))
    report.say(f"  {f'prod on base {base}':<38} {'ours':>23} {'its predecessor':>23} {'ratio':>6}")
    report.say(*(row.line() for row in rows))
    report.say(
        f"medians, least..most of {options.rounds} rounds; {box['cpu']}, {box['cores']} cores, "
        f"load {box['load'][0]:.1f} at the end, compose {compose_version(engine)}, "
        f"{machine.commit()}"
    )
    data = {
        "schema": SCHEMA, "machine": box, "base": base, "commit": machine.commit(),
        "compose": compose_version(engine), "rounds": options.rounds,
        "rows": [row.as_data() for row in rows],
    }  # fmt: skip
    report.write(options.output, "build", data)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        sys.stderr.write(f"{failure}\n")
        sys.exit(failure.code)
