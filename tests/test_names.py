"""Norms found by the names of their tensors: which are norms, which is last, which is main."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.names import find_norms
from tasks.core.paths import indices_of, names_a_norm, path_of, pattern_of
from tasks.core.records import Tensor
from tests.layers import checkpoint, llama, plain


def scales(*lines: str) -> set[str | None]:
    return {place.scale_tensor for place in find_norms(checkpoint(*lines))}


NAMED_OTHERWISE = {
    "sam's neck": ("neck.1.weight 8", "neck.1.bias 8", "neck.0.weight 8 8 1 1"),
    "a projector": ("mlp1.0.weight 8", "mlp1.0.bias 8", "mlp1.1.weight 8 8", "mlp1.1.bias 8"),
    "the perceiver": ("layers.0.1.0.weight 8", "layers.0.1.0.bias 8", "layers.0.1.1.weight 8 8"),
    "convnext": ("downsample.0.weight 8", "downsample.0.bias 8", "downsample.1.weight 8 8 2 2", "downsample.1.bias 8"),
    "a video autoencoder": ("residual.0.gamma 8 1 1 1", "residual.2.weight 8 8 3 3 3", "residual.2.bias 8"),
    "tensorflow": ("bert/encoder/layer_0/output/LayerNorm/gamma 8", "bert/encoder/layer_0/output/LayerNorm/beta 8"),
    "flux": ("double_blocks.0.img_attn.norm.key_norm.scale 8", "double_blocks.0.img_attn.qkv.weight 24 8"),
    "x-transformers": ("layers.0.0.norm.g 8", "layers.0.1.to_q.weight 8 8"),
    "a typo": ("vision_model.pre_layrnorm.weight 8", "vision_model.pre_layrnorm.bias 8"),
    "a list": ("encoder.layer_norm.3.weight 8", "encoder.layer_norm.3.bias 8"),
    "a norm in a norm": ("input_layernorm.norm.weight 8",),
    "unnamed statistics": ("rbr.weight 8", "rbr.bias 8", "rbr.running_mean 8", "rbr.running_var 8"),
}


@pytest.mark.parametrize("case", NAMED_OTHERWISE)
def test_a_norm_is_found_under_any_name(case):
    lines = NAMED_OTHERWISE[case]
    assert scales(*lines) == {lines[0].split()[0]}


DECOYS = [
    "transformer_blocks.0.norm1.linear.weight 48 8",
    "norm_out.linear.bias 16",
    "layers.0.layer_scale.weight 8",
    "blocks.0.ls1.gamma 8",
    "stages.0.blocks.0.gamma 8",
    "model.layers.0.router.scale 8",
    "model.layers.0.q_proj.lora_magnitude_vector.weight 8",
    "lora_unet_norm_out_linear.dora_scale 1 8",
    "model.layers.0.mlp.down_proj.scales 8 1",
    "model.layers.0.mlp.down_proj.biases 8 1",
    "model.layers.0.self_attn.q_proj.weight.absmax 8",
    "model.norm.weight.absmax 8",
    "act.weight 8",
    "normalizer.weight 8 8",
    "model.norm.weight 0",
    "image_norm_mean 3",
    "model.embed_tokens.weight 32 8",
    "score.weight 1 8",
]


@pytest.mark.parametrize("line", DECOYS)
def test_what_only_looks_like_a_norm_is_none(line):
    others = ("stages.0.blocks.0.conv.weight 8 8 7 7",)
    assert scales(line, *others) == set()


def test_query_and_key_norms_and_prediction_heads_have_sites_of_their_own():
    lines = plain("model.layers.#.self_attn.q_norm", "model.layers.#.self_attn.k_norm", "model.mtp.norm")
    sites = {place.pattern: place.site for place in find_norms(checkpoint(*llama(), *lines))}
    assert sites["model.layers.#.self_attn.q_norm"] == "query"
    assert sites["model.layers.#.self_attn.k_norm"] == "key"
    assert sites["model.layers.#.input_layernorm"] == "pre_attention"
    assert sites["model.norm"] == "final"


def test_a_norm_outside_the_blocks_has_no_layer():
    layers = {place.module: place.layer for place in find_norms(checkpoint(*llama()))}
    assert layers["model.norm"] is None
    assert layers["model.layers.1.input_layernorm"] == 1


def test_numbers_without_names_yield_nothing():
    assert find_norms(checkpoint("layer.#.weight 8 8", layers=50)) == ()


@pytest.mark.parametrize(
    ("name", "pattern", "indices"),
    [
        ("model.layers.17.mlp.experts.3.w1.weight", "model.layers.#.mlp.experts.#.w1.weight", (17, 3)),
        ("encoder.layer_3.norm.weight", "encoder.layer.#.norm.weight", (3,)),
        ("0.auto_model.encoder.layer.2.norm.weight", "0.auto_model.encoder.layer.#.norm.weight", (2,)),
        ("vision.layer_norm1.weight", "vision.layer_norm1.weight", ()),
        ("a.12345678901234567890.weight", "a.12345678901234567890.weight", ()),
    ],
)
def test_a_pattern_names_all_layers_at_once(name, pattern, indices):
    assert (pattern_of(name), indices_of(name)) == (pattern, indices)


@given(st.text(max_size=60))
def test_a_pattern_has_as_many_numbers_as_a_name_has_indices(name):
    assert pattern_of(name.replace("#", "")).count("#") == len(indices_of(name.replace("#", "")))


def test_wrappers_are_no_part_of_a_path():
    assert path_of("module._orig_mod.model.norm") == ("model", "norm")


@pytest.mark.parametrize("word", ["ln_f", "norm2", "LayerNorm", "bn1", "rms_2", "layrnorm", "normalization", "q_norm"])
def test_a_norms_name_is_known(word):
    assert names_a_norm(word)


@pytest.mark.parametrize(
    "word", ["normal", "weight_norm", "normalizer", "linear", "abnormal", "blnk", "x" * 100 + "norm"]
)
def test_a_word_that_holds_a_norms_name_is_none(word):
    assert not names_a_norm(word)


def test_a_name_of_a_megabyte_is_passed_over():
    assert find_norms([Tensor("norm." * 200_000 + "weight", "f")]) == ()
