"""The flow that a further crawl worker runs: some batches of a night, as another process shares them out."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from typing import Any
from uuid import uuid4

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.crawl import batch_crawl_of
from flows.sending import beating
from flows.settings import AuditSettings, SettingsError
from storage.lease import lease_holder
from storage.store import Store, open_store
from tasks import steps
from tasks.batch import Budget
from tasks.core.records import Cost
from tasks.night import Crawl, Night


@dataclass(frozen=True, slots=True)
class Portion:
    """Some batches of a night, for one run.

    Attributes:
        night: its date.
        audit_id: names the night's parts.
        batches: their numbers.
        hub_requests: when so many are made, no further model is begun.
        bytes_read: when so many are read, no further model is begun.
        lease: token of the store's lease under which the night goes on; under another these batches are not ours.
        with_token: the night asks with a token, so this run must have one too.
        beat_file: name in the store of the file to rewrite, with the progress so far.
    """

    night: date
    audit_id: str
    batches: tuple[int, ...]
    hub_requests: int
    bytes_read: int
    lease: str
    with_token: bool
    beat_file: str


@dataclass(slots=True)
class Progress:
    """How far a run is with its portion."""

    audited: int = 0
    cost: Cost = field(default_factory=Cost)

    def sign(self) -> bytes:
        """Return it as a sign of life, which differs from the one before."""
        return json.dumps({**asdict(self), "beat": uuid4().hex}).encode()


def progress_in(sign: bytes | None) -> Progress:
    """Return what a sign of life tells; None: there was none yet."""
    if sign is None:
        return Progress()
    told = json.loads(sign)
    return Progress(told["audited"], Cost(**told["cost"]))


@flow(name="batches", flow_run_name="{portion.audit_id}", persist_result=False)
async def batches(settings: AuditSettings, portion: Portion) -> State[Any]:
    """Audit batches of a night until they are done, their budget is spent, or the night no longer goes on.

    Raises:
        SettingsError: this process lacks the token that the night has.
        StoreError: the store cannot be read or written.
    """
    crawl, store = _crawl_of(settings, portion), open_store(settings.store_location)
    night = Night(settings.store_location, portion.night, portion.audit_id, is_planned=True)
    budget, progress, done = Budget(portion.hub_requests, portion.bytes_read), Progress(), 0
    with beating(store, portion.beat_file, progress.sign):
        for batch in portion.batches:
            if budget.is_spent or not _goes_on(store, portion):
                break
            report = await steps.audit(night, crawl, batch, replace(budget))
            budget.spend(report.cost)
            progress.audited += sum(report.statuses.values())
            progress.cost += report.cost
            done += 1
    return Completed(message=f"{done} of {len(portion.batches)} batches")


def _crawl_of(settings: AuditSettings, portion: Portion) -> Crawl:
    crawl = batch_crawl_of(settings)
    if (crawl.hub.token is not None) != portion.with_token:
        has = "a token, and this worker has none" if portion.with_token else "no token, and this worker has one"
        raise SettingsError(f"the night asks the Hub with {has}; HF_TOKEN must be the same on every machine")
    return crawl


def _goes_on(store: Store, portion: Portion) -> bool:
    holder = lease_holder(store)
    return holder is not None and holder.token == portion.lease
