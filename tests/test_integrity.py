"""The verdicts of column `integrity`: each on a checkpoint that deserves it, none on one that only looks like it."""

import json
from pathlib import Path

import numpy as np
import pytest

from tasks.core import verdicts
from tasks.core.errors import BadFile
from tasks.core.integrity import lacks_shards
from tasks.core.kinds import classify
from tasks.core.reading import ReadOptions
from tasks.core.records import Tensor
from tasks.core.registry import load_registry
from tasks.folder import audit_folder
from tests.checkpoints import GPT2_CONFIG, LLAMA_CONFIG, gpt2, llama, raw_file, safetensors_file
from tests.corpus import digest, read
from tests.layers import DIGEST, checkpoint, plain, registry_of
from tests.layers import llama as llama_lines

ARCHITECTURES = Path(__file__).parent / "data" / "architectures.jsonl.gz"
REAL = Path(__file__).parents[2] / "shared" / "corpus" / "real-checkpoints.jsonl.gz"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"
PROMISES = registry_of(
    {"at": "model.layers.{i}.input_layernorm", "kind": "rmsnorm", "site": "pre_attention"},
    {"at": "model.layers.{i}.post_attention_layernorm", "kind": "rmsnorm", "site": "pre_mlp"},
    {"at": "model.layers.{i}.self_attn.q_norm", "kind": "rmsnorm", "site": "query"},
    {"at": "model.norm", "kind": "rmsnorm", "final": True, "main": True},
)


@pytest.fixture
def folder(tmp_path):
    def write(files, config=GPT2_CONFIG):
        for name, data in {**files, "config.json": json.dumps(config).encode()}.items():
            (tmp_path / name).write_bytes(data)
        return tmp_path

    return write


def reading_of(path, **options):
    return audit_folder(str(path), ReadOptions(**options)).reading


def in_two_shards(tensors):
    """An index and two shards: the first half of the tensors, and the rest."""
    names = list(tensors)
    halves = {FIRST: names[: len(names) // 2], SECOND: names[len(names) // 2 :]}
    index = {"weight_map": {name: shard for shard, half in halves.items() for name in half}}
    shards = {shard: safetensors_file({name: tensors[name] for name in half}) for shard, half in halves.items()}
    return {INDEX: json.dumps(index).encode(), **shards}


def verdicts_on(lines, config=DIGEST, registry=PROMISES, layers=2):
    return classify(checkpoint(*lines, layers=layers), config, registry).integrity


def less(lines, *names):
    return [line for line in lines if not any(name in line for name in names)]


def test_a_sound_checkpoint_has_no_verdict(folder):
    assert reading_of(folder(in_two_shards(gpt2())), norms="all", registry=load_registry()).integrity == ()


def test_an_index_that_names_a_tensor_which_its_shard_lacks_is_told(folder):
    files = in_two_shards(gpt2())
    index = json.loads(files[INDEX])
    index["weight_map"]["ln_f.extra"] = SECOND
    reading = reading_of(folder({**files, INDEX: json.dumps(index).encode()}))
    assert (reading.status, reading.integrity) == ("bad_file", (verdicts.INDEX_NAMES_MISSING_TENSOR,))
    assert "ln_f.extra" in reading.reason


def test_a_shard_that_ends_early_is_told(folder):
    files = in_two_shards(gpt2())
    reading = reading_of(folder({**files, SECOND: files[SECOND][:-1]}))
    assert (reading.status, reading.integrity) == ("bad_file", (verdicts.SHARD_TRUNCATED,))


def test_a_file_that_ends_within_its_header_is_truncated(folder):
    reading = reading_of(folder({"model.safetensors": safetensors_file(gpt2())[:100]}))
    assert (reading.status, reading.integrity) == ("bad_file", (verdicts.SHARD_TRUNCATED,))


def test_a_file_of_another_sort_is_not_called_truncated(folder):
    reading = reading_of(folder({"model.safetensors": b"\x00\x10\x00\x00\x00\x00\x00\x00\x80\x02pickled"}))
    assert (reading.status, reading.integrity) == ("bad_file", ())


def test_a_bad_file_of_another_fault_has_no_verdict(folder):
    reading = reading_of(folder({"model.safetensors": raw_file({"ln_f.weight": 3})}))
    assert (reading.status, reading.integrity) == ("bad_file", ())


def test_a_shard_that_is_needed_and_not_there_is_a_bad_file(folder):
    files = in_two_shards(gpt2())
    reading = reading_of(folder({name: data for name, data in files.items() if name != SECOND}))
    assert (reading.status, reading.integrity) == ("bad_file", (verdicts.SHARD_MISSING,))


def test_a_shard_that_is_not_needed_and_not_there_is_told_as_well(folder):
    files = in_two_shards(gpt2())
    reading = reading_of(folder({name: data for name, data in files.items() if name != FIRST}))
    assert (reading.status, reading.integrity) == ("ok", (verdicts.SHARD_MISSING,))


def test_one_shard_by_itself_is_part_of_a_checkpoint_and_breaks_no_promise(folder):
    files = in_two_shards(llama(layers=4))
    reading = reading_of(folder(files, LLAMA_CONFIG) / FIRST, registry=load_registry())
    assert reading.integrity == (verdicts.SHARD_MISSING,)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["model.safetensors"], False),
        (["model-00001-of-00001.safetensors"], False),
        ([FIRST, SECOND, FIRST], False),
        ([SECOND], True),
        ([FIRST, SECOND, "x/" + FIRST], True),
        (["model-1-of-2.safetensors"], False),
    ],
)
def test_missing_shards_are_told_from_the_names_of_the_others(files, expected):
    assert lacks_shards(files) is expected


