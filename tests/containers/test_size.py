"""`make size`: each byte of an image is counted once, in the component that owns it.

On synthetic images; test_variants.py measures the real one.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping

from docker.tools.saved import Layer
from docker.tools.size import Content

SITE = "opt/venv/lib/python3.11/site-packages"


def layer(made_by: str, files: Mapping[str, str | int]) -> Layer:
    """Make a layer of files; a number is so many bytes."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else bytes(content)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    packed.seek(0)
    return Layer(made_by, tarfile.open(fileobj=packed))


def test_each_byte_is_counted_once_by_its_owner() -> None:
    listed = "/usr/bin/less\n/usr/share/less/help\n"
    record = "some/__init__.py,sha256=x,7\n../../../bin/some,,\nSome-1.0.dist-info/RECORD,,\n"
    lower = layer("base", {
        "usr/bin/less": 30, "usr/share/less/help": 5, "var/lib/dpkg/info/less:amd64.list": listed,
        "usr/lib/x86_64-linux-gnu/libz.so.1.2": 11, "usr/lib/python3.11/os.py": 13,
        "usr/local/lib/python3.11/os.py": 17, "usr/bin/python3.11": 19, "bin/bash": 23,
        "etc/passwd": 2, "top": 1,
    })  # fmt: skip
    upper = layer("ours", {
        f"{SITE}/some/__init__.py": 7, f"{SITE}/some/__pycache__/__init__.cpython-311.pyc": 9,
        f"{SITE}/Some-1.0.dist-info/RECORD": record, "opt/venv/bin/some": 3,
        "opt/venv/pyvenv.cfg": 4, "app/tasks/task_1.py": 29, "app/config.yaml": 31,
    })  # fmt: skip
    content = Content.of(iter([lower, upper]))
    parts = {(part.kind, part.name): part.bytes for part in content.parts()}
    assert parts == {
        ("system", "less"): 35,
        ("system", "/var/lib"): len(listed),
        ("system", "libz"): 11,
        ("system", "shell"): 23,
        ("system", "/etc"): 2,
        ("system", "/top"): 1,
        ("Python", "standard library"): 30,
        ("Python", "interpreter"): 19,
        ("package", "Some"): 19 + len(record),
        ("package", "the virtual environment's own"): 4,
        ("project", "tasks"): 29,
        ("project", "app/config.yaml"): 31,
    }
    assert sum(parts.values()) == content.size
    assert [made_by for made_by, _ in content.layers] == ["base", "ours"]


def test_files_hidden_by_a_later_layer_are_counted_apart() -> None:
    lower = layer("base", {"a/one": 1, "a/two": 2, "b/three": 4, "b/c/four": 8, "d/five": 16})
    upper = layer("rm", {"a/.wh.one": 0, "a/two": 32, "b/.wh..wh..opq": 0, ".wh.d": 0})
    content = Content.of(iter([lower, upper]))
    parts = {(part.kind, part.name): part.bytes for part in content.parts()}
    assert parts == {("system", "/a"): 32, ("replaced", "hidden by a later layer"): 31}
    assert sum(parts.values()) == content.size == 63
