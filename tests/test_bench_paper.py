"""The paper's protocol: sizes as published, verdicts of architectures made small, and what a run leaves behind."""

import json
import subprocess
import sys
from collections.abc import Mapping
from functools import cache

import pytest
from typer.testing import CliRunner

pytest.importorskip("transformers")

import torch

from benchmarks import paper
from benchmarks.paper_configs import LAYERNORM
from benchmarks.paper_controls import RMSNORM
from benchmarks.paper_tables import HEAD, README_HEAD, bounds_table, probes_table
from deployments.demo.building import write_card
from flows.cli import app
from storage.database import open_database
from storage.store import open_store
from tasks.model.build import blueprint, skeleton
from tasks.model.jobs import Job
from tasks.model.results import append, line_of, read_results
from tests.probes import probed, quick, unheard

ARCHITECTURES = {architecture.repo_id: architecture for architecture in (*LAYERNORM, *RMSNORM)}
NEEDED = {
    "layernorm": ("pythia-160m", "gpt2-medium", "opt-1.3b", "bloom-560m", "falcon-7b", "phi-2", "stablelm-2-1_6b",
                  "vit-base", "dinov2-large", "command-r"),
    "rmsnorm": ("Llama-3.2-1B", "Qwen3-0.6B", "Mistral-7B", "gemma-2-2b", "gemma-3-27b", "Qwen3-32B"),
}  # fmt: skip
GPT2, LLAMA, VIT = "openai-community/gpt2-medium", "meta-llama/Llama-3.2-1B", "google/vit-base-patch16-224"
# sizes that matter to no norm, made small; what a config names beyond them stays as it is
SMALL = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers"), 3),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 1),
    "num_key_value_heads": 2,
    "head_dim": 8,
    "partial_rotary_factor": 0.5,  # two fifths of 8 dimensions are no pairs
    "vocab_size": 256,
    "max_source_positions": 40,
    "image_size": 56,
    "patch_size": 14,
}


def small(config):
    """Return a config with the sizes of SMALL in place of its own."""
    made = {
        name: small(value) if isinstance(value, Mapping) else SMALL.get(name, value) for name, value in config.items()
    }
    return {**made, "num_key_value_heads": 4} if made.get("partial_rotary_factor") else made


@cache
def row_of(repo_id):
    """Return the row of a small model of an architecture, at random initialisation."""
    job = Job(repo_id, weights="random", config=small(ARCHITECTURES[repo_id].config), tokens=256)
    [found] = probed(job, unheard)
    return found.row


@pytest.fixture
def log(tmp_path):
    """A log that holds one LayerNorm and one RMSNorm."""
    for name in (GPT2, LLAMA):
        append(tmp_path / "results.jsonl", line_of(Job(name), [paper.Probed(row_of(name), (1.0,))]))
    return tmp_path / "results.jsonl"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_has_as_many_parameters_as_were_published(name):
    architecture = ARCHITECTURES[name]
    model = skeleton(blueprint(architecture.config, name), torch.bfloat16)
    assert sum(value.numel() for value in model.parameters()) == architecture.parameters


@pytest.mark.parametrize("kind", NEEDED)
def test_the_protocols_architectures_are_all_there(kind):
    names = [name for name in ARCHITECTURES if paper.KINDS[name] == kind]
    assert not [needed for needed in NEEDED[kind] if not any(needed in name for name in names)]
    assert len(names) >= {"layernorm": 9, "rmsnorm": 5}[kind]


@pytest.mark.parametrize("name", quick([*ARCHITECTURES], GPT2, LLAMA, VIT))
def test_a_kernel_is_seen_in_each_layernorm_architecture_and_in_no_other(name):
    row = row_of(name)
    assert row["status"] == "ok", row["reason"]
    assert row["verdict"] == {"layernorm": "present", "rmsnorm": "absent"}[paper.KINDS[name]]
    assert (row["alignment"] >= 0.99995) == (paper.KINDS[name] == "layernorm")
    assert (row["mean_share"] <= 1e-20) == (paper.KINDS[name] == "layernorm")


