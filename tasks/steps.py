"""Every Prefect task, on one page: its policy above, one call below.

What a task has done is told by the store, not by Prefect: nothing is cached or persisted, and each body may be run
again.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from storage.database import BuildReport, build
from storage.merge import MergeReport
from storage.store import open_store
from tasks import night as stages
from tasks import probes, publishing, renewal
from tasks.batch import Budget
from tasks.model.jobs import Job
from tasks.night import BatchReport, Crawl, Night
from tasks.probes import Choice, ProbeBatch


@task(name="renew conclusions", cache_policy=NO_CACHE, persist_result=False)
async def renew(night: Night) -> int:
    """Conclude by today's method what an older one concluded, without a request."""
    return await asyncio.to_thread(renewal.renew, night)


@task(name="list and plan", cache_policy=NO_CACHE, persist_result=False)
async def plan(night: Night, crawl: Crawl) -> None:
    """List the Hub and plan what the store has no answer for."""
    await asyncio.to_thread(stages.plan_night, night, crawl)


@task(name="audit batch", task_run_name="audit batch {batch}", cache_policy=NO_CACHE, persist_result=False)
async def audit(night: Night, crawl: Crawl, batch: int, budget: Budget) -> BatchReport:
    """Audit the models of one batch and write its parts."""
    return await stages.audit_batch(night, crawl, batch, budget)


@task(name="rebuild database", cache_policy=NO_CACHE, persist_result=False)
async def rebuild(night: Night) -> BuildReport:
    """Build the DuckDB snapshot from all parts."""
    return await asyncio.to_thread(build, open_store(night.store))


@task(name="choose probes", cache_policy=NO_CACHE, persist_result=False)
async def choose(batch: ProbeBatch, choice: Choice) -> int:
    """Choose the models to probe, and write the job file."""
    return await asyncio.to_thread(probes.plan_probes, batch, choice)


@task(name="probe model", task_run_name="probe {job.repo_id}", cache_policy=NO_CACHE, persist_result=False)
async def probe(batch: ProbeBatch, number: int, job: Job, limit_s: float) -> None:
    """Probe one model and write its part."""
    await asyncio.to_thread(probes.probe_job, batch, number, job, limit_s)


@task(name="publish", cache_policy=NO_CACHE, persist_result=False)
async def publish(store: str, hub_url: str | None) -> str | Path:
    """Write the leaderboard as a site."""
    return await asyncio.to_thread(publishing.publish, store, datetime.now(UTC), hub_url)


@task(name="end of night", cache_policy=NO_CACHE, persist_result=False)
async def end(night: Night, summary: dict[str, Any]) -> MergeReport:
    """Mark the night as finished, then merge its parts to a few files."""
    return await asyncio.to_thread(stages.end_night, night, summary)
