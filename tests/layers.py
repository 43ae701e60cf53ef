"""Checkpoints written down as patterns: "layers.#.norm.weight 8" is a vector of 8 in each of two layers."""

import json

from tasks.core.kinds import classify
from tasks.core.records import Norm, Tensor
from tasks.core.registry import Registry, parse_registry

DIGEST = {"model_type": "mystery", "architectures": ["MysteryForCausalLM"]}
EPS = {"rms_norm_eps": 1e-6, "hidden_size": 8}


def checkpoint(*lines: str, layers: int = 2, shapes: bool = True) -> list[Tensor]:
    """Tensors of some lines `name sizes…`; the first `#` of a name runs over layers. shapes=False knows names alone."""
    found = []
    for line in lines:
        name, *sizes = line.split()
        shape = tuple(map(int, sizes)) if shapes else None
        numbers = range(layers) if "#" in name else range(1)
        found += [Tensor(name.replace("#", str(i), 1), "model.safetensors", "F32", shape) for i in numbers]
    return found


def biased(*modules: str) -> tuple[str, ...]:
    """Lines of norms of width 8 with a bias."""
    return tuple(f"{module}.{leaf} 8" for module in modules for leaf in ("weight", "bias"))


def plain(*modules: str) -> tuple[str, ...]:
    """Lines of norms of width 8 without a bias."""
    return tuple(f"{module}.weight 8" for module in modules)


def matrices(*modules: str) -> tuple[str, ...]:
    """Lines of linear layers without a bias."""
    return tuple(f"{module}.weight 8 8" for module in modules)


def llama(prefix: str = "model.", final: str = "norm") -> tuple[str, ...]:
    """Lines of a Llama, below a prefix; final names its last norm."""
    block = f"{prefix}layers.#."
    attention = matrices(*(f"{block}self_attn.{name}_proj" for name in "qkvo"))
    mlp = matrices(*(f"{block}mlp.{name}_proj" for name in ("gate", "up", "down")))
    norms = plain(f"{block}input_layernorm", f"{block}post_attention_layernorm", f"{prefix}{final}")
    return (*attention, *mlp, *norms, f"{prefix}embed_tokens.weight 32 8", "lm_head.weight 32 8")


def bert(prefix: str = "bert.") -> tuple[str, ...]:
    """Lines of a BERT's embeddings and layers, below a prefix."""
    block = f"{prefix}encoder.layer.#."
    norms = biased(f"{prefix}embeddings.LayerNorm", f"{block}attention.output.LayerNorm", f"{block}output.LayerNorm")
    names = ("attention.self.query", "attention.output.dense", "intermediate.dense", "output.dense")
    return (*norms, *matrices(*(f"{block}{name}" for name in names)))


COHERE = tuple(line for line in llama() if "post_attention" not in line)
STABLELM = (
    *llama(),
    "model.layers.#.input_layernorm.bias 8",
    "model.layers.#.post_attention_layernorm.bias 8",
    "model.norm.bias 8",
)


def main_norm(lines, config=None, registry: Registry | None = None) -> Norm:
    """The main final norm of some lines."""
    (norm,) = [norm for norm in classify(checkpoint(*lines), config, registry).norms if norm.is_main]
    return norm


def registry_of(*norms: dict[str, object]) -> Registry:
    """A registry that knows one architecture, DIGEST's, with these norms."""
    line = {"type": DIGEST["model_type"], "norms": list(norms)}
    document = {"format": 1, "transformers_version": "5.0", "main_classes": {}, "prefixes": []}
    return parse_registry(json.dumps({**document, "architectures": {DIGEST["architectures"][0]: line}}).encode())
