"""The snapshot `audit.duckdb`: build it from the parts, beside and then replaced whole; open it to read."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any, TypeVar

import duckdb

from storage.parts import live_parts
from storage.place import LocalPlace
from storage.scan import literal, reading, scan, sql_file, sql_type
from storage.schema import KEYS, SAYS, TABLES, comment, stays_in_parquet
from storage.store import SNAPSHOT, Store
from storage.views import create_views

T = TypeVar("T")

_NEWEST = ("audited_at", "probed_at", "night", "audit_id")  # of rows with one key, those a table has, in this order
# Beside a night's own 300 MB. What needs more goes through the disk, at about the same speed; not all that DuckDB does
# can, so a million models need the second, and the last resort is None, most of the machine's.
MEMORY_LIMITS = ("100MB", "400MB", None)
MAX_THREADS = 4  # each holds pages of its own
_STALE_S = 86_400.0  # no build or write takes a day: what is older was left by a killed one


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What a rebuild did.

    Attributes:
        seconds: wall time.
        rows: rows by table, duplicates removed.
        set_aside: a message for each part that could not be read.
    """

    seconds: float
    rows: dict[str, int] = field(default_factory=dict)
    set_aside: list[str] = field(default_factory=list)


def build(store: Store) -> BuildReport:
    """Build the snapshot from all live parts and put it in place; readers of the old one keep what they have open.

    Raises:
        StoreError: the store cannot be written, or the parts do not fit together.
    """
    started = time.monotonic()
    store.place.sweep(before_s=time.time() - _STALE_S)
    temp = store.place.temp_path()
    try:
        rows, set_aside = reading(store, TABLES, lambda: _sparingly(lambda limit: _build_at(temp, store, limit)))
        store.place.put(temp, SNAPSHOT)
    finally:
        for left in (temp, temp.with_name(f"{temp.name}.wal")):  # of a build that failed
            left.unlink(missing_ok=True)
    return BuildReport(time.monotonic() - started, rows, set_aside)


def open_database(store: Store, memory_limit: str | None = None) -> duckdb.DuckDBPyConnection:
    """Return a connection that sees the store's tables and views, and cannot change the snapshot.

    The connection's own database is in memory and holds only views; the snapshot is attached to it, read-only, as
    `snapshot`. A snapshot that is missing, or that an older version of this code built, is built first; where the
    store has no parts at all the tables are empty and nothing is written.

    Args:
        store: the store.
        memory_limit: of the connection, as DuckDB writes it; None: most of the machine's.

    Raises:
        StoreError: the snapshot has to be built and cannot be.
    """
    connection = duckdb.connect(":memory:", config={"python_enable_replacements": False})
    connection.execute("SET TimeZone = 'UTC'")
    if not isinstance(store.place, LocalPlace):  # each look at a part takes long, and none changes
        connection.execute("SET parquet_metadata_cache = true")
    if memory_limit:
        connection.execute("SET memory_limit = ?", [memory_limit])
        connection.execute("SET temp_directory = ?", [str(store.place.temp_path())])
    if not _attached(connection, store):
        _attach_new(connection, store)
    create_views(connection, store)
    return connection


def ask_sparingly(store: Store, question: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
    """Return what a question finds in the open database, in little memory where that is enough.

    Raises:
        StoreError: as `open_database`.
        duckdb.Error: the question cannot be answered.
    """

    def asked(memory_limit: str | None) -> T:
        with open_database(store, memory_limit) as database:
            return question(database)

    return _sparingly(asked)


def _sparingly(attempt: Callable[[str | None], T]) -> T:
    """Return what an attempt returns that is given the least memory limit with which it does not fail."""
    *limits, last = MEMORY_LIMITS
    for limit in limits:
        with suppress(duckdb.OutOfMemoryException):
            return attempt(limit)
    return attempt(last)


def _attached(connection: duckdb.DuckDBPyConnection, store: Store) -> bool:
    """Attach the snapshot if there is one that this version of the code built; return whether."""
    path = store.place.local_copy(SNAPSHOT)
    if path is None:
        return False
    try:
        connection.execute(f"ATTACH {literal(str(path))} AS snapshot (READ_ONLY)")
        built_with = connection.execute("SELECT tables_sha256 FROM snapshot.built_with").fetchall()
    except duckdb.Error:  # cut off, or no database of ours: the parts are the truth
        built_with = []
    if built_with != [(_tables_sha256(),)]:
        connection.execute("DETACH DATABASE IF EXISTS snapshot")
        return False
    return True


def _attach_new(connection: duckdb.DuckDBPyConnection, store: Store) -> None:
    """Attach a snapshot built now, or empty tables where the store has no parts."""
    if any(live_parts(store, table) for table in TABLES):
        build(store)
        connection.execute(f"ATTACH {literal(str(store.place.local_copy(SNAPSHOT)))} AS snapshot (READ_ONLY)")
    else:
        connection.execute("ATTACH ':memory:' AS snapshot")
        _create_tables(connection, "snapshot.")


def _build_at(path: Path, store: Store, memory_limit: str | None) -> dict[str, int]:
    path.unlink(missing_ok=True)
    limits: dict[str, Any] = {"memory_limit": memory_limit} if memory_limit else {}
    with duckdb.connect(path, config={"threads": min(MAX_THREADS, os.cpu_count() or 1), **limits}) as connection:
        fetched = "VIEW" if isinstance(store.place, LocalPlace) else "TABLE"  # what is far away is read once
        connection.execute("SET preserve_insertion_order = false")  # the order costs memory and means nothing
        _create_tables(connection, "")
        for table in TABLES:
            columns = [name for name in TABLES[table].names if name not in stays_in_parquet(table)]
            rows = scan(connection, store, table, columns, live_parts(store, table))
            connection.execute(f"CREATE TEMP {fetched} raw_{table} AS {rows}")
        connection.execute(sql_file("queries/concluded.sql"))
        for table in TABLES:
            connection.execute(_fill(table))
        connection.execute("CHECKPOINT")  # what closing cannot write it leaves out, and says nothing
        return {table: connection.table(table).count("*").fetchall()[0][0] for table in TABLES}


def _fill(table: str) -> str:
    """Return the statements that fill a table of the snapshot with its newest row of every key."""
    newest = [name for name in _NEWEST if name in TABLES[table].names]
    return Template(sql_file("queries/fill.sql")).substitute(
        table=table, keys=", ".join(KEYS[table]), newest=", ".join(f"{name} DESC NULLS LAST" for name in newest)
    )


def _create_tables(connection: duckdb.DuckDBPyConnection, schema: str) -> None:
    connection.begin()  # one for all: each commit of a database file waits for the disk
    for table in TABLES:
        columns = [column for column in TABLES[table] if column.name not in stays_in_parquet(table)]
        listed = ", ".join(f'"{column.name}" {sql_type(column.type)}' for column in columns)
        connection.execute(f"CREATE TABLE {schema}{table} ({listed})")
        connection.execute(f"COMMENT ON TABLE {schema}{table} IS {literal(SAYS[table])}")
        for column in columns:
            connection.execute(f'COMMENT ON COLUMN {schema}{table}."{column.name}" IS {literal(comment(column))}')
    connection.execute(f"CREATE TABLE {schema}built_with (tables_sha256 VARCHAR)")
    connection.execute(f"INSERT INTO {schema}built_with VALUES (?)", [_tables_sha256()])
    connection.commit()


def _tables_sha256() -> str:
    text = "\n".join(f"{table} {TABLES[table].to_string(show_field_metadata=True)}" for table in TABLES)
    return hashlib.sha256((text + sql_file("queries/fill.sql")).encode()).hexdigest()
