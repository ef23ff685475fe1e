"""The bill of materials: its content on a synthetic root, and its form."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

import bom

STATUS = """Package: libstdc++6
Status: install ok installed
Architecture: amd64
Version: 1:2.3+b1~x
Description: two lines
 Version: not this one

Package: removed
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""
METADATA = "Metadata-Version: 2.4\nName: A_b.C\nVersion: 1.0+local\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Give a root with one package of each kind, and one in a folder that is left out."""
    (tmp_path / bom.STATUS).parent.mkdir(parents=True)
    (tmp_path / bom.STATUS).write_text(STATUS)
    for folder in ("opt/venv/lib", "tmp"):
        info = tmp_path / folder / "a_b.c-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(METADATA + "License-Expression: MIT OR 0BSD\n")
        (info / "RECORD").write_text("a.py,,\nmissing.py,,\na.pyc,,\n")
        for name in ("a.py", "a.pyc"):
            (info.parent / name).write_text(f"text of {name}")
    return tmp_path


def test_it_lists_what_is_installed_and_nothing_else(root: Path) -> None:
    found = bom.document(root, "image")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(found)) is None
    components = {item["purl"].partition("?")[0]: item for item in found["components"]}
    assert len(components) == len(found["components"]) == 3
    assert "pkg:deb/debian/libstdc%2B%2B6@1:2.3%2Bb1~x" in components
    package = components["pkg:pypi/a-b.c@1.0%2Blocal"]
    assert package["licenses"] == [{"expression": "MIT OR 0BSD"}]
    line = f"{hashlib.sha256(b'text of a.py').hexdigest()}  a.py\n"
    digest = hashlib.sha256(line.encode()).hexdigest()
    assert package["hashes"] == [{"alg": "SHA-256", "content": digest}]
    for item in found["components"]:
        assert PackageURL.from_string(item["purl"]).to_string() == item["purl"]


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        ("", []),
        ("License: MIT\n", ["MIT"]),
        ("License: a whole\n        text of it\n", []),
        ("License: x\nClassifier: License :: OSI Approved :: MIT License\n", ["MIT License"]),
    ],
)
def test_licences_come_from_the_metadata(root: Path, lines: str, names: list[str]) -> None:
    (file,) = root.glob("opt/venv/lib/*/METADATA")
    file.write_text(METADATA + lines)
    (package,) = bom.python_packages(root)
    assert [item["license"]["name"] for item in package.get("licenses", [])] == names


def test_the_serial_number_is_one_of_the_content(root: Path) -> None:
    first = bom.document(root, "image")
    assert bom.document(root, "image") == first
    (root / "opt/venv/lib/a.py").write_text("altered")
    assert bom.document(root, "image")["serialNumber"] != first["serialNumber"]


def test_a_root_without_a_status_file_is_an_error(root: Path) -> None:
    (root / bom.STATUS).unlink()
    with pytest.raises(FileNotFoundError):
        bom.document(root, "image")


def test_the_file_has_the_time_of_its_folder(tmp_path: Path) -> None:
    os.utime(tmp_path, (10**9, 10**9))
    bom.write(tmp_path / "x", "text")
    assert [path.stat().st_mtime for path in (tmp_path, tmp_path / "x")] == [10**9, 10**9]
