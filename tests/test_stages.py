"""The stages of a night on real sockets and a real store, without Prefect: each may be killed and run again."""

import asyncio
import functools
import json
from dataclasses import replace
from datetime import UTC, date, datetime

import pyarrow.parquet as pq
import pytest

from deployments.demo.catalogue import BytesContent, StandInRepo
from deployments.demo.standin import StandIn
from flows.crawl import crawl_of
from flows.settings import NightlySettings
from storage.errors import StoreError
from storage.nights import night_summaries, read_plan, unfinished_nights
from storage.parts import live_parts, read_columns
from storage.store import open_store
from tasks import night as stages
from tasks.batch import Budget
from tasks.core.records import Audit, Listing, Reading
from tasks.core.rows import Stamp
from tasks.storing import store_audits
from tests.checkpoints import GPT2_CONFIG, LLAMA_CONFIG, gpt2, llama, safetensors_file

TODAY, TOMORROW = date(2026, 3, 1), date(2026, 3, 2)
PLENTY = (10**9, 10**12)


def repo(name, tensors, config, **facts):
    files = {
        "model.safetensors": BytesContent(safetensors_file(tensors)),
        "config.json": BytesContent(json.dumps(config).encode()),
    }
    return StandInRepo(name, files, **facts)


def repos(count=6):
    return [
        repo(f"org/gpt2-{i}", gpt2(seed=i), GPT2_CONFIG, downloads=100 - i)
        if i % 2
        else repo(f"org/llama-{i}", llama(seed=i), LLAMA_CONFIG, downloads=100 - i)
        for i in range(count)
    ]


@pytest.fixture
def hub(own_home):
    with StandIn(repos()) as running:
        yield running


@pytest.fixture
def crawl(hub):
    return crawl_with(hub, sources=({"top": 100},))


def crawl_with(hub, **settings):
    limits = {"batch_models": 2, "concurrency": 4, "retries": 1, **settings.pop("limits", {})}
    return crawl_of(NightlySettings.model_validate({"endpoint": hub.endpoint, "limits": limits, **settings}))


@pytest.fixture
def store(tmp_path):
    return str(tmp_path / "store")


def run_night(store, crawl, today=TODAY, batches=None, budget=PLENTY):
    """Run a night's stages up to its end, or only some of its batches; return the night."""
    night = stages.begin_night(store, today)
    if not night.is_planned:
        stages.plan_night(night, crawl)
    for batch in stages.open_batches(night)[:batches]:
        asyncio.run(stages.audit_batch(night, crawl, batch, stages.remaining_budget(night, *budget)))
    if batches is None:
        stages.end_night(night, stages.summarise(night))
    return night


def audited(store, night, *columns):
    rows = read_columns(
        open_store(store), "audits", night.night, night.audit_id, columns or ("repo_id", "status")
    ).to_pylist()
    return sorted(tuple(row.values()) for row in rows)


def data_requests(hub):
    return [request for request in hub.requests if "/api/models" not in request.path]


def test_a_night_audits_every_listed_model_in_batches(hub, crawl, store):
    night = run_night(store, crawl)
    assert audited(store, night) == [(name, "ok") for name in sorted(hub.repos)]
    assert sorted(set(read_plan(open_store(store), TODAY)["batch"].to_pylist())) == [0, 1, 2]
    [summary] = night_summaries(open_store(store))
    assert (summary["listed"], summary["audited"], summary["statuses"]) == (6, 6, {"ok": 6})
    assert summary["hub_requests"] == 6


def test_no_request_is_made_per_model_before_its_first_range(hub, crawl, store):
    run_night(store, crawl)
    assert [request.path for request in hub.requests if request.path.startswith("/api/")] == ["/api/models"]


def test_an_unchanged_night_costs_one_listing_page_and_no_range_request(hub, crawl, store):
    run_night(store, crawl)
    hub.clear()
    run_night(store, crawl, TOMORROW)
    assert [request.path for request in hub.requests] == ["/api/models"]
    assert night_summaries(open_store(store))[-1]["unchanged"] == 6


def test_only_what_has_a_new_commit_is_audited_again(hub, crawl, store):
    run_night(store, crawl)
    hub.repos["org/gpt2-1"] = repo("org/gpt2-1", gpt2(seed=99), GPT2_CONFIG, sha="f" * 40)
    assert audited(store, run_night(store, crawl, TOMORROW)) == [("org/gpt2-1", "ok")]


def test_an_interrupted_night_goes_on_from_its_plan_also_past_midnight_and_repeats_no_batch(hub, crawl, store):
    first = run_night(store, crawl, batches=2)
    assert unfinished_nights(open_store(store)) == [TODAY]
    hub.clear()
    second = run_night(store, crawl, TOMORROW)
    assert (second.night, second.audit_id, second.is_planned) == (TODAY, first.audit_id, True)
    assert len({request.repo_id for request in data_requests(hub)} - {None}) == 2
    assert not [request for request in hub.requests if request.path.startswith("/api/")]
    assert audited(store, second) == [(name, "ok") for name in sorted(hub.repos)]
    assert unfinished_nights(open_store(store)) == []


def test_a_batch_killed_before_its_marker_is_done_again(hub, crawl, store):
    night = run_night(store, crawl, batches=1)
    place = open_store(store).place
    [marker] = live_parts(open_store(store), "audits")
    place.remove(marker)
    assert stages.open_batches(night) == [0, 1, 2]
    assert audited(store, run_night(store, crawl)) == [(name, "ok") for name in sorted(hub.repos)]


def test_a_finished_nights_parts_are_merged_to_one_a_table(hub, crawl, store):
    run_night(store, crawl)
    for table in ("audits", "norms", "kernels", "evidence"):
        assert len(live_parts(open_store(store), table)) == 1


