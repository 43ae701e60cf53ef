"""The stages of a night, each of which may be killed at any point and run again: Hub on one side, store on the other.

What is done is told by the store alone: a night is planned when its plan is there, a batch is done when its part of
table `audits` is.
"""

from __future__ import annotations

import fnmatch
import gc
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from functools import cache
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc

from storage.choose import Chooser, choosing
from storage.merge import MergeReport, merge_night
from storage.nights import (
    PlanWriter,
    finish_night,
    plan_facts,
    planned_batches,
    read_plan,
    unfinished_nights,
    writing_plan,
)
from storage.parts import finished_batches, read_columns, write_part
from storage.rows import rows_to_table
from storage.schema import CANDIDATES
from storage.store import open_store
from tasks.batch import Budget, Refusal, audit_models, describe_repos
from tasks.candidates import Seen, candidate_row, listing_of_row, pieces, refused
from tasks.core.reading import ReadOptions
from tasks.core.records import METHOD_VERSION, READ_VERSION, Audit, Cost, Listing
from tasks.core.registry import load_registry
from tasks.core.rows import Stamp, listing_row
from tasks.hub import HubOptions, Learned, ListingQuery, Pace, list_models
from tasks.hub.options import Origin
from tasks.keeping import shelf_of
from tasks.outlook import FILES, outlook, requests_expected
from tasks.storing import VERSIONS, AuditWriter

PIECE_REPOS = 2_000  # two pages of the Hub: a night holds no more of the listing at a time
COLLECTED_EVERY = (50_000, 20, 100)  # new objects, then rounds: with Python's own 700 it takes a third of the CPU

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


class _Tally:
    """What a batch has come to so far."""

    def __init__(self) -> None:
        self._statuses = Counter[str]()
        self._cost = Cost()

    def add(self, audit: Audit) -> None:
        self._statuses[audit.reading.status] += 1
        self._cost += audit.cost

    def report(self, planned: int, seconds: float) -> BatchReport:
        left_over = planned - self._statuses.total()
        return BatchReport(dict(self._statuses), left_over, replace(self._cost, seconds=seconds))


def learned(crawl: Crawl) -> Learned:
    """Return what this process knows of the Hub: one pace for all its batches, since they share one token."""
    return _learned(crawl.hub.origin, crawl.hub.token, crawl.share)


def begin_night(location: str, today: date) -> Night:
    """Return the night to work on: the one that was interrupted, or a new one of today."""
    store = open_store(location)
    interrupted = unfinished_nights(store)
    if not interrupted:
        return Night(location, today, f"{today:%Y%m%d}-{uuid4().hex[:12]}", is_planned=False)
    date_of, facts = interrupted[-1], plan_facts(store, interrupted[-1])
    night = Night(location, date_of, str(facts["audit_id"]), is_planned=True)
    done, planned = len(_written(night, ("status",))), facts.get("planned", 0)
    log.info(
        "the night of %s goes on: %d of %d models are audited",
        date_of,
        done,
        planned,
        extra={"planned": planned - done},
    )
    return night


def plan_night(night: Night, crawl: Crawl) -> None:
    """List the Hub, write the listings, and plan what the store has no answer for.

    Raises:
        AuditError: the Hub's listing cannot be had.
        StoreError: the store cannot be written.
    """
    store, counts = open_store(night.store), Counter[str]()
    with (
        choosing(store, night.night, READ_VERSION, METHOD_VERSION) as chooser,
        writing_plan(store, night.night, crawl.batch_models, {"audit_id": night.audit_id}) as plan,
    ):
        for number, found in enumerate(pieces(_wanted(crawl), PIECE_REPOS)):
            listed = [listing_row(item, night.night) for item in found if isinstance(item, Listing)]
            write_part(store, "listings", night.night, night.audit_id, number, listed, VERSIONS)
            counts += _plan_piece(plan, chooser, found, crawl.models - plan.planned)
            log.info("listed %d repos", counts["listed"], extra={"listed": counts["listed"]})
        plan.facts |= {name: counts[name] for name in ("listed", "unchanged", "waiting", "requests_expected")}
        plan.facts["planned"] = plan.planned
    message = "planned %d of %d listed repos; %d are unchanged"
    log.info(message, plan.planned, counts["listed"], counts["unchanged"], extra={"planned": plan.planned})
    if plan.planned:
        log.info("%s", outlook(counts["requests_expected"], learned(crawl).pace))


def open_batches(night: Night) -> list[int]:
    """Return the numbers of the planned batches that are not done."""
    store = open_store(night.store)
    batches = planned_batches(store, night.night)
    return sorted(batches - finished_batches(store, night.night, night.audit_id))


