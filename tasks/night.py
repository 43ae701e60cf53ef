"""The stages of a night, each of which may be killed at any point and run again: Hub on one side, store on the other.

What is done is told by the store alone: a night is planned when its plan is there, a batch is done when its part of
table `audits` is.
"""

from __future__ import annotations

import fnmatch
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from functools import cache
from itertools import islice
from typing import Any
from uuid import uuid4

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from storage.choose import choose
from storage.merge import MergeReport, merge_night
from storage.nights import finish_night, plan_facts, read_plan, unfinished_nights, write_plan
from storage.parts import finished_batches, read_columns, write_part
from storage.rows import rows_to_table
from storage.schema import CANDIDATES
from storage.store import open_store
from tasks.batch import Budget, Refusal, audit_models, describe_repos
from tasks.core.reading import ReadOptions
from tasks.core.records import METHOD_VERSION, READ_VERSION, Audit, Cost, Listing, Reading, RepoFile
from tasks.core.registry import load_registry
from tasks.core.rows import Row, Stamp, listing_row
from tasks.hub import HubOptions, Learned, ListingQuery, Pace, list_models
from tasks.storing import VERSIONS, store_audits

LISTING_PART_ROWS = 10_000  # rows of a part of table listings; ten pages of the Hub
# What of the Hub's config digest bears on norms; the rest (chat templates, say) is long and bears on nothing here.
DIGEST_KEYS = ("architectures", "model_type", "auto_map", "quantization_config", "diffusers")

log = logging.getLogger("normaudit")


@dataclass(frozen=True, slots=True)
class Night:
    """One night's work on one store.

    Attributes:
        store: the store's location.
        night: its date; an interrupted night keeps it past midnight.
        audit_id: names the night's parts.
        is_planned: it was interrupted, and goes on from its plan.
    """

    store: str
    night: date
    audit_id: str
    is_planned: bool


@dataclass(frozen=True, slots=True)
class Crawl:
    """What a night asks of the Hub, and within which limits.

    Attributes:
        hub: how to talk to it.
        queries: rankings to list.
        repos: explicit repos and their revisions (None: the head).
        opt_out: patterns of repos that are never audited.
        read: what to read of each model; the registry is loaded where it is needed.
        use_registry: consult the measured facts on known architectures.
        models: at most so many a night.
        concurrency: models in flight.
        batch_models: models a batch.
        share: part of the token's rate limit that this process may use.
    """

    hub: HubOptions
    queries: tuple[ListingQuery, ...]
    repos: tuple[tuple[str, str | None], ...]
    opt_out: tuple[str, ...]
    read: ReadOptions
    use_registry: bool
    models: int
    concurrency: int
    batch_models: int
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What became of one batch: models by status, what they cost, and how many the budget left for another night."""

    statuses: dict[str, int]
    left_over: int
    cost: Cost


@cache
def learned(share: float) -> Learned:
    """Return what this process knows of the Hub: one pace for all its batches, since they share one token."""
    return Learned(Pace(share))


def begin_night(location: str, today: date) -> Night:
    """Return the night to work on: the one that was interrupted, or a new one of today."""
    store = open_store(location)
    interrupted = unfinished_nights(store)
    if not interrupted:
        return Night(location, today, f"{today:%Y%m%d}-{uuid4().hex[:12]}", is_planned=False)
    night = interrupted[-1]
    return Night(location, night, str(plan_facts(store, night)["audit_id"]), is_planned=True)


def plan_night(night: Night, crawl: Crawl) -> None:
    """List the Hub, write the listings, and plan what the store has no answer for.

    Raises:
        AuditError: the Hub's listing cannot be had.
        StoreError: the store cannot be written.
    """
    store, pieces = open_store(night.store), []
    for number, found in enumerate(_chunks(_wanted(crawl), LISTING_PART_ROWS)):
        listed = [listing_row(item, night.night) for item in found if isinstance(item, Listing)]
        write_part(store, "listings", night.night, night.audit_id, number, listed, VERSIONS)
        pieces.append(rows_to_table([_candidate(item) for item in found], CANDIDATES, "plan"))
        log.info("listed %d repos", sum(map(len, pieces)))
    candidates = pa.concat_tables(pieces) if pieces else CANDIDATES.empty_table()
    choice = choose(store, candidates, night.night, READ_VERSION, METHOD_VERSION)
    chosen = choice.audit.slice(0, crawl.models)
    plan = candidates.take(pc.index_in(chosen["repo_id"], candidates["repo_id"].combine_chunks()))
    plan = plan.append_column("why", chosen["why"])
    plan = plan.append_column("batch", pa.array(np.arange(len(plan)) // crawl.batch_models, pa.int64()))
    facts = {
        "audit_id": night.audit_id,
        "listed": len(candidates),
        "unchanged": choice.unchanged,
        "waiting": choice.waiting,
        "planned": len(plan),
    }
    write_plan(store, night.night, plan, facts)
    log.info("planned %d of %d listed repos; %d are unchanged", len(plan), len(candidates), choice.unchanged)


def open_batches(night: Night) -> list[int]:
    """Return the numbers of the planned batches that are not done."""
    store = open_store(night.store)
    planned = set(read_plan(store, night.night)["batch"].to_pylist())
    return sorted(planned - finished_batches(store, night.night, night.audit_id))


def remaining_budget(night: Night, hub_requests: int, bytes_read: int) -> Budget:
    """Return what of a night's budget its finished batches have left."""
    spent = read_columns(open_store(night.store), "audits", night.night, night.audit_id, ("hub_requests", "bytes_read"))
    requests, read = (pc.sum(spent[name]).as_py() or 0 for name in spent.column_names)
    return Budget(hub_requests - requests, bytes_read - read)


