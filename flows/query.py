"""Questions to the store: SQL, the ranking, the site, and how the last nights went."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from flows import output, results
from storage.database import open_database
from storage.errors import StoreError
from storage.lease import lease_holder
from storage.nights import night_summaries, unfinished_nights
from storage.scan import said, sql_file
from storage.sql import check_select, lock
from storage.store import Store, open_store
from tasks.publishing import coverage_of, edition_of, write_edition

T = TypeVar("T")

PROMPT = "normaudit> "
LEAVING = ("exit", "quit", ".exit", ".quit", r"\q")  # what other prompts are left with
NIGHTS_SHOWN = 14
SITE_FILES = frozenset({"index.html", "leaderboard.json", "leaderboard.csv", "leaderboard.md"})


def open_reader(location: str) -> Any:
    """Return a locked DuckDB connection to the store's database: it reads the store, and nothing else.

    Raises:
        StoreError: there is no store at location, or it cannot be read.
    """
    store = _existing_store(location)
    connection = open_database(store)
    lock(connection, store)
    return connection


def select(database: Any, query: str, timeout_s: float | None = None) -> Any:
    """Return the result of one SELECT as a pyarrow.Table.

    Raises:
        StoreError: the statement is no SELECT, DuckDB refuses it, or it takes longer than timeout_s.
    """
    import duckdb

    check_select(database, query)
    try:
        return _interruptible(database, lambda: database.sql(query).to_arrow_table(), timeout_s)
    except duckdb.Error as error:
        raise StoreError(f"DuckDB: {said(error)}") from error


def ranking(database: Any, sort: str, where: str | None, limit: int) -> Any:
    """Return the leaderboard as a pyarrow.Table: by a column of figures largest first, by one of text from A to Z.

    Args:
        database: as `open_reader` gives it.
        sort: a column of the leaderboard.
        where: an SQL condition on its columns, or None.
        limit: rows.

    Raises:
        StoreError: there is no such column, or the condition is none.
    """
    import duckdb

    found = database.sql("FROM leaderboard")
    if sort not in found.columns:
        raise StoreError(f"cannot sort by {sort!r}; the columns are {', '.join(found.columns)}")
    way = "ASC" if str(found.types[found.columns.index(sort)]) == "VARCHAR" else "DESC"
    try:
        if where:
            check_select(database, f"FROM leaderboard WHERE ({where}\n)")
            found = found.filter(where)  # takes one expression: nothing can follow it
        ordered = found.order(f'"{sort}" {way} NULLS LAST, repo_id').limit(limit)
        return _interruptible(database, ordered.to_arrow_table)
    except duckdb.Error as error:
        raise StoreError(f"--where {where!r}: {said(error)}") from error


def coverage_line(database: Any) -> str:
    """Return how many public models have which status, in a line."""
    rows = coverage_of(database)
    counts = ", ".join(f"{row['status']} {row['models']:,}" for row in rows)
    return f"{sum(row['models'] for row in rows):,} public models listed{f': {counts}' if counts else ''}"


def write_site(database: Any, folder: Path) -> None:
    """Write the leaderboard as a site to folder, replacing it whole.

    Raises:
        StoreError: folder holds something else than a site, or cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder} is a file; name a folder")
    others = sorted(path.name for path in folder.iterdir() if path.name not in SITE_FILES) if folder.exists() else []
    if others or ((folder / "index.html").exists() and not (folder / "leaderboard.json").exists()):
        example = others[0] if others else "an index.html of its own"
        raise StoreError(
            f"{folder} holds something else than a leaderboard ({example}), and would be replaced whole;"
            " name another folder"
        )
    write_edition(edition_of(database, datetime.now(UTC), None), folder)


def prompt(database: Any, wanted: str, timeout_s: float) -> None:
    """Answer one SELECT after another, read from the terminal until it ends.

    Args:
        database: as `open_reader` gives it.
        wanted: the form of the answers.
        timeout_s: for each statement.
    """
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - importing it gives input() its line editing
    output.say("One SELECT a line; `show tables` lists them, Ctrl-C drops a line, Ctrl-D ends.")
    with contextlib.suppress(EOFError):
        while (query := _asked()) not in LEAVING:
            if query:
                _answer(database, query, wanted, timeout_s)


def print_status(location: str, *, as_json: bool = False) -> None:
    """Print how the last nights went, what failed and why, and what waits for a probe; as JSON the nights alone.

    Raises:
        StoreError: there is no store at location, or it cannot be read.
    """
    store = _existing_store(location)
    if as_json:
        for night in night_summaries(store)[-NIGHTS_SHOWN:]:
            output.print_json(night)
        return
    with open_reader(location) as database:
        _print_nights(store)
        print(coverage_line(database))
        if unanswered := database.execute(sql_file("queries/unanswered.sql")).fetchall():
            print("\nModels without figures, local and private ones included:")
            output.print_table(("status", "models", "such as"), unanswered)
        [(waiting,)] = database.execute(sql_file("queries/probe_backlog.sql")).fetchall()
        print(f"\nAudited models that no probe has run on yet: {waiting:,}")


def night_line(summary: dict[str, Any]) -> str:
    """Return a night's figures in a line."""
    statuses = ", ".join(f"{status} {count:,}" for status, count in summary["statuses"].items())
    return (
        f"{summary['listed']:,} listed, {summary['unchanged']:,} unchanged, {summary['waiting']:,} not due yet,"
        f" {summary['audited']:,} audited"
        f"{f' ({statuses})' if statuses else ''}; {summary['hub_requests']:,} requests to the Hub,"
        f" {summary['cdn_requests']:,} to its CDN, {summary['bytes_read']:,} bytes read, {summary['seconds']:,.1f} s"
    )


def _interruptible(database: Any, action: Callable[[], T], timeout_s: float | None = None) -> T:
    """Return the action's result; Ctrl-C, which DuckDB does not see while it works, ends its query first.

    Raises:
        StoreError: it takes longer than timeout_s.
    """
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(action)
        try:
            return working.result(timeout_s)
        except TimeoutError as error:
            database.interrupt()
            raise StoreError(f"given up after {timeout_s:g} s; narrow the query, or raise --timeout") from error
        except KeyboardInterrupt:
            database.interrupt()
            raise


def _existing_store(location: str) -> Store:
    store = open_store(location)
    if not store.place.is_there():
        raise StoreError(
            f"{location}: no store here; run `normaudit audit` or `normaudit nightly`, or name one with --store"
        )
    return store


def _print_nights(store: Store) -> None:
    nights = night_summaries(store)[-NIGHTS_SHOWN:]
    if nights:
        output.print_table(_NIGHT_COLUMNS, [_night_cells(night) for night in nights])
    else:
        print("No night has been finished on this store yet.")
    for night in nights:
        if night.get("gate"):
            print(f"Night {night['night']} was not published: {night['gate']}")
    for date in unfinished_nights(store):
        holder = lease_holder(store)
        doing = f"running: {holder}" if holder else "interrupted; `normaudit nightly` goes on with it"
        print(f"Night {date}: {doing}")


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


def _asked() -> str:
    """Return the next line typed, "" where Ctrl-C dropped it."""
    try:
        return input(PROMPT).strip().rstrip(";").strip()
    except KeyboardInterrupt:
        output.say("")
        return ""


def _answer(database: Any, query: str, wanted: str, timeout_s: float) -> None:
    try:
        results.write_result(select(database, query, timeout_s), wanted)
    except (StoreError, output.UsageError) as error:
        output.complain([output.one_line(error)])
    except KeyboardInterrupt:
        output.complain(["dropped"])
