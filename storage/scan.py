"""Parts as SQL: one relation for all of a table's parts, whatever columns each part has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

import duckdb
import pyarrow as pa

from storage.errors import StoreError
from storage.parts import set_aside_unreadable
from storage.place import LocalPlace
from storage.schema import TABLES
from storage.store import Store

T = TypeVar("T")

_TYPES = {
    pa.string(): "VARCHAR",
    pa.binary(): "BLOB",
    pa.bool_(): "BOOLEAN",
    pa.int64(): "BIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.date32(): "DATE",
    pa.timestamp("us", tz="UTC"): "TIMESTAMPTZ",
    pa.map_(pa.string(), pa.int64()): "MAP(VARCHAR, BIGINT)",
}


def sql_type(kind: pa.DataType) -> str:
    """Return DuckDB's name of an Arrow type of the schema."""
    return f"{_TYPES[kind.value_type]}[]" if pa.types.is_list(kind) else _TYPES[kind]


def scan(
    connection: duckdb.DuckDBPyConnection,
    store: Store,
    table: str,
    columns: Sequence[str],
    parts: Sequence[str],
    *,
    is_view: bool = False,
) -> str:
    """Return a SELECT of some of a table's columns over some parts, for one connection; is_view: as a view's text.

    A column that no part has is null, and without parts the relation is empty: columns are only ever added.
    """
    schema = pa.schema([TABLES[table].field(name) for name in columns])
    typed = ", ".join(f'NULL::{sql_type(field.type)} AS "{field.name}"' for field in schema)
    chosen = ", ".join(f'"{field.name}"::{sql_type(field.type)} AS "{field.name}"' for field in schema)
    empty = f"SELECT {typed} WHERE false"
    if not parts:
        return empty
    if isinstance(store.place, LocalPlace):
        files = ", ".join(literal(str(store.place.local_path(name))) for name in parts)
    else:
        from storage.far import far_parts  # a store in a folder does without

        files = literal(far_parts(connection, store.place, table, parts, schema, is_view=is_view))
    # the folders' night=… would hide the column of that name
    rows = f"FROM read_parquet([{files}], union_by_name = true, hive_partitioning = false)"
    return f"SELECT {chosen} FROM ({empty} UNION ALL BY NAME {rows})"


def literal(text: str) -> str:
    """Return text as a SQL string, for the statements that take no parameters."""
    return "'" + text.replace("'", "''") + "'"


def said(error: duckdb.Error) -> str:
    """Return what a query's error says: DuckDB puts the traceback of our own reading, which tells nobody, before it."""
    text = str(error)
    return text.rpartition("StoreError: ")[2] if text.startswith("Traceback") else text


@cache
def sql_file(name: str) -> str:
    """Return the text of one of this package's .sql files."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def reading(store: Store, tables: Iterable[str], action: Callable[[], T]) -> tuple[T, list[str]]:
    """Return the action's result; where a part cannot be read, set it aside and run the action once more.

    One unreadable file fails a query over all of them, and which one it was is found only by reading each.

    Args:
        store: the store whose parts the action reads.
        tables: the tables whose parts it reads.
        action: what to do; it lists the parts itself.

    Returns:
        The result, and a message for each part that was set aside.

    Raises:
        StoreError: the action fails although every part can be read.
    """
    try:
        return action(), []
    except duckdb.Error as error:
        messages = set_aside_unreadable(store, tables)
        if not messages:
            raise StoreError(f"{store.location}: {said(error)}") from error
        return action(), messages
