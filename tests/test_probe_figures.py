"""What a probe finds of small models of every kind, at random initialisation."""

import numpy as np
import pytest

pytest.importorskip("transformers")

import torch

from tasks.model.attempt import opened
from tasks.model.jobs import Job
from tasks.model.probe import prepared
from tests.probes import CENTRING, CONFIGS, NOT_CENTRING, WIDTH, quick, random_probe, unheard


@pytest.mark.parametrize("name", CENTRING)
def test_a_layernorm_shows_its_dead_direction(name):
    row = random_probe(name).row
    assert (row["status"], row["verdict"]) == ("ok", "present")
    assert row["alignment"] >= 0.99995
    assert row["mean_share"] <= 1e-20
    assert row["lambda_u_rel"] <= 1e-25
    assert row["dead_counts"]["1e-08"] == 1
    assert row["subspace_overlap"] == pytest.approx(1)


@pytest.mark.parametrize("name", NOT_CENTRING)
def test_an_rmsnorm_shows_none(name):
    row = random_probe(name).row
    assert (row["status"], row["verdict"]) == ("ok", "absent")
    assert row["mean_share"] > 0.1
    assert row["dead_counts"]["1e-08"] == 0
    assert row["subspace_overlap"] is None


@pytest.mark.parametrize("name", ["gpt2", "whisper", "cohere", "olmo", "falcon", "bloom"])
def test_logits_do_not_change_along_u_behind_a_layernorm(name):
    assert random_probe(name).row["logit_invariance"] <= 1e-5


@pytest.mark.parametrize("name", NOT_CENTRING)
def test_logits_change_along_u_behind_an_rmsnorm(name):
    assert 0.1 < random_probe(name).row["logit_invariance"] < 10


@pytest.mark.parametrize("name", ["vit", "bert"])
def test_without_a_linear_head_there_is_no_logit_invariance_and_the_reason_says_so(name):
    row = random_probe(name).row
    assert row["logit_invariance"] is None
    assert "no linear head" in row["reason"]


@pytest.mark.parametrize("name", [*CENTRING, *NOT_CENTRING])
def test_four_times_the_width_of_tokens_are_measured(name):
    row = random_probe(name).row
    assert row["n_tokens"] == 4 * WIDTH == 4 * len(row["spectrum"])


@pytest.mark.parametrize("name", quick(["gpt2", "llama", "vit", "whisper", "bert"], "gpt2", "llama"))
def test_a_bfloat16_body_gets_the_same_verdict(name):
    narrow, wide = (random_probe(name, dtype=dtype).row for dtype in ("bfloat16", "float32"))
    assert narrow["verdict"] == wide["verdict"]
    if narrow["verdict"] == "present":
        assert narrow["alignment"] >= 0.99995
        assert narrow["mean_share"] <= 1e-20


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_with_no_more_tokens_than_the_width_the_figures_that_stand_are_there(name):
    row, usual = random_probe(name, tokens=16).row, random_probe(name).row
    assert row["verdict"] == usual["verdict"]
    assert row["logit_invariance"] is not None
    assert row["n_tokens"] == 16
    assert [row[figure] for figure in ("alignment", "spectrum", "dead_counts", "lambda_u_rel", "preserved")] == [
        None
    ] * 5
    assert "more tokens than the width" in row["reason"]


