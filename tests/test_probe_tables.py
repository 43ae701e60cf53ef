"""A vocabulary's tables: their rows are those of the whole, and only those that are asked for are ever had."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("transformers")

import torch
from torch import nn

from tasks.model import tables
from tasks.model.attempt import opened
from tasks.model.files import FolderSource, runs
from tasks.model.invariance import logit_invariance
from tasks.model.jobs import Job
from tasks.model.probe import prepared
from tasks.model.tables import blocks, gathered
from tests.probes import CONFIGS, USUAL, WORDS, probe_of, saved, unheard

NAMES = {"gpt2": "transformer.wte.weight", "llama": "model.embed_tokens.weight", "cohere": "model.embed_tokens.weight"}
UNTIED = {**CONFIGS["llama"], "tie_word_embeddings": False, "architectures": ["LlamaForCausalLM"]}

PHI = {"model_type": "phi", **USUAL, **WORDS, "architectures": ["PhiForCausalLM"]}  # its head has a bias


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of tables so small that small models have many."""
    monkeypatch.setattr(tables, "BLOCK_ENTRIES", 32 * 7)


def run_of(job):
    with opened(job) as checkpoint:
        return prepared(job, job.kinds[0], checkpoint, unheard)


def filled(run):
    for part in run.parts:
        run.weights.fill(part)
    return dict(run.model.named_parameters(remove_duplicate=False))


class Told:
    """A table that notes which rows were asked for."""

    def __init__(self, whole):
        self.whole, self.shape, self.asked = whole, whole.shape, []

    def __getitem__(self, rows):
        found = self.whole[rows]
        self.asked += rows.tolist() if isinstance(rows, torch.Tensor) else []
        return found


@given(st.sets(st.integers(0, 60)))
def test_runs_are_the_numbers_that_follow_one_another(chosen):
    found = list(runs(sorted(chosen)))
    assert [first + i for first, count in found for i in range(count)] == sorted(chosen)
    assert all(first + count < after for (first, count), (after, _) in pairwise(found))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_random_tables_rows_are_those_of_the_model_filled_whole(name, dtype):
    run = run_of(Job(name, config=CONFIGS[name], weights="random", dtype=dtype))
    table, whole = run.weights.table(NAMES[name]), filled(run)[NAMES[name]]
    numbers = torch.tensor([0, 3, 6, 7, 100, 255])
    assert torch.equal(table[numbers], whole[numbers])
    assert torch.equal(torch.cat([table[block] for block in blocks(table.shape)]), whole)
    assert float(whole.float().std()) == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_stored_tables_rows_are_those_of_the_file(name, tmp_path):
    folder = saved(name, tmp_path / name)
    run = run_of(Job(name, folder=str(folder), weights="trained", inputs="random", dtype="bfloat16"))
    numbers = torch.tensor([1, 2, 3, 200])
    stored = FolderSource(folder, name).tensor(run.weights.stored_name(NAMES[name]))
    assert torch.equal(run.weights.table(NAMES[name])[numbers], stored[numbers].bfloat16())


def test_a_tied_head_has_the_rows_of_the_embedding_and_another_has_its_own():
    tied = run_of(Job("m", config={**UNTIED, "tie_word_embeddings": True}, weights="random"))
    apart = run_of(Job("m", config=UNTIED, weights="random"))
    same = [
        torch.equal(run.weights.table("lm_head.weight")[:5], run.weights.table(NAMES["llama"])[:5])
        for run in (tied, apart)
    ]
    assert same == [True, False]


def test_an_embedding_fetches_each_row_once_and_no_row_that_nobody_asked_for():
    model = nn.Sequential(nn.Embedding(50, 4, padding_idx=49, device="meta"))
    table, ids = Told(torch.randn(50, 4)), [torch.tensor([[3, 9, 3]]), torch.tensor([[9, 49], [0, 3]])]
    with gathered(model, {"0": table}, torch.device("cpu")):
        found = [model(some) for some in ids]
    assert all(torch.equal(got, table.whole[some]) for got, some in zip(found, ids, strict=True))
    assert sorted(table.asked) == [0, 3, 9, 49]
    assert (model[0].weight.is_meta, model[0].weight.shape, model[0].padding_idx) == (True, (50, 4), 49)


def test_the_figure_of_a_head_in_rows_is_that_of_the_whole():
    outputs, head = (torch.randn(*shape, generator=torch.Generator().manual_seed(1)) for shape in ((9, 8), (50, 8)))
    u = torch.full((8,), 8**-0.5)
    assert logit_invariance(outputs, Told(head), None, u, None) == logit_invariance(outputs, head, None, u, None)


@pytest.mark.parametrize("config", [UNTIED, CONFIGS["gpt2"], PHI])
def test_block_by_block_no_table_is_ever_whole(config, monkeypatch):
    from tasks.model import drawn

    def refuse(table):
        raise AssertionError(f"the whole of {table.shape}")

    monkeypatch.setattr(drawn, "_whole", refuse)
    run = run_of(Job("m", config=config, weights="random", way="blocks", tokens=40))
    run.observe()
    assert run.logit_invariance() is not None


@pytest.mark.parametrize("tied", [True, False])
def test_block_by_block_a_checkpoint_gives_the_figures_of_the_whole(tied, tmp_path):
    folder = saved("llama" if tied else "gpt2", tmp_path / "model")
    whole, block = (probe_of(folder, way=way).row for way in ("whole", "blocks"))
    assert block["logit_invariance"] == pytest.approx(whole["logit_invariance"], rel=1e-3, abs=1e-6)
    assert block["mean_share"] == pytest.approx(whole["mean_share"], rel=1e-6, abs=1e-25)
