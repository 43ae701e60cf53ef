"""Checkpoints in the shape of large Llama models: full headers and real scales, the matrices zero and not stored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from deployments.demo.checkpoint import PlannedTensor, encoded, sparse_checkpoint
from deployments.demo.content import BytesContent, Content
from deployments.demo.repo import StandInRepo

SCALE_SPREAD = 0.15  # standard deviation of log γ; trained Llama checkpoints have about this


def sparse_7b(repo_id: str, **facts: Any) -> StandInRepo:
    """Return a repo with one file of 13.5 GB and 291 tensors."""
    return sparse_llama(repo_id, **facts)


def sparse_70b(repo_id: str, **facts: Any) -> StandInRepo:
    """Return a repo with 30 shards, 138 GB and 723 tensors."""
    return sparse_llama(
        repo_id, layers=80, hidden_size=8192, intermediate_size=28672, key_value_size=1024, shards=30, **facts
    )


def sparse_llama(
    repo_id: str,
    *,
    layers: int = 32,
    hidden_size: int = 4096,
    intermediate_size: int = 11008,
    key_value_size: int | None = None,
    vocabulary_size: int = 32000,
    shards: int = 1,
    dtype: str = "BF16",
    seed: int = 0,
    **facts: Any,
) -> StandInRepo:
    """Return a Llama-shaped repo; with one shard a single file, with more of them an index beside the shards.

    Args:
        repo_id: "organisation/name".
        layers: decoder layers; the repo has 9 tensors for each, and 3 more.
        hidden_size: d.
        intermediate_size: width of the MLP.
        key_value_size: rows of the key and value projections; hidden_size unless the model groups its queries.
        vocabulary_size: rows of the embedding and of the head.
        shards: files that the weights are split into, of about equal size.
        dtype: of every tensor, as safetensors spells it.
        seed: of the scales.
        facts: fields of `StandInRepo`.
    """
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden_size // 128,
        "num_key_value_heads": (key_value_size or hidden_size) // 128,
        "vocab_size": vocabulary_size,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    }
    shapes = llama_shapes(layers, hidden_size, intermediate_size, key_value_size or hidden_size, vocabulary_size)
    tensors = [PlannedTensor(name, dtype, shape) for name, shape in shapes]
    files: dict[str, Content] = {"config.json": BytesContent(json.dumps(config, indent=2).encode())}
    files |= weight_files(tensors, shards, plausible_scales(tensors, seed))
    return StandInRepo(repo_id, files, **({"pipeline_tag": "text-generation"} | facts))


def llama_shapes(
    layers: int, hidden: int, intermediate: int, key_value: int, vocabulary: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield name and shape of each tensor of a Llama model, in the order of its modules."""
    yield "model.embed_tokens.weight", (vocabulary, hidden)
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.self_attn.q_proj.weight", (hidden, hidden)
        yield f"{prefix}.self_attn.k_proj.weight", (key_value, hidden)
        yield f"{prefix}.self_attn.v_proj.weight", (key_value, hidden)
        yield f"{prefix}.self_attn.o_proj.weight", (hidden, hidden)
        yield f"{prefix}.mlp.gate_proj.weight", (intermediate, hidden)
        yield f"{prefix}.mlp.up_proj.weight", (intermediate, hidden)
        yield f"{prefix}.mlp.down_proj.weight", (hidden, intermediate)
        yield f"{prefix}.input_layernorm.weight", (hidden,)
        yield f"{prefix}.post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (vocabulary, hidden)


def plausible_scales(tensors: list[PlannedTensor], seed: int) -> dict[str, bytes]:
    """Return values for every vector, by name: lognormal, their median growing with depth as in trained models."""
    random = np.random.default_rng(seed)
    vectors = [tensor for tensor in tensors if len(tensor.shape) == 1]
    medians = np.linspace(0.3, 1.8, len(vectors))
    return {
        tensor.name: encoded(median * random.lognormal(0.0, SCALE_SPREAD, tensor.shape), tensor.dtype)
        for tensor, median in zip(vectors, medians, strict=True)
    }


def weight_files(tensors: list[PlannedTensor], shards: int, values: dict[str, bytes]) -> dict[str, Content]:
    """Return the safetensors files, named as transformers names them, and the index if there are several."""
    if shards == 1:
        return {"model.safetensors": sparse_checkpoint(tensors, values)}
    total_bytes = sum(tensor.size_bytes for tensor in tensors)
    placed: dict[str, list[PlannedTensor]] = {}
    before_bytes = 0
    for tensor in tensors:
        number = before_bytes * shards // total_bytes + 1
        placed.setdefault(f"model-{number:05}-of-{shards:05}.safetensors", []).append(tensor)
        before_bytes += tensor.size_bytes
    weight_map = {tensor.name: file for file, members in placed.items() for tensor in members}
    index = {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(weight_map.items()))}
    files: dict[str, Content] = {"model.safetensors.index.json": BytesContent(json.dumps(index, indent=2).encode())}
    return files | {file: sparse_checkpoint(members, values) for file, members in placed.items()}
