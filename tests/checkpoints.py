"""Safetensors files made in memory, for tests: right ones by the library, wrong ones byte by byte."""

import json
import struct
from collections.abc import Mapping

import ml_dtypes
import numpy as np

NAMES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "U8": "u1",
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
}


def raw_file(header: object, data: bytes = b"") -> bytes:
    """A file with this header (text, bytes, or anything JSON can say), right or wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def safetensors_file(tensors: Mapping[str, np.ndarray], dtype: str = "F32", metadata: dict | None = None) -> bytes:
    """A valid file of these tensors, all stored as dtype, in the given order."""
    header, data = ({"__metadata__": metadata} if metadata else {}), b""
    for name, values in tensors.items():
        stored = np.asarray(values).astype(NAMES[dtype]).tobytes()
        header[name] = {
            "dtype": dtype,
            "shape": list(np.shape(values)),
            "data_offsets": [len(data), len(data) + len(stored)],
        }
        data += stored
    return raw_file(header, data)


def gpt2(dim: int = 8, layers: int = 2, seed: int = 0, **finals: np.ndarray) -> dict[str, np.ndarray]:
    """Tensors of a small GPT-2, LayerNorm with bias; finals replaces `weight` or `bias` of its final norm."""
    rng = np.random.default_rng(seed)
    tensors = {"wte.weight": rng.normal(size=(32, dim)), "wpe.weight": rng.normal(size=(16, dim))}
    for i in range(layers):
        for norm in ("ln_1", "ln_2"):
            tensors |= {f"h.{i}.{norm}.weight": rng.lognormal(0, 0.3, dim), f"h.{i}.{norm}.bias": rng.normal(size=dim)}
        tensors |= {
            f"h.{i}.attn.c_attn.weight": rng.normal(size=(dim, 3 * dim)),
            f"h.{i}.attn.c_proj.weight": rng.normal(size=(dim, dim)),
            f"h.{i}.mlp.c_fc.weight": rng.normal(size=(dim, 4 * dim)),
            f"h.{i}.mlp.c_proj.weight": rng.normal(size=(4 * dim, dim)),
        }
    tensors["ln_f.weight"] = finals.get("weight", rng.lognormal(0, 0.3, dim))
    tensors["ln_f.bias"] = finals.get("bias", rng.normal(size=dim))
    return tensors


def llama(dim: int = 8, layers: int = 2, seed: int = 0) -> dict[str, np.ndarray]:
    """Tensors of a small Llama, RMSNorm without bias."""
    rng = np.random.default_rng(seed)
    tensors = {"model.embed_tokens.weight": rng.normal(size=(32, dim))}
    for i in range(layers):
        block = f"model.layers.{i}"
        tensors[f"{block}.input_layernorm.weight"] = rng.lognormal(0, 0.3, dim)
        for leaf in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"):
            tensors[f"{block}.{leaf}.weight"] = rng.normal(size=(dim, dim))
        tensors[f"{block}.post_attention_layernorm.weight"] = rng.lognormal(0, 0.3, dim)
        for leaf, shape in (("gate", (2 * dim, dim)), ("up", (2 * dim, dim)), ("down", (dim, 2 * dim))):
            tensors[f"{block}.mlp.{leaf}_proj.weight"] = rng.normal(size=shape)
    tensors["model.norm.weight"] = rng.lognormal(0, 0.3, dim)
    tensors["lm_head.weight"] = rng.normal(size=(32, dim))
    return tensors


LLAMA_CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "rms_norm_eps": 1e-6, "hidden_size": 8}
GPT2_CONFIG = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "layer_norm_epsilon": 1e-5, "n_embd": 8}
