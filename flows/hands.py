"""Who audits a night's batches: this process, a task of a Dask or Ray scheduler, a run on a further crawl worker."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol
from uuid import uuid4

import httpx
from prefect.client.schemas.objects import StateType
from prefect.exceptions import PrefectException
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner

from flows.batches import Portion, Progress, progress_in
from flows.deploying import BATCHES
from flows.engine import EngineError
from flows.sending import end_of, send_run
from flows.settings import AuditSettings
from storage.errors import StoreError
from storage.parts import finished_batches
from storage.store import night_file, open_store
from tasks import steps
from tasks.batch import Budget
from tasks.core.records import Cost
from tasks.night import BatchReport, Crawl, Night

MOST_BATCHES = 10_000  # a run, whose parameters must stay below Prefect's 512 kB
TAKEN_WITHIN_S = 60.0  # a worker with nothing else to do takes a run within 15 s
REST_S = 600.0  # after a run that nobody took, or that ended badly

log = logging.getLogger("normaudit")


@dataclass(frozen=True, slots=True)
class Done:
    """What came of some batches: those that are done, and what all of them cost."""

    batches: Collection[int]
    cost: Cost


class Hand(Protocol):
    """Somebody who audits one portion of a night's batches at a time."""

    @property
    def is_ready(self) -> bool:
        """Whether to give it work now, if it has none."""

    def most(self, waiting: int) -> int:
        """Return how many of so many waiting batches it should get."""

    async def work(self, batches: Sequence[int], budget: Budget) -> Done:
        """Audit batches within a budget.

        Raises:
            StoreError: the store cannot be read or written.
        """


@dataclass(frozen=True, slots=True)
class Here:
    """This process, which audits one batch after the other, the concurrency within it."""

    night: Night
    crawl: Crawl
    is_ready: bool = field(default=True, init=False)

    def most(self, waiting: int) -> int:
        """Return 1: to come back for the next costs nothing."""
        return 1

    async def work(self, batches: Sequence[int], budget: Budget) -> Done:
        """Audit a batch."""
        [batch] = batches
        report = await steps.audit(self.night, self.crawl, batch, budget)
        return Done(batches, report.cost)


@dataclass(frozen=True, slots=True)
class OnScheduler:
    """One task at a time on a scheduler, which runs it anew by itself when the task's process dies."""

    runner: TaskRunner[Any]
    night: Night
    crawl: Crawl
    is_ready: bool = field(default=True, init=False)

    def most(self, waiting: int) -> int:
        """Return 1: a task costs less than a tenth of a second."""
        return 1

    async def work(self, batches: Sequence[int], budget: Budget) -> Done:
        """Have a batch audited.

        Raises:
            EngineError: the scheduler is gone, or a process of it died several times over this batch.
        """
        [batch] = batches
        given = {"night": self.night, "crawl": self.crawl, "batch": batch, "budget": budget}
        report = await self._report(self.runner.submit(steps.audit, given), batch)
        _tell(sum(report.statuses.values()), report.cost.hub_requests)
        return Done(batches, report.cost)

    async def _report(self, future: PrefectFuture[BatchReport], batch: int) -> BatchReport:
        ended, loop = asyncio.Event(), asyncio.get_running_loop()

        def tell(_: PrefectFuture[BatchReport]) -> None:  # in a thread of the scheduler's client
            loop.call_soon_threadsafe(ended.set)

        future.add_done_callback(tell)
        await ended.wait()
        try:
            return future.result()
        except StoreError:
            raise
        except (Exception, asyncio.CancelledError) as error:  # the second: Dask's word for a scheduler that is gone
            raise EngineError(f"batch {batch}: lost by the scheduler of the runner: {error!r}") from error


@dataclass(slots=True)
class OnWorker:
    """A run on a further crawl worker, with many batches, since to begin one takes ten seconds.

    Attributes:
        night: the night.
        settings: what the worker gets of them.
        lease: token of the lease under which the night goes on.
        crew: how many share the batches.
        with_token: whether the night asks with a token.
    """

    night: Night
    settings: AuditSettings
    lease: str
    crew: int
    with_token: bool
    rests_until: float = field(default=0.0, init=False)

    @property
    def is_ready(self) -> bool:
        """Whether its last run ended well, or a while ago."""
        return time.monotonic() >= self.rests_until

    def most(self, waiting: int) -> int:
        """Return an even share; what the others need longer for comes back in ever smaller ones."""
        return min(MOST_BATCHES, math.ceil(waiting / self.crew))

    async def work(self, batches: Sequence[int], budget: Budget) -> Done:
        """Have batches audited; those that the worker does not get to are not done."""
        portion, progress = self._portion(batches, budget), Progress()

        def heard(sign: bytes | None) -> None:
            nonlocal progress
            before, progress = progress, progress_in(sign)
            _tell(progress.audited - before.audited, progress.cost.hub_requests - before.cost.hub_requests)

        store = open_store(self.night.store)
        try:
            parameters = {"settings": self.settings.model_dump(mode="json"), "portion": asdict(portion)}
            run_id = await send_run(BATCHES, parameters, portion.beat_file)
            state = await end_of(run_id, store, portion.beat_file, TAKEN_WITHIN_S, heard)
            ended = None if state.type == StateType.COMPLETED else f"{state.name}, {state.message}"
        except (PrefectException, httpx.HTTPError) as error:
            ended = repr(error)
        if ended:
            self.rests_until = time.monotonic() + REST_S
            log.warning("a run of %s for %d batches: %s; the others take them over", BATCHES, len(batches), ended)
        store.place.remove(portion.beat_file)
        return Done(finished_batches(store, self.night.night, self.night.audit_id) & {*batches}, progress.cost)

    def _portion(self, batches: Sequence[int], budget: Budget) -> Portion:
        return Portion(
            night=self.night.night,
            audit_id=self.night.audit_id,
            batches=tuple(batches),
            hub_requests=budget.hub_requests,
            bytes_read=budget.bytes_read,
            lease=self.lease,
            with_token=self.with_token,
            beat_file=night_file(self.night.night, f"batches-{uuid4().hex}.beat"),
        )


def _tell(audited: int, hub_requests: int) -> None:
    """Log that models were audited elsewhere, with what a progress line needs."""
    figures = {"audited": audited, "hub_requests": hub_requests, "quota": None}
    log.info("audited %d", audited, extra=figures)
