"""The kind of each norm, by its tensors, its neighbours and the config."""

import pytest

from tasks.core.kinds import Classification, classify
from tests.layers import (
    COHERE,
    DIGEST,
    EPS,
    STABLELM,
    bert,
    biased,
    checkpoint,
    llama,
    main_norm,
    matrices,
    plain,
)

GPT2_WITHOUT_BIAS = (
    *plain("transformer.h.#.ln_1", "transformer.h.#.ln_2", "transformer.ln_f"),
    *matrices("transformer.h.#.attn.c_attn", "transformer.h.#.mlp.c_fc"),
)
QWEN_1 = (
    *GPT2_WITHOUT_BIAS,
    *matrices("transformer.h.#.mlp.w1", "transformer.h.#.mlp.w2", "transformer.h.#.mlp.c_proj"),
    "transformer.h.#.attn.c_attn.bias 8",
)
CHATGLM = (
    *plain("encoder.layers.#.input_layernorm", "encoder.layers.#.post_attention_layernorm", "encoder.final_layernorm"),
    *matrices("encoder.layers.#.self_attention.dense", "encoder.layers.#.mlp.dense_h_to_4h"),
)
DBRX = (
    *plain("blocks.#.norm_attn_norm.norm_1", "blocks.#.norm_attn_norm.norm_2", "norm_f"),
    *matrices("blocks.#.norm_attn_norm.attn.Wqkv", "blocks.#.ffn.experts.mlp.w1"),
)
MOONSHINE = (
    *plain("decoder.layers.#.input_layernorm", "decoder.layers.#.post_attention_layernorm", "decoder.norm"),
    *matrices("decoder.layers.#.self_attn.q_proj", "decoder.layers.#.mlp.fc1"),
    "decoder.layers.#.mlp.fc1.bias 8",
)
QWEN_VL = (
    *QWEN_1,
    *biased("transformer.visual.transformer.resblocks.#.ln_1", "transformer.visual.ln_post"),
    *matrices("transformer.visual.transformer.resblocks.#.attn.out_proj"),
)
MOLMO = (
    *plain("model.transformer.blocks.#.attn_norm", "model.transformer.blocks.#.ff_norm", "model.transformer.ln_f"),
    *matrices("model.transformer.blocks.#.att_proj", "model.transformer.blocks.#.ff_proj"),
)
NEMOTRON_H = (
    *plain("backbone.layers.#.norm", "backbone.norm_f"),
    "backbone.layers.#.mixer.A_log 8",
    *matrices("backbone.layers.#.mixer.in_proj", "backbone.layers.#.mixer.out_proj"),
)
CLIP_AND_UMT5 = (
    *biased("clip.blocks.#.norm1", "clip.blocks.#.norm2", "clip.post_norm"),
    *matrices("clip.blocks.#.attn.to_qkv", "clip.blocks.#.mlp.0"),
    *plain("t5.blocks.#.norm1", "t5.blocks.#.norm2", "t5.norm"),
    *matrices("t5.blocks.#.attn.q", "t5.blocks.#.ffn.gate.0", "t5.blocks.#.ffn.fc1"),
)
RESNET = (
    *(f"{bn}.{leaf} 8" for bn in ("bn1", "layer1.#.bn1") for leaf in ("weight", "bias", "running_mean", "running_var")),
    *("conv1.weight 8 3 7 7", "layer1.#.conv1.weight 8 8 3 3", "fc.weight 10 8", "fc.bias 10"),
)
T5 = (
    *plain("encoder.block.#.layer.0.layer_norm", "encoder.final_layer_norm"),
    *matrices(
        "encoder.block.#.layer.0.SelfAttention.q", "encoder.block.#.layer.0.SelfAttention.relative_attention_bias"
    ),
)


def kinds_of(lines, config=None) -> dict[str | None, str]:
    return {norm.module: norm.kind for norm in classify(checkpoint(*lines), config).norms}


