"""Let strangers read, and only read: which statements pass, and how a connection is locked."""

from __future__ import annotations

import json
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb

from storage.errors import StoreError
from storage.place import LocalPlace
from storage.schema import TABLES
from storage.store import Store

MEMORY_LIMIT = "50%"  # of the machine's; beyond it DuckDB spills to disk
MAX_THREADS = 4

# DuckDB types `WITH x AS (COPY t TO 'file') SELECT …` as a SELECT, so its type alone proves nothing: the whole
# statement has to be made of these.
_QUERY_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})

# Functions that only compute or read. `query` and its like are not among them: they take a statement as text, which
# would escape this check; nor are those that change the process's state or take pointers.
_TABLE_FUNCTIONS = frozenset(
    {
        "csv_scan",
        "generate_series",
        "glob",
        "histogram",
        "histogram_values",
        "icu_calendar_names",
        "json_each",
        "json_tree",
        "pg_timezone_names",
        "pragma_database_size",
        "pragma_platform",
        "pragma_show",
        "pragma_storage_info",
        "pragma_table_info",
        "pragma_version",
        "range",
        "read_blob",
        "read_csv",
        "read_csv_auto",
        "read_json",
        "read_json_auto",
        "read_json_objects",
        "read_json_objects_auto",
        "read_ndjson",
        "read_ndjson_auto",
        "read_ndjson_objects",
        "read_parquet",
        "read_text",
        "repeat",
        "repeat_row",
        "sniff_csv",
        "summary",
        "unnest",
    }
)
_TABLE_FUNCTION_FAMILIES = ("duckdb_", "parquet_")  # DuckDB's catalogue, and a Parquet file's own


def check_select(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Let one SELECT (or DESCRIBE, SHOW, SUMMARIZE, VALUES) pass, or EXPLAIN of one; ANALYZE would run it.

    Raises:
        StoreError: the text is no SQL, no or several statements, or does anything else than read.
    """
    statements = _statements(connection, sql)
    if len(statements) != 1:
        raise StoreError(f"one SELECT is expected, and this holds {len(statements)} statements; run them one by one")
    statement = statements[0]
    text = statement.query.strip()
    if statement.type == duckdb.StatementType.EXPLAIN:
        check_select(connection, _explained(connection, text))
    elif statement.type != duckdb.StatementType.SELECT:
        raise StoreError(f"this is {statement.type.name}, and the store is read-only: only SELECT and EXPLAIN may run")
    else:
        _check_tree(_syntax_tree(connection, text))


def lock(connection: duckdb.DuckDBPyConnection, store: Store) -> None:
    """Take from a connection everything but reading the store's folder, for good.

    Files outside the store, extensions, the network, Python's own variables and the settings are out of reach. Writing
    into the store is left to `check_select` to refuse.
    """
    place = store.place
    settings: dict[str, Any] = {
        "memory_limit": MEMORY_LIMIT,
        "threads": min(MAX_THREADS, os.cpu_count() or 1),
        "temp_directory": str(Path(tempfile.gettempdir()) / f"normaudit-{uuid.uuid4().hex}"),  # DuckDB lets it be read
        "python_enable_replacements": False,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "allowed_directories": [str(place.root)]
        if isinstance(place, LocalPlace)
        else [f"{table}://" for table in TABLES],
        "enable_external_access": False,
        "lock_configuration": True,
    }
    for name, value in settings.items():
        connection.execute(f"SET {name} = ?", [value])


def _statements(connection: duckdb.DuckDBPyConnection, sql: str) -> list[duckdb.Statement]:
    try:
        return connection.extract_statements(sql)
    except (duckdb.Error, ValueError) as error:  # ValueError: of a kind that DuckDB's own Python names do not know
        raise StoreError(f"this is no SELECT that DuckDB understands: {error}") from error


def _explained(connection: duckdb.DuckDBPyConnection, text: str) -> str:
    """Return what stands behind EXPLAIN."""
    starts = [start for start, kind in duckdb.tokenize(text) if kind != duckdb.token_type.comment]
    rest = text[starts[1] :] if len(starts) > 1 else ""
    if rest.lower().startswith(("analyze", "(")):
        raise StoreError("EXPLAIN ANALYZE runs its statement, and options could ask for that; use EXPLAIN SELECT …")
    return rest


def _syntax_tree(connection: duckdb.DuckDBPyConnection, text: str) -> object:
    row = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [text]).fetchall()[0]
    tree = json.loads(row[0])
    if tree.get("error") or len(tree.get("statements", ())) != 1:
        raise StoreError(f"only a SELECT may run, and this is none: {tree.get('error_message', text)}")
    return tree


def _check_tree(tree: object) -> None:
    for node in _nodes(tree):
        kind = str(node.get("type", ""))
        if kind.endswith("_NODE") and kind not in _QUERY_NODES:
            raise StoreError(f"{kind.removesuffix('_QUERY_NODE')} inside a SELECT: the store is read-only")
        if kind == "TABLE_FUNCTION":
            _check_table_function(str(node["function"]["function_name"]).lower())


def _check_table_function(name: str) -> None:
    if name not in _TABLE_FUNCTIONS and not name.startswith(_TABLE_FUNCTION_FAMILIES):
        raise StoreError(f"table function {name} is not among those that only read; write the query without it")


def _nodes(tree: object) -> Iterator[dict[str, Any]]:
    """Yield every object of a JSON tree, however deep."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
