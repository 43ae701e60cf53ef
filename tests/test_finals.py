"""Which norm of a checkpoint is the last of its trunk, and which tower is the main one, by names."""

import pytest

from tasks.core.names import find_norms
from tests.layers import bert, biased, checkpoint, llama, matrices, plain


def main_of(*lines: str, shapes: bool = True, layers: int = 2) -> str | None:
    """Name of the main final norm's scale."""
    mains = [place for place in find_norms(checkpoint(*lines, shapes=shapes, layers=layers)) if place.is_main]
    assert len(mains) <= 1
    return mains[0].scale_tensor if mains else None


def whisper_half(side: str) -> tuple[str, ...]:
    block = f"model.{side}.layers.#."
    norms = biased(f"{block}self_attn_layer_norm", f"{block}final_layer_norm", f"model.{side}.layer_norm")
    return (*norms, *matrices(f"{block}self_attn.q_proj", f"{block}fc1"))


def vision(prefix: str) -> tuple[str, ...]:
    block = f"{prefix}encoder.layers.#."
    norms = biased(f"{block}layer_norm1", f"{block}layer_norm2", f"{prefix}post_layernorm", f"{prefix}pre_layrnorm")
    return (*norms, *matrices(f"{block}self_attn.q_proj", f"{block}mlp.fc1"))


PHI_1 = (
    "layers.0.wte.weight 32 8",
    *(f"layers.{i}.{name}" for i in (1, 2) for name in ("ln.weight 8", "ln.bias 8", "mixer.Wqkv.weight 24 8")),
    "layers.3.ln.weight 8",
    "layers.3.ln.bias 8",
    "layers.3.linear.weight 32 8",
)
PHI_2 = (
    *biased("transformer.h.#.ln", "lm_head.ln"),
    *matrices("transformer.h.#.mixer.Wqkv", "transformer.h.#.mlp.fc1"),
)
LFM2 = (
    *plain("model.layers.#.operator_norm", "model.layers.#.ffn_norm", "model.embedding_norm"),
    *matrices("model.layers.#.conv.in_proj", "model.layers.#.feed_forward.w1"),
)
BLOOM = (
    *biased("word_embeddings_layernorm", "h.#.input_layernorm", "h.#.post_attention_layernorm", "ln_f"),
    *matrices("h.#.self_attention.query_key_value"),
)
MAMBA = (*plain("backbone.layers.#.norm", "backbone.norm_f"), "backbone.layers.#.mixer.A_log 16 16")
T5 = (
    *plain(
        "encoder.block.#.layer.0.layer_norm",
        "encoder.final_layer_norm",
        "decoder.block.#.layer.0.layer_norm",
        "decoder.final_layer_norm",
    ),
    *matrices("encoder.block.#.layer.0.SelfAttention.q", "decoder.block.#.layer.0.SelfAttention.q"),
)
OPEN_CLIP = (
    *biased("transformer.resblocks.#.ln_1", "ln_final", "visual.transformer.resblocks.#.ln_1", "visual.ln_post"),
    *matrices("transformer.resblocks.#.attn.out_proj", "visual.transformer.resblocks.#.attn.out_proj"),
)