def test_when_the_budget_is_spent_the_rest_waits_for_another_night(hub, crawl, store):
    night = run_night(store, replace(crawl, concurrency=1), budget=(3, 10**12))
    assert len(audited(store, night)) == 3
    rest = run_night(store, crawl, TOMORROW)
    assert len(audited(store, rest)) == 3
    assert {*audited(store, night), *audited(store, rest)} == {(name, "ok") for name in hub.repos}


def test_a_budget_knows_what_was_spent_before_a_restart(hub, crawl, store):
    night = run_night(store, crawl, batches=2)
    assert stages.remaining_budget(night, 10, 10**6).hub_requests == 10 - 4
    assert stages.remaining_budget(night, 10, 10**6).bytes_read < 10**6
    assert not Budget(1, 1).is_spent


def test_at_most_so_many_models_a_night(hub, store):
    crawl = crawl_with(hub, sources=({"top": 100},), limits={"models": 2})
    assert len(audited(store, run_night(store, crawl))) == 2
    assert len(audited(store, run_night(store, crawl, TOMORROW))) == 2


def test_the_most_downloaded_come_first(hub, store):
    crawl = crawl_with(hub, sources=({"top": 3, "sort": "downloads"},))
    assert audited(store, run_night(store, crawl), "repo_id") == [("org/gpt2-1",), ("org/llama-0",), ("org/llama-2",)]


def test_who_opted_out_is_neither_listed_nor_read(hub, store):
    crawl = crawl_with(hub, sources=({"top": 100},), opt_out=("org/gpt2-*", "org/llama-0"))
    assert audited(store, run_night(store, crawl), "repo_id") == [("org/llama-2",), ("org/llama-4",)]
    assert not [request for request in data_requests(hub) if "gpt2" in request.path]
    [listings] = live_parts(open_store(store), "listings")
    listed = pq.read_table(open_store(store).place.local_path(listings), partitioning=None)
    assert sorted(listed["repo_id"].to_pylist()) == ["org/llama-2", "org/llama-4"]


def test_a_repo_that_two_sources_name_is_audited_once(hub, store):
    crawl = crawl_with(hub, sources=({"top": 2}, {"repos": ["org/llama-0"]}, {"author": "org"}))
    assert len(audited(store, run_night(store, crawl))) == 6


def test_explicit_repos_that_are_not_there_are_answers_and_cost_one_request(hub, store):
    crawl = crawl_with(hub, sources=({"repos": ["org/llama-0", "org/nobody", "org/gpt2-1@no-such-branch"]},))
    night = run_night(store, crawl)
    assert audited(store, night) == [("org/gpt2-1", "not_found"), ("org/llama-0", "ok"), ("org/nobody", "not_found")]
    assert len([request for request in hub.requests if request.path.startswith("/api/")]) == 3
    hub.clear()
    run_night(store, crawl, TOMORROW)
    assert data_requests(hub) == []


def test_a_disabled_repo_is_an_answer_that_costs_no_request(hub, crawl, store):
    hub.repos["org/bad"] = repo("org/bad", gpt2(), GPT2_CONFIG, disabled=True)
    assert ("org/bad", "disabled") in audited(store, run_night(store, crawl))
    assert not [request for request in data_requests(hub) if "org/bad" in request.path]
    assert audited(store, run_night(store, crawl, TOMORROW)) == []


def test_all_norms_are_read_when_all_are_asked_for(hub, store):
    crawl = crawl_with(hub, sources=({"repos": ["org/gpt2-1"]},), norms="all")
    night = run_night(store, crawl)
    norms = read_columns(open_store(store), "norms", night.night, night.audit_id, ("gamma_rms",))
    assert len(norms) == 5
    assert norms["gamma_rms"].null_count == 0


def test_a_model_whose_rows_no_column_can_hold_costs_itself_alone(store):
    stamp = Stamp("run", TODAY, datetime(2026, 3, 1, tzinfo=UTC))
    strange = Reading("ok", None, "layernorm", checkpoint_bytes=2**64)
    deep = Reading("ok", None, "layernorm", config=functools.reduce(lambda inner, _: [inner], range(1000), []))
    audits = [Audit(Listing(f"org/{name}", "0" * 40), reading) for name, reading in
              (("huge", strange), ("deep", deep), ("sound", Reading("no_norms", None, "none")))]  # fmt: skip
    stored = store_audits(open_store(store), stamp, 0, audits)
    assert [audit.reading.status for audit in stored] == ["failed", "failed", "no_norms"]
    rows = read_columns(open_store(store), "audits", TODAY, "run", ("repo_id", "status", "reason")).to_pylist()
    assert {row["repo_id"]: row["status"] for row in rows} == {
        "org/huge": "failed",
        "org/deep": "failed",
        "org/sound": "no_norms",
    }
    assert all(row["reason"] is None or row["repo_id"] in row["reason"] for row in rows)


def test_a_store_that_cannot_be_written_is_no_models_fault(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "parts").write_text("in the way")
    with pytest.raises(StoreError):
        store_audits(
            open_store(tmp_path / "store"),
            Stamp("run", TODAY, datetime(2026, 3, 1, tzinfo=UTC)),
            0,
            [Audit(Listing("org/a"), Reading("no_norms", None, "none"))],
        )


def test_an_empty_listing_is_a_night_with_nothing_to_do(own_home, store):
    with StandIn([]) as hub:
        crawl = crawl_with(hub, sources=({"top": 10},))
        assert audited(store, run_night(store, crawl)) == []
    assert night_summaries(open_store(store))[0]["listed"] == 0
