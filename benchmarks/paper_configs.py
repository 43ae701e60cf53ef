"""The LayerNorm architectures of the paper's protocol at their published sizes: configs alone, no weights.

Each config is the part of the repo's config.json that decides on shapes, norms and initialisation. Parameters are
counted as transformers loads the model, shared ones once; where a repo states another number it counts a tied head
twice. Source: config.json of the repo that an architecture names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """One published model, without its weights.

    Attributes:
        repo_id: the repo whose config.json it is.
        parameters: as published.
        config: of config.json.
    """

    repo_id: str
    parameters: int
    config: Mapping[str, Any]


BASE = {  # the size that is called base, of text and of pictures
    "hidden_size": 768,
    "intermediate_size": 3_072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}

LAYERNORM = (
    Architecture(
        "google/vit-base-patch16-224",
        86_567_656,
        {
            "model_type": "vit",
            "architectures": ["ViTForImageClassification"],
            **BASE,
            "image_size": 224,
            "patch_size": 16,
            "layer_norm_eps": 1e-12,
            "num_labels": 1_000,
        },
    ),
    Architecture(
        "google-bert/bert-base-uncased",
        109_514_298,
        {
            "model_type": "bert",
            "architectures": ["BertForMaskedLM"],
            "vocab_size": 30_522,
            **BASE,
            "max_position_embeddings": 512,
            "type_vocab_size": 2,
            "layer_norm_eps": 1e-12,
            "pad_token_id": 0,
        },
    ),
    Architecture(
        "answerdotai/ModernBERT-base",
        149_655_232,
        {
            "model_type": "modernbert",
            "architectures": ["ModernBertForMaskedLM"],
            "vocab_size": 50_368,
            "hidden_size": 768,
            "intermediate_size": 1_152,
            "num_hidden_layers": 22,
            "num_attention_heads": 12,
            "max_position_embeddings": 8_192,
            "norm_eps": 1e-5,
            "norm_bias": False,
            "global_attn_every_n_layers": 3,
            "local_attention": 128,
            "global_rope_theta": 160_000.0,
            "local_rope_theta": 10_000.0,
            "pad_token_id": 50_283,
            "bos_token_id": 50_281,
            "eos_token_id": 50_282,
        },
    ),
    Architecture(
        "EleutherAI/pythia-160m",
        162_322_944,
        {
            "model_type": "gpt_neox",
            "architectures": ["GPTNeoXForCausalLM"],
            "vocab_size": 50_304,
            **BASE,
            "max_position_embeddings": 2_048,
            "rotary_pct": 0.25,
            "rotary_emb_base": 10_000,
            "use_parallel_residual": True,
            "layer_norm_eps": 1e-5,
            "tie_word_embeddings": False,
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
    ),
    Architecture(
        "openai/whisper-small",
        241_734_912,
        {
            "model_type": "whisper",
            "architectures": ["WhisperForConditionalGeneration"],
            "vocab_size": 51_865,
            "d_model": 768,
            "encoder_layers": 12,
            "decoder_layers": 12,
            "encoder_attention_heads": 12,
            "decoder_attention_heads": 12,
            "encoder_ffn_dim": 3_072,
            "decoder_ffn_dim": 3_072,
            "num_mel_bins": 80,
            "max_source_positions": 1_500,
            "max_target_positions": 448,
            "decoder_start_token_id": 50_258,
            "pad_token_id": 50_257,
            "bos_token_id": 50_257,
            "eos_token_id": 50_257,
        },
    ),
    Architecture(
        "facebook/dinov2-large",
        304_368_640,
        {
            "model_type": "dinov2",
            "architectures": ["Dinov2Model"],
            "hidden_size": 1_024,
            "mlp_ratio": 4,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 518,
            "patch_size": 14,
            "layer_norm_eps": 1e-6,
            "layerscale_value": 1.0,
            "use_swiglu_ffn": False,
        },
    ),
    Architecture(
        "openai-community/gpt2-medium",
        354_823_168,
        {
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            "vocab_size": 50_257,
            "n_embd": 1_024,
            "n_layer": 24,
            "n_head": 16,
            "n_positions": 1_024,
            "layer_norm_epsilon": 1e-5,
            "bos_token_id": 50_256,
            "eos_token_id": 50_256,
        },
    ),
    Architecture(
        "bigscience/bloom-560m",
        559_214_592,
        {
            "model_type": "bloom",
            "architectures": ["BloomForCausalLM"],
            "vocab_size": 250_880,
            "hidden_size": 1_024,
            "n_layer": 24,
            "n_head": 16,
            "layer_norm_epsilon": 1e-5,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 3,
        },
    ),
    Architecture(
        "facebook/opt-1.3b",
        1_315_758_080,
        {
            "model_type": "opt",
            "architectures": ["OPTForCausalLM"],
            "vocab_size": 50_272,
            "hidden_size": 2_048,
            "word_embed_proj_dim": 2_048,
            "ffn_dim": 8_192,
            "num_hidden_layers": 24,
            "num_attention_heads": 32,
            "max_position_embeddings": 2_048,
            "do_layer_norm_before": True,
            "pad_token_id": 1,
            "bos_token_id": 2,
            "eos_token_id": 2,
        },
    ),
    Architecture(
        "stabilityai/stablelm-2-1_6b",
        1_644_515_328,
        {
            "model_type": "stablelm",
            "architectures": ["StableLmForCausalLM"],
            "vocab_size": 100_352,
            "hidden_size": 2_048,
            "intermediate_size": 5_632,
            "num_hidden_layers": 24,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 4_096,
            "partial_rotary_factor": 0.25,
            "rope_theta": 10_000,
            "use_qkv_bias": True,
            "layer_norm_eps": 1e-5,
            "tie_word_embeddings": False,
            "bos_token_id": 100_257,
            "eos_token_id": 100_257,
        },
    ),
    Architecture(
        "microsoft/phi-2",
        2_779_683_840,
        {
            "model_type": "phi",
            "architectures": ["PhiForCausalLM"],
            "vocab_size": 51_200,
            "hidden_size": 2_560,
            "intermediate_size": 10_240,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 2_048,
            "partial_rotary_factor": 0.4,
            "rope_theta": 10_000.0,
            "layer_norm_eps": 1e-5,
            "tie_word_embeddings": False,
            "bos_token_id": 50_256,
            "eos_token_id": 50_256,
        },
    ),
    Architecture(
        "mosaicml/mpt-7b",
        6_649_286_656,
        {
            "model_type": "mpt",
            "architectures": ["MptForCausalLM"],
            "vocab_size": 50_432,
            "d_model": 4_096,
            "expansion_ratio": 4,
            "n_layers": 32,
            "n_heads": 32,
            "max_seq_len": 2_048,
            "no_bias": True,
            "attn_config": {"alibi": True, "alibi_bias_max": 8},
        },
    ),
    Architecture(
        "tiiuae/falcon-7b",
        6_921_720_704,
        {
            "model_type": "falcon",
            "architectures": ["FalconForCausalLM"],
            "vocab_size": 65_024,
            "hidden_size": 4_544,
            "num_hidden_layers": 32,
            "num_attention_heads": 71,
            "multi_query": True,
            "parallel_attn": True,
            "new_decoder_architecture": False,
            "alibi": False,
            "bias": False,
            "layer_norm_epsilon": 1e-5,
            "bos_token_id": 11,
            "eos_token_id": 11,
        },
    ),
    Architecture(
        "CohereLabs/c4ai-command-r-v01",
        34_980_831_232,
        {
            "model_type": "cohere",
            "architectures": ["CohereForCausalLM"],
            "vocab_size": 256_000,
            "hidden_size": 8_192,
            "intermediate_size": 22_528,
            "num_hidden_layers": 40,
            "num_attention_heads": 64,
            "num_key_value_heads": 64,
            "max_position_embeddings": 8_192,
            "rope_theta": 8_000_000.0,
            "logit_scale": 0.0625,
            "layer_norm_eps": 1e-5,
            "pad_token_id": 0,
            "bos_token_id": 5,
            "eos_token_id": 255_001,
        },
    ),
)
