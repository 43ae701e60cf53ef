"""The reading plan, run on bytes in hand: what it asks for, and what it concludes."""

import json

import numpy as np
import pytest

from tasks.core.configfile import MAX_CONFIG_BYTES
from tasks.core.configs import MAX_WIDTH
from tasks.core.errors import AuditError, BadFile, NotFound, TooLarge
from tasks.core.figures import without_scale
from tasks.core.header import FIRST_READ_BYTES
from tasks.core.reading import MAX_SHARDS, ReadOptions, read_checkpoint
from tasks.core.records import Chunk, Listing, Norm, RepoFile
from tests.checkpoints import GPT2_CONFIG, LLAMA_CONFIG, gpt2, llama, raw_file, safetensors_file
from tests.plans import follow, main_norm, sharded


def wide_gpt2(layers=4):
    """A GPT-2 whose final norm lies far beyond the first read."""
    return gpt2(dim=128, layers=layers)


def test_a_single_file_takes_one_read_of_its_head_and_one_of_its_final_norm():
    tensors = wide_gpt2()
    reading, rounds = follow({"model.safetensors": safetensors_file(tensors)}, GPT2_CONFIG)
    assert [len(fetches) for fetches in rounds] == [1, 1]
    assert rounds[0][0].stop == FIRST_READ_BYTES
    main = main_norm(reading)
    assert (reading.status, reading.norm_kind, main.norm.scale_tensor) == ("ok", "layernorm", "ln_f.weight")
    np.testing.assert_array_equal(main.gamma, tensors["ln_f.weight"].astype("f4").astype("f8"))
    np.testing.assert_array_equal(main.beta, tensors["ln_f.bias"].astype("f4").astype("f8"))
    assert main.kernel.predicted_dead_dim == 1


def test_what_the_first_read_already_holds_is_not_asked_for_again():
    _, rounds = follow({"model.safetensors": safetensors_file(gpt2())}, GPT2_CONFIG)
    assert len(rounds) == 1


def test_a_header_longer_than_the_first_read_is_completed_by_one_more():
    tensors = {
        f"h.{i}.attn.a_rather_long_name_of_a_matrix_{j}.weight": np.ones(1) for i in range(20) for j in range(40)
    }
    file = safetensors_file({**tensors, **gpt2()})
    reading, rounds = follow({"model.safetensors": file}, GPT2_CONFIG)
    assert rounds[1][0].start == FIRST_READ_BYTES
    assert reading.status == "ok"