def test_scales_that_are_all_one_are_told_and_a_single_other_value_clears_them(folder):
    ones = {name: np.ones(8) if "ln_" in name else values for name, values in gpt2().items()}
    path = folder({"model.safetensors": safetensors_file(ones)})
    assert reading_of(path, norms="all").integrity == (verdicts.SCALES_ALL_ONE,)
    ones["h.0.ln_1.weight"] = np.array([1, 1, 1, 1, 1, 1, 1, 1.5])
    folder({"model.safetensors": safetensors_file(ones)})
    assert reading_of(path, norms="all").integrity == ()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_told_of_scale_and_bias(folder, wrong):
    values = np.array([wrong, 1, 1, 1, 1, 1, 1, 2])
    scale = folder({"model.safetensors": safetensors_file(gpt2(weight=values))})
    assert reading_of(scale).integrity == (verdicts.SCALE_NOT_FINITE,)
    bias = folder({"model.safetensors": safetensors_file(gpt2(bias=values))})
    assert reading_of(bias).integrity == (verdicts.BIAS_NOT_FINITE,)


@pytest.mark.parametrize("missing", ["model.norm", "input_layernorm", "post_attention_layernorm", "norm"])
def test_a_norm_that_the_architecture_promises_and_the_file_lacks_is_told(missing):
    assert verdicts.PROMISED_NORM_MISSING in verdicts_on(less(llama_lines(), missing))


def test_a_norm_that_one_layer_of_many_lacks_is_told():
    lines = less(llama_lines(), "input_layernorm")
    tensors = checkpoint(*lines, layers=6)
    norms = checkpoint(*plain("model.layers.#.input_layernorm"), layers=6)
    found = classify([*tensors, *norms[:3], *norms[4:]], DIGEST, PROMISES)
    assert found.integrity == (verdicts.PROMISED_NORM_MISSING,)
    first_lacks_it = classify([*tensors, *norms[1:]], DIGEST, PROMISES)
    assert first_lacks_it.integrity == (), "the first layer may well be other than the rest"


