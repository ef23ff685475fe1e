"""Task N: an archive of CSVs.

Download the archive at remote_file_path, and publish its CSVs in file_save_path.
"""

# The first line above is what `make tasks` shows. Paths and other settings are in config.yaml,
# under tasks.N; docs/settings.md lists them.
from tasks.fetch import Fetch, Report


def run(fetch: Fetch) -> Report:
    """Publish the CSVs of the archive."""
    with fetch.connect() as connection:  # a fabric.Connection, whose host key is verified
        # zip, tar.gz and others, recognized by content. The names that land are those of the
        # setting `include`, or else of an argument: fetch.archive(connection, include="*.csv")
        return fetch.archive(connection)