@pytest.mark.parametrize("name", quick([*CENTRING, *NOT_CENTRING], "gpt2", "pictures", "bert", "t5", "albert"))
def test_block_by_block_agrees_with_the_whole_model(name):
    whole, blocks = (random_probe(name, way=way).row for way in ("whole", "blocks"))
    assert blocks["verdict"] == whole["verdict"]
    for figure in ("spectrum", "block_sigma_min", "block_sigma_max") if name != "albert" else ("spectrum",):
        np.testing.assert_allclose(blocks[figure], whole[figure], rtol=1e-5, atol=1e-12 * max(whole[figure]))
    if name in NOT_CENTRING:
        assert blocks["logit_invariance"] == pytest.approx(whole["logit_invariance"], rel=1e-3)
    assert (blocks["logit_invariance"] is None) == (whole["logit_invariance"] is None)
    if name in ("t5", "albert"):  # a block hands its position bias on to the next; one block is run three times
        assert "not block by block, but at once: " in blocks["reason"]
    else:
        assert "block by block: as asked" in blocks["reason"]


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "vit", "cohere", "whisper"])
def test_every_figure_agrees_with_a_plain_computation(name):
    row = random_probe(name).row
    streams, gamma, eps = plain_run(name)
    y = plain_norm(streams[-1], gamma, eps, centres=name in CENTRING)
    centred = y - y.mean(axis=0)
    centred -= centred.mean(axis=0)
    sigma = np.linalg.svd(centred, compute_uv=False)
    np.testing.assert_allclose(row["spectrum"], sigma**2 / np.mean(sigma**2), rtol=1e-6, atol=1e-26)
    n = plain_norm(streams[-1], np.ones(WIDTH), eps, centres=name in CENTRING)
    assert row["mean_share"] == pytest.approx(np.sum(n.sum(axis=1) ** 2) / np.sum(n**2), rel=1e-6, abs=1e-25)
    u = 1 / gamma / np.linalg.norm(1 / gamma)
    plain = np.sum((centred @ u) ** 2) / np.mean(sigma**2)
    assert row["lambda_u_rel"] == pytest.approx(plain, rel=1e-6, abs=1e-25)
    assert len(row["block_sigma_min"]) == len(streams) == len(row["block_names"])
    for smallest, largest, stream in zip(row["block_sigma_min"], row["block_sigma_max"], streams, strict=True):
        values = np.linalg.svd(stream - stream.mean(axis=0), compute_uv=False)
        assert largest == pytest.approx(values[0], rel=1e-6)
        assert smallest == pytest.approx(values[-1], rel=1e-6, abs=1e-13 * values[0])


def plain_run(name):
    """Run a model once more, sequence by sequence; return the residual streams, and the final norm's γ and epsilon."""
    job = Job(name, config=CONFIGS[name], weights="random", way="whole")
    with opened(job) as checkpoint:
        run = prepared(job, "random", checkpoint, unheard)
    for part in run.parts:
        run.weights.fill(part)
    blocks, sight = run.sight.blocks, run.sight
    watched = [blocks[0], *sight.last_norms] if sight.last_norms else [*blocks, sight.norm]
    seen: dict[str, list] = {path: [] for path in watched}
    for path in watched:
        run.model.get_submodule(path).register_forward_pre_hook(
            lambda _, args, kwargs, path=path: seen[path].append((*args, *kwargs.values())[0].reshape(-1, WIDTH)),
            with_kwargs=True,
        )
    norm, runner = run.model.get_submodule(sight.norm), run.model.get_submodule(sight.runner)
    with torch.no_grad():
        for number in range(run.tokens):
            if sum(map(len, seen[sight.norm])) < run.tokens:
                runner(**run.inputs.batch(number, number + 1, torch.device("cpu"), torch.float32))
    rows = [torch.cat(seen[path])[: run.tokens].double().numpy() for path in watched]
    return rows, norm.weight.detach().double().numpy(), getattr(norm, "eps", None) or norm.variance_epsilon


def plain_norm(x, gamma, eps, *, centres):
    x = x - x.mean(axis=1, keepdims=True) if centres else x
    return gamma * x / np.sqrt(np.mean(x**2, axis=1, keepdims=True) + eps)


def test_the_same_seed_gives_the_same_figures_and_another_seed_others():
    first, again, other = (random_probe.__wrapped__("gpt2", seed=seed).row for seed in (0, 0, 1))
    assert first["spectrum"] == again["spectrum"] != other["spectrum"]


def test_the_size_of_batches_does_not_matter():
    few, many = (random_probe("llama", batch_tokens=tokens).row for tokens in (32, 4_096))
    np.testing.assert_allclose(few["spectrum"], many["spectrum"], rtol=1e-4)


def test_a_block_that_is_run_again_and_again_gives_no_ratios_and_the_reason_says_so():
    row = random_probe("albert").row
    assert (row.get("block_sigma_ratio"), row.get("preserved")) == (None, None)
    assert "not run once each" in row["reason"]


def test_blocks_are_named_by_the_list_that_the_norm_follows():
    assert random_probe("whisper").row["block_names"] == [
        "embeddings",
        "model.decoder.layers.0",
        "model.decoder.layers.1",
    ]


@pytest.mark.parametrize(("name", "kind"), [("vit", "images"), ("whisper", "audio"), ("llama", "random")])
def test_a_model_is_run_on_its_own_kind_of_input(name, kind):
    assert random_probe(name).row["inputs"] == kind
