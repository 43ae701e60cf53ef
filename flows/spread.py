"""A night's batches, spread over whoever the settings name; what is done is told by the store alone."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from prefect.task_runners import TaskRunner

from flows.crawl import batch_crawl_of
from flows.deploying import BATCHES, CRAWL_POOL
from flows.engine import EngineError
from flows.hands import Done, Hand, Here, OnScheduler, OnWorker
from flows.sending import reached, worker_is_online
from flows.settings import NightlySettings
from storage.lease import Lease
from storage.store import open_store
from tasks.batch import Budget
from tasks.night import Night, open_batches, remaining_budget

log = logging.getLogger("normaudit")


def task_runner_of(settings: NightlySettings) -> TaskRunner[Any] | None:
    """Return the Prefect task runner of the settings, not connected yet; None where they name no scheduler.

    Raises:
        EngineError: the extra that it comes with is not installed.
    """
    runner: TaskRunner[Any] | None = None
    try:
        if settings.runner == "dask":
            from prefect_dask.task_runners import DaskTaskRunner

            runner = DaskTaskRunner(address=settings.scheduler)
        elif settings.runner == "ray":
            from prefect_ray.task_runners import RayTaskRunner

            quiet = {"logging_level": "ERROR", "log_to_driver": False}
            runner = RayTaskRunner(address=settings.scheduler, init_kwargs=quiet)
    except ImportError as error:
        raise EngineError(
            f'runner = "{settings.runner}" needs an extra: pip install "normaudit[{settings.runner}]" ({error})'
        ) from error
    return runner


async def audit_open_batches(
    night: Night, settings: NightlySettings, runner: TaskRunner[Any] | None, lease: Lease
) -> None:
    """Have every planned batch that is not done audited, within the night's budget.

    Args:
        night: the night.
        settings: of it.
        runner: as `task_runner_of` gave it.
        lease: under which the store is held.

    Raises:
        EngineError: the scheduler does not answer, or loses a batch.
        StoreError: the store cannot be read or written, or the lease is lost.
    """
    budget = remaining_budget(night, settings.limits.requests, settings.limits.bytes)
    if batches := open_batches(night):
        with crew_of(night, await _within_reach(settings), runner, lease.holder.token) as crew:
            await share_out(batches, budget, crew, lease.check)


async def _within_reach(settings: NightlySettings) -> NightlySettings:
    """Return the settings, for this process alone where they ask for crawl workers and there is none."""
    if settings.runner != "workers" or await reached(lambda client: worker_is_online(client, BATCHES)):
        return settings
    log.warning(
        'runner = "workers", and no worker serves the deployment %s (%s): this process audits alone.'
        " Start workers of pool %s, and name their server with PREFECT_API_URL",
        BATCHES, os.environ.get("PREFECT_API_URL", "of this night's own server"), CRAWL_POOL,
    )  # fmt: skip
    return settings.model_copy(update={"runner": "threads"})


@contextmanager
def crew_of(
    night: Night, settings: NightlySettings, runner: TaskRunner[Any] | None, lease: str
) -> Iterator[Sequence[Hand]]:
    """Yield who is to audit."""
    crawl, workers = batch_crawl_of(settings), settings.limits.workers
    if runner is not None:
        there = replace(night, store=str(open_store(night.store).location))  # its processes stand in other folders
        with _connected(runner, settings):
            yield [OnScheduler(runner, there, crawl) for _ in range(workers)]
        return
    crew: list[Hand] = [Here(night, crawl)]
    if settings.runner == "workers":
        has_token = crawl.hub.token is not None
        crew += [OnWorker(night, settings.for_a_worker, lease, workers, has_token) for _ in range(workers - 1)]
    yield crew


async def share_out(
    batches: Sequence[int], budget: Budget, crew: Sequence[Hand], check: Callable[[], None] = lambda: None
) -> None:
    """Keep a crew at work until all batches are done; what one leaves undone goes to whoever is free.

    Each gets an even part of the budget that nobody holds, and what it leaves of that comes back. Once all is spent,
    the first of the crew goes through the rest alone, which marks it as done: its models wait for another night.

    Args:
        batches: their numbers, in the order of their turns.
        budget: what all of them may cost together; at the end, what is left of it.
        crew: who works; the first is always ready.
        check: raises where the night may not go on.

    Raises:
        Exception: as a hand's `work`; the others are then told to stop.
    """
    waiting, at_work = list(batches), dict[asyncio.Task[Done], _Shift]()
    try:
        while waiting or at_work:
            check()
            while shift := _next_shift(waiting, budget, crew, at_work.values()):
                at_work[asyncio.create_task(shift.work())] = shift
            ended, _ = await asyncio.wait(at_work, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                shift, done = at_work.pop(task), task.result()
                _move(budget, shift.purse, +1)
                budget.spend(done.cost)
                if left := {*shift.batches}.difference(done.batches):
                    waiting = sorted({*waiting, *left})
    finally:
        for task in at_work:
            task.cancel()
        await asyncio.gather(*at_work, return_exceptions=True)


@dataclass(frozen=True, slots=True, eq=False)
class _Shift:
    """What one hand is at: batches, and the part of the budget that it holds."""

    hand: Hand
    batches: Sequence[int]
    purse: Budget

    async def work(self) -> Done:
        return await self.hand.work(self.batches, replace(self.purse))  # auditing takes off what each model costs


def _next_shift(waiting: list[int], budget: Budget, crew: Sequence[Hand], at_work: Collection[_Shift]) -> _Shift | None:
    """Take batches and a part of the budget for the first who is free; None: nobody is, or there is nothing to do."""
    busy = {id(shift.hand) for shift in at_work}
    free = [hand for hand in crew if hand.is_ready and id(hand) not in busy]
    if not waiting or not free or (budget.is_spent and at_work):
        return None
    count = free[0].most(len(waiting))
    shift = _Shift(free[0], waiting[:count], _part(budget, len(free)))
    del waiting[:count]
    _move(budget, shift.purse, -1)
    return shift


def _part(budget: Budget, parts: int) -> Budget:
    """Return one of so many parts, rounded up: a part of nothing would leave a batch's models out."""
    return Budget(-(-budget.hub_requests // parts), -(-budget.bytes_read // parts))


def _move(budget: Budget, purse: Budget, sign: int) -> None:
    """Put a purse into the budget, or with sign -1 take it out."""
    budget.hub_requests += sign * purse.hub_requests
    budget.bytes_read += sign * purse.bytes_read


@contextmanager
def _connected(runner: TaskRunner[Any], settings: NightlySettings) -> Iterator[None]:
    """Keep the connection to a scheduler for the length of a block."""
    with ExitStack() as ends:
        try:
            ends.enter_context(runner)
            getattr(runner, "client", None)  # Dask's runner connects only when asked for this
        except (OSError, ValueError) as error:  # the second: no such address can be
            raise EngineError(
                f"{settings.runner}: nobody answers at {settings.scheduler} ({error}); start the scheduler,"
                " or correct the setting scheduler"
            ) from error
        yield
