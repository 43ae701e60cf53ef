"""Which of the listed repos a night has to audit: those for which the store has no answer yet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from storage.parts import live_parts
from storage.scan import reading, scan, sql_file
from storage.store import Store

RETRY_NIGHTS = 30  # access is granted by people: asking more often costs requests and changes nothing
LONGEST_GAP_NIGHTS = 32  # a repo that always fails is asked once a month
MEMORY_LIMIT = "200MB"  # answers of about a million repos; those of more go to disk

_COLUMNS = ("repo_id", "sha", "read_version", "method_version", "status", "night")


@dataclass(frozen=True, slots=True)
class Choice:
    """What a night has to do about some of the listed repos.

    Attributes:
        audit: columns repo_id, sha and why (new, changed or retry), in the order of the listing.
        unchanged: listed repos whose revision has been answered.
        waiting: listed repos that had no answer and are not yet due again.
    """

    audit: pa.Table
    unchanged: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Chooser:
    """What has been audited, as it was when the choosing began; asked for one piece of the listing after the other.

    Attributes:
        set_aside: a message for each part that could not be read.
    """

    connection: duckdb.DuckDBPyConnection
    values: dict[str, object]
    set_aside: list[str] = field(default_factory=list)

    def choose(self, listed: pa.Table) -> Choice:
        """Return which of some listed repos to audit.

        A revision that was read by this read_version is not read again, unless it `failed` (tried again after 1, 2,
        4, … nights) or was refused (gated, private or not_found: after 30 nights).

        Args:
            listed: columns repo_id and sha, one row per repo; others are ignored.
        """
        self.connection.register("listed", _numbered(listed.select(["repo_id", "sha"])))
        decided = self.connection.sql(sql_file("queries/plan.sql"), params=self.values).to_arrow_table()
        self.connection.unregister("listed")
        why = decided["decision"]
        to_do = pc.is_in(why, value_set=pa.array(["new", "changed", "retry"]))
        counts = {row["values"]: row["counts"] for row in pc.value_counts(why).to_pylist()}
        audit = decided.filter(to_do).rename_columns(["repo_id", "sha", "why"])
        return Choice(audit, counts.get("unchanged", 0), counts.get("waiting", 0))


@contextmanager
def choosing(store: Store, night: date, read_version: int, method_version: int = 0) -> Iterator[Chooser]:
    """Yield a chooser for a night.

    Args:
        store: what has been audited.
        night: tonight.
        read_version: of the reader that asks.
        method_version: figures that an older method left are read again; what can be concluded anew without reading
            has been by then.

    Raises:
        StoreError: the audits cannot be read.
    """
    values = {
        "night": night,
        "read_version": read_version,
        "method_version": method_version,
        "retry_nights": RETRY_NIGHTS,
        "longest_gap_nights": LONGEST_GAP_NIGHTS,
    }
    limits: dict[str, Any] = {"memory_limit": MEMORY_LIMIT, "temp_directory": str(store.place.temp_path())}
    with duckdb.connect(":memory:", config=limits) as connection:
        _, set_aside = reading(store, ["audits"], lambda: _load(connection, store))
        yield Chooser(connection, values, set_aside)


def _load(connection: duckdb.DuckDBPyConnection, store: Store) -> None:
    rows = scan(connection, store, "audits", _COLUMNS, live_parts(store, "audits"))
    connection.execute(f"CREATE OR REPLACE TEMP TABLE audited AS {rows}")


def _numbered(listed: pa.Table) -> pa.Table:
    return listed.append_column("position", pa.array(range(len(listed)), pa.int64()))
