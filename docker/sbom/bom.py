"""Write an image's bill of materials, in CycloneDX 1.6: `python bom.py FILE`.

The last step of each Dockerfile runs it on the files of the image: the Python packages in every
environment, and the Debian packages in dpkg's status file. The same files give the same bytes.
cyclonedx-bom would bring a dozen packages into the image, and lists neither Debian packages nor
digests of the files as installed.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import uuid
from collections.abc import Iterator
from email import message_from_string
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

Component = dict[str, Any]

STATUS = Path("var/lib/dpkg/status")
# Not of the image: from the engine, and mounted during the build.
LEFT_OUT = {"proc", "sys", "dev", "run", "tmp"}
HASHED = "SHA-256 of the lines of sha256sum for a package's files as installed, sorted by name"


def document(root: Path, name: str) -> dict[str, Any]:
    """Return the document for the files below a root, named after the image.

    Raises:
        OSError: dpkg's status file, or a file of a package, cannot be read.
    """
    python = platform.python_version()
    components = [
        _component("platform", f"pkg:generic/python@{python}", "python", python),
        *python_packages(root),
        *debian_packages(root),
    ]
    unique = {component["bom-ref"]: component for component in components}
    content = {
        "metadata": {
            "component": {"type": "container", "bom-ref": name, "name": name},
            "properties": [{"name": "lighterage:hashes", "value": HASHED}],
        },
        "components": [unique[key] for key in sorted(unique)],
    }
    # RFC 9562, version 5: another content has another number.
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(content, sort_keys=True))
    schema = "http://cyclonedx.org/schema/bom-1.6.schema.json"
    head = {"$schema": schema, "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1}
    return {**head, "serialNumber": serial.urn, **content}


def _component(kind: str, purl: str, name: str, version: str, **more: Any) -> Component:
    component = {"type": kind, "bom-ref": purl, "name": name, "version": version, "purl": purl}
    return {**component, **{key: value for key, value in more.items() if value}}


def python_packages(root: Path) -> Iterator[Component]:
    """Yield each installed Python package below a root."""
    for top, folders, _ in os.walk(root):
        if Path(top) == root:
            folders[:] = set(folders) - LEFT_OUT
        for folder in folders:
            if folder.endswith((".dist-info", ".egg-info")):
                package = metadata.Distribution.at(Path(top, folder))
                name = package.name.lower().replace("_", "-")  # as in the purl specification
                purl = f"pkg:pypi/{name}@{quote(package.version)}"
                hashes = [{"alg": "SHA-256", "content": digest(package)}]
                yield _component(
                    "library", purl, package.name, package.version,
                    hashes=hashes, licenses=licences(package),
                )  # fmt: skip


def digest(package: metadata.Distribution) -> str:
    """Return one hash over a package's files, compiled ones aside; see HASHED."""
    files = {str(file): Path(str(file.locate())) for file in package.files or []}
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}\n"
        for name, path in sorted(files.items())
        if path.suffix != ".pyc" and path.is_file()
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def licences(package: metadata.Distribution) -> list[dict[str, Any]]:
    """Return a package's licence: an expression (PEP 639), classifiers, or one line of text."""
    fields = package.metadata
    expressions = fields.get_all("License-Expression")
    if expressions:
        return [{"expression": expressions[0]}]
    kinds = [line for line in fields.get_all("Classifier") or [] if line.startswith("License :: ")]
    text = "".join(fields.get_all("License") or []).strip()
    names = [line.rpartition(" :: ")[2] for line in kinds] or ([text] if text else [])
    return [{"license": {"name": name}} for name in names if "\n" not in name]


def debian_packages(root: Path) -> Iterator[Component]:
    """Yield each package that dpkg's status file has as installed."""
    system = platform.freedesktop_os_release()
    distro = f"{system['ID']}-{system.get('VERSION_ID', 'unknown')}"
    for stanza in (root / STATUS).read_text(encoding="utf-8").split("\n\n"):
        fields = message_from_string(stanza)
        if (fields["Status"] or "").endswith(" installed"):
            name, version = fields["Package"], fields["Version"]
            purl = f"pkg:deb/{system['ID']}/{quote(name)}@{quote(version, safe=':')}"
            purl += f"?arch={fields['Architecture']}&distro={distro}"
            yield _component("library", purl, name, version)


def write(path: Path, text: str) -> None:
    """Write a file with the time of its folder, and keep the folder's."""
    moment = path.parent.stat().st_mtime_ns
    path.write_text(text, encoding="utf-8")
    path.chmod(0o644)
    for changed in (path, path.parent):
        os.utime(changed, ns=(moment, moment))


if __name__ == "__main__":
    found = document(Path("/"), f"lighterage-{os.environ['LIGHTERAGE_VARIANT']}")
    write(Path(sys.argv[1]), json.dumps(found, indent=1) + "\n")