FINALS = {
    "llama": (llama(), "model.norm.weight"),
    "the root": (llama(prefix=""), "norm.weight"),
    "output_norm": (llama(final="output_norm"), "model.output_norm.weight"),
    "phi-1: the last layer is the head": (PHI_1, "layers.3.ln.weight"),
    "phi-2: in the head": (PHI_2, "lm_head.ln.weight"),
    "lfm2: called after the embedding": (LFM2, "model.embedding_norm.weight"),
    "bloom: the embedding's is another": (BLOOM, "ln_f.weight"),
    "mamba": (MAMBA, "backbone.norm_f.weight"),
    "t5: the decoder": (T5, "decoder.final_layer_norm.weight"),
    "whisper: final_layer_norm is of each layer": (
        (*whisper_half("encoder"), *whisper_half("decoder")),
        "model.decoder.layer_norm.weight",
    ),
    "bart: post-norm": (
        (
            *biased("decoder.layers.#.self_attn_layer_norm", "decoder.layers.#.final_layer_norm"),
            *biased("decoder.layernorm_embedding"),
            *matrices("decoder.layers.#.fc1"),
        ),
        "decoder.layers.1.final_layer_norm.weight",
    ),
    "bert: not the head's": (
        (*bert(), *biased("cls.predictions.transform.LayerNorm")),
        "bert.encoder.layer.1.output.LayerNorm.weight",
    ),
    "roberta: not the head's": (
        (*bert("roberta."), *biased("lm_head.layer_norm")),
        "roberta.encoder.layer.1.output.LayerNorm.weight",
    ),
    "clip: the text tower": (OPEN_CLIP, "ln_final.weight"),
    "llava: the language model": (
        (*vision("vision_tower.vision_model."), *llama("language_model.model.")),
        "language_model.model.norm.weight",
    ),
    "a misspelt vision tower": ((*vision("vison."), *llama("llm.model.")), "llm.model.norm.weight"),
    "deepseek: the extra layer predicts ahead": (
        (*llama(), *plain("model.layers.2.enorm", "model.layers.2.hnorm", "model.layers.2.shared_head.norm")),
        "model.norm.weight",
    ),
    "mimo: heads of their own": (
        (*llama(), *plain("model.mtp_layers.#.final_layernorm", "model.mtp_layers.#.input_layernorm")),
        "model.norm.weight",
    ),
    "sam: the neck's, without a name": (
        (
            *biased("blocks.#.norm1", "blocks.#.norm2", "neck.1", "neck.3"),
            *matrices("blocks.#.attn.qkv"),
            "neck.0.weight 8 8 1 1",
            "neck.2.weight 8 8 3 3",
        ),
        "neck.3.weight",
    ),
    "swin: the last block of the last stage": (
        (
            *biased("encoder.layers.#.blocks.0.layernorm_before", "encoder.layers.#.blocks.0.layernorm_after"),
            *matrices("encoder.layers.#.blocks.0.attention.self.query"),
            *biased("embeddings.norm"),
        ),
        "encoder.layers.1.blocks.0.layernorm_after.weight",
    ),
}

OTHER_LIBRARIES = {
    "openai whisper": (
        (*biased("encoder.blocks.#.attn_ln", "encoder.ln_post", "decoder.blocks.#.mlp_ln", "decoder.ln"),
         *matrices("encoder.blocks.#.attn.query", "decoder.blocks.#.attn.query")),
        "decoder.ln.weight",
    ),
    "llama as released": (
        (*plain("layers.#.attention_norm", "layers.#.ffn_norm", "norm"), *matrices("layers.#.attention.wq")),
        "norm.weight",
    ),
    "llama.cpp": (
        (*plain("blk.#.attn_norm", "blk.#.ffn_norm", "output_norm"), *matrices("blk.#.attn_q")),
        "output_norm.weight",
    ),
    "rwkv": (
        (*biased("blocks.0.ln0", "blocks.#.ln1", "blocks.#.ln2", "ln_out"),
         *matrices("blocks.#.att.key", "blocks.#.ffn.key")),
        "ln_out.weight",
    ),
    "xlm: lists of norms beside lists of layers": (
        (*biased("transformer.layer_norm1.#", "transformer.layer_norm2.#", "transformer.layer_norm_emb"),
         *matrices("transformer.attentions.#.q_lin", "transformer.attentions.#.k_lin")),
        "transformer.layer_norm2.1.weight",
    ),
    "deberta: a norm of positions beside the stack": (
        (*bert("deberta."), *biased("deberta.encoder.LayerNorm")),
        "deberta.encoder.layer.1.output.LayerNorm.weight",
    ),
    "esm: after the embedding's and the layers'": (
        (*biased("esm.encoder.layer.#.attention.LayerNorm", "esm.encoder.layer.#.LayerNorm"),
         *biased("esm.encoder.emb_layer_norm_after", "lm_head.layer_norm"),
         *matrices("esm.encoder.layer.#.output.dense")),
        "esm.encoder.emb_layer_norm_after.weight",
    ),
    "timm's convnext: in the head": (
        (*biased("stages.#.blocks.0.norm", "head.norm"), *matrices("stages.#.blocks.0.mlp.fc1"),
         "stages.#.blocks.0.gamma 8"),
        "head.norm.weight",
    ),
    "moondream: in the language model's head": (
        (*biased("text_model.transformer.h.#.ln", "text_model.lm_head.ln"),
         *matrices("text_model.transformer.h.#.mlp.fc1"),
         *biased("vision.blocks.#.norm1", "vision.norm"), *matrices("vision.blocks.#.mlp.fc1")),
        "text_model.lm_head.ln.weight",
    ),
    "opt: each layer's final_layer_norm and the decoder's": (
        (*biased("model.decoder.layers.#.final_layer_norm", "model.decoder.final_layer_norm"),
         *matrices("model.decoder.layers.#.fc1", "model.decoder.layers.#.fc2")),
        "model.decoder.final_layer_norm.weight",
    ),
}  # fmt: skip
FINALS |= OTHER_LIBRARIES


