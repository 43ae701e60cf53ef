"""The stages of a night on real sockets and a real store, without Prefect: each may be killed and run again."""

import functools
from dataclasses import replace
from datetime import UTC, datetime

import pyarrow.parquet as pq
import pytest

from deployments.demo.standin import StandIn
from storage.errors import StoreError
from storage.nights import night_summaries, plan_facts, read_plan, unfinished_nights
from storage.parts import live_parts, read_columns
from storage.store import open_store
from tasks import night as stages
from tasks.batch import Budget
from tasks.core.records import Audit, Listing, Reading
from tasks.core.rows import Stamp
from tasks.storing import PACKED_AT_ONCE, AuditWriter
from tests.checkpoints import GPT2_CONFIG, gpt2
from tests.nights import TODAY, TOMORROW, audited, crawl_with, repo, run_night


def data_requests(own_hub):
    return [request for request in own_hub.requests if "/api/models" not in request.path]


def write(store, stamp, audits):
    stored = []
    writer = AuditWriter(store, stamp, 0, stored.append)
    for audit in audits:
        writer.add(audit)
    writer.write()
    return stored


def test_a_night_audits_every_listed_model_in_batches(own_hub, crawl, location):
    night = run_night(location, crawl)
    assert audited(location, night) == [(name, "ok") for name in sorted(own_hub.repos)]
    assert sorted(set(read_plan(open_store(location), TODAY)["batch"].to_pylist())) == [0, 1, 2]
    [summary] = night_summaries(open_store(location))
    assert (summary["listed"], summary["audited"], summary["statuses"]) == (6, 6, {"ok": 6})
    assert summary["hub_requests"] == 6


def test_no_request_is_made_per_model_before_its_first_range(own_hub, crawl, location):
    run_night(location, crawl)
    assert [request.path for request in own_hub.requests if request.path.startswith("/api/")] == ["/api/models"]


def test_an_unchanged_night_costs_one_listing_page_and_no_range_request(own_hub, crawl, location):
    run_night(location, crawl)
    own_hub.clear()
    run_night(location, crawl, TOMORROW)
    assert [request.path for request in own_hub.requests] == ["/api/models"]
    assert night_summaries(open_store(location))[-1]["unchanged"] == 6


def test_only_what_has_a_new_commit_is_audited_again(own_hub, crawl, location):
    run_night(location, crawl)
    own_hub.repos["org/gpt2-1"] = repo("org/gpt2-1", gpt2(seed=99), GPT2_CONFIG, sha="f" * 40)
    assert audited(location, run_night(location, crawl, TOMORROW)) == [("org/gpt2-1", "ok")]


def test_an_interrupted_night_goes_on_from_its_plan_also_past_midnight_and_repeats_no_batch(own_hub, crawl, location):
    first = run_night(location, crawl, batches=2)
    assert unfinished_nights(open_store(location)) == [TODAY]
    own_hub.clear()
    second = run_night(location, crawl, TOMORROW)
    assert (second.night, second.audit_id, second.is_planned) == (TODAY, first.audit_id, True)
    assert len({request.repo_id for request in data_requests(own_hub)} - {None}) == 2
    assert not [request for request in own_hub.requests if request.path.startswith("/api/")]
    assert audited(location, second) == [(name, "ok") for name in sorted(own_hub.repos)]
    assert unfinished_nights(open_store(location)) == []


def test_a_batch_killed_before_its_marker_is_done_again(own_hub, crawl, location):
    night = run_night(location, crawl, batches=1)
    place = open_store(location).place
    [marker] = live_parts(open_store(location), "audits")
    place.remove(marker)
    assert stages.open_batches(night) == [0, 1, 2]
    assert audited(location, run_night(location, crawl)) == [(name, "ok") for name in sorted(own_hub.repos)]


def test_a_finished_nights_parts_are_merged_to_one_a_table(own_hub, crawl, location):
    run_night(location, crawl)
    for table in ("audits", "norms", "kernels", "evidence"):
        assert len(live_parts(open_store(location), table)) == 1


def test_when_the_budget_is_spent_the_rest_waits_for_another_night(own_hub, crawl, location):
    night = run_night(location, replace(crawl, concurrency=1), budget=(3, 10**12))
    assert len(audited(location, night)) == 3
    rest = run_night(location, crawl, TOMORROW)
    assert len(audited(location, rest)) == 3
    assert {*audited(location, night), *audited(location, rest)} == {(name, "ok") for name in own_hub.repos}