CASES = {
    "a bias says LayerNorm": (bert(), None, "layernorm"),
    "a bias says so under Llama's names": (STABLELM, None, "layernorm"),
    "a bias says so against the config": (STABLELM, EPS, "layernorm"),
    "rms_norm_eps without a bias": (llama(), EPS, "rmsnorm"),
    "Llama's layout without a config": (llama(), None, "rmsnorm"),
    "GPT-2's names without a bias say nothing": (GPT2_WITHOUT_BIAS, None, "unknown"),
    "layer_norm_epsilon without a bias says nothing": (GPT2_WITHOUT_BIAS, {"layer_norm_epsilon": 1e-5}, "unknown"),
    "Qwen-1: gated, the queries' bias alone": (QWEN_1, {"layer_norm_epsilon": 1e-6}, "rmsnorm"),
    "Qwen-VL: one name, two kinds": (QWEN_VL, {"layer_norm_epsilon": 1e-6}, "rmsnorm"),
    "ChatGLM: said by a flag": (CHATGLM, {"rmsnorm": True, "layernorm_epsilon": 1e-5}, "rmsnorm"),
    "ChatGLM: said by a flag not to be": (CHATGLM, {"rmsnorm": False}, "layernorm"),
    "Molmo: an RMSNorm called ln_f": (MOLMO, {"layer_norm_type": "rms", "layer_norm_eps": 1e-6}, "rmsnorm"),
    "Nemotron-H: mixers, whatever the epsilon is called": (NEMOTRON_H, {"layer_norm_epsilon": 1e-5}, "rmsnorm"),
    "T5: its layout": (T5, {"layer_norm_epsilon": 1e-6}, "rmsnorm"),
    "Cohere: one norm per layer": (COHERE, {"layer_norm_eps": 1e-5}, "layernorm"),
    "Cohere without a config": (COHERE, None, "unknown"),
    "ModernBERT: a bias to switch off": (GPT2_WITHOUT_BIAS, {"norm_bias": False, "norm_eps": 1e-5}, "layernorm"),
    "MPT: said by a type": (GPT2_WITHOUT_BIAS, {"norm_type": "low_precision_layernorm"}, "layernorm"),
    "said by a type in a nested config": (GPT2_WITHOUT_BIAS, {"text_config": {"norm_type": "RMSNorm"}}, "rmsnorm"),
    "DBRX: gated experts, but nothing of RMSNorm": (DBRX, None, "unknown"),
    "Moonshine: Llama's names alone": (MOONSHINE, None, "unknown"),
    "a diffusion transformer's last norm is computed": (
        matrices("blocks.#.attn.qkv", "blocks.#.adaLN_modulation.1", "final_layer.linear"),
        None,
        "layernorm",
    ),
    "said of the queries' norms alone": (GPT2_WITHOUT_BIAS, {"qk_norm": "rms_norm"}, "unknown"),
    "said of the front end's alone": (GPT2_WITHOUT_BIAS, {"feat_extract_norm": "layer"}, "unknown"),
    "called by its kind": (plain("layers.#.rms_1", "final_rmsnorm") + matrices("layers.#.attn"), None, "rmsnorm"),
    "running statistics": (
        (*biased("bn1"), "bn1.running_mean 8", "bn1.running_var 8", "conv1.weight 8 3 7 7"),
        None,
        "batchnorm",
    ),
    "between convolutions": (
        (*biased("up.#.norm1", "up.#.norm2"), "up.#.conv1.weight 8 8 3 3", "up.#.conv2.weight 8 8 3 3"),
        None,
        "groupnorm",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_kind_follows_from_the_evidence(case):
    lines, config, kind = CASES[case]
    assert classify(checkpoint(*lines), config).norm_kind == kind


@pytest.mark.parametrize("case", [case for case in CASES if "convolutions" not in case])
def test_the_kind_is_the_same_without_shapes(case):
    lines, config, kind = CASES[case]
    assert classify(checkpoint(*lines, shapes=False), config).norm_kind == kind


def test_one_name_is_of_two_kinds_in_two_towers():
    kinds = kinds_of(QWEN_VL, {"layer_norm_epsilon": 1e-6})
    assert kinds["transformer.h.1.ln_1"] == "rmsnorm"
    assert kinds["transformer.visual.transformer.resblocks.1.ln_1"] == "layernorm"


def test_norms_of_one_name_beside_each_other_have_each_their_own_kind():
    kinds = kinds_of(CLIP_AND_UMT5, {"clip": {"layer_norm_eps": 1e-5}, "t5": {"rms_norm_eps": 1e-6}})
    assert kinds["clip.blocks.0.norm1"] == "layernorm"
    assert kinds["t5.blocks.0.norm1"] != "layernorm"


def test_a_network_of_batch_norms_has_no_norm_of_a_transformer():
    answer = classify(checkpoint(*RESNET), None)
    assert {norm.kind for norm in answer.norms} == {"batchnorm"}
    assert answer.norm_kind == "batchnorm"


def test_a_nested_config_speaks_for_its_own_tower():
    block = "vision_tower.encoder.layers.#."
    vision = (*plain(f"{block}norm1", f"{block}norm2", "vision_tower.norm"), *matrices(f"{block}attn.qkv"))
    config = {"text_config": {"rms_norm_eps": 1e-6}, "vision_config": {"norm_type": "layer_norm"}}
    kinds = kinds_of((*llama("language_model.model."), *vision), config)
    assert kinds["language_model.model.norm"] == "rmsnorm"
    assert kinds["vision_tower.norm"] == "layernorm"


def test_epsilon_is_the_towers_own():
    config = {"text_config": {"rms_norm_eps": 1e-6}, "vision_config": {"layer_norm_eps": 1e-5}}
    assert main_norm(llama("language_model.model."), config).eps == 1e-6


def test_an_extra_norm_with_a_bias_is_of_its_own_kind():
    indexer = biased("model.layers.#.self_attn.indexer.k_norm")
    kinds = kinds_of((*llama(), *indexer), EPS)
    assert kinds["model.layers.0.self_attn.indexer.k_norm"] == "layernorm"
    assert kinds["model.norm"] == "rmsnorm"


def test_an_answer_says_what_it_rests_on():
    norm = main_norm(llama(), EPS)
    assert {fact.source for fact in norm.evidence} == {"tensors", "config"}
    assert any("rms_norm_eps" in fact.detail for fact in norm.evidence if fact.says == "rmsnorm")
    assert any(fact.says == "final" for fact in norm.evidence)
    assert 0.9 < norm.confidence < 1


def test_an_unknown_kind_needs_the_config_where_only_a_digest_was_given():
    assert classify(checkpoint(*GPT2_WITHOUT_BIAS), DIGEST).needs_config
    assert classify(checkpoint(*GPT2_WITHOUT_BIAS), None).needs_config
    assert not classify(checkpoint(*GPT2_WITHOUT_BIAS), {**DIGEST, "hidden_size": 8}).needs_config


def test_a_bias_needs_no_config():
    assert not classify(checkpoint(*bert()), DIGEST).needs_config


WAV2VEC2 = (
    *biased("encoder.layers.#.layer_norm", "encoder.layers.#.final_layer_norm", "encoder.layer_norm"),
    *matrices("encoder.layers.#.attention.q_proj"),
)


def test_where_the_config_decides_what_is_last_it_is_asked_for_and_believed():
    assert classify(checkpoint(*WAV2VEC2), DIGEST).needs_config
    post_norm = main_norm(WAV2VEC2, {"do_stable_layer_norm": False})
    pre_norm = main_norm(WAV2VEC2, {"do_stable_layer_norm": True})
    assert post_norm.scale_tensor == "encoder.layers.1.final_layer_norm.weight"
    assert pre_norm.scale_tensor == "encoder.layer_norm.weight"


def test_an_adapter_has_no_norms_and_says_what_it_is():
    lora = matrices("model.layers.#.self_attn.q_proj.lora_A", "model.layers.#.self_attn.q_proj.lora_B")
    assert classify(checkpoint(*lora), DIGEST) == Classification((), "none", False, ("adapter_only",))


def test_an_adapter_with_query_norms_has_no_final_norm():
    lora = matrices(
        "blocks.#.attn.q.lora_A", "blocks.#.attn.q.lora_B", "blocks.#.attn.k.lora_A", "blocks.#.attn.k.lora_B"
    )
    answer = classify(checkpoint(*lora, *plain("blocks.#.attn.q_norm")), None)
    assert [norm.is_final for norm in answer.norms] == [False, False]
    assert answer.norm_kind == "unknown"


def test_anonymous_names_are_no_proof_of_a_model_without_norms():
    answer = classify(checkpoint("layer.#.weight 8 8"), DIGEST)
    assert (answer.norm_kind, answer.integrity) == ("unknown", ("anonymous_names",))


def test_a_missing_layer_is_seen():
    lines = [line.replace("#", str(i)) for i in (0, 1, 3) for line in llama() if "#" in line] + list(
        plain("model.norm")
    )
    assert "layer_gaps" in classify(checkpoint(*lines), EPS).integrity


def test_a_transformer_whose_scales_were_deleted_has_a_norm_without_a_scale():
    answer = classify(checkpoint(*(line for line in llama() if "norm" not in line)), EPS)
    (norm,) = answer.norms
    assert (norm.scale_tensor, norm.parameterisation, norm.kind, norm.dim) == (None, None, "rmsnorm", 8)
    assert answer.integrity == ("no_norm_tensors",)


def test_norms_without_affine_and_without_a_word_are_unknown():
    answer = classify(checkpoint(*(line for line in llama() if "norm" not in line)), {"hidden_size": 8})
    assert answer.norm_kind == "unknown"


@pytest.mark.parametrize(
    "config",
    [
        {"rms_norm_eps": False},
        {"rms_norm_eps": -1.0},
        {"rms_norm_eps": 1e300},
        {"quantization_config": {"rms_norm_eps": 1e-6}},
    ],
)
def test_what_is_no_epsilon_of_the_model_tells_no_kind(config):
    tensors = checkpoint(*llama())
    assert classify(tensors, config).norms == classify(tensors, {}).norms
