"""Task 2: one tar.gz archive of CSVs.

Fetches the archive at remote_file_path, and lands its CSVs in file_save_path, unpacked as they
come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.fetch import Fetch, Report


def run(fetch: Fetch) -> Report:
    """Land the CSVs of the tar."""
    with fetch.connect() as connection:
        return fetch.archive(connection)
