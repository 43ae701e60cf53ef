"""Questions to the store: SQL, the ranking, and how the last nights went."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows import output
from storage.database import open_database
from storage.errors import StoreError
from storage.lease import lease_holder
from storage.nights import night_summaries, unfinished_nights
from storage.scan import sql_file
from storage.sql import check_select, lock
from storage.store import open_store
from tasks.publishing import coverage_of, edition_of, write_edition

PROMPT = "normaudit> "
NIGHTS_SHOWN = 14


def open_reader(location: str) -> Any:
    """Return a locked DuckDB connection to the store's database: it reads the store, and nothing else.

    Raises:
        StoreError: there is no store at location, or it cannot be read.
    """
    store = open_store(location)
    if not store.location.is_dir():
        raise StoreError(
            f"{location}: no store here; run `normaudit audit` or `normaudit nightly`, or name one with --store"
        )
    connection = open_database(store)
    lock(connection, store)
    return connection


def select(database: Any, query: str) -> Any:
    """Return the result of one SELECT as a pyarrow.Table.

    Raises:
        StoreError: the statement is no SELECT, or DuckDB refuses it.
    """
    import duckdb

    check_select(database, query)
    try:
        return database.sql(query).to_arrow_table()
    except duckdb.Error as error:
        raise StoreError(f"DuckDB: {error}") from error


def ranking(database: Any, sort: str, where: str | None, limit: int) -> Any:
    """Return the leaderboard as a pyarrow.Table, largest first.

    Args:
        database: as `open_reader` gives it.
        sort: a column of the leaderboard.
        where: an SQL condition on its columns, or None.
        limit: rows.

    Raises:
        StoreError: there is no such column, or the condition is none.
    """
    columns = [name for name, *_ in database.execute("DESCRIBE leaderboard").fetchall()]
    if sort not in columns:
        raise StoreError(f"cannot sort by {sort!r}; the columns are {', '.join(columns)}")
    condition = f"WHERE ({where}\n)" if where else ""
    return select(database, f'FROM leaderboard {condition} ORDER BY "{sort}" DESC NULLS LAST, repo_id LIMIT {limit:d}')


def coverage_line(database: Any) -> str:
    """Return how many public models have which status, in a line."""
    rows = coverage_of(database)
    counts = ", ".join(f"{row['status']} {row['models']:,}" for row in rows)
    return f"{sum(row['models'] for row in rows):,} public models: {counts}"


def write_site(database: Any, folder: Path) -> None:
    """Write the leaderboard as a site to folder, replacing it whole.

    Raises:
        StoreError: folder holds something else than a site, or cannot be written.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / "leaderboard.json").is_file():
        raise StoreError(
            f"{folder} holds something else than a leaderboard, and would be replaced whole; name another folder"
        )
    write_edition(edition_of(database, datetime.now(UTC), None), folder)


def prompt(database: Any) -> None:
    """Read SELECTs from the terminal until it ends, and print their results."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - importing it gives input() its line editing
    output.messages().print("One SELECT a line; `show tables` lists them, Ctrl-D ends.", markup=False)
    while True:
        try:
            query = input(PROMPT).strip().rstrip(";")
        except EOFError:
            return
        if query:
            _answer(database, query)


def print_status(location: str) -> None:
    """Print how the last nights went, what failed and why, and what waits for a probe."""
    store = open_store(location)
    nights = night_summaries(store)[-NIGHTS_SHOWN:]
    output.print_table(_NIGHT_COLUMNS, [_night_cells(night) for night in nights])
    for night in unfinished_nights(store):
        holder = lease_holder(store)
        doing = f"running: {holder.owner}" if holder else "interrupted; `normaudit nightly` goes on with it"
        print(f"Night {night}: {doing}")
    with open_reader(location) as database:
        print(coverage_line(database))
        output.write_result(database.sql(sql_file("queries/unanswered.sql")).to_arrow_table(), "table", None)
        [(waiting,)] = database.execute(sql_file("queries/probe_backlog.sql")).fetchall()
        print(f"{waiting:,} audited models have no probe yet")


def night_line(summary: dict[str, Any]) -> str:
    """Return a night's figures in a line."""
    statuses = ", ".join(f"{status} {count:,}" for status, count in summary["statuses"].items())
    return (
        f"{summary['listed']:,} listed, {summary['unchanged']:,} unchanged, {summary['waiting']:,} not due yet,"
        f" {summary['audited']:,} audited"
        f"{f' ({statuses})' if statuses else ''}; {summary['hub_requests']:,} requests to the Hub,"
        f" {summary['cdn_requests']:,} to its CDN, {summary['bytes_read']:,} bytes read, {summary['seconds']:,.1f} s"
    )


_NIGHT_COLUMNS = (
    "night",
    "listed",
    "unchanged",
    "audited",
    "failed",
    "hub requests",
    "cdn requests",
    "bytes",
    "seconds",
    "published",
)


def _night_cells(night: dict[str, Any]) -> Sequence[Any]:
    figures = (night.get(name) for name in ("hub_requests", "cdn_requests", "bytes_read", "seconds", "published"))
    failed = night.get("statuses", {}).get("failed", 0)
    return (night["night"], night.get("listed"), night.get("unchanged"), night.get("audited"), failed, *figures)


def _answer(database: Any, query: str) -> None:
    try:
        output.write_result(select(database, query), "table", None)
    except StoreError as error:
        output.messages().print(str(error), style="red", markup=False)
