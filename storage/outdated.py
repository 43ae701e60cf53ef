"""What an older method concluded, with what it was concluded from: so that a new method needs no request."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from storage.database import open_database
from storage.scan import sql_file
from storage.store import Store

CHUNK_AUDITS = 500  # of about 10 kB each with their tensors' names


@dataclass(frozen=True, slots=True)
class OutdatedAudit:
    """One audit as an older method left it: its row of table audits, and its rows of the tables that conclude."""

    audit: dict[str, Any]
    norms: tuple[dict[str, Any], ...]
    kernels: tuple[dict[str, Any], ...]
    evidence: tuple[dict[str, Any], ...]


def outdated(store: Store, read_version: int, method_version: int) -> Iterator[OutdatedAudit]:
    """Yield the audits that were read by this read_version and concluded by an older method_version.

    Raises:
        StoreError: the store cannot be read.
    """
    with open_database(store) as database, open_database(store) as other:  # the first is still being read
        versions = {"read_version": read_version, "method_version": method_version}
        found = database.sql(sql_file("queries/outdated.sql"), params=versions).to_arrow_reader(CHUNK_AUDITS)
        for batch in found:
            yield from with_conclusions(other, batch.to_pylist())


def with_conclusions(database: duckdb.DuckDBPyConnection, audits: Sequence[dict[str, Any]]) -> Iterator[OutdatedAudit]:
    """Yield rows of table audits with the rows that conclude from them, all of them found at once."""
    tables = [_rows_of(database, table, audits) for table in ("norms", "kernels", "evidence")]
    for audit in audits:
        yield OutdatedAudit(audit, *(tuple(rows[_key(audit)]) for rows in tables))


def _rows_of(
    database: duckdb.DuckDBPyConnection, table: str, audits: Sequence[dict[str, Any]]
) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """Return the rows of a table that belong to these audits."""
    rows: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    wanted = {_key(audit) for audit in audits}
    of_these = f"FROM {table} WHERE repo_id IN (SELECT unnest($names))"
    found = database.sql(of_these, params={"names": [repo_id for repo_id, *_ in wanted]}).to_arrow_table()
    for row in found.to_pylist():
        if _key(row) in wanted:
            rows[_key(row)].append(row)
    return rows


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["repo_id"], row["sha"], row["method_version"]