def test_of_a_sharded_checkpoint_only_the_index_and_the_shard_with_the_final_norm_are_read():
    tensors = wide_gpt2()
    files = sharded(tensors, at=10)
    reading, rounds = follow(files, GPT2_CONFIG)
    assert [fetch.path for fetches in rounds for fetch in fetches if fetch.of == "file"] == [
        "model.safetensors.index.json",
        "model-00002-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    assert main_norm(reading).norm.file == "model-00002-of-00002.safetensors"
    assert len(reading.tensors) == len(tensors)


def test_all_norms_of_all_shards_are_read_side_by_side():
    reading, rounds = follow(sharded(wide_gpt2(), at=16), GPT2_CONFIG, norms="all")
    assert all(read.scale is not None for read in reading.norms)
    assert len(reading.norms) == 9
    assert {fetch.path for fetch in rounds[-1]} == {f"model-0000{i}-of-00002.safetensors" for i in (1, 2)}


def test_only_final_norms_carry_vectors_and_kernels():
    reading, _ = follow({"model.safetensors": safetensors_file(gpt2())}, GPT2_CONFIG, norms="all")
    assert [read.kernel is not None for read in reading.norms] == [read.norm.is_final for read in reading.norms]


def test_llama_is_rms_norm_and_has_no_predicted_dead_direction():
    reading, _ = follow({"model.safetensors": safetensors_file(llama())}, LLAMA_CONFIG, config_is_whole=True)
    main = main_norm(reading)
    assert (main.norm.kind, main.norm.scale_tensor) == ("rmsnorm", "model.norm.weight")
    assert main.kernel.predicted_dead_dim == 0


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"])
def test_scales_of_every_float_type_are_read(dtype):
    reading, _ = follow({"model.safetensors": safetensors_file(gpt2(weight=np.full(8, 0.5)), dtype)}, GPT2_CONFIG)
    assert main_norm(reading).gamma.tolist() == [0.5] * 8


def test_a_final_norm_without_affine_has_the_streams_width_and_a_uniform_direction():
    tensors = {name: values for name, values in llama(dim=16).items() if "norm" not in name}
    reading, _ = follow({"model.safetensors": safetensors_file(tensors)}, {"model_type": "olmo", "hidden_act": "x"})
    main = main_norm(reading)
    assert (main.norm.scale_tensor, main.norm.parameterisation, main.norm.dim) == (None, None, 16)
    assert main.gamma.tolist() == [1.0] * 16
    assert main.kernel.participation_ratio == pytest.approx(16)


def test_zero_scales_are_dead_and_degenerate():
    gamma = np.array([0, 0, 1, 1, 1, 1, 1, 1.0])
    reading, _ = follow({"model.safetensors": safetensors_file(gpt2(weight=gamma))}, GPT2_CONFIG)
    kernel = main_norm(reading).kernel
    assert (kernel.predicted_dead_dim, kernel.kernel_degenerate, kernel.dead_coordinates) == (2, True, (0, 1))


def test_nan_scales_are_counted_and_have_no_direction():
    gamma = np.array([np.nan, np.inf, 1, 1, 1, 1, 1, 1.0])
    reading, _ = follow({"model.safetensors": safetensors_file(gpt2(weight=gamma))}, GPT2_CONFIG)
    main = main_norm(reading)
    assert main.scale.nonfinite_count == 2
    assert main.kernel.participation_ratio is None
    assert "scale_not_finite" in reading.integrity


def test_scales_that_are_all_one_are_told():
    tensors = {name: np.ones(8) if "ln_" in name else values for name, values in gpt2().items()}
    reading, _ = follow({"model.safetensors": safetensors_file(tensors)}, GPT2_CONFIG)
    assert "scales_all_one" in reading.integrity


def test_a_repo_without_safetensors_says_what_it_has_instead():
    reading, rounds = follow({"pytorch_model.bin": b"", "README.md": b""})
    assert (reading.status, rounds) == ("no_safetensors", [])
    assert "bin" in reading.reason


def test_a_checkpoint_without_norms_says_so_and_invents_none():
    tensors = {
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": np.ones((2, 8)),
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": np.ones((8, 2)),
    }
    reading, _ = follow({"adapter_model.safetensors": safetensors_file(tensors)}, {})
    assert (reading.status, reading.norm_kind, reading.norms) == ("no_norms", "none", ())


def test_an_index_that_names_a_tensor_which_its_shard_lacks_is_a_bad_file():
    files = sharded(wide_gpt2(), at=10)
    index = json.loads(files["model.safetensors.index.json"])
    index["weight_map"]["ln_f.extra"] = "model-00002-of-00002.safetensors"
    files["model.safetensors.index.json"] = json.dumps(index).encode()
    with pytest.raises(BadFile, match=r"org/name/model-00002-of-00002.safetensors: .* ln_f.extra"):
        follow(files, GPT2_CONFIG)


def test_an_index_that_names_a_missing_shard_is_an_error_for_that_model():
    files = sharded(wide_gpt2(), at=10)
    del files["model-00002-of-00002.safetensors"]
    with pytest.raises(AuditError, match=r"model-00002-of-00002\.safetensors"):
        follow(files, GPT2_CONFIG)


def test_a_truncated_shard_is_a_bad_file():
    files = sharded(wide_gpt2(), at=10)
    files["model-00002-of-00002.safetensors"] = files["model-00002-of-00002.safetensors"][:-10]
    with pytest.raises(BadFile, match="truncated"):
        follow(files, GPT2_CONFIG)


def test_a_ten_gigabyte_norm_is_too_large_and_not_a_byte_of_it_is_read():
    header = {"ln_f.weight": {"dtype": "F32", "shape": [2_500_000_000], "data_offsets": [0, 10**10]}}
    data = raw_file(header)
    listing = Listing("org/name", None, (RepoFile("model.safetensors", len(data) + 10**10),), GPT2_CONFIG)
    plan = read_checkpoint(listing, ReadOptions())
    next(plan)
    with pytest.raises(TooLarge, match="10,000,000,000"):
        plan.send((Chunk(data, len(data) + 10**10),))


def test_a_model_that_would_pass_its_byte_limit_is_too_large():
    with pytest.raises(TooLarge, match="limit for one model is 100"):
        follow({"model.safetensors": safetensors_file(wide_gpt2())}, GPT2_CONFIG, max_model_bytes=100)


def test_a_missing_config_is_no_error():
    tensors = {name: values for name, values in llama().items() if not name.endswith("bias")}
    reading, rounds = follow({"model.safetensors": safetensors_file(tensors)}, {"model_type": "never_heard_of"})
    assert reading.status == "ok"
    asked = [fetch.path for fetches in rounds for fetch in fetches]
    assert asked.count("config.json") <= 1


def test_config_json_is_asked_for_only_where_the_answer_hangs_on_it():
    files = {"model.safetensors": safetensors_file(gpt2()), "config.json": json.dumps(GPT2_CONFIG).encode()}
    _, rounds = follow(files, {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]})
    assert "config.json" not in [fetch.path for fetches in rounds for fetch in fetches]
    without_bias = {name: values for name, values in gpt2().items() if not name.endswith("bias")}
    files = {"model.safetensors": safetensors_file(without_bias), "config.json": json.dumps(GPT2_CONFIG).encode()}
    _, rounds = follow(files, {"model_type": "never_heard_of"})
    assert "config.json" in [fetch.path for fetches in rounds for fetch in fetches]


