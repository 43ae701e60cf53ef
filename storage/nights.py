"""A night's own files: the plan, written before its first batch, and the marker with its summary, written last.

A date may have several runs, one after the other: each plan replaces the one before, each summary stays. A night is
finished when the marker of its plan's own run is there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import StoreError
from storage.rows import with_all_columns
from storage.schema import PLAN
from storage.store import NIGHTS_FOLDER, Store, night_file, night_of

T = TypeVar("T")
R = TypeVar("R")

_PLAN = "plan.parquet"
_FACTS = b"night"  # key of the facts in the plan's metadata
_LOOKS_AT_ONCE = 16
_ROW_GROUP_ROWS = 2_000  # a batch is read without the rest of a plan of 100,000 rows


class PlanWriter:
    """A plan under way: rows come in the order of the listing, and go to the file a few batches at a time.

    Attributes:
        planned: rows so far.
        facts: of the run, for its summary; what JSON can hold, `audit_id` among them.
    """

    def __init__(self, parquet: pq.ParquetWriter, batch_models: int, facts: Mapping[str, Any]) -> None:
        self.planned = 0
        self.facts = dict(facts)
        self._parquet = parquet
        self._batch_models = batch_models
        self._waiting = PLAN.empty_table()

    def add(self, rows: pa.Table) -> None:
        """Append rows of the columns of `schema.PLAN` but the batch, which they get here; what is missing is null."""
        numbers = np.arange(self.planned, self.planned + len(rows)) // self._batch_models
        numbered = with_all_columns(rows.append_column("batch", pa.array(numbers, pa.int64())), PLAN)
        self.planned += len(rows)
        self._waiting = pa.concat_tables([self._waiting, numbered])
        if len(self._waiting) >= _ROW_GROUP_ROWS:
            self._flush()

    def finish(self) -> None:
        """Write what waits, and the facts."""
        self._flush()
        self._parquet.add_key_value_metadata({_FACTS: json.dumps(self.facts)})

    def _flush(self) -> None:
        if len(self._waiting):
            self._parquet.write_table(self._waiting, row_group_size=_ROW_GROUP_ROWS)
        self._waiting = PLAN.empty_table()


@contextmanager
def writing_plan(store: Store, night: date, batch_models: int, facts: Mapping[str, Any]) -> Iterator[PlanWriter]:
    """Yield a writer of what a run of the night will do; the plan of an earlier run is replaced when the block ends.

    Args:
        store: where to.
        night: the night.
        batch_models: rows of a batch; the last one may have fewer.
        facts: of the run, as far as they are known; the writer takes more.

    Raises:
        StoreError: the disk is full, or the folder cannot be written.
    """
    with (
        store.place.writing(night_file(night, _PLAN)) as file,
        pq.ParquetWriter(file, PLAN, compression="zstd") as parquet,
    ):
        plan = PlanWriter(parquet, batch_models, {**facts, "night": night.isoformat()})
        yield plan
        plan.finish()


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


def planned_batches(store: Store, night: date) -> set[int]:
    """Return the numbers of a night's batches.

    Raises:
        StoreError: the night has no plan, or it cannot be read.
    """
    numbers: set[int] = _opened(store, night, _batches)
    return numbers


def finish_night(store: Store, night: date, summary: Mapping[str, Any]) -> None:
    """Mark a night's run as finished, with its summary (what JSON can hold, no NaN; `audit_id` names the run)."""
    with store.place.writing(night_file(night, _marker(summary["audit_id"]))) as file:
        file.write(json.dumps({**summary, "night": night.isoformat()}, allow_nan=False).encode())


def unfinished_nights(store: Store) -> list[date]:
    """Return the nights that have a plan whose run is not finished, oldest first."""
    plans = [name for name in store.place.names(NIGHTS_FOLDER) if name.endswith(f"/{_PLAN}")]
    nights = [night for name in plans if (night := night_of(name))]
    unfinished = _all_at_once(lambda night: is_unfinished(store, night), nights)
    return sorted(night for night, is_so in zip(nights, unfinished, strict=True) if is_so)


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
    found = _all_at_once(lambda name: _summary(store.place.read(name)), [name for name in names if night_of(name)])
    return sorted((summary for summary in found if summary is not None), key=_age)


def _all_at_once(look: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Return what a look at each gives; one after the other, a year of nights in a bucket would take a minute."""
    with ThreadPoolExecutor(_LOOKS_AT_ONCE) as pool:
        return list(pool.map(look, items))


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


def _facts(source: Path | BinaryIO) -> dict[str, Any]:
    facts = json.loads((pq.read_metadata(source).metadata or {}).get(_FACTS, b"null"))
    if not isinstance(facts, dict) or not isinstance(facts.get("audit_id"), str):
        raise ValueError("it does not say of which run it is")
    return facts


def _batches(source: Path | BinaryIO) -> set[int]:
    with pq.ParquetFile(source) as plan:
        groups = plan.iter_batches(columns=["batch"])
        return {number for group in groups for number in group.column("batch").unique().to_pylist()}


def _rows(plan: pa.Table) -> pa.Table:
    """Return a plan's rows with all columns, those of the key filled."""
    rows = with_all_columns(plan, PLAN)
    lacking = [column.name for column in PLAN if not column.nullable and rows[column.name].null_count]
    if lacking:
        raise ValueError(f"it lacks {', '.join(lacking)}")
    return rows


def _opened(store: Store, night: date, reading: Callable[[Path | BinaryIO], Any]) -> Any:
    name = night_file(night, _PLAN)
    if not store.place.exists(name):
        raise StoreError(f"{store.location}: night {night} has no plan; start the night first")
    try:
        return reading(store.place.arrow_source(name))
    except (OSError, pa.ArrowException, ValueError) as error:
        raise StoreError(f"{name} cannot be read ({error}); remove it, and the night is planned anew") from error