def test_layers_of_another_sort_need_not_have_the_norm_of_the_others():
    tensors = [t for t in checkpoint(*llama_lines(), layers=6) if not t.name.startswith("model.layers.3.")]
    other = checkpoint("model.layers.3.mixer.weight 8 8", *plain("model.layers.3.post_attention_layernorm"))
    assert classify([*tensors, *other], DIGEST, PROMISES).integrity == ()


@pytest.mark.parametrize(
    ("config", "registry"),
    [(DIGEST, None), ({"model_type": "another"}, PROMISES), ({**DIGEST, "auto_map": {"AutoModel": "m.M"}}, PROMISES)],
    ids=["no registry", "an architecture that was not measured", "code of the repo's own"],
)
def test_nothing_is_promised_by(config, registry):
    assert verdicts_on(less(llama_lines(), "model.norm"), config, registry) == ()


def test_a_norm_that_a_config_may_switch_off_is_no_promise():
    assert verdicts_on(llama_lines()) == ()  # PROMISES has norms of queries


def test_a_tower_that_is_not_in_the_file_is_no_promise():
    registry = registry_of(
        {"at": "model.layers.{i}.input_layernorm", "kind": "rmsnorm", "site": "pre_attention"},
        {"at": "model.layers.{i}.post_attention_layernorm", "kind": "rmsnorm", "site": "pre_mlp"},
        {"at": "model.norm", "kind": "rmsnorm", "final": True, "main": True},
        {"at": "vision.layers.{i}.norm1", "kind": "layernorm", "tower": "vision", "site": "pre_attention"},
        {"at": "vision.norm", "kind": "layernorm", "tower": "vision", "final": True},
    )
    assert verdicts_on(llama_lines(), registry=registry) == ()


def test_other_names_than_those_that_were_measured_are_no_missing_norms():
    renamed = [line.replace("input_layernorm", "attention_norm") for line in llama_lines()]
    assert verdicts_on(renamed) == ()


def test_an_adapter_lacks_no_norm():
    lines = ["model.layers.#.self_attn.q_proj.lora_A.weight 2 8", "model.layers.#.self_attn.q_proj.lora_B.weight 8 2"]
    assert verdicts_on(lines) == (verdicts.ADAPTER_ONLY,)


@pytest.mark.parametrize("path", [ARCHITECTURES, REAL], ids=["architectures", "published"])
@pytest.mark.parametrize("seen", [dict, digest], ids=["config.json", "digest"])
def test_no_labelled_checkpoint_is_said_to_lack_a_norm_or_a_shard(path, seen):
    if not path.exists():
        pytest.skip(f"this corpus is not at {path}")
    wrong = {verdicts.PROMISED_NORM_MISSING, verdicts.SHARD_MISSING, verdicts.LAYER_GAPS}
    accused = {
        model.name: found
        for model in read(path)
        if (found := wrong.intersection(classify(model.tensors, seen(model.config), load_registry()).integrity))
    }
    assert not accused


def test_names_that_are_hostile_get_no_verdict_and_no_error():
    names = ["model.layers.99999999999.input_layernorm.weight", "model.layers.0.#.weight", "-00001-of-99999", "." * 600]
    classify([Tensor(name, "model-00001-of-0000x.safetensors") for name in names], DIGEST, PROMISES)


def test_every_verdict_is_one_word_and_told_apart():
    words = [value for name, value in vars(verdicts).items() if name.isupper() and isinstance(value, str)]
    assert set(words) >= verdicts.FROM_NAMES
    assert len(words) == len(set(words)) == 12
    assert all(word.replace("_", "").isalpha() and word.islower() for word in words)


def test_a_bad_file_keeps_its_verdict_beside_its_message():
    error = BadFile("org/name/x: too short", verdicts.SHARD_TRUNCATED)
    assert (str(error), error.verdict) == ("org/name/x: too short", "shard_truncated")
    assert BadFile("org/name/x: wrong").verdict is None
