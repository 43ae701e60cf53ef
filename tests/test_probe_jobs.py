"""Job files and the file of results: what is a job, what is done, what a stopped run leaves behind."""

import os
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import pytest

from tasks.model.answers import Probed
from tasks.model.jobs import Job, as_json, parse_job, parse_jobs
from tasks.model.results import append, done, line_of, read_results
from tests.nights import children_of
from tests.test_engine import is_alive, wait_for

WIDE = {  # next to its vocabulary its blocks are nothing
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 300_000,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "tie_word_embeddings": False,
}
FOUND = Probed({"repo_id": "a", "weights": "random", "status": "ok"}, (1.0, 0.5))


def test_a_job_needs_a_repo_id_alone():
    assert parse_job({"repo_id": "org/name"}) == Job("org/name")


def test_a_job_is_what_its_line_says():
    job = Job("org/name", tokens=64, dtype="bfloat16", config={"model_type": "gpt2"}, limit_bytes=1_000)
    assert parse_jobs(f"\n{as_json(job)}\n\n", "jobs") == [job]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2"),
        ("[]", "at least a repo_id"),
        ('{"folder": "x"}', "at least a repo_id"),
        ('{"repo_id": "a", "wieghts": "both"}', "no field wieghts"),
        ('{"repo_id": "a", "weights": "some"}', "random, trained, both"),
        ('{"repo_id": "a", "tokens": 7}', "at least 8"),
        ('{"repo_id": "a", "tokens": "64"}', "must be int or null"),
        ('{"repo_id": "a", "seed": true}', "must be int"),
        ('{"repo_id": "a", "limit_s": 0}', "at least 1"),
    ],
)
def test_a_line_that_is_no_job_is_named_with_what_is_wrong(line, said):
    with pytest.raises(ValueError, match=r"jobs\.jsonl, line 2: ") as caught:
        parse_jobs(f'{{"repo_id": "first"}}\n{line}\n', "jobs.jsonl")
    assert said in str(caught.value)


def test_limits_do_not_make_another_job_of_it_but_seeds_do():
    assert Job("a").digest == Job("a", limit_s=5, limit_bytes=7, batch_tokens=3).digest
    assert Job("a").digest != Job("a", seed=1).digest


def test_results_are_read_as_they_were_written(tmp_path):
    append(tmp_path / "out", line_of(Job("a"), [FOUND]))
    [result] = read_results(tmp_path / "out")
    assert (result.digest, result.found) == (Job("a").digest, (FOUND,))


def test_a_torn_last_line_costs_the_model_at_hand_alone(tmp_path):
    out = tmp_path / "out"
    append(out, line_of(Job("a"), [FOUND]))
    with out.open("a") as file:
        file.write(line_of(Job("b"), [FOUND])[:50])
    assert done(read_results(out)) == {Job("a").digest}
    append(out, line_of(Job("b"), [FOUND]))
    assert done(read_results(out)) == {Job("a").digest, Job("b").digest}


def test_nothing_is_done_where_there_is_no_file(tmp_path):
    assert read_results(tmp_path / "none") == []


def test_running_a_job_file_needs_none_of_what_reading_the_hub_needs():
    code = (
        "import sys, tasks.model.__main__, tasks.model.attempt;"
        "print(*(set(sys.modules) & {'orjson', 'ml_dtypes', 'pyarrow', 'duckdb', 'aiohttp', 'pydantic', 'prefect'}))"
    )
    pytest.importorskip("torch")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


