"""Task 1: one zip archive of CSVs.

Download the zip at remote_file_path, and publish its CSVs in file_save_path.
"""

from tasks.fetch import Fetch, Report


def run(fetch: Fetch) -> Report:
    """Publish the CSVs of the zip."""
    with fetch.connect() as connection:
        return fetch.archive(connection)
