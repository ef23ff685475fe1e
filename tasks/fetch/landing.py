"""What landed: the tables of published data, read and counted on request.

A run counts no rows: that would take 5 to 8 % more time. What is counted here is
kept in the manifest, where the store can replace it, so that the next landing can be compared.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from msgspec.structs import replace

from tasks.fetch.errors import LighterageError
from tasks.fetch.progress import human
from tasks.fetch.tables import duck
from tasks.fetch.tables.csv_files import columns_key
from tasks.fetch.tables.table import Table, is_table, look

if TYPE_CHECKING:
    from collections.abc import Container

    from tasks.fetch.manifest import Column, File, Manifest
    from tasks.fetch.stores.protocol import Store

log = logging.getLogger(__name__)

LARGE_BYTES = 10**8
"""Reading more than that takes so long that the log says why."""
CHANGED = "it was changed or removed after it landed"


class Landing:
    """Published data, or what was published before it.

    Attributes:
        manifest: Has the rows and columns of the tables that were read.
        errors: Why a table could not be read, by its path.
    """

    def __init__(self, store: Store, manifest: Manifest) -> None:
        self.manifest = manifest
        self.errors: dict[str, str] = {}
        self._store = store

    def columns(self, file: File) -> tuple[Column, ...]:
        """Return the columns of a file, as far as they are known."""
        return self.manifest.columns.get(file.columns, ())

    def count(self, paths: Container[str] | None = None) -> None:
        """Read the columns and count the rows of tables for which the manifest lacks them.

        Args:
            paths: Only of these files.
        """
        if not duck.installed():
            return
        files = {file.path: file for file in self.manifest.files}
        todo = [
            file
            for file in files.values()
            if is_table(file.path)
            and (paths is None or file.path in paths)
            and (file.rows < 0 or not self.columns(file))
        ]
        size = sum(file.size for file in todo)
        if size > LARGE_BYTES:
            log.info("reading %d tables, %s, to count their rows", len(todo), human(size))
        columns = dict(self.manifest.columns)
        for file in todo:
            table = self._look(file, count=True)
            if table.error:
                self.errors[file.path] = table.error
            key = file.columns
            if table.columns and not columns.get(key):
                key = columns_key(table.columns)
                columns[key] = table.columns
            files[file.path] = replace(file, rows=table.rows, columns=key)
        self.manifest = replace(self.manifest, files=list(files.values()), columns=columns)

    def first_rows(self, file: File, count: int) -> Table:
        """Return the columns of a table and its first rows."""
        return self._look(file, first=count)

    def _look(self, file: File, *, count: bool = False, first: int = 0) -> Table:
        if self._store.verify(file, content=False) is None:
            return Table(error=CHANGED)
        place = self._store.folder / file.path if self._store.folder else None
        try:
            return look(file.path, lambda: self._store.read(file), place, count=count, first=first)
        except LighterageError as error:
            return Table(error=str(error))

    def record(self) -> None:
        """Keep what was read in the published manifest, unless a run uses the target."""
        try:
            self._store.lock(0)
            found = self._store.manifest()
            if found is None:
                return
            read = {(file.path, file.sha256): file for file in self.manifest.files}
            files = [read.get((file.path, file.sha256), file) for file in found.files]
            columns = found.columns | self.manifest.columns
            used = {file.columns for file in files}
            new = replace(
                found,
                files=[
                    replace(old, rows=file.rows, columns=file.columns)
                    for old, file in zip(found.files, files, strict=True)
                ],
                columns={key: columns[key] for key in sorted(used & columns.keys())},
            )
            if new != found:
                self._store.update_manifest(new)
        except LighterageError as error:
            log.debug("the rows are not kept in the manifest: %s", error)
        finally:
            self._store.clean_up()
