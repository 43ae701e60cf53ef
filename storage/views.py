"""The views of an open database: each table with what stays in Parquet, and what is derived from them."""

from __future__ import annotations

import duckdb

from storage.parts import is_whole, live_parts
from storage.scan import literal, scan, sql_file
from storage.schema import KEYS, SAYS, TABLES, comment, stays_in_parquet
from storage.store import Store

DERIVED = ("latest", "leaderboard", "history", "changes", "failures", "norm_share", "deepening")


def create_views(connection: duckdb.DuckDBPyConnection, store: Store) -> None:
    """Create all views and macros in the connection's own database; the facts are attached to it as `snapshot`."""
    for table in TABLES:
        connection.execute(f"CREATE VIEW {table} AS {_whole_table(connection, store, table)}")
        connection.execute(f"COMMENT ON VIEW {table} IS {literal(SAYS[table])}")
        for column in TABLES[table]:
            connection.execute(f'COMMENT ON COLUMN {table}."{column.name}" IS {literal(comment(column))}')
    connection.execute(sql_file("views/kernel_direction.sql"))
    for view in DERIVED:
        connection.execute(sql_file(f"views/{view}.sql"))
        _comment_inherited(connection, view)


def _whole_table(connection: duckdb.DuckDBPyConnection, store: Store, table: str) -> str:
    """Return the SELECT that joins a table's facts with its columns in Parquet, in the schema's order.

    A row's other half has its key and its audit. Where parts overlap it is there twice, alike: any one will do.
    """
    stays = stays_in_parquet(table)
    if not stays:
        return f"FROM snapshot.{table}"
    keys = (*KEYS[table], "audit_id")
    parts = [name for name in live_parts(store, table) if is_whole(store, name)]
    columns = ", ".join(f'{"v" if name in stays else "f"}."{name}"' for name in TABLES[table].names)
    once = f"QUALIFY row_number() OVER (PARTITION BY {', '.join(keys)}) = 1"
    vectors = f"FROM ({scan(connection, store, table, (*keys, *stays), parts, is_view=True)}) {once}"
    same = " AND ".join(_same(key, nullable=TABLES[table].field(key).nullable) for key in keys)
    return f"SELECT {columns} FROM snapshot.{table} AS f LEFT JOIN ({vectors}) AS v ON {same}"


def _same(key: str, nullable: bool) -> str:
    """Return the condition that both halves of a row share a column; only `=` lets a filter reach the Parquet files."""
    return f"f.{key} IS NOT DISTINCT FROM v.{key}" if nullable else f"f.{key} = v.{key}"


def _comment_inherited(connection: duckdb.DuckDBPyConnection, view: str) -> None:
    """Give a derived view's columns the comments of the tables' columns of the same name, where it states none."""
    described = {column.name: comment(column) for table in reversed(TABLES.values()) for column in table}
    bare = connection.execute(
        "SELECT column_name FROM duckdb_columns()"
        " WHERE database_name = 'memory' AND table_name = ? AND comment IS NULL",
        [view],
    ).fetchall()
    for (name,) in bare:
        if name in described:
            connection.execute(f'COMMENT ON COLUMN {view}."{name}" IS {literal(described[name])}')
