"""A night's probes: which models, one job file in the store for all of them, and a part for each that is done.

What is done is told by the store alone: a job is done when its part of table `probes` is there, so whoever dies in the
middle, and wherever, costs the model at hand.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any

import duckdb

from storage.database import ask_sparingly
from storage.errors import StoreError
from storage.parts import read_columns, read_merged, write_part
from storage.scan import said, sql_file
from storage.schema import TABLES
from storage.sql import check_select
from storage.store import Store, batch_of, night_file, night_folder, open_store
from tasks.core.errors import shown
from tasks.model.answers import Probed, failed
from tasks.model.faults import NoProbe
from tasks.model.isolation import run_isolated
from tasks.model.jobs import Job, as_json, parse_jobs
from tasks.storing import VERSIONS

TABLE = "probes"
MOST_ROWS = 100_000  # of a query's answer that are looked at: the models a night may probe at most

log = logging.getLogger("normaudit")


@dataclass(frozen=True, slots=True)
class ProbeBatch:
    """The probes of one night.

    Attributes:
        store: the store's location.
        night: its date.
        audit_id: of the night; names the job file and the parts.
    """

    store: str
    night: date
    audit_id: str

    @property
    def job_file(self) -> str:
        """The job file's name in the store: JSON lines, as tasks/model/jobs.py says."""
        return night_file(self.night, f"probe-{self.audit_id}.jsonl")

    @property
    def beat_file(self) -> str:
        """The name of the file that a worker rewrites while it lives."""
        return night_file(self.night, f"probe-{self.audit_id}.beat")


@dataclass(frozen=True, slots=True)
class Choice:
    """Which models to probe, and what that may cost.

    Attributes:
        query: SELECT repo_id, sha, parameters, bytes in the order of their turns; None: the one that ships.
        models: at most so many.
        parameters: at most so many of one model.
        bytes: at most so many of all checkpoints together.
        settings: fields that all jobs share.
    """

    query: str | None
    models: int
    parameters: int
    bytes: int
    settings: Mapping[str, Any]


def plan_probes(batch: ProbeBatch, choice: Choice) -> int:
    """Choose models and write the job file, unless an interrupted night has written it; return how many jobs it holds.

    Raises:
        StoreError: the query cannot be answered, or the store not be written.
    """
    store = open_store(batch.store)
    if not store.place.exists(batch.job_file):
        jobs = list(_chosen(choice, _candidates(store, choice)))
        with store.place.writing(batch.job_file) as file:
            file.writelines(f"{as_json(job)}\n".encode() for job in jobs)
    return len(read_jobs(batch))


def read_jobs(batch: ProbeBatch) -> list[Job]:
    """Return the jobs of a night, none where none were planned.

    Raises:
        StoreError: the job file cannot be read.
    """
    text = open_store(batch.store).place.read(batch.job_file)
    try:
        return parse_jobs((text or b"").decode(), batch.job_file)
    except ValueError as error:
        raise StoreError(f"{batch.store}: {error}; remove {batch.job_file}, and the probes are chosen anew") from error


def open_jobs(batch: ProbeBatch) -> dict[int, Job]:
    """Return the jobs that are not done, each under its number in the job file."""
    store, folder = open_store(batch.store), night_folder(TABLE, batch.night)
    parts = {*store.place.names(folder), *read_merged(store, batch.night).replaced}
    done = {batch_of(name, batch.audit_id) for name in parts if name.startswith(folder)}
    return {number: job for number, job in enumerate(read_jobs(batch)) if number not in done}


def probe_job(batch: ProbeBatch, number: int, job: Job, limit_s: float) -> None:
    """Probe one model in a process of its own and write its part; one that only this limit has cut off stays open.

    Args:
        batch: the night's probes.
        number: of the job in its file.
        job: what to do.
        limit_s: wall time that is left for all jobs; the job has a limit of its own.

    Raises:
        StoreError: the part cannot be written.
    """
    called = shown(job.repo_id)
    found = run_isolated(
        replace(job, limit_s=min(job.limit_s, limit_s)), lambda text: log.debug("%s: %s", called, text)
    )
    if limit_s < job.limit_s and any(one.row["status"] == "timeout" for one in found):
        return
    keep(batch, number, job, found)
    log.info("probed %s: %s", called, ", ".join(f"{one.row['weights']} {one.row['status']}" for one in found))


def keep(batch: ProbeBatch, number: int, job: Job, found: Sequence[Probed]) -> None:
    """Write a job's part; rows that the table cannot hold become rows that say so.

    Raises:
        StoreError: the part cannot be written.
    """
    try:
        _write(batch, number, found)
    except (StoreError, ValueError, TypeError) as error:
        told = f"{shown(job.repo_id)}: what was found cannot be stored: {shown(error, 300)}"
        log.warning("%s", told)
        _write(batch, number, [failed(job, kind, NoProbe("failed", told)) for kind in job.kinds])


def probe_statuses(batch: ProbeBatch) -> dict[str, int]:
    """Return how many rows of each status a night's probes have written, most first."""
    rows = read_columns(open_store(batch.store), TABLE, batch.night, batch.audit_id, ("status",))
    return dict(Counter(rows["status"].to_pylist()).most_common())


def _candidates(store: Store, choice: Choice) -> list[tuple[Any, ...]]:
    """Return (repo_id, sha, parameters, bytes) of the models that the query names, in its order."""
    query = choice.query or sql_file("queries/probe_choice.sql")

    def ask(database: duckdb.DuckDBPyConnection) -> list[tuple[Any, ...]]:
        database.execute("SET VARIABLE max_parameters = ?::BIGINT", [choice.parameters])
        check_select(database, query)
        rows = database.sql(query).project("repo_id, sha, parameters, bytes").limit(MOST_ROWS)
        return rows.fetchall()

    try:
        return ask_sparingly(store, ask)
    except duckdb.Error as error:
        raise StoreError(f"the setting probe.query: DuckDB: {said(error)}") from error


def _chosen(choice: Choice, candidates: Iterable[tuple[Any, ...]]) -> Iterator[Job]:
    """Yield a job for each candidate that the limits leave room for; a smaller one may follow one that does not fit."""
    left, models = choice.bytes, 0
    for repo_id, sha, parameters, size in candidates:
        if models == choice.models:
            return
        if size is not None and size <= left and parameters is not None and parameters <= choice.parameters:
            yield Job(repo_id, sha, **choice.settings)
            left, models = left - size, models + 1


def _write(batch: ProbeBatch, number: int, found: Sequence[Probed]) -> None:
    now = datetime.now(UTC)
    rows = [
        {"probed_at": now, **{name: one.row[name] for name in TABLES[TABLE].names if name in one.row}} for one in found
    ]
    write_part(open_store(batch.store), TABLE, batch.night, batch.audit_id, number, rows, VERSIONS)