def test_a_budget_knows_what_was_spent_before_a_restart(own_hub, crawl, location):
    night = run_night(location, crawl, batches=2)
    assert stages.remaining_budget(night, 10, 10**6).hub_requests == 10 - 4
    assert stages.remaining_budget(night, 10, 10**6).bytes_read < 10**6
    assert not Budget(1, 1).is_spent


def test_at_most_so_many_models_a_night(own_hub, location):
    crawl = crawl_with(own_hub, sources=({"top": 100},), limits={"models": 2})
    assert len(audited(location, run_night(location, crawl))) == 2
    assert len(audited(location, run_night(location, crawl, TOMORROW))) == 2


def test_the_most_downloaded_come_first(own_hub, location):
    crawl = crawl_with(own_hub, sources=({"top": 3, "sort": "downloads"},))
    assert audited(location, run_night(location, crawl), "repo_id") == [
        ("org/gpt2-1",),
        ("org/llama-0",),
        ("org/llama-2",),
    ]


def test_who_opted_out_is_neither_listed_nor_read(own_hub, location):
    crawl = crawl_with(own_hub, sources=({"top": 100},), opt_out=("org/gpt2-*", "org/llama-0"))
    assert audited(location, run_night(location, crawl), "repo_id") == [("org/llama-2",), ("org/llama-4",)]
    assert not [request for request in data_requests(own_hub) if "gpt2" in request.path]
    [listings] = live_parts(open_store(location), "listings")
    listed = pq.read_table(open_store(location).place.local_path(listings), partitioning=None)
    assert sorted(listed["repo_id"].to_pylist()) == ["org/llama-2", "org/llama-4"]


def test_a_repo_that_two_sources_name_is_audited_once(own_hub, location):
    crawl = crawl_with(own_hub, sources=({"top": 2}, {"repos": ["org/llama-0"]}, {"author": "org"}))
    assert len(audited(location, run_night(location, crawl))) == 6


def test_explicit_repos_that_are_not_there_are_answers_and_cost_one_request(own_hub, location):
    crawl = crawl_with(own_hub, sources=({"repos": ["org/llama-0", "org/nobody", "org/gpt2-1@no-such-branch"]},))
    night = run_night(location, crawl)
    assert audited(location, night) == [("org/gpt2-1", "not_found"), ("org/llama-0", "ok"), ("org/nobody", "not_found")]
    assert len([request for request in own_hub.requests if request.path.startswith("/api/")]) == 3
    own_hub.clear()
    run_night(location, crawl, TOMORROW)
    assert data_requests(own_hub) == []


def test_a_disabled_repo_is_an_answer_that_costs_no_request(own_hub, crawl, location):
    own_hub.repos["org/bad"] = repo("org/bad", gpt2(), GPT2_CONFIG, disabled=True)
    assert ("org/bad", "disabled") in audited(location, run_night(location, crawl))
    assert not [request for request in data_requests(own_hub) if "org/bad" in request.path]
    assert audited(location, run_night(location, crawl, TOMORROW)) == []


def test_all_norms_are_read_when_all_are_asked_for(own_hub, location):
    crawl = crawl_with(own_hub, sources=({"repos": ["org/gpt2-1"]},), norms="all")
    night = run_night(location, crawl)
    norms = read_columns(open_store(location), "norms", night.night, night.audit_id, ("gamma_rms",))
    assert len(norms) == 5
    assert norms["gamma_rms"].null_count == 0


def test_a_model_whose_rows_no_column_can_hold_costs_itself_alone(location):
    stamp = Stamp("run", TODAY, datetime(2026, 3, 1, tzinfo=UTC))
    strange = Reading("ok", None, "layernorm", checkpoint_bytes=2**64)
    deep = Reading("ok", None, "layernorm", config=functools.reduce(lambda inner, _: [inner], range(1000), []))
    audits = [Audit(Listing(f"org/{name}", "0" * 40), reading) for name, reading in
              (("huge", strange), ("deep", deep), ("sound", Reading("no_norms", None, "none")))]  # fmt: skip
    stored = write(open_store(location), stamp, audits)
    assert [audit.reading.status for audit in stored] == ["failed", "failed", "no_norms"]
    rows = read_columns(open_store(location), "audits", TODAY, "run", ("repo_id", "status", "reason")).to_pylist()
    assert {row["repo_id"]: row["status"] for row in rows} == {
        "org/huge": "failed",
        "org/deep": "failed",
        "org/sound": "no_norms",
    }
    assert all(row["reason"] is None or row["repo_id"] in row["reason"] for row in rows)


