"""A table's parts in a bucket as DuckDB reads them: a file system of the connection, table://, that can only be read.

DuckDB has no httpfs here, and Arrow's datasets, which it can scan too, fetch a column whole where DuckDB's own reader
fetches the rows that are wanted.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec import AbstractFileSystem

from storage.place import Place
from storage.store import PARTS_FOLDER

_TEMPLATE = (
    "template.parquet"  # no part, but a table's columns without a row: a relation has its types without a request
)
_UNCHANGED_SINCE = datetime(1970, 1, 1, tzinfo=UTC)  # a part is written once


def far_parts(
    connection: duckdb.DuckDBPyConnection,
    place: Place,
    table: str,
    parts: Sequence[str],
    schema: pa.Schema,
    *,
    is_view: bool,
) -> str:
    """Give a connection a table's parts, and return their address for `read_parquet`.

    Args:
        connection: whose cursors know them too.
        place: where the parts are.
        table: the table.
        parts: names of its parts.
        schema: the columns that will be asked for.
        is_view: the first use makes a view and asks for no row; then no part is opened.
    """
    sizes = place.sizes(f"{PARTS_FOLDER}/{table}")
    if connection.filesystem_is_registered(table):
        connection.unregister_filesystem(table)
    files = {name: sizes[name] for name in parts if name in sizes}
    connection.register_filesystem(_FarParts(table, place, files, schema, is_view))
    return f"{table}://*"


class _FarParts(AbstractFileSystem):  # type: ignore[misc]
    """What DuckDB asks of a file system, for the parts of one table and nothing else."""

    cachable = False  # one for each connection, with its own list of parts

    def __init__(self, table: str, place: Place, files: Mapping[str, int], schema: pa.Schema, is_view: bool) -> None:
        super().__init__()
        self.protocol = table
        self._place = place
        self._files = files
        self._template = _without_rows(schema)
        self._is_view = is_view

    def glob(self, path: str, **_: Any) -> list[str]:
        """Return the addresses of all parts, whatever was asked for; of none the first time, when a view is made."""
        names, self._is_view = () if self._is_view else tuple(self._files), False
        return [f"{self.protocol}://{name}" for name in (_TEMPLATE, *names)]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return a part's size."""
        name = self._named(path)
        return {"name": name, "size": self._files.get(name, len(self._template)), "type": "file"}

    def modified(self, path: str) -> datetime:
        """Return when a part changed last."""
        return _UNCHANGED_SINCE

    def open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        """Open a part to read.

        Raises:
            PermissionError: it is to be written.
        """
        name = self._named(path)
        if mode != "rb":
            raise PermissionError(f"{path} can only be read")
        return io.BytesIO(self._template) if name == _TEMPLATE else self._place.arrow_source(name, self._files[name])

    def _named(self, path: str) -> str:
        name = path.removeprefix(f"{self.protocol}://")
        if name != _TEMPLATE and name not in self._files:
            raise FileNotFoundError(path)
        return name


def _without_rows(schema: pa.Schema) -> bytes:
    file = io.BytesIO()
    pq.write_table(schema.empty_table(), file)
    return file.getvalue()
