"""Task 2: one tar.gz archive of CSVs.

Download the tar.gz at remote_file_path, and publish its CSVs in file_save_path.
"""

from tasks.fetch import Fetch, Report


def run(fetch: Fetch) -> Report:
    """Publish the CSVs of the tar.gz."""
    with fetch.connect() as connection:
        return fetch.archive(connection)
