"""Which of the listed repos a night has to audit: those for which the store has no answer yet."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from storage.parts import live_parts
from storage.scan import reading, scan, sql_file
from storage.store import Store

RETRY_NIGHTS = 30  # access is granted by people: asking more often costs requests and changes nothing
LONGEST_GAP_NIGHTS = 32  # a repo that always fails is asked once a month

_COLUMNS = ("repo_id", "sha", "read_version", "method_version", "status", "night")


@dataclass(frozen=True, slots=True)
class Choice:
    """What a night has to do.

    Attributes:
        audit: columns repo_id, sha and why (new, changed or retry), in the order of the listing.
        unchanged: listed repos whose revision has been answered.
        waiting: listed repos that had no answer and are not yet due again.
        set_aside: a message for each part that could not be read.
    """

    audit: pa.Table
    unchanged: int
    waiting: int
    set_aside: list[str]


def choose(store: Store, listed: pa.Table, night: date, read_version: int, method_version: int = 0) -> Choice:
    """Return which listed repos to audit.

    A revision that was read by this read_version is not read again, unless it `failed` (tried again after 1, 2, 4, …
    nights) or was refused (gated, private or not_found: after 30 nights).

    Args:
        store: what has been audited.
        listed: columns repo_id and sha, one row per repo; others are ignored.
        night: tonight.
        read_version: of the reader that asks.
        method_version: figures that an older method left are read again; what can be concluded anew without reading
            has been by then.

    Raises:
        StoreError: the audits cannot be read.
    """
    decided, set_aside = reading(store, ["audits"], lambda: _decide(store, listed, night, read_version, method_version))
    why = decided["decision"]
    to_do = pc.is_in(why, value_set=pa.array(["new", "changed", "retry"]))
    counts = {row["values"]: row["counts"] for row in pc.value_counts(why).to_pylist()}
    audit = decided.filter(to_do).rename_columns(["repo_id", "sha", "why"])
    return Choice(audit, counts.get("unchanged", 0), counts.get("waiting", 0), set_aside)


def _decide(store: Store, listed: pa.Table, night: date, read_version: int, method_version: int) -> pa.Table:
    """Return (repo_id, sha, decision) for every listed repo."""
    with duckdb.connect(":memory:") as connection:
        connection.register("listed", _numbered(listed.select(["repo_id", "sha"])))
        connection.execute(f"CREATE VIEW audited AS {scan(store, 'audits', _COLUMNS, live_parts(store, 'audits'))}")
        values = {
            "night": night,
            "read_version": read_version,
            "method_version": method_version,
            "retry_nights": RETRY_NIGHTS,
            "longest_gap_nights": LONGEST_GAP_NIGHTS,
        }
        return connection.sql(sql_file("queries/plan.sql"), params=values).to_arrow_table()


def _numbered(listed: pa.Table) -> pa.Table:
    return listed.append_column("position", pa.array(range(len(listed)), pa.int64()))
