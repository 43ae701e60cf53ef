"""Auditing many models at once: the concurrency, the night's budget, and what becomes of an audit that fails.

All of a batch shares one event loop and one HTTP session; the limiter is shared by the process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from tasks.core.errors import AuditError, defect
from tasks.core.reading import ReadOptions, read_checkpoint, recognise_or_read, share, unreadable
from tasks.core.records import Audit, Cost, Listing, Reading, Status
from tasks.core.sharing import Twin
from tasks.hub import Hub, HubOptions, Learned, Meter
from tasks.shelf import Shelf

DESCRIBED_AT_ONCE = 16  # requests to the Hub's API, of which a free token has 1,000 in 5 minutes


@dataclass(slots=True)
class Budget:
    """What a night may still cost; models that it no longer covers wait for the next night.

    Attributes:
        hub_requests: requests to the Hub that are left.
        bytes_read: bytes that are left.
    """

    hub_requests: int
    bytes_read: int

    def spend(self, cost: Cost) -> None:
        """Take off what one model has cost."""
        self.hub_requests -= cost.hub_requests
        self.bytes_read -= cost.bytes_read

    @property
    def is_spent(self) -> bool:
        """Whether nothing is left of one of the two."""
        return self.hub_requests <= 0 or self.bytes_read <= 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """A repo that the Hub does not describe, and why."""

    repo_id: str
    status: Status
    reason: str


async def audit_models(
    listings: Iterable[Listing],
    hub_options: HubOptions,
    read_options: ReadOptions,
    *,
    concurrency: int,
    learned: Learned | None = None,
    budget: Budget | None = None,
    shelf: Shelf | None = None,
) -> AsyncIterator[Audit]:
    """Yield an audit of every listing, as they are done; a model that cannot be read is an audit that says why.

    Args:
        listings: what to audit; drawn from as models are begun.
        hub_options: how to talk to the Hub.
        read_options: what to read of each model.
        concurrency: models in flight.
        learned: what this process knows of the Hub's pace and CDN; new when None.
        budget: when it is spent, no further model is begun.
        shelf: what need not be read again; empty when None.
    """
    shelf = shelf or Shelf()
    waiting, done = iter(listings), asyncio.Queue[Audit | None]()
    async with Hub(hub_options, learned or Learned()) as hub, asyncio.TaskGroup() as group:
        crew = [group.create_task(_work(hub, waiting, read_options, shelf, budget, done)) for _ in range(concurrency)]
        working = len(crew)
        while working:
            if (audit := await done.get()) is None:
                working -= 1
            else:
                yield audit


def describe_repos(
    repos: Sequence[tuple[str, str | None]], options: HubOptions, learned: Learned
) -> list[Listing | Refusal]:
    """Return what the Hub says of each repo at its revision, in the order given; one request each."""
    return asyncio.run(_describe_all(repos, options, learned)) if repos else []


async def _describe_all(
    repos: Sequence[tuple[str, str | None]], options: HubOptions, learned: Learned
) -> list[Listing | Refusal]:
    room = asyncio.Semaphore(DESCRIBED_AT_ONCE)

    async def describe(hub: Hub, repo_id: str, revision: str | None) -> Listing | Refusal:
        async with room:
            try:
                return await hub.describe(repo_id, revision)
            except AuditError as error:
                return Refusal(repo_id, error.status, str(error))

    async with Hub(options, learned) as hub:
        return list(await asyncio.gather(*(describe(hub, *repo) for repo in repos)))


async def audit_repos(
    repos: Sequence[tuple[str, str | None]], hub_options: HubOptions, read_options: ReadOptions
) -> AsyncGenerator[Audit]:
    """Yield an audit of each repo at its revision (None: the head), in the order given."""
    room, shelf = asyncio.Semaphore(DESCRIBED_AT_ONCE), Shelf()

    async def audit(hub: Hub, repo_id: str, revision: str | None) -> Audit:
        meter = Meter()
        async with room:
            try:
                listing = await hub.describe(repo_id, revision, meter)
            except AuditError as error:
                return Audit(Listing(repo_id), unreadable(error, Listing(repo_id)), meter.cost(0.0))
            return await audit_model(hub, listing, read_options, shelf, meter)

    async with Hub(hub_options) as hub:
        begun = [asyncio.create_task(audit(hub, *repo)) for repo in repos]
        try:
            for task in begun:
                yield await task
        finally:  # also where nobody waits for the rest
            for task in begun:
                task.cancel()
            await asyncio.gather(*begun, return_exceptions=True)


async def audit_model(
    hub: Hub, listing: Listing, options: ReadOptions, shelf: Shelf | None = None, meter: Meter | None = None
) -> Audit:
    """Return the audit of one model; whatever goes wrong with it is the audit's status and reason."""
    started, meter, shared_from = time.monotonic(), meter or Meter(), None
    try:
        reading, shared_from = await _read(hub, listing, options, shelf or Shelf(), meter)
    except AuditError as error:
        reading = unreadable(error, listing)
    except Exception as error:  # a defect of ours must cost this model alone; the reason names it
        reading = unreadable(defect(error, listing.repo_id), listing)
    cost = meter.cost(time.monotonic() - started)
    return Audit(listing, reading, cost, shared_from, audited_at=datetime.now(UTC))


async def _read(
    hub: Hub, listing: Listing, options: ReadOptions, shelf: Shelf, meter: Meter
) -> tuple[Reading, str | None]:
    """Return the reading of a model, and the other repo whose identical weights were read for it, if any."""
    found = await hub.follow(listing, recognise_or_read(listing, options, shelf.memory, shelf), meter)
    if isinstance(found, Twin):
        kept = await shelf.find(found.sha256)
        reading = await hub.follow(listing, share(listing, kept, options), meter) if kept else None
        if kept and reading:
            source = kept.repo_id if kept.repo_id != listing.repo_id else None  # an earlier commit of its own
            return replace(reading, weights_sha256=found.sha256), source
        found = await hub.follow(listing, read_checkpoint(listing, options, shelf.memory), meter)
    shelf.keep(listing, found)
    return found, None


async def _work(
    hub: Hub,
    waiting: Iterator[Listing],
    options: ReadOptions,
    shelf: Shelf,
    budget: Budget | None,
    done: asyncio.Queue[Audit | None],
) -> None:
    """Audit one listing after another until there is none left, or no budget."""
    try:
        while not (budget and budget.is_spent) and (listing := next(waiting, None)) is not None:
            audit = await audit_model(hub, listing, options, shelf)
            if budget:
                budget.spend(audit.cost)
            done.put_nowait(audit)
    finally:
        done.put_nowait(None)
