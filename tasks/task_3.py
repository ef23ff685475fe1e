"""Task 3: a directory of CSVs and zips, nested.

Download the directory at remote_file_path, and publish its CSVs in file_save_path, with each zip
extracted in its folder.
"""

from tasks.fetch import Fetch, Report


def run(fetch: Fetch) -> Report:
    """Publish the CSVs of the directory and of its zips."""
    with fetch.connect() as connection:
        return fetch.tree(connection)
