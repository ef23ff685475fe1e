"""Task 3: a directory of CSVs and zips, nested.

Fetches the directory at remote_file_path through its SFTP listing, and lands its CSVs in
file_save_path, each zip unpacked in its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.fetch import Fetch, Report


def run(fetch: Fetch) -> Report:
    """Land the CSVs of the directory, and of the zips in it."""
    with fetch.connect() as connection:
        return fetch.tree(connection)