def test_audits_are_stored_in_their_order_however_many_are_packed_at_once(location):
    audits = [Audit(Listing(f"org/{n:03}"), Reading("no_norms", None, "none")) for n in range(2 * PACKED_AT_ONCE + 1)]
    stamp = Stamp("run", TODAY, datetime(2026, 3, 1, tzinfo=UTC))
    assert write(open_store(location), stamp, audits) == audits
    rows = read_columns(open_store(location), "audits", TODAY, "run", ("repo_id",))
    assert rows["repo_id"].to_pylist() == [audit.listing.repo_id for audit in audits]


def test_a_store_that_cannot_be_written_is_no_models_fault(tmp_path):
    (tmp_path / "location").mkdir()
    (tmp_path / "location" / "parts").write_text("in the way")
    with pytest.raises(StoreError):
        write(
            open_store(tmp_path / "location"),
            Stamp("run", TODAY, datetime(2026, 3, 1, tzinfo=UTC)),
            [Audit(Listing("org/a"), Reading("no_norms", None, "none"))],
        )


def test_a_listing_longer_than_one_piece_is_planned_in_its_order_without_gaps(own_hub, location, monkeypatch):
    monkeypatch.setattr(stages, "PIECE_REPOS", 4)
    crawl = crawl_with(own_hub, sources=({"top": 100}, {"repos": ["org/llama-0"]}), limits={"models": 5})
    night = stages.begin_night(location, TODAY)
    stages.plan_night(night, crawl)
    plan = read_plan(open_store(location), TODAY).select(["repo_id", "batch"]).to_pylist()
    assert [row["repo_id"] for row in plan] == sorted(own_hub.repos, key=lambda name: name[-1])[:5]
    assert [row["batch"] for row in plan] == [0, 0, 1, 1, 2]
    facts = plan_facts(open_store(location), TODAY)
    assert (facts["listed"], facts["planned"], facts["unchanged"]) == (6, 5, 0)
    assert len(live_parts(open_store(location), "listings")) == 2


def test_each_audit_has_a_time_of_its_own(own_hub, location):
    crawl = crawl_with(own_hub, sources=({"top": 100},), limits={"batch_models": 6, "concurrency": 1})
    before = datetime.now(UTC)
    night = run_night(location, crawl)
    times = [at for _, at in audited(location, night, "repo_id", "audited_at")]
    assert len(set(times)) == len(own_hub.repos)
    assert before <= min(times) <= max(times) <= datetime.now(UTC)


def test_a_night_says_beforehand_how_many_requests_it_takes_and_counts_its_models(own_hub, crawl, location, caplog):
    caplog.set_level("INFO", "normaudit")
    run_night(location, crawl)
    assert "planned 6 of 6 listed repos; 0 are unchanged" in caplog.messages
    assert "about 6 requests to the Hub" in " ".join(caplog.messages)
    counted = [record for record in caplog.records if hasattr(record, "audited")]
    assert sum(record.audited for record in counted) == 6
    assert sum(record.hub_requests for record in counted) == 6


def test_a_night_that_goes_on_says_how_much_is_left(own_hub, crawl, location, caplog):
    run_night(location, crawl, batches=1)
    caplog.clear()
    caplog.set_level("INFO", "normaudit")
    run_night(location, crawl, batches=0)
    [record] = [record for record in caplog.records if hasattr(record, "planned")]
    assert record.planned == 4
    assert record.getMessage() == "the night of 2026-03-01 goes on: 2 of 6 models are audited"


def test_an_empty_listing_is_a_night_with_nothing_to_do(own_home, location):
    with StandIn([]) as own_hub:
        crawl = crawl_with(own_hub, sources=({"top": 10},))
        assert audited(location, run_night(location, crawl)) == []
    assert night_summaries(open_store(location))[0]["listed"] == 0
