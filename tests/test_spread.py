"""How a night's batches are shared out, within its budget, to whoever works on them; without Prefect's server."""

import asyncio
import json
import sys
from collections import Counter
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.batches import Portion, batches, progress_in
from flows.engine import EngineError
from flows.hands import Done, OnWorker
from flows.settings import NightlySettings, SettingsError
from flows.spread import audit_open_batches, share_out, task_runner_of
from storage.errors import StoreError
from storage.lease import hold_lease
from storage.parts import finished_batches
from storage.store import LEASE, open_store
from tasks import night as stages
from tasks import steps
from tasks.batch import Budget
from tasks.core.records import Cost
from tests.nights import PLENTY, TODAY, audited

COST = Cost(hub_requests=10, bytes_read=100)  # of each batch


@dataclass(eq=False)
class Worker:
    """A hand that takes so many batches at a time, and leaves all but the first so many of them undone."""

    takes: int
    does: int
    log: list
    is_ready: bool = True

    def most(self, waiting):
        return self.takes

    async def work(self, numbers, budget):
        await asyncio.sleep(0)
        done = numbers[: self.does]
        self.log += [(self, number, budget) for number in done]
        self.is_ready = bool(done)
        return Done(done, replace(COST, hub_requests=10 * len(done), bytes_read=100 * len(done)))


def shared_out(count, crew, budget=None):
    """Share batches out; return what is left of the budget."""
    left = budget or Budget(*PLENTY)
    asyncio.run(share_out(range(count), left, crew))
    return left


@given(st.integers(0, 40), st.lists(st.tuples(st.integers(1, 15), st.integers(0, 15)), max_size=5))
def test_every_batch_is_done_once_whatever_the_others_leave_undone(count, others):
    log = []
    shared_out(count, [Worker(1, 1, log), *(Worker(takes, does, log) for takes, does in others)])
    assert sorted(number for _, number, _ in log) == list(range(count))


@given(st.integers(0, 40), st.integers(1, 5))
def test_what_a_crew_spends_is_what_the_budget_lacks_in_the_end(count, workers):
    left = shared_out(count, [Worker(3, 2, []) for _ in range(workers)], Budget(10_000, 10_000))
    assert (left.hub_requests, left.bytes_read) == (10_000 - 10 * count, 10_000 - 100 * count)


def test_all_work_at_the_same_time():
    log = []
    crew = [Worker(1, 1, log) for _ in range(3)]
    shared_out(9, crew)
    assert Counter(worker for worker, _, _ in log) == {worker: 3 for worker in crew}


def test_those_who_work_at_the_same_time_hold_no_more_than_the_budget():
    log = []
    shared_out(3, [Worker(1, 1, log) for _ in range(3)], Budget(100, 1_000))
    assert [(budget.hub_requests, budget.bytes_read) for _, _, budget in log] == [(34, 334), (33, 333), (33, 333)]


def test_once_the_budget_is_spent_the_first_alone_goes_through_the_rest():
    log = []
    crew = [Worker(1, 1, log) for _ in range(3)]
    shared_out(20, crew, Budget(90, 10_000))
    spent = [(worker, budget) for worker, _, budget in log if budget.is_spent]
    assert {worker for worker, _ in spent} == {crew[0]}
    assert len(spent) == 20 - 9


def test_who_cannot_go_on_ends_the_work_of_all_and_says_why():
    class Failing(Worker):
        async def work(self, numbers, budget):
            raise StoreError("the disk is full")

    class Endless(Worker):
        async def work(self, numbers, budget):
            try:
                await asyncio.Event().wait()
            finally:
                self.log.append("stopped")

    log = []
    with pytest.raises(StoreError, match="the disk is full"):
        shared_out(9, [Failing(1, 1, log), Endless(1, 1, log)])
    assert log == ["stopped"]


def test_further_workers_get_an_even_share_of_what_waits():
    worker = OnWorker(None, None, "", crew=3, with_token=False)
    assert [worker.most(waiting) for waiting in (1, 2, 30, 31, 10**6)] == [1, 1, 10, 11, 10_000]


