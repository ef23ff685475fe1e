"""SSH and SFTP: connections, host keys, listings, byte streams, remote checksums.

Invoke, which Fabric is built on, imports asyncio (through unittest.mock, for a class that only
tests use) and a YAML parser of its own: a fifth of a run's start. Here it gets the mock class only
where that is called, and PyYAML, which is imported anyway.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

import yaml


def _mock(*args: Any, **options: Any) -> Any:
    from unittest.mock import Mock

    return Mock(*args, **options)


def _import_invoke() -> None:
    mock = ModuleType("unittest.mock")
    mock.__dict__["Mock"] = _mock
    instead = {"unittest.mock": mock, "invoke.vendor.yaml": yaml}
    added = [name for name in instead if name not in sys.modules]
    sys.modules.update({name: instead[name] for name in added})
    try:
        import_module("invoke")
    finally:
        for name in added:
            del sys.modules[name]


_import_invoke()