def test_a_sharded_checkpoint_without_an_index_is_read_by_its_shards():
    files = sharded(wide_gpt2(), at=10)
    del files["model.safetensors.index.json"]
    reading, rounds = follow(files, GPT2_CONFIG)
    assert len(rounds[0]) == 2
    assert main_norm(reading).norm.scale_tensor == "ln_f.weight"


# A norm without bias, of which only a config could tell the kind
UNDECIDED = safetensors_file({name: values for name, values in gpt2().items() if not name.endswith("bias")})


@pytest.mark.parametrize("config", [b"", b"[]", b"{", b'{"a":' * 300 + b"1" + b"}" * 300])
def test_an_unreadable_config_counts_as_none_and_has_a_verdict(config):
    files = {"model.safetensors": UNDECIDED, "config.json": config}
    reading, _ = follow(files, {"model_type": "never_heard_of"})
    assert (reading.status, reading.config) == ("ok", {"model_type": "never_heard_of"})
    assert "config_unreadable" in reading.integrity


def test_a_config_with_infinity_in_it_is_a_config():
    config = b'{"limit": [0.0, Infinity], "use_rms": true}'
    files = {"model.safetensors": UNDECIDED, "config.json": config}
    reading, _ = follow(files, {"model_type": "never_heard_of"})
    assert reading.config == {"limit": [0.0, None], "use_rms": True}
    assert "config_unreadable" not in reading.integrity


@pytest.mark.parametrize("error", [TooLarge("too large"), BadFile("not a regular file")])
def test_a_config_is_asked_for_up_to_its_limit_and_one_that_is_refused_counts_as_unreadable(error):
    files = {"model.safetensors": UNDECIDED, "config.json": error}
    reading, rounds = follow(files, {"model_type": "never_heard_of"})
    limits = [fetch.limit_bytes for fetches in rounds for fetch in fetches if fetch.path == "config.json"]
    assert limits == [MAX_CONFIG_BYTES]
    assert "config_unreadable" in reading.integrity


@pytest.mark.parametrize("shape", [[0, 2**62], [2**62, 0]])
def test_a_final_norm_without_elements_has_no_figures(shape):
    entries = {"h.0.mlp.c_fc.weight": [0], "h.0.ln_1.weight": [0], "h.0.ln_1.bias": [0], "ln_f.weight": shape}
    header = {name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]} for name, shape in entries.items()}
    reading, _ = follow({"model.safetensors": raw_file(header)}, GPT2_CONFIG)
    main = main_norm(reading)
    assert (main.norm.scale_tensor, main.norm.dim, main.kernel, main.scale.gamma_rms) == ("ln_f.weight", 0, None, None)


def test_a_scale_of_more_dimensions_than_numpy_has_is_read():
    header = {"ln_f.weight": {"dtype": "F32", "shape": [1] * 65 + [2], "data_offsets": [0, 8]}}
    reading, _ = follow({"model.safetensors": raw_file(header, np.ones(2, "<f4").tobytes())}, GPT2_CONFIG)
    assert main_norm(reading).gamma.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("width", "has_figures"), [(MAX_WIDTH, True), (MAX_WIDTH + 1, False), (10**10, False)])
def test_a_norm_without_affine_that_is_wider_than_any_has_no_figures(width, has_figures):
    norm = Norm("", "text", None, "final", "layernorm", None, 1.0, "tensors", is_final=True, dim=width)
    assert (without_scale(norm, 1e-4).gamma is not None) == has_figures


def many_shards(count):
    """An index that puts one layer's norm into each of so many shards, and its answer to the first fetch."""
    shards = {f"h.{i}.ln_1.weight": f"shard-{i}.safetensors" for i in range(count)}
    index = json.dumps({"weight_map": {"ln_f.weight": "shard-0.safetensors", **shards}}).encode()
    listing = Listing("org/name", None, (RepoFile("model.safetensors.index.json", len(index)),), GPT2_CONFIG)
    plan = read_checkpoint(listing, ReadOptions(norms="all", config_is_whole=True))
    next(plan)
    plan.send((NotFound("no digest of headers here"),))
    return plan, Chunk(index, len(index))


def test_a_model_that_needs_more_shards_than_any_has_is_too_large():
    plan, index = many_shards(MAX_SHARDS)
    fetches = plan.send((index,))
    assert len(fetches) == MAX_SHARDS
    assert len({fetch.stop for fetch in fetches}) == 2  # each by the number of its own tensors
    plan, index = many_shards(MAX_SHARDS + 1)
    with pytest.raises(TooLarge, match="1,001 shards to open"):
        plan.send((index,))