@pytest.fixture
def settings(own_hub, location):
    limits = {"batch_models": 2, "concurrency": 1, "retries": 0}
    given = {"endpoint": own_hub.endpoint, "store": location, "sources": [{"top": 100}], "limits": limits}
    return NightlySettings.model_validate(given)


@pytest.fixture
def planned(crawl, location, monkeypatch):
    """A night of six models in three batches, planned; its tasks are plain functions."""
    monkeypatch.setattr(steps, "audit", steps.audit.fn)
    night = stages.begin_night(location, TODAY)
    stages.plan_night(night, crawl)
    return night


def test_a_nights_budget_is_spent_once(planned, settings, location):
    limits = settings.limits.model_copy(update={"requests": 4})
    with hold_lease(open_store(location), "a night") as lease:
        asyncio.run(audit_open_batches(planned, settings.model_copy(update={"limits": limits}), None, lease))
    assert len(audited(location, planned)) == 4  # each model takes one request
    assert not stages.open_batches(planned)


def test_a_night_that_has_lost_its_lease_audits_nothing_more(planned, settings, location):
    with hold_lease(open_store(location), "a night") as lease:
        open_store(location).place.remove(LEASE)  # as if it had expired, and another night had come and gone
        with pytest.raises(StoreError, match="has lost its lease"):
            asyncio.run(audit_open_batches(planned, settings, None, lease))
    assert len(stages.open_batches(planned)) == 3


@dataclass
class Run:
    """A run of the deployment for further workers, on a store whose lease is held."""

    settings: NightlySettings
    portion: Portion

    def state(self, **changes):
        return asyncio.run(batches.fn(self.settings.for_a_worker, replace(self.portion, **changes)))


@pytest.fixture
def run(planned, settings, location):
    with hold_lease(open_store(location), "a night") as lease:
        portion = Portion(TODAY, planned.audit_id, (0, 1), *PLENTY, lease.holder.token, False, "nights/beat")
        yield Run(settings, portion)


def test_a_worker_audits_its_batches_and_tells_how_far_it_is(run, planned, location):
    assert run.state().message == "2 of 2 batches"
    assert len(audited(location, planned)) == 4
    assert stages.open_batches(planned) == [2]
    told = progress_in(open_store(location).place.read("nights/beat"))
    assert (told.audited, told.cost.hub_requests) == (4, 4)


def test_a_worker_whose_budget_is_spent_leaves_the_other_batches_open(run, planned):
    assert run.state(hub_requests=2).message == "1 of 2 batches"
    assert stages.open_batches(planned) == [1, 2]


def test_a_worker_stops_when_the_night_has_ended_or_another_has_taken_it_over(run, planned):
    assert run.state(lease="that of a night which was killed").message == "0 of 2 batches"
    assert stages.open_batches(planned) == [0, 1, 2]


def test_a_worker_without_the_nights_token_says_so_and_does_nothing(run, planned, location):
    with pytest.raises(SettingsError, match="HF_TOKEN must be the same on every machine"):
        run.state(with_token=True)
    assert not finished_batches(open_store(location), TODAY, planned.audit_id)


def test_what_a_worker_gets_is_small_holds_no_token_and_says_how_to_audit(monkeypatch, settings):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    many = settings.model_copy(update={"opt_out": tuple(f"org/{n}" for n in range(10_000))})
    sent = many.for_a_worker.model_dump_json()
    assert len(sent) < 1_000
    assert "hf_secret" not in sent
    assert json.loads(sent).items() >= {"endpoint": settings.endpoint, "store": settings.store_location}.items()


@pytest.mark.parametrize(("runner", "address"), [("dask", "tcp://host:8786"), ("ray", "ray://host:10001")])
def test_a_runner_whose_extra_is_missing_is_named_with_what_to_install(monkeypatch, settings, runner, address):
    monkeypatch.setitem(sys.modules, f"prefect_{runner}.task_runners", None)
    chosen = settings.model_copy(update={"runner": runner, "scheduler": address})
    with pytest.raises(EngineError, match=rf"normaudit\[{runner}\]"):
        task_runner_of(chosen)