@pytest.mark.parametrize("case", FINALS)
def test_the_final_norm_is_the_last_of_the_main_trunk(case):
    lines, expected = FINALS[case]
    assert main_of(*lines) == expected


@pytest.mark.parametrize("case", [case for case in FINALS if not case.startswith("sam")])
def test_the_final_norm_is_found_by_names_alone(case):
    lines, expected = FINALS[case]
    assert main_of(*lines, shapes=False) == expected


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "_orig_mod.", "_fsdp_wrapped_module.", "base_model.model.", "transformer.", "0.auto_model."],
)
def test_a_wrapper_changes_nothing(prefix):
    lines = [prefix + line for line in llama()]
    assert main_of(*lines) == f"{prefix}model.norm.weight"


def test_a_trained_copy_in_an_adapter_is_the_norm_and_the_original_is_not():
    norm = "base_model.model.model.norm"
    lines = [f"base_model.model.{line}" for line in llama() if not line.startswith("model.norm")]
    copies = (f"{norm}.modules_to_save.default.weight 8", f"{norm}.original_module.weight 8")
    assert main_of(*lines, *copies) == f"{norm}.modules_to_save.default.weight"


def test_the_last_of_more_than_ten_layers_is_found_by_number_not_by_letter():
    assert main_of(*bert(), layers=12) == "bert.encoder.layer.11.output.LayerNorm.weight"


def test_each_tower_has_one_final_norm_and_one_is_main():
    places = find_norms(checkpoint(*vision("vision_tower."), *llama("language_model.model.")))
    finals = {place.scale_tensor: place.tower for place in places if place.is_final}
    assert finals == {
        "language_model.model.norm.weight": "text",
        "vision_tower.post_layernorm.weight": "vision",
    }


def test_two_towers_of_one_kind_have_different_labels():
    places = find_norms(checkpoint(*vision("vision_a."), *vision("vision_b.")))
    labels = [place.tower for place in places if place.is_final]
    assert len(labels) == len(set(labels)) == 2


def test_a_transformer_without_norm_tensors_ends_with_a_norm_without_one():
    lines = [line for line in llama() if "norm" not in line]
    (place,) = find_norms(checkpoint(*lines))
    assert (place.scale_tensor, place.is_main, place.site) == (None, True, "final")


def test_a_diffusion_transformer_ends_with_a_norm_without_tensors():
    lines = (*matrices("blocks.#.attn.to_q", "blocks.#.norm1.linear", "norm_out.linear"), *biased("blocks.#.norm3"))
    assert main_of(*lines, *plain("blocks.#.attn.norm_q")) is None
    assert [place.scale_tensor for place in find_norms(checkpoint(*lines)) if place.is_main] == [None]
