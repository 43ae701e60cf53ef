"""A night's probes: which models are chosen, within which limits, and what a worker that dies leaves to be done."""

import importlib.util
from dataclasses import replace

import pytest

from storage.database import build, open_database
from storage.errors import StoreError
from storage.merge import merge_night
from storage.parts import write_batch
from tasks.core.records import METHOD_VERSION
from tasks.model.answers import Probed
from tasks.model.jobs import Job
from tasks.probes import Choice, ProbeBatch, keep, open_jobs, plan_probes, probe_job, probe_statuses, read_jobs
from tests.stores import NIGHT, audit, listing, probe

needs_torch = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs the extra `probe`")

CHOICE = Choice(None, models=100, parameters=10**9, bytes=10**12, settings={"device": "cpu", "weights": "random"})
GPT2, LLAMA = ["GPT2LMHeadModel"], ["LlamaForCausalLM"]
TINY = {
    "model_type": "gpt2",
    "architectures": GPT2,
    "n_embd": 8,
    "n_layer": 1,
    "n_head": 2,
    "n_positions": 64,
    "vocab_size": 32,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


@pytest.fixture
def batch(store):
    return ProbeBatch(str(store.location), NIGHT, "20261101-abc")


def fill(store, *models, probes=()):
    """Write models as (repo, downloads, architectures, parameters, bytes)."""
    listings = [
        listing(name, downloads=downloads, architectures=kinds, parameter_count=parameters)
        for name, downloads, kinds, parameters, _ in models
    ]
    audits = [audit(name, checkpoint_bytes=size) for name, *_, size in models]
    write_batch(store, NIGHT, "a", 0, {"listings": listings, "audits": audits, "probes": list(probes)})


def chosen(batch, choice=CHOICE):
    plan_probes(batch, choice)
    return [job.repo_id for job in read_jobs(batch)]


def write_jobs(store, batch, count):
    fill(store, *((f"o/{i}", 10 - i, [f"A{i}"], 5, 5) for i in range(count)))
    assert plan_probes(batch, CHOICE) == count


def test_the_most_downloaded_of_each_architecture_comes_first(store, batch):
    fill(
        store, ("o/a", 5, GPT2, 10, 40), ("o/b", 9, GPT2, 10, 40), ("o/c", 7, LLAMA, 10, 40), ("o/d", 99, None, 10, 40)
    )
    assert chosen(batch) == ["o/b", "o/c"]


def test_a_model_with_a_probe_at_its_revision_gives_its_turn_to_the_next_of_its_architecture(store, batch):
    fill(store, ("o/a", 5, GPT2, 10, 40), ("o/b", 9, GPT2, 10, 40), probes=[probe("o/b", status="unsupported")])
    assert chosen(batch) == ["o/a"]


def test_a_model_beyond_the_limit_of_parameters_gives_its_turn_to_the_next_of_its_architecture(store, batch):
    fill(store, ("o/a", 5, GPT2, 10, 40), ("o/b", 9, GPT2, 10**10, 40))
    assert chosen(batch) == ["o/a"]


def test_parameters_that_the_hub_does_not_count_are_told_by_the_checkpoints_size(store, batch):
    fill(store, ("o/a", 5, GPT2, None, 2 * 10**9 + 2), ("o/b", 4, LLAMA, None, 2 * 10**9))
    assert chosen(batch) == ["o/b"]


def test_bytes_are_a_budget_of_the_night_and_a_smaller_model_may_take_what_is_left(store, batch):
    fill(store, ("o/a", 9, ["A"], 1, 60), ("o/b", 8, ["B"], 1, 50), ("o/c", 7, ["C"], 1, 40))
    assert chosen(batch, replace(CHOICE, bytes=100)) == ["o/a", "o/c"]


def test_no_more_models_are_chosen_than_the_night_may_probe(store, batch):
    fill(store, ("o/a", 9, ["A"], 1, 60), ("o/b", 8, ["B"], 1, 50))
    assert chosen(batch, replace(CHOICE, models=1)) == ["o/a"]


def test_a_query_of_the_settings_decides_which_models_in_which_order(store, batch):
    fill(store, ("o/a", 9, GPT2, 1, 60), ("o/b", 8, GPT2, 1, 50))
    query = "SELECT repo_id, sha, 1 AS parameters, 1 AS bytes FROM latest ORDER BY downloads"
    assert chosen(batch, replace(CHOICE, query=query)) == ["o/b", "o/a"]
    assert read_jobs(batch)[0] == Job("o/b", "s1", device="cpu", weights="random")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT repo_id FROM latest", "probe.query.*sha"),
        ("SELECT nonsense FROM latest", "probe.query.*nonsense"),
        ("COPY latest TO 'stolen.csv'", "read-only"),
    ],
)
def test_a_query_that_cannot_choose_is_an_error_that_says_why(store, batch, query, said):
    fill(store, ("o/a", 9, GPT2, 1, 60))
    with pytest.raises(StoreError, match=said):
        chosen(batch, replace(CHOICE, query=query))


