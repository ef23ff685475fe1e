"""SSH and SFTP: connections, host keys, listings, byte streams, remote checksums.

Invoke, which Fabric is built on, imports asyncio (through unittest.mock, for a class that only
tests use) and a YAML parser of its own; Paramiko imports a parser of e-mail (through
importlib.metadata, for its own version): a quarter of a run's start. Here they get the mock class
only where that is called, PyYAML, which is imported anyway, and the version of the folder's name.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml


def _mock(*args: Any, **options: Any) -> Any:
    from unittest.mock import Mock

    return Mock(*args, **options)


def _version(package: str) -> str:
    spec = find_spec(package)
    for place in (spec and spec.submodule_search_locations) or ():
        for folder in Path(place).parent.glob(f"{package}-*.dist-info"):
            return folder.name.removeprefix(f"{package}-").removesuffix(".dist-info")
    return ""


def _import_quickly() -> None:
    mock, metadata = ModuleType("unittest.mock"), ModuleType("importlib.metadata")
    mock.__dict__["Mock"], metadata.__dict__["version"] = _mock, _version
    instead = {"unittest.mock": mock, "invoke.vendor.yaml": yaml, "importlib.metadata": metadata}
    added = [name for name in instead if name not in sys.modules]
    sys.modules.update({name: instead[name] for name in added})
    try:
        import_module("invoke")
        import_module("paramiko")
    finally:
        for name in added:
            del sys.modules[name]


_import_quickly()
