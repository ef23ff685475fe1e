"""Where each megabyte of an image is, measured on the image itself: `make size`."""

from __future__ import annotations

import json
import posixpath
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from html import escape

from docker.setup import images
from docker.setup.engine import Engine
from docker.setup.project import Failure, Project, give_to_owner, say
from docker.setup.variants import Variant
from docker.tools.saved import Layer, saved

MB = 1e6
BAR = 30
# Smaller ones are one row together; the JSON has them all.
SHOWN = 0.004
COLOURS = {
    "project": "#0b6e8f", "package": "#6ba3b8", "Python": "#d9a441", "system": "#b8c4d0",
    "replaced": "#b00020",
}  # fmt: skip
# Whose a path is where neither a Python nor a Debian package says so; the first that fits.
PLACES = (
    (r"app/tasks/", "project", "tasks"),
    (r"app/(?P<name>[^/]+)", "project", "app/{name}"),
    (r"opt/venv/", "package", "the virtual environment's own"),
    (r"usr/(local/)?lib/python[\d.]*/", "Python", "standard library"),
    (r"usr/(local/)?bin/python|usr/(local/)?lib/([^/]+/)?libpython", "Python", "interpreter"),
)  # fmt: skip
REST = (
    (r"(usr/)?bin/(ba|da)?sh$", "system", "shell"),
    (r"(usr/)?s?bin/|usr/local/s?bin/", "system", "other programs"),
    (r"(usr/)?lib/(?:[^/]+/)?(?P<name>lib[^/]*?)[-.\d]*\.so[^/]*$", "system", "{name}"),
    (r"(?P<name>(usr/share|usr|var)/[^/]+|[^/]+)", "system", "/{name}"),
)
COMPILED = re.compile(r"__pycache__/([^/]+?)\.cpython-\d+(?:\.opt-\d)?\.pyc$")


@dataclass(frozen=True)
class Part:
    """A part of an image.

    Args:
        kind: `project`, `package` of Python, `Python` itself, `system`, or `replaced`: what a later
            layer removed or brought anew, and the image carries still.
        name: of the component.
        bytes: of its files.
    """

    kind: str
    name: str
    bytes: int


