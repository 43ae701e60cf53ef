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
    metadata = _opened(store, night, lambda path: pq.read_schema(path)).metadata or {}
    facts: dict[str, Any] = json.loads(metadata[_FACTS])
    return facts


def read_plan(store: Store, night: date, batch: int | None = None) -> pa.Table:
    """Return a night's plan, or one batch of it, as a table of the columns of `schema.PLAN`.

    Raises:
        StoreError: the night has no plan, or it cannot be read.
    """
    chosen = None if batch is None else [("batch", "=", batch)]
    plan = _opened(store, night, lambda path: pq.read_table(path, filters=chosen, partitioning=None))
    return with_all_columns(plan, PLAN)


def finish_night(store: Store, night: date, summary: Mapping[str, Any]) -> None:
    """Mark a night's run as finished, with its summary (what JSON can hold, no NaN; `audit_id` names the run)."""
    with store.place.writing(night_file(night, _marker(summary["audit_id"]))) as file:
        file.write(json.dumps({**summary, "night": night.isoformat()}, allow_nan=False).encode())


def unfinished_nights(store: Store) -> list[date]:
    """Return the nights that have a plan whose run is not finished, oldest first."""
    planned = {night_of(name) for name in store.place.names(NIGHTS_FOLDER) if name.endswith(f"/{_PLAN}")}
    return sorted(night for night in planned if is_unfinished(store, night))


def is_unfinished(store: Store, night: date) -> bool:
    """Return whether a night has a plan whose run is not finished."""
    if not store.place.exists(night_file(night, _PLAN)):
        return False
    return not store.place.exists(night_file(night, _marker(plan_facts(store, night)["audit_id"])))


def night_summaries(store: Store) -> list[dict[str, Any]]:
    """Return the summaries of all finished runs, oldest first, each with its `night` and `audit_id`."""
    names = [name for name in store.place.names(NIGHTS_FOLDER) if name.rpartition("/")[2].startswith("done-")]
    texts = [store.place.read(name) for name in names]
    return sorted((json.loads(text) for text in texts if text is not None), key=_age)


def _age(summary: Mapping[str, Any]) -> tuple[str, str]:
    return summary["night"], str(summary.get("ended_at", ""))


def _marker(audit_id: str) -> str:
    return f"done-{audit_id}.json"


def _opened(store: Store, night: date, reading: Callable[[Path], Any]) -> Any:
    name = night_file(night, _PLAN)
    if not store.place.exists(name):
        raise StoreError(f"{store.location}: night {night} has no plan; start the night first")
    try:
        return reading(store.place.local_path(name))
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{name} cannot be read ({error}); remove it, and the night is planned anew") from error
