"""Task N: a directory of CSVs and zips, nested.

Download the directory at remote_file_path, and publish its CSVs in file_save_path, with each zip
extracted in its folder.
"""

# The first line above is what `make tasks` shows. Paths and other settings are in config.yaml,
# under tasks.N; docs/settings.md lists them.
from tasks.fetch import Fetch, Report


def run(fetch: Fetch) -> Report:
    """Publish the CSVs of the directory and of its zips."""
    with fetch.connect() as connection:  # a fabric.Connection, whose host key is verified
        # The names that land are those of the setting `include`, or else of an argument; `archives`
        # are the names that are extracted: fetch.tree(connection, "*.csv", archives="*.zip")
        return fetch.tree(connection)