def test_larger_models_than_asked_for_are_left_out_and_the_smallest_come_first():
    options = paper.parsed(
        ["--random-only", "--max-parameters", "3e8", "--device-memory", "24e9", "--only", "google", "smol"]
    )
    jobs = list(paper.chosen(options))
    assert [job.repo_id for job in jobs] == [
        VIT,
        "google-bert/bert-base-uncased",
        "HuggingFaceTB/SmolLM2-135M",
        "google/gemma-3-270m",
    ]
    assert {(job.weights, job.limit_bytes) for job in jobs} == {("random", 24_000_000_000)}


def test_what_is_done_is_not_done_again_and_what_failed_is(log):
    fails = Job("fails", folder=str(log.parent / "gone"), weights="trained")
    append(log, line_of(fails, [paper.Probed({"repo_id": "fails", "status": "timeout"})]))
    before = [result.digest for result in read_results(log)]
    paper.measure([Job(GPT2), fails], log)
    results = read_results(log)
    assert [result.digest for result in results] == [*before, fails.digest]
    assert results[-1].found[0].row["status"] == "not_found"


def test_of_a_model_that_was_done_twice_the_last_answer_counts(log):
    append(log, line_of(Job(GPT2), [paper.Probed({**row_of(GPT2), "verdict": "unclear"})]))
    assert [one.row["verdict"] for one in paper.latest(read_results(log))] == ["unclear", "absent"]


def test_the_report_has_a_line_for_each_probe_and_ends_well_where_the_bounds_are_met(log, capsys):
    assert paper.main(["--report", "--place", str(log.parent)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [line.split()[1] for line in lines[:3]] == [
        "model",
        "openai-community/gpt2-medium",
        "meta-llama/Llama-3.2-1B",
    ]
    assert all(line.split()[-2] == "yes" for line in lines[4:])


def test_a_bound_that_is_not_met_is_told():
    rows = [row_of(GPT2), row_of(LLAMA)]
    wrong = {rows[0]["repo_id"]: "rmsnorm", rows[1]["repo_id"]: "layernorm"}
    text, is_met = bounds_table(rows, wrong, paper.MINILM)
    assert not is_met
    assert "| 0 of 1" in text


def test_a_probe_without_an_answer_is_told_with_its_reason_and_is_no_success():
    failed = {"repo_id": paper.MINILM, "weights": "trained", "status": "timeout", "reason": "no answer within 5 s"}
    assert probes_table([failed], paper.KINDS).endswith(f"{paper.MINILM}, trained: timeout: no answer within 5 s")
    assert not bounds_table([failed], paper.KINDS, paper.MINILM)[1]


def test_the_readmes_columns_are_columns_of_the_table():
    assert set(README_HEAD) <= set(HEAD)


def test_the_rows_go_into_a_store(log):
    store = log.parent / "store"
    assert paper.main(["--report", "--place", str(log.parent), "--store", str(store)]) == 0
    with open_database(open_store(str(store))) as database:
        rows = database.execute("SELECT repo_id, verdict FROM probes ORDER BY verdict").fetchall()
    assert rows == [(LLAMA, "absent"), (GPT2, "present")]


def test_the_log_is_collected_as_any_file_of_results_is(log):
    store = log.parent / "store"
    run = CliRunner().invoke(app, ["probe", "--collect", str(log), "--store", str(store)])
    assert (run.exit_code, "2 probes written" in run.stderr) == (0, True)
    with open_database(open_store(str(store))) as database:
        assert database.sql("SELECT count(*) FROM probes WHERE status = 'ok'").fetchall() == [(2,)]


def test_the_losses_of_training_are_read_from_the_models_card(tmp_path):
    write_card(tmp_path, "characters", "about", ["trained", "loss-before:4.55", "loss-after:2.00"])
    assert paper.losses((tmp_path / "README.md").read_text()) == (4.55, 2.0)


def test_it_runs_where_there_are_only_numpy_torch_transformers_and_safetensors():
    missing = ["aiohttp", "duckdb", "ml_dtypes", "prefect", "pyarrow", "pydantic", "starlette", "typer", "uvicorn"]
    program = f"import sys; sys.modules.update(dict.fromkeys({json.dumps(missing)})); import benchmarks.paper"
    subprocess.run([sys.executable, "-c", program], check=True)
