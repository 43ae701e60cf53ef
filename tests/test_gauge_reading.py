"""The projector's trace as evidence: which matrices a plan reads, and what their answer changes."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save

from flows.crawl import crawl_of
from flows.settings import load_settings
from tasks.core.errors import TooLarge
from tasks.core.gauge import gauge, gauge_evidence, gauge_share
from tasks.core.ranges import MAX_RANGE_BYTES
from tests.checkpoints import GPT2_CONFIG, LLAMA_CONFIG, gpt2, llama
from tests.command import normaudit
from tests.test_reading import follow, main_norm, sharded

WIDTH = 64
UNHEARD_OF = {"model_type": "never_heard_of"}


def mute(share=1.0, layers=3, width=WIDTH, hidden=4 * WIDTH):
    """A checkpoint that tells no kind, its writers with this share of the mean energy along 1."""
    rng = np.random.default_rng(0)
    tensors = {"wte.weight": rng.normal(size=(32, width))}
    for i in range(layers):
        tensors |= {f"h.{i}.ln_1.weight": np.ones(width), f"h.{i}.attn.qkv.weight": rng.normal(size=(3 * width, width))}
        tensors[f"h.{i}.attn.out_proj.weight"] = with_share(rng.normal(size=(width, width)), share)
        tensors |= {f"h.{i}.ln_2.weight": np.ones(width), f"h.{i}.mlp.fc1.weight": rng.normal(size=(hidden, width))}
        tensors[f"h.{i}.mlp.fc2.weight"] = with_share(rng.normal(size=(width, hidden)), share)
    tensors["ln_f.weight"] = rng.lognormal(0, 0.3, width)
    return {name: values.astype(np.float32) for name, values in tensors.items()}


def with_share(matrix, share):
    mean = matrix.mean(0)
    return matrix - mean + mean * np.sqrt(share / gauge_share(matrix))


def audit(tensors, config=UNHEARD_OF, weights_evidence_bytes=10**6, **options):
    files = {"model.safetensors": save(tensors)} if "model.safetensors.index.json" not in tensors else tensors
    return follow(files, config, weights_evidence_bytes=weights_evidence_bytes, **options)


def read_bytes(rounds):
    return sum(fetch.stop - fetch.start for fetches in rounds for fetch in fetches if fetch.stop)


def heard(reading):
    [fact] = [fact for fact in main_norm(reading).norm.evidence if fact.source == "weights"]
    return fact


def test_writers_that_hardly_reach_along_one_make_the_norms_of_their_stream_layernorms():
    reading, _ = audit(mute(share=0.2))
    assert {read.norm.kind for read in reading.norms} == {"layernorm"}
    assert {read.norm.decided_by for read in reading.norms} == {"weights"}
    assert (reading.norm_kind, main_norm(reading).kernel.predicted_dead_dim) == ("layernorm", 1)
    assert main_norm(reading).norm.parameterisation == "plain"
    assert heard(reading).detail.startswith("gauge_share 0.2 along 1, 0.")
    assert "h.0.attn.out_proj.weight, h.1.attn.out_proj.weight" in heard(reading).detail


def test_a_share_that_fell_only_part_of_the_way_speaks_for_layernorm_but_is_no_answer_by_itself():
    reading, _ = audit(mute(share=0.6))
    assert (heard(reading).says, reading.norm_kind) == ("layernorm", "unknown")
    assert main_norm(reading).norm.confidence == pytest.approx((1 + heard(reading).strength) / 2)


def test_a_low_share_that_some_random_directions_have_as_well_speaks_for_nothing():
    one_row = np.zeros((16, 8))
    one_row[0] = 1.0
    opposed = one_row - np.roll(one_row, 1, axis=0) * 0.5  # (1 - 0.5)² or (1 + 0.5)² along any direction of signs
    fact = gauge_evidence(gauge([opposed], 16), ["h.0.out_proj.weight"])
    assert gauge_share(opposed) == pytest.approx(0.2)
    assert (fact.says, fact.strength) == ("unknown", 0.0)


def test_generic_writers_speak_for_rmsnorm_and_leave_the_norm_unknown():
    reading, _ = audit(mute())
    assert heard(reading).says == "rmsnorm"
    assert 0 < heard(reading).strength < 0.8
    assert {read.norm.kind for read in reading.norms} == {"unknown"}


def test_writers_that_were_centred_on_purpose_say_nothing():
    tensors = mute(share=1e-30)
    rounded = {name: values.astype(ml_dtypes.bfloat16).astype(np.float32) for name, values in tensors.items()}
    for stored in (tensors, rounded):
        reading, _ = audit(stored)
        assert (reading.norm_kind, heard(reading).says) == ("unknown", "unknown")
        assert "folded" in heard(reading).detail


def test_no_matrix_is_read_unless_it_was_asked_for():
    reading, rounds = audit(mute(share=0.2), weights_evidence_bytes=0)
    asked, more = audit(mute(share=0.2))
    assert reading.norm_kind == "unknown"
    assert not any(fact.source == "weights" for read in reading.norms for fact in read.norm.evidence)
    assert read_bytes(more) - read_bytes(rounds) >= 3 * 4 * WIDTH**2
    assert asked.norm_kind == "layernorm"


@pytest.mark.parametrize(("tensors", "config"), [(gpt2(128), GPT2_CONFIG), (llama(128), LLAMA_CONFIG)])
def test_of_a_norm_that_is_decided_no_writer_is_read(tensors, config):
    plain, rounds = audit(tensors, config, weights_evidence_bytes=0, config_is_whole=True)
    asked, more = audit(tensors, config, config_is_whole=True)
    assert rounds == more
    assert asked.norm_kind == plain.norm_kind != "unknown"


def test_the_smallest_writers_are_read_and_no_more_than_the_budget_allows():
    of_one = 4 * WIDTH**2
    reading, rounds = audit(mute(share=0.2), weights_evidence_bytes=2 * of_one + 7)
    assert heard(reading).detail.endswith("the median of h.0.attn.out_proj.weight, h.1.attn.out_proj.weight")
    _, without = audit(mute(share=0.2), weights_evidence_bytes=0)
    assert read_bytes(rounds) - read_bytes(without) <= 2 * of_one + 7


def test_a_budget_that_pays_for_no_writer_is_told_and_costs_nothing():
    reading, rounds = audit(mute(share=0.2), weights_evidence_bytes=1000)
    assert reading.norm_kind == "unknown"
    assert "h.0.attn.out_proj.weight, has 16,384 bytes; 1,000 may be read" in heard(reading).detail
    assert rounds == audit(mute(share=0.2), weights_evidence_bytes=0)[1]


def test_the_evidence_comes_on_top_of_what_a_model_may_cost_otherwise():
    tensors = mute(share=0.2)
    _, rounds = audit(tensors, weights_evidence_bytes=0)
    reading, _ = audit(tensors, max_model_bytes=read_bytes(rounds))
    assert reading.norm_kind == "layernorm"
    with pytest.raises(TooLarge, match="the limit for one model is 1,050"):
        audit(tensors, max_model_bytes=1000, weights_evidence_bytes=50)


def test_quantised_writers_are_told_to_be_no_witnesses():
    packed = {
        name.replace("proj.weight", "proj.qweight").replace("fc2.weight", "fc2.qweight"): (
            values.astype(np.int32) if "proj" in name or "fc2" in name else values
        )
        for name, values in mute(share=0.2).items()
    }
    reading, _ = audit(packed)
    assert reading.norm_kind == "unknown"
    assert heard(reading).detail.startswith("h.0.attn.out_proj.qweight is stored as I32: a quantised")


def test_a_matrix_longer_than_one_range_is_read_in_parts():
    reading, rounds = audit(mute(share=0.2, layers=2, width=1088, hidden=16), weights_evidence_bytes=5 * 10**6)
    assert max(fetch.stop - fetch.start for fetches in rounds for fetch in fetches if fetch.stop) == MAX_RANGE_BYTES
    assert "h.0.attn.out_proj.weight" in heard(reading).detail
    assert reading.norm_kind == "layernorm"


def test_a_shard_with_the_writers_is_opened_where_that_of_the_final_norm_has_none():
    files = sharded(mute(share=0.2), at=len(mute()) - 1)
    reading, rounds = audit(files)
    assert reading.norm_kind == "layernorm"
    assert "model-00001-of-00002.safetensors" in {fetch.path for fetches in rounds for fetch in fetches}


def test_a_night_reads_no_matrix_unless_its_settings_say_so(tmp_path):
    path = tmp_path / "nightly.toml"
    path.write_text("[[sources]]\ntop = 5\n")
    assert crawl_of(load_settings(path)).read.weights_evidence_bytes == 0
    path.write_text("[[sources]]\ntop = 5\n[limits]\nweights_evidence_bytes = 5_000\n")
    assert crawl_of(load_settings(path)).read.weights_evidence_bytes == 5000


def test_the_command_passes_the_option_on(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(save(mute(share=0.2)))
    (tmp_path / "config.json").write_text(json.dumps(UNHEARD_OF))
    asked = ["audit", str(tmp_path), "--json", "--no-store"]
    plain, more = (normaudit(*asked, *option) for option in ((), ("--weights-evidence", "100000")))
    assert json.loads(plain.stdout)["norm_kind"] == "unknown"
    [final] = json.loads(more.stdout)["final_norms"]
    assert (final["kind"], final["decided_by"]) == ("layernorm", "weights")