def remaining_budget(night: Night, hub_requests: int, bytes_read: int) -> Budget:
    """Return what of a night's budget its finished batches have left."""
    spent = _written(night, ("hub_requests", "bytes_read"))
    requests, read = (pc.sum(spent[name]).as_py() or 0 for name in spent.column_names)
    return Budget(hub_requests - requests, bytes_read - read)


async def audit_batch(night: Night, crawl: Crawl, batch: int, budget: Budget) -> BatchReport:
    """Audit the models of one batch, as far as the budget goes, and write its parts, the marker last.

    Raises:
        StoreError: the parts cannot be written; the batch is then not done.
    """
    started, store = time.monotonic(), open_store(night.store)
    planned = read_plan(store, night.night, batch).to_pylist()
    tally = _Tally()
    writer = AuditWriter(store, Stamp(night.audit_id, night.night, datetime.now(UTC)), batch, tally.add)
    known = [refused(row) for row in planned if row["status"]]
    for audit in known:
        writer.add(audit)
    _tell(crawl, len(known), 0)
    with _rarely_collecting():
        async for audit in _audits(night, crawl, [listing_of_row(row) for row in planned if not row["status"]], budget):
            writer.add(audit)
            _tell(crawl, 1, audit.cost.hub_requests)
    writer.write()
    return tally.report(len(planned), time.monotonic() - started)


def summarise(night: Night) -> dict[str, Any]:
    """Return the night in figures, as far as it has come, from its parts alone: so it is right after a restart too."""
    store = open_store(night.store)
    costs = ("hub_requests", "cdn_requests", "bytes_read")
    audits = _written(night, ("status", *costs))
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


@contextmanager
def _rarely_collecting() -> Iterator[None]:
    """Look for cycles among objects rarely: a batch makes millions of objects that live to its end, and few cycles."""
    before = gc.get_threshold()
    gc.set_threshold(*COLLECTED_EVERY)
    try:
        yield
    finally:
        gc.set_threshold(*before)


@cache
def _learned(origin: Origin, token: str | None, share: float) -> Learned:
    return Learned(Pace(share))


def _written(night: Night, columns: Sequence[str]) -> pa.Table:
    """Return some columns of the audits that the night has written so far."""
    return read_columns(open_store(night.store), "audits", night.night, night.audit_id, columns)


def _audits(night: Night, crawl: Crawl, listings: Sequence[Listing], budget: Budget) -> AsyncIterator[Audit]:
    options = replace(crawl.read, registry=load_registry() if crawl.use_registry else None)
    return audit_models(
        listings,
        crawl.hub,
        options,
        concurrency=crawl.concurrency,
        learned=learned(crawl),
        budget=budget,
        shelf=shelf_of(night.store, night.audit_id),
    )


def _tell(crawl: Crawl, audited: int, hub_requests: int) -> None:
    """Log that models were audited, with what a progress line needs."""
    figures = {"audited": audited, "hub_requests": hub_requests, "quota": learned(crawl).pace.quota(FILES)}
    log.info("audited %d", audited, extra=figures)


def _plan_piece(plan: PlanWriter, chooser: Chooser, found: Sequence[Listing | Refusal], room: int) -> Counter[str]:
    """Add to the plan those of some listed repos that are to be audited, as far as there is room; return the counts."""
    shas = pa.array([item.sha if isinstance(item, Listing) else None for item in found], pa.string())
    choice = chooser.choose(pa.table({"repo_id": [item.repo_id for item in found], "sha": shas}))
    by_id = {item.repo_id: item for item in found}
    chosen = choice.audit.slice(0, room)
    items = [by_id[repo_id] for repo_id in chosen["repo_id"].to_pylist()]
    rows = rows_to_table([candidate_row(item) for item in items], CANDIDATES, "plan")
    plan.add(rows.append_column("why", chosen["why"]))
    expected = sum(map(requests_expected, items))
    return Counter(listed=len(found), unchanged=choice.unchanged, waiting=choice.waiting, requests_expected=expected)


def _wanted(crawl: Crawl) -> Iterator[Listing | Refusal]:
    """Yield every repo that the sources name, once, without those that opted out."""
    seen = Seen()
    for found in pieces(_listed(crawl), PIECE_REPOS):
        for position in seen.first_of([item.repo_id for item in found]):
            item = found[position]
            if not any(fnmatch.fnmatchcase(item.repo_id, pattern) for pattern in crawl.opt_out):
                yield item


def _listed(crawl: Crawl) -> Iterator[Listing | Refusal]:
    yield from describe_repos(crawl.repos, crawl.hub, learned(crawl))
    for query in crawl.queries:
        yield from list_models(crawl.hub, query, learned(crawl))