@dataclass
class Content:
    """What is in an image's layers.

    Args:
        layers: what made each, and the bytes of its files.
        files: those that one sees, with their bytes.
        replaced: bytes that a later layer hides.
        owners: the component of each path that a package lists.
    """

    layers: list[tuple[str, int]] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)
    replaced: int = 0
    owners: dict[str, tuple[str, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, layers: Iterator[Layer]) -> Content:
        """Read all layers, the lowest first."""
        content = cls()
        for layer in layers:
            size = 0
            for info in layer.files:
                content._add(layer.files, info)
                size += info.size if info.isreg() else 0
            content.layers.append((layer.made_by, size))
        return content

    def _add(self, layer: tarfile.TarFile, info: tarfile.TarInfo) -> None:
        name = posixpath.normpath(info.name).lstrip("/")
        folder, file = posixpath.split(name)
        if file == ".wh..wh..opq":
            self._hide(folder, itself=False)
        elif file.startswith(".wh."):
            self._hide(posixpath.join(folder, file[4:]))
        elif info.isreg():
            self.replaced += self.files.pop(name, 0)
            self.files[name] = info.size
            self._learn(name, layer, info)

    def _hide(self, name: str, *, itself: bool = True) -> None:
        below = [one for one in self.files if one.startswith(f"{name}/")]
        for one in [*below, *([name] if itself else [])]:
            self.replaced += self.files.pop(one, 0)

    def _learn(self, name: str, layer: tarfile.TarFile, info: tarfile.TarInfo) -> None:
        """Take in the lists of a Python package (PEP 376) and of Debian's."""
        python = re.fullmatch(r"(.*)/([^/]+)-[^-/]+\.dist-info/RECORD", name)
        debian = re.fullmatch(r"var/lib/dpkg/info/([^/:]+)(?::\w+)?\.list", name)
        if not (python or debian):
            return
        file = layer.extractfile(info)
        lines = file.read().decode(errors="replace").splitlines() if file else []
        if python:
            for line in lines:
                path = posixpath.normpath(posixpath.join(python[1], line.split(",")[0]))
                self.owners[path] = ("package", python[2])
        elif debian:
            self.owners.update({line[1:]: ("system", debian[1]) for line in lines})

    def parts(self) -> list[Part]:
        """Every component, the largest first; together they are the whole image."""
        sizes: Counter[tuple[str, str]] = Counter()
        for name, size in self.files.items():
            sizes[self._component(name)] += size
        sizes["replaced", "hidden by a later layer"] += self.replaced
        found = [Part(*key, size) for key, size in sizes.items() if size]
        return sorted(found, key=lambda part: (-part.bytes, part.name))

    def _component(self, name: str) -> tuple[str, str]:
        """Whose a path is; a compiled file is its source's."""
        source = COMPILED.sub(r"\1.py", name)
        owner = self.owners.get(name) or self.owners.get(source)
        if owner and owner[0] == "package":
            return owner
        return _by(PLACES, name) or owner or _by(REST, name) or ("system", name)

    @property
    def size(self) -> int:
        """Bytes of all files in all layers."""
        return sum(size for _, size in self.layers)


def _by(places: Sequence[tuple[str, str, str]], name: str) -> tuple[str, str] | None:
    for pattern, kind, component in places:
        match = re.match(pattern, name)
        if match:
            return kind, component.format(**match.groupdict())
    return None


def size(project: Project, variant: Variant, engine: Engine) -> int:
    """Print where the bytes of the variant's image are, and draw it; `--json` for programs.

    Raises:
        Failure: an unknown option.
    """
    unknown = [word for word in project.args if word != "--json"]
    if unknown:
        raise Failure(f"size knows no {unknown[0]}; known: --json")
    tag = images.tag_of(project, variant.name)
    with saved(engine, tag) as layers:
        content = Content.of(layers)
    parts = content.parts()
    if project.args:
        told = [{"made_by": made_by, "bytes": size} for made_by, size in content.layers]
        components = [asdict(part) for part in parts]
        whole = {"image": tag, "bytes": content.size, "layers": told, "components": components}
        print(json.dumps(whole, indent=1))
    else:
        print("\n".join(_table(tag, content, parts)))
    picture = project.state / f"size-{variant.name}.svg"
    picture.write_text(treemap(parts, f"{tag}: {content.size / MB:.1f} MB"), encoding="utf-8")
    give_to_owner(picture)
    say(f"drawn in {picture.relative_to(project.root)}")
    return 0


def _table(tag: str, content: Content, parts: Sequence[Part]) -> Iterator[str]:
    whole = content.size or 1
    yield f"{tag}: {whole / MB:.1f} MB in {len(content.layers)} layers"
    yield "\nby layer, the lowest first"
    for made_by, size in content.layers:
        yield _row(size, whole, re.sub(r"^/bin/sh -c (#\(nop\) )?|\s+", " ", made_by).strip()[:60])
    yield "\nby component"
    for part in [part for part in parts if part.bytes >= SHOWN * whole]:
        yield _row(part.bytes, whole, f"{part.kind:8} {part.name}")
    small = [part.bytes for part in parts if part.bytes < SHOWN * whole]
    if small:
        yield _row(sum(small), whole, f"{'':8} {len(small)} smaller ones")


def _row(size: int, whole: int, name: str) -> str:
    bar = "█" * round(BAR * size / whole)
    return f"  {size / MB:7.2f} MB {size / whole:6.1%}  {bar:{BAR}}  {name}".rstrip()


# --- the picture --------------------------------------------------------------------------------

Box = tuple[float, float, float, float]
WIDTH, HEIGHT, HEAD = 1000.0, 600.0, 30.0


def treemap(parts: Sequence[Part], title: str) -> str:
    """Draw the parts as an SVG: the area of each is its share."""
    parts = sorted(parts, key=lambda part: -part.bytes)
    boxes = squarified([part.bytes for part in parts], (0, HEAD, WIDTH, HEIGHT))
    drawn = [_text(5, 20, f"{title}   {'   '.join(_legend(parts))}")]
    drawn += map(_tile, parts, boxes)
    body = "\n".join(drawn)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {HEAD + HEIGHT:g}"'
        f' style="font: 12px system-ui, sans-serif; background: #fff">\n{body}\n</svg>\n'
    )


def _tile(part: Part, box: Box) -> str:
    x, y, width, height = box
    name = f"{part.name}  {part.bytes / MB:.1f} MB"
    fits = next((text for text in (name, part.name) if 7 * len(text) < width and height > 16), "")
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
        f' fill="{COLOURS[part.kind]}" stroke="#fff"><title>{escape(name)}</title></rect>'
        f"{_text(x + 4, y + 14, fits)}"
    )


def _legend(parts: Sequence[Part]) -> Iterator[str]:
    sizes: Counter[str] = Counter()
    for part in parts:
        sizes[part.kind] += part.bytes
    yield from (f"{kind} {size / MB:.1f}" for kind, size in sizes.most_common())


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" xml:space="preserve">{escape(text)}</text>'


def squarified(sizes: Sequence[float], box: Box) -> list[Box]:
    """Share a box out by size, in parts that are near to squares (Bruls, Huizing, van Wijk 2000).

    Args:
        sizes: none of them zero, the largest first.
        box: left, top, width, height.
    """
    boxes: list[Box] = []
    left = list(sizes)
    while left:
        x, y, width, height = box
        short, area = min(width, height), width * height / sum(left)
        count = 1
        while count < len(left) and _worst(left[: count + 1], short, area) <= _worst(
            left[:count], short, area
        ):
            count += 1
        row, left = left[:count], left[count:]
        thick, at = sum(row) * area / short, 0.0
        for size in row:
            long = size * area / thick
            boxes.append((x, y + at, thick, long) if width >= height else (x + at, y, long, thick))
            at += long
        beside = (x + thick, y, width - thick, height)
        box = beside if width >= height else (x, y + thick, width, height - thick)
    return boxes


def _worst(row: Sequence[float], short: float, area: float) -> float:
    """How far from a square the worst of a row of sizes is."""
    thick = sum(row) * area / short
    return max(max(thick**2 / (size * area), size * area / thick**2) for size in row)