def test_who_starts_probes_needs_no_torch():
    code = (
        "import sys, tasks.model.isolation, tasks.model.results; print(*(set(sys.modules) & {'torch', 'transformers'}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


@contextmanager
def being_read(fifo):
    """Wait until somebody reads a pipe; he gets nothing for the length of the block."""
    held = []

    def is_read():
        with suppress(OSError):
            held.append(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
        return held

    wait_for(is_read)
    try:
        yield
    finally:
        os.close(*held)


@pytest.mark.slow
class TestProcesses:
    """Each of these starts processes that import torch."""

    @pytest.fixture(autouse=True)
    def _torch(self):
        pytest.importorskip("torch")
        pytest.importorskip("transformers")

    def test_a_killed_run_goes_on_where_it_was(self, tmp_path):
        from tests.probes import CONFIGS

        jobs, out = tmp_path / "jobs.jsonl", tmp_path / "out.jsonl"
        asked = [Job(name, config=CONFIGS[name], weights="random", tokens=64) for name in ("gpt2", "llama", "bert")]
        jobs.write_text("".join(f"{as_json(job)}\n" for job in asked))
        command = [sys.executable, "-m", "tasks.model", str(jobs), "--out", str(out)]
        first = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while first.poll() is None and not (out.exists() and out.read_text().endswith("\n")):
            time.sleep(0.05)
        first.kill()
        first.wait()
        before = out.read_bytes()
        assert 1 <= len(read_results(out)) < 3
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        assert out.read_bytes().startswith(before)
        assert [result.digest for result in read_results(out)] == [job.digest for job in asked]
        assert [one.row["verdict"] for result in read_results(out) for one in result.found] == [
            "present",
            "absent",
            "present",
        ]

    def test_a_model_that_hangs_is_given_up(self, tmp_path):
        from tasks.model.isolation import run_isolated

        os.mkfifo(tmp_path / "config.json")  # whoever opens it waits for ever
        [found] = run_isolated(Job("m", folder=str(tmp_path), weights="trained", limit_s=12), lambda text: None)
        assert (found.row["status"], "within 12 s" in found.row["reason"]) == ("timeout", True)

    def test_a_probe_ends_with_who_started_it_however_that_dies(self, tmp_path):
        config, jobs = tmp_path / "config.json", tmp_path / "jobs.jsonl"
        os.mkfifo(config)  # the probe waits for it
        jobs.write_text(as_json(Job("m", folder=str(tmp_path), weights="trained")))
        command = [sys.executable, "-m", "tasks.model", str(jobs)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as starter, being_read(config):
            [attempt] = children_of(starter.pid)
            starter.kill()
            wait_for(lambda: not is_alive(attempt))

    def test_out_of_memory_is_tried_with_smaller_batches_and_in_blocks_and_is_then_a_row(self):
        from tasks.model.isolation import run_isolated
        from tests.probes import WORDS

        config = {"model_type": "gpt2", "n_embd": 1024, "n_layer": 4, "n_head": 16, **WORDS}
        said: list[str] = []
        job = Job("m", config=config, weights="random", way="whole", limit_bytes=30_000_000)
        [found] = run_isolated(job, said.append)
        assert (found.row["status"], "30,000,000 bytes" in found.row["reason"]) == ("out_of_memory", True)
        assert sum(text.startswith("out of memory") for text in said) == 3

    @pytest.mark.parametrize("weights", ["random", "trained"])
    def test_block_by_block_neither_embedding_nor_head_is_ever_held_whole(self, weights, tmp_path):
        from tasks.model.isolation import run_isolated
        from tests.probes import WIDTH, saved_of, unheard

        folder = saved_of({**WIDE, "hidden_size": 4 * WIDTH}, tmp_path / "wide")
        table_bytes = 4 * WIDE["vocab_size"] * 4 * WIDTH
        peaks = {}
        for way in ("whole", "blocks"):
            [found] = run_isolated(Job("m", folder=str(folder), weights=weights, inputs="random", way=way), unheard)
            peaks[way] = found.row["peak_memory_bytes"]
        assert peaks["blocks"] < table_bytes < peaks["whole"]

    def test_a_process_that_dies_is_a_row_with_its_last_words(self, tmp_path, monkeypatch):
        from tasks.model.isolation import run_isolated

        (tmp_path / "torch.py").write_text("raise SystemExit('no torch today')")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        [found] = run_isolated(Job("m", weights="random"), lambda text: None)
        assert (found.row["status"], "no torch today" in found.row["reason"]) == ("failed", True)
