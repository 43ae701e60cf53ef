"""Small models of several kinds, and probing them in this process."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

import torch

from tasks.model.answers import Probed
from tasks.model.attempt import probed
from tasks.model.build import blueprint, constructed
from tasks.model.jobs import Job

torch.set_num_threads(1)  # threads that wait for each other take longer than these matrices

WIDTH = 32
USUAL = {"hidden_size": WIDTH, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
WORDS = {"vocab_size": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SPEECH = {
    "d_model": WIDTH,
    **{f"{part}_{name}": value for part in ("encoder", "decoder") for name, value in (("layers", 2), ("ffn_dim", 64))},
    **{f"{part}_attention_heads": 4 for part in ("encoder", "decoder")},
    "num_mel_bins": 16,
    "max_source_positions": 40,
    "max_target_positions": 64,
    "decoder_start_token_id": 1,
}
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "gpt2": {"model_type": "gpt2", "n_embd": WIDTH, "n_layer": 3, "n_head": 4, "n_positions": 128, **WORDS},
    "llama": {"model_type": "llama", **USUAL, **WORDS},
    "gemma2": {"model_type": "gemma2", **USUAL, "num_key_value_heads": 2, "head_dim": 8, **WORDS},
    "vit": {"model_type": "vit", **USUAL, "image_size": 32, "patch_size": 8},
    "pictures": {  # its head is no output embedding
        "model_type": "vit",
        **USUAL,
        "image_size": 32,
        "patch_size": 8,
        "architectures": ["ViTForImageClassification"],
    },
    "whisper": {"model_type": "whisper", **SPEECH, **WORDS, "architectures": ["WhisperForConditionalGeneration"]},
    "t5": {"model_type": "t5", "d_model": WIDTH, "num_layers": 2, "num_heads": 4, "d_kv": 8, "d_ff": 64, **WORDS},
    "bert": {"model_type": "bert", **USUAL, **WORDS},
    "cohere": {"model_type": "cohere", **USUAL, **WORDS},  # its LayerNorm computes in float32 whatever it is given
    "olmo": {"model_type": "olmo", **USUAL, **WORDS},  # its LayerNorm stores nothing
    "bloom": {"model_type": "bloom", "hidden_size": WIDTH, "n_layer": 3, "n_head": 4, **WORDS},  # returns weights too
    "albert": {"model_type": "albert", **USUAL, "embedding_size": 16, **WORDS},  # runs one block three times
    "mixtral": {"model_type": "mixtral", **USUAL, "num_key_value_heads": 2, "num_local_experts": 4, **WORDS},
    "falcon": {"model_type": "falcon", **USUAL, **WORDS},  # its blocks return tuples
}
CENTRING = ("gpt2", "vit", "pictures", "whisper", "bert", "cohere", "olmo", "falcon", "bloom", "albert")
NOT_CENTRING = ("llama", "gemma2", "t5", "mixtral")


def quick(names: Sequence[str], *first: str) -> list[Any]:
    """Return the names as parameters of a test, all but the first ones marked slow."""
    return [name if name in first else pytest.param(name, marks=pytest.mark.slow) for name in names]


def unheard(text: str) -> None:
    """Take in the progress of a probe that nobody watches."""


@cache
def random_probe(name: str, **fields: Any) -> Probed:
    """Probe a small model at random initialisation."""
    job = Job(name, config=CONFIGS[name], weights="random", **fields)
    [found] = probed(job, unheard)
    return found


def probe_of(folder: Path, **fields: Any) -> Probed:
    """Probe the trained weights in a folder."""
    [found] = probed(Job("model", folder=str(folder), **{"weights": "trained", "inputs": "random", **fields}), unheard)
    return found


def saved(name: str, folder: Path, **settings: Any) -> Path:
    """Save a small model of this module so that it can pass for a trained one."""
    return saved_of(CONFIGS[name], folder, **settings)


def saved_of(config: Mapping[str, Any], folder: Path, **settings: Any) -> Path:
    """Save the model of a config, its norms' scales drawn at random."""
    model = constructed(blueprint(config, folder.name), torch.float32, 1)
    generator = torch.Generator().manual_seed(2)
    for path, value in model.named_parameters():
        if value.dim() == 1 and path.endswith("weight"):
            value.data = torch.rand(value.shape, generator=generator) + 0.5
    model.save_pretrained(folder, **settings)
    return folder


def changed_config(folder: Path, **fields: Any) -> None:
    """Change fields of a folder's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
