"""The demo's architectures: for each a small configuration, how its weights are stored, and facts for the listing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

VOCABULARY = 512  # tokens: enough for an embedding, too few to weigh anything
TOKEN_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # some defaults lie beyond this vocabulary
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = SIZES | TOKEN_IDS | {"vocab_size": VOCABULARY}
GROUPED = TEXT | {"num_key_value_heads": 2}
PATCHES = {"image_size": 32, "patch_size": 8}


@dataclass(frozen=True)
class Recipe:
    """A model to build with random weights.

    Attributes:
        name: of the repo, and of its folder in the cache.
        model_class: its class in transformers.
        config: arguments of the class's configuration.
        dtype: of the stored weights, as PyTorch spells it.
        one_plus: whether its norms store γ - 1.
        max_shard_size: of one file, as `save_pretrained` takes it.
        facts: fields of `StandInRepo`.
    """

    name: str
    model_class: str
    config: Mapping[str, Any]
    dtype: str = "float32"
    one_plus: bool = False
    max_shard_size: str = "1GB"
    facts: Mapping[str, Any] = field(default_factory=dict)


def facts(created: str, downloads: int, likes: int, pipeline_tag: str = "text-generation") -> dict[str, Any]:
    """Return the facts of a listing; a repo was last changed on the day it was created."""
    stamp = f"{created}T12:00:00.000Z"
    counts = {"downloads": downloads, "likes": likes, "pipeline_tag": pipeline_tag}
    return {"created_at": stamp, "last_modified": stamp, **counts}


RECIPES = (
    # LayerNorm with a bias
    Recipe(
        "gpt2-small",
        "GPT2LMHeadModel",
        {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "vocab_size": VOCABULARY, **TOKEN_IDS},
        facts=facts("2022-03-02", 812_345, 2_410),
    ),
    Recipe(
        "gpt-neox-small",
        "GPTNeoXForCausalLM",
        TEXT,
        dtype="float16",
        facts=facts("2023-02-13", 96_120, 330),
    ),
    Recipe(
        "opt-small",
        "OPTForCausalLM",
        TEXT | {"ffn_dim": 128, "word_embed_proj_dim": 64, "max_position_embeddings": 128},
        dtype="float16",
        facts=facts("2022-05-11", 143_002, 190),
    ),
    Recipe(
        "bloom-small",
        "BloomForCausalLM",
        {"hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY, **TOKEN_IDS},
        dtype="bfloat16",
        facts=facts("2022-05-19", 51_890, 1_780),
    ),
    Recipe(
        "vit-small",
        "ViTForImageClassification",
        SIZES | PATCHES,
        facts=facts("2022-03-14", 401_774, 512, "image-classification"),
    ),
    Recipe(
        "whisper-small",
        "WhisperForConditionalGeneration",
        {
            "d_model": 64,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 128,
            "decoder_ffn_dim": 128,
            "max_source_positions": 64,
            "max_target_positions": 64,
            "num_mel_bins": 16,
            "vocab_size": VOCABULARY,
            "decoder_start_token_id": 1,
            **TOKEN_IDS,
        },
        facts=facts("2022-09-21", 388_251, 905, "automatic-speech-recognition"),
    ),
    # LayerNorm without a bias: in the file it looks like an RMSNorm
    Recipe(
        "cohere-small",
        "CohereForCausalLM",
        GROUPED,
        dtype="bfloat16",
        facts=facts("2024-03-11", 22_430, 421),
    ),
    Recipe(
        "mpt-small",
        "MptForCausalLM",
        {
            "d_model": 64,
            "n_layers": 2,
            "n_heads": 4,
            "expansion_ratio": 2,
            "vocab_size": VOCABULARY,
            "max_seq_len": 128,
        },
        dtype="bfloat16",
        facts=facts("2023-05-05", 18_077, 1_160),
    ),
    Recipe(
        "modernbert-small",
        "ModernBertForMaskedLM",
        TEXT | {"cls_token_id": 1, "sep_token_id": 2},
        facts=facts("2024-12-11", 240_511, 803, "fill-mask"),
    ),
    # LayerNorm without scale or bias
    Recipe(
        "olmo-small",
        "OlmoForCausalLM",
        GROUPED,
        facts=facts("2024-02-01", 9_904, 640),
    ),
    # LayerNorm that stores γ - 1
    Recipe(
        "nemotron-small",
        "NemotronForCausalLM",
        GROUPED,
        dtype="bfloat16",
        one_plus=True,
        facts=facts("2024-08-21", 6_377, 118),
    ),
    # RMSNorm
    Recipe(
        "llama-small",
        "LlamaForCausalLM",
        GROUPED | {"num_hidden_layers": 4},
        dtype="bfloat16",
        max_shard_size="100KB",
        facts=facts("2023-07-18", 655_020, 4_012),
    ),
    Recipe(
        "qwen3-small",
        "Qwen3ForCausalLM",
        GROUPED | {"head_dim": 16},
        dtype="bfloat16",
        facts=facts("2025-04-27", 731_466, 1_020),
    ),
    Recipe(
        "t5-small",
        "T5ForConditionalGeneration",
        {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4, "vocab_size": VOCABULARY}
        | {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1},
        facts=facts("2022-03-05", 290_933, 388, "translation"),
    ),
    Recipe(
        "gemma-4-small",
        "Gemma4ForCausalLM",
        GROUPED
        | {"head_dim": 16, "global_head_dim": 16, "hidden_size_per_layer_input": 8}
        | {"vocab_size_per_layer_input": VOCABULARY, "layer_types": ["sliding_attention", "full_attention"]},
        dtype="bfloat16",
        facts=facts("2026-04-02", 512_980, 877),
    ),
    # RMSNorm that stores γ - 1
    Recipe(
        "gemma-2-small",
        "Gemma2ForCausalLM",
        GROUPED | {"head_dim": 16},
        dtype="bfloat16",
        one_plus=True,
        facts=facts("2024-06-24", 133_218, 690),
    ),
    # several towers
    Recipe(
        "clip-small",
        "CLIPModel",
        {"text_config": TEXT | {"max_position_embeddings": 32}, "vision_config": SIZES | PATCHES, "projection_dim": 32},
        facts=facts("2022-03-02", 520_117, 1_544, "zero-shot-image-classification"),
    ),
    Recipe(
        "llava-small",
        "LlavaForConditionalGeneration",
        {
            "text_config": {"model_type": "llama"} | GROUPED,
            "vision_config": {"model_type": "clip_vision_model"} | SIZES | PATCHES,
            "image_token_index": 3,
        },
        dtype="float16",
        facts=facts("2023-12-05", 88_310, 410, "image-text-to-text"),
    ),
    # BatchNorm
    Recipe(
        "resnet-small",
        "ResNetForImageClassification",
        {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"},
        facts=facts("2022-03-16", 75_240, 260, "image-classification"),
    ),
)
