"""Download datasets over SSH, unpack and verify them, and publish them in one step.

    settings -> SSH source -> byte stream -> archive reader -> store: staging -> publish -> manifest

A task module imports `Fetch` and `Report` from here and needs nothing else of this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.fetch.api import Fetch, Report

__all__ = ["Fetch", "Report"]


def __getattr__(name: str) -> Any:
    """Import the API on first use: with Fabric it takes a quarter of a second."""
    if name in __all__:
        from tasks.fetch import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
