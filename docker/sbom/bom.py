"""What an image is made of, told by the image itself: a bill of materials, in CycloneDX 1.6.

    python bom.py FILE

The last step of each Dockerfile runs it, on all that is in the image by then: the Python packages,
wherever they lie, and the Debian packages that dpkg's status file knows. There is no clock and no
chance in it: the same files give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import sys
import uuid
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

Component = dict[str, Any]

STATUS = Path("var/lib/dpkg/status")
# Not of the image: the engine's, and what is mounted while it is built.
LEFT_OUT = {"proc", "sys", "dev", "run", "tmp"}
HASHED = "SHA-256 of the lines of sha256sum for a package's files as installed, sorted by name"


def document(root: Path, name: str) -> dict[str, Any]:
    """The whole document.

    Args:
        root: Of the image's files.
        name: Of the image.

    Raises:
        OSError: There is no status file of dpkg, or another is not to be read.
    """
    system = platform.freedesktop_os_release()
    components = [_python(), *python_packages(root), *debian_packages(root, system)]
    unique = {component["bom-ref"]: component for component in components}
    content: dict[str, Any] = {
        "metadata": {
            "component": {"type": "container", "bom-ref": name, "name": name},
            "properties": [{"name": "lighterage:hashes", "value": HASHED}],
        },
        "components": [unique[key] for key in sorted(unique)],
    }
    # RFC 9562, version 5: of the content, so that another content has another number.
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(content, sort_keys=True))
    schema = "http://cyclonedx.org/schema/bom-1.6.schema.json"
    head = {"$schema": schema, "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1}
    return {**head, "serialNumber": serial.urn, **content}


def _component(kind: str, purl: str, name: str, version: str, **more: Any) -> Component:
    known = {key: value for key, value in more.items() if value}
    ids = {"type": kind, "bom-ref": purl, "name": name, "version": version, "purl": purl}
    return {**ids, **known}


def _python() -> Component:
    """The interpreter: no package of Debian's in the hub's images."""
    version = platform.python_version()
    return _component("platform", f"pkg:generic/python@{version}", "python", version)


def python_packages(root: Path) -> Iterator[Component]:
    """Each installed Python package below a root, in whichever environment."""
    for top, folders, _ in os.walk(root):
        if Path(top) == root:
            folders[:] = set(folders) - LEFT_OUT
        for folder in folders:
            if folder.endswith((".dist-info", ".egg-info")):
                package = metadata.Distribution.at(Path(top, folder))
                # The form that the type has in the purl specification.
                name = package.name.lower().replace("_", "-")
                yield _component(
                    "library", f"pkg:pypi/{name}@{quote(package.version)}",
                    package.name, package.version,
                    hashes=[{"alg": "SHA-256", "content": digest(package)}],
                    licenses=licences(package),
                )  # fmt: skip


def digest(package: metadata.Distribution) -> str:
    """One hash over a package's files, as HASHED says; compiled ones are not its own."""
    named = {str(file): Path(str(file.locate())) for file in package.files or []}
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}\n"
        for name, path in sorted(named.items())
        if path.suffix != ".pyc" and path.is_file()
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def licences(package: metadata.Distribution) -> list[dict[str, Any]]:
    """What the metadata says: an expression (PEP 639), classifiers, or a short free text."""
    told = package.metadata
    expressions = told.get_all("License-Expression")
    if expressions:
        return [{"expression": expressions[0]}]
    kinds = [line for line in told.get_all("Classifier") or [] if line.startswith("License :: ")]
    names = [line.rpartition(" :: ")[2] for line in kinds]
    text = "".join(told.get_all("License") or []).strip()
    if not names and text and "\n" not in text:
        names = [text]
    return [{"license": {"name": name}} for name in names]


def debian_packages(root: Path, system: dict[str, str]) -> Iterator[Component]:
    """Each package that dpkg's status file has as installed.

    Args:
        root: Of the image's files.
        system: os-release, whose ID and VERSION_ID the purl names.
    """
    text = (root / STATUS).read_text(encoding="utf-8")
    for stanza in text.split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", stanza, re.MULTILINE))
        if not fields.get("Status", "").endswith(" installed"):
            continue
        name, version = fields["Package"], fields["Version"]
        distribution = system["ID"]
        release = f"{distribution}-{system.get('VERSION_ID', 'unknown')}"
        purl = f"pkg:deb/{distribution}/{quote(name)}@{quote(version, safe=':')}"
        purl += f"?arch={fields['Architecture']}&distro={release}"
        yield _component("library", purl, name, version)


def write(path: Path, text: str) -> None:
    """Write a file that carries its folder's time, and leave the folder's as it was."""
    moment = path.parent.stat().st_mtime_ns
    path.write_text(text, encoding="utf-8")
    path.chmod(0o644)
    for touched in (path, path.parent):
        os.utime(touched, ns=(moment, moment))


if __name__ == "__main__":
    found = document(Path("/"), f"lighterage-{os.environ['LIGHTERAGE_VARIANT']}")
    write(Path(sys.argv[1]), json.dumps(found, indent=1) + "\n")
