"""A night's own files: the plan, written before its first batch, and the marker with its summary, written last.

A date may have several runs, one after the other: each plan replaces the one before, each summary stays. A night is
finished when the marker of its plan's own run is there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import StoreError
from storage.rows import Row, rows_to_table, with_all_columns
from storage.schema import PLAN
from storage.store import NIGHTS_FOLDER, Store, night_file, night_of

_PLAN = "plan.parquet"
_FACTS = b"night"  # key of the facts in the plan's metadata
_ROW_GROUP_ROWS = 2_000  # a batch is read without the rest of a plan of 100,000 rows


def write_plan(store: Store, night: date, rows: pa.Table | Sequence[Row], facts: Mapping[str, Any]) -> None:
    """Write what a run of the night will do, sorted by batch; the plan of an earlier run is replaced.

    Args:
        store: where to.
        night: the night.
        rows: columns of `schema.PLAN`; those that are missing become null.
        facts: of the run, for its summary; what JSON can hold, `audit_id` among them.

    Raises:
        StoreError: the rows do not fit the plan's columns.
    """
    plan = with_all_columns(rows, PLAN) if isinstance(rows, pa.Table) else rows_to_table(rows, PLAN, "plan")
    plan = plan.sort_by("batch").replace_schema_metadata({_FACTS: json.dumps({**facts, "night": str(night)})})
    with store.place.writing(night_file(night, _PLAN)) as file:
        pq.write_table(plan, file, compression="zstd", row_group_size=_ROW_GROUP_ROWS)


def plan_facts(store: Store, night: date) -> dict[str, Any]:
    """Return the facts that a night's plan was written with.

    Raises:
        StoreError: the night has no plan, or it cannot be read.
    """
    facts: dict[str, Any] = _opened(store, night, _facts)
    return facts


def read_plan(store: Store, night: date, batch: int | None = None) -> pa.Table:
    """Return a night's plan, or one batch of it, as a table of the columns of `schema.PLAN`.

    Raises:
        StoreError: the night has no plan, or it cannot be read.
    """
    chosen = None if batch is None else [("batch", "=", batch)]
    plan: pa.Table = _opened(store, night, lambda path: _rows(pq.read_table(path, filters=chosen, partitioning=None)))
    return plan


def finish_night(store: Store, night: date, summary: Mapping[str, Any]) -> None:
    """Mark a night's run as finished, with its summary (what JSON can hold, no NaN; `audit_id` names the run)."""
    with store.place.writing(night_file(night, _marker(summary["audit_id"]))) as file:
        file.write(json.dumps({**summary, "night": night.isoformat()}, allow_nan=False).encode())


def unfinished_nights(store: Store) -> list[date]:
    """Return the nights that have a plan whose run is not finished, oldest first."""
    plans = [name for name in store.place.names(NIGHTS_FOLDER) if name.endswith(f"/{_PLAN}")]
    return sorted(night for name in plans if (night := night_of(name)) and is_unfinished(store, night))


def is_unfinished(store: Store, night: date) -> bool:
    """Return whether a night has a plan whose run is not finished; of one that cannot be read, none is known to be."""
    if not store.place.exists(night_file(night, _PLAN)):
        return False
    try:
        audit_id = plan_facts(store, night)["audit_id"]
    except StoreError:  # who wants to work on the plan is told
        return True
    return not store.place.exists(night_file(night, _marker(audit_id)))


def night_summaries(store: Store) -> list[dict[str, Any]]:
    """Return the summaries of all finished runs, oldest first, each with its `night`; unreadable ones are left out."""
    names = [name for name in store.place.names(NIGHTS_FOLDER) if name.rpartition("/")[2].startswith("done-")]
    found = [_summary(store.place.read(name)) for name in names if night_of(name)]
    return sorted((summary for summary in found if summary is not None), key=_age)


def _summary(text: bytes | None) -> dict[str, Any] | None:
    """Return a marker's summary; None where the file is cut off or holds something else."""
    try:
        found = json.loads(text or b"")
    except ValueError:
        return None
    is_one = isinstance(found, dict) and isinstance(found.get("night"), str)
    return found if is_one and isinstance(found.get("statuses", {}), dict) else None


def _age(summary: Mapping[str, Any]) -> tuple[str, str]:
    return summary["night"], str(summary.get("ended_at", ""))


def _marker(audit_id: str) -> str:
    return f"done-{audit_id}.json"


def _facts(path: Path) -> dict[str, Any]:
    facts = json.loads((pq.read_schema(path).metadata or {}).get(_FACTS, b"null"))
    if not isinstance(facts, dict) or not isinstance(facts.get("audit_id"), str):
        raise ValueError("it does not say of which run it is")
    return facts


def _rows(plan: pa.Table) -> pa.Table:
    """Return a plan's rows with all columns, those of the key filled."""
    rows = with_all_columns(plan, PLAN)
    lacking = [column.name for column in PLAN if not column.nullable and rows[column.name].null_count]
    if lacking:
        raise ValueError(f"it lacks {', '.join(lacking)}")
    return rows


def _opened(store: Store, night: date, reading: Callable[[Path], Any]) -> Any:
    name = night_file(night, _PLAN)
    if not store.place.exists(name):
        raise StoreError(f"{store.location}: night {night} has no plan; start the night first")
    try:
        return reading(store.place.local_path(name))
    except (OSError, pa.ArrowException, ValueError) as error:
        raise StoreError(f"{name} cannot be read ({error}); remove it, and the night is planned anew") from error
