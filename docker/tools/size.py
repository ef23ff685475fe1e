"""Show where each megabyte of an image is, measured on the image itself: `make size`."""

from __future__ import annotations

import json
import posixpath
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from docker.tools.context import Context, Variant
from docker.tools.saved import Layer, saved

MB = 1e6
BAR = 30
# Smaller components share one row; the JSON has them all.
SHOWN = 0.004
# The component of a path that no Python or Debian package lists; the first pattern that matches.
PLACES = (
    (r"app/tasks/", "project", "tasks"),
    (r"app/(?P<name>[^/]+)", "project", "app/{name}"),
    (r"opt/venv/", "package", "the virtual environment's own"),
    (r"usr/(local/)?lib/python[\d.]*/", "Python", "standard library"),
    (r"usr/(local/)?bin/python|usr/(local/)?lib/([^/]+/)?libpython", "Python", "interpreter"),
)
REST = (
    (r"(usr/)?bin/(ba|da)?sh$", "system", "shell"),
    (r"(usr/)?s?bin/|usr/local/s?bin/", "system", "other programs"),
    (r"(usr/)?lib/(?:[^/]+/)?(?P<name>lib[^/]*?)[-.\d]*\.so[^/]*$", "system", "{name}"),
    (r"(?P<name>(usr/share|usr|var)/[^/]+|[^/]+)", "system", "/{name}"),
)
COMPILED = re.compile(r"__pycache__/([^/]+?)\.cpython-\d+(?:\.opt-\d)?\.pyc$")


class Part(NamedTuple):
    """A component of an image.

    Attributes:
        kind: `project`, `package` of Python, `Python` itself, `system`, or `replaced`: removed or
            overwritten by a later layer, and still in the image.
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
        layers: the instruction that made each, and the bytes of its files.
        files: the visible files with their bytes.
        owners: the component of each path that a package lists.
    """

    layers: list[tuple[str, int]] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)
    owners: dict[str, tuple[str, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, layers: Iterator[Layer]) -> Content:
        """Read all layers, the lowest first."""
        content = cls()
        for layer in layers:
            for info in layer.files:
                content._add(layer.files, info)
            size = sum(info.size for info in layer.files.getmembers() if info.isreg())
            content.layers.append((layer.made_by, size))
        return content

    def _add(self, layer: tarfile.TarFile, info: tarfile.TarInfo) -> None:
        name = posixpath.normpath(info.name).lstrip("/")
        folder, file = posixpath.split(name)
        if file.startswith(".wh."):  # a whiteout, of a file or folder or of all in its folder
            opaque = file == ".wh..wh..opq"
            hidden = folder if opaque else posixpath.join(folder, file[4:])
            for path in [path for path in self.files if f"{path}/".startswith(f"{hidden}/")]:
                del self.files[path]
        elif info.isreg():
            self.files[name] = info.size
            self._read_package_list(name, layer, info)

    def _read_package_list(self, name: str, layer: tarfile.TarFile, info: tarfile.TarInfo) -> None:
        """Record the owners from the file list of a Python package (PEP 376) or of a Debian one."""
        python = re.fullmatch(r"(.*)/([^/]+)-[^-/]+\.dist-info/RECORD", name)
        debian = re.fullmatch(r"var/lib/dpkg/info/([^/:]+)(?::\w+)?\.list", name)
        file = layer.extractfile(info) if python or debian else None
        for line in file.read().decode(errors="replace").splitlines() if file else []:
            if python:
                path = posixpath.normpath(posixpath.join(python[1], line.split(",")[0]))
                self.owners[path] = ("package", python[2])
            elif debian:
                self.owners[line[1:]] = ("system", debian[1])

    def parts(self) -> list[Part]:
        """Return every component, the largest first; together they are the whole image."""
        sizes: Counter[tuple[str, str]] = Counter()
        for name, size in self.files.items():
            sizes[self._component(name)] += size
        sizes["replaced", "hidden by a later layer"] = self.size - sum(self.files.values())
        found = [Part(*key, size) for key, size in sizes.items() if size]
        return sorted(found, key=lambda part: (-part.bytes, part.name))

    def _component(self, name: str) -> tuple[str, str]:
        """Return the component of a path; a compiled file is in its source's."""
        owner = self.owners.get(name) or self.owners.get(COMPILED.sub(r"\1.py", name))
        if owner and owner[0] == "package":
            return owner
        return _by_pattern(PLACES, name) or owner or _by_pattern(REST, name) or ("system", name)

    @property
    def size(self) -> int:
        """Bytes of all files in all layers."""
        return sum(size for _, size in self.layers)


def _by_pattern(places: Sequence[tuple[str, str, str]], name: str) -> tuple[str, str] | None:
    for pattern, kind, component in places:
        match = re.match(pattern, name)
        if match:
            return kind, component.format(**match.groupdict())
    return None


def size(context: Context, variant: Variant) -> int:
    """Print where the bytes of the variant's image are; `--json` for programs."""
    options = context.options("size", "--json")
    with saved(context, variant.prefix) as layers:
        content = Content.of(layers)
    if options:
        rows = [{"made_by": made_by, "bytes": size} for made_by, size in content.layers]
        components = [part._asdict() for part in content.parts()]
        report = {"image": variant.prefix, "bytes": content.size, "layers": rows}
        print(json.dumps({**report, "components": components}, indent=1))
    else:
        print("\n".join(_table(variant.prefix, content, content.parts())))
    return 0


def _table(image: str, content: Content, parts: Sequence[Part]) -> Iterator[str]:
    whole = content.size or 1
    yield f"{image}: {whole / MB:.1f} MB in {len(content.layers)} layers"
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
