"""Names near a missing remote path: a large directory is not read to its end."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tasks.fetch.ssh import near_paths


def test_a_directory_of_any_size_is_read_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a fake listing, which counts what is read of it."""
    read: list[int] = []

    class Listing:
        def __init__(self, *_: object) -> None:
            pass

        def entries(self) -> Iterator[tuple[str, None]]:
            for number in range(5000):
                read.append(number)
                yield f"export-{number:04}.csv", None

    folder = SimpleNamespace(folder=True)
    monkeypatch.setattr(near_paths, "Lister", Listing)
    monkeypatch.setattr(near_paths, "RemoteFile", SimpleNamespace)
    session = cast("Any", SimpleNamespace(stats=lambda paths: [folder for _ in paths]))
    text = near_paths.near(lambda: session, "exports/export-999.csv", 1.0)
    assert text.startswith(" (did you mean exports/export-")
    assert len(read) == 1000