async def audit_batch(night: Night, crawl: Crawl, batch: int, budget: Budget) -> BatchReport:
    """Audit the models of one batch, as far as the budget goes, and write its parts, the marker last.

    Raises:
        StoreError: the parts cannot be written; the batch is then not done.
    """
    started, store = time.monotonic(), open_store(night.store)
    planned = read_plan(store, night.night, batch).to_pylist()
    options = replace(crawl.read, registry=load_registry() if crawl.use_registry else None)
    done = [_refused(row) for row in planned if row["status"]]
    async for audit in audit_models(
        (_listing(row) for row in planned if not row["status"]),
        crawl.hub,
        options,
        concurrency=crawl.concurrency,
        learned=learned(crawl.share),
        budget=budget,
    ):
        done.append(audit)
        log.info("audited", extra={"audited": 1})
    stamp = Stamp(night.audit_id, night.night, datetime.now(UTC))
    done = store_audits(store, stamp, batch, done)
    return BatchReport(
        statuses=dict(Counter(audit.reading.status for audit in done)),
        left_over=len(planned) - len(done),
        cost=Cost(
            sum(audit.cost.hub_requests for audit in done),
            sum(audit.cost.cdn_requests for audit in done),
            sum(audit.cost.bytes_read for audit in done),
            time.monotonic() - started,
        ),
    )


def summarise(night: Night) -> dict[str, Any]:
    """Return the night in figures, as far as it has come, from its parts alone: so it is right after a restart too."""
    store = open_store(night.store)
    costs = ("hub_requests", "cdn_requests", "bytes_read")
    audits = read_columns(store, "audits", night.night, night.audit_id, ("status", *costs))
    return {
        **plan_facts(store, night.night),
        "audited": len(audits),
        "statuses": dict(Counter(audits["status"].to_pylist()).most_common()),
        **{name: pc.sum(audits[name]).as_py() or 0 for name in costs},
    }


def end_night(night: Night, summary: dict[str, Any]) -> MergeReport:
    """Mark the night as finished, with its summary; then merge its parts, which need not succeed for that."""
    store = open_store(night.store)
    finish_night(store, night.night, summary | {"ended_at": datetime.now(UTC).isoformat()})
    return merge_night(store, night.night)


def _wanted(crawl: Crawl) -> Iterator[Listing | Refusal]:
    """Yield every repo that the sources name, once, without those that opted out."""
    seen: set[str] = set()
    for item in _listed(crawl):
        if item.repo_id not in seen and not any(
            fnmatch.fnmatchcase(item.repo_id, pattern) for pattern in crawl.opt_out
        ):
            seen.add(item.repo_id)
            yield item


def _listed(crawl: Crawl) -> Iterator[Listing | Refusal]:
    yield from describe_repos(crawl.repos, crawl.hub, learned(crawl.share))
    for query in crawl.queries:
        yield from list_models(crawl.hub, query, learned(crawl.share))


def _candidate(item: Listing | Refusal) -> Row:
    if isinstance(item, Refusal):
        return {"repo_id": item.repo_id, "sha": None, "status": item.status, "reason": item.reason}
    if item.disabled:
        return {"repo_id": item.repo_id, "sha": item.sha, "status": "disabled", "reason": "the Hub's listing says so"}
    digest = {key: item.config[key] for key in DIGEST_KEYS if key in item.config} if item.config else None
    return {
        "repo_id": item.repo_id,
        "sha": item.sha,
        "files": [{"path": file.path, "size_bytes": file.size_bytes, "sha256": file.sha256} for file in item.files],
        "config": orjson.dumps(digest).decode() if digest is not None else None,
        "private": item.private,
        "gated": item.gated,
    }


def _listing(row: Row) -> Listing:
    return Listing(
        repo_id=row["repo_id"],
        sha=row["sha"],
        files=tuple(RepoFile(**file) for file in row["files"] or ()),
        config=orjson.loads(row["config"]) if row["config"] is not None else None,
        private=row["private"],
        gated=row["gated"],
    )


def _refused(row: Row) -> Audit:
    return Audit(Listing(row["repo_id"], row["sha"]), Reading(row["status"], row["reason"], None))


def _chunks(items: Iterable[Listing | Refusal], size: int) -> Iterator[list[Listing | Refusal]]:
    iterator = iter(items)
    return iter(lambda: list(islice(iterator, size)), [])