def test_a_night_that_goes_on_keeps_to_the_jobs_that_it_had_chosen(store, batch):
    fill(store, ("o/a", 9, GPT2, 1, 60))
    assert plan_probes(batch, CHOICE) == 1
    assert plan_probes(batch, replace(CHOICE, query="SELECT nothing at all")) == 1


def test_a_job_file_that_is_damaged_is_named_with_what_to_do(store, batch):
    with store.place.writing(batch.job_file) as file:
        file.write(b"{\n")
    with pytest.raises(StoreError, match=r"line 1.*remove nights/.*jsonl"):
        open_jobs(batch)


def row(repo_id, **facts):
    key = {"repo_id": repo_id, "sha": "s1", "method_version": METHOD_VERSION, "weights": "random"}
    return Probed({**key, "status": "ok", **facts})


def test_what_is_done_is_not_open_any_more_also_once_it_is_merged(store, batch):
    write_jobs(store, batch, 3)
    keep(batch, 1, open_jobs(batch)[1], [row("o/1", seed=0, verdict="present")])
    assert list(open_jobs(batch)) == [0, 2]
    merge_night(store, NIGHT)
    assert list(open_jobs(batch)) == [0, 2]
    assert probe_statuses(batch) == {"ok": 1}
    build(store)
    with open_database(store) as database:
        found = database.execute("SELECT repo_id, probe_verdict FROM latest WHERE probe_status = 'ok'").fetchall()
    assert found == [("o/1", "present")]


def test_a_job_that_two_workers_have_done_is_there_once(store, batch):
    write_jobs(store, batch, 1)
    for _ in range(2):
        keep(batch, 0, read_jobs(batch)[0], [row("o/0", seed=0)])
    assert probe_statuses(batch) == {"ok": 1}


def test_a_row_that_the_table_cannot_hold_costs_that_model_alone(store, batch):
    write_jobs(store, batch, 1)
    keep(batch, 0, open_jobs(batch)[0], [row("o/0", alignment=float("nan"))])
    assert probe_statuses(batch) == {"failed": 1}
    assert open_jobs(batch) == {}


@needs_torch
def test_a_model_that_only_the_end_of_the_nights_time_has_cut_off_stays_open(store, batch):
    job = Job("o/tiny", "s1", weights="random", tokens=64, config=TINY)
    probe_job(batch, 7, job, limit_s=0.01)
    assert probe_statuses(batch) == {}
    probe_job(batch, 7, replace(job, limit_s=0.01), limit_s=0.01)
    assert probe_statuses(batch) == {"timeout": 1}


@needs_torch
def test_a_probe_in_a_process_of_its_own_leaves_its_rows_in_the_store(store, batch):
    job = Job("o/tiny", "s1", weights="random", tokens=64, config=TINY)
    probe_job(batch, 7, job, limit_s=10_000)
    assert probe_statuses(batch) == {"ok": 1}
