"""What bears on a norm's kind: its tensors, its neighbours, the config.

A fact of strength s that speaks for a kind multiplies that kind's odds by (1 + s)/(1 - s). The strengths were set by
hand from what the field's code does, and checked on labelled checkpoints (tests/test_corpus.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from tasks.core.finals import is_adaptive
from tasks.core.modules import Inventory, NormModules
from tasks.core.paths import vocabulary, words_of
from tasks.core.records import Evidence, Kind, Tensor

KINDS = ("layernorm", "rmsnorm", "batchnorm", "groupnorm")  # what a fact can say of a norm's kind
ANSWER_ABOVE = 0.9  # below this confidence the answer is "unknown"
MOST_SURE = 0.995  # names and configs never say more
_GATED = tuple(  # pairs of matrices that only a gated MLP has, as the field calls them
    frozenset(pair.split())
    for pair in (
        "gate_proj up_proj",
        "w1 w3",
        "w1 w2 c_proj",
        "wi_0 wi_1",
        "gate_up_proj",
        "w12 w3",
        "gate_and_up_proj",
        "ffn_gate ffn_up",
        "c_fc_0 c_fc_1",
    )
)
_MIXERS = frozenset({"A_log", "dt_bias", "in_proj_qkvz"})  # of state space models, all built on RMSNorm
_OF_TRANSFORMERS = vocabulary("attn attention mlp ffn fc1 fc2")  # beside them even a convolution's norm is a LayerNorm
_FRONT_END = vocabulary("subsample subsampling stem extractor")
_EXPERTS = frozenset({"experts", "router", "block_sparse_moe", "shared_expert"})
_T5 = frozenset({"relative_attention_bias"})


def structure_of(
    matrices: Iterable[str], inside: Sequence[NormModules], outside: Sequence[NormModules]
) -> tuple[Evidence, ...]:
    """Return what a tower's layers tell together of those of its norms that have no bias.

    Args:
        matrices: patterns of the tensors in its blocks that are no norm's.
        inside: the norms in its blocks.
        outside: its other norms.
    """
    patterns = list(matrices)
    called = {part for pattern in patterns for part in pattern.split(".")[-4:]}
    residual = [norm for norm in inside if not is_of_heads(norm)]
    facts = [*_gating(called, residual), *_lineage(called, residual), *_bias_of_queries_alone(patterns)]
    return (*facts, *_from_heads(inside), *_from_twins([*inside, *outside]))


def blank_evidence(inventory: Inventory) -> list[Evidence]:
    """Return what tells the kind of a final norm that stores no tensor."""
    if not is_adaptive(inventory):
        return []
    return [Evidence("tensors", "layernorm", 0.9, "scale and shift are computed by a linear layer: adaptive LayerNorm")]


def own_evidence(norm: NormModules, inventory: Inventory) -> list[Evidence]:
    """Return what a norm's own tensors and name say."""
    if norm.running:
        return [Evidence("tensors", "batchnorm", 0.999, "running statistics are stored beside the scale")]
    found = _by_name(norm)
    if reason := _group_norm(norm, inventory):
        found.append(Evidence("tensors", "groupnorm", 0.99, reason))
    elif norm.words & {"bn", "batchnorm"} or {"batch", "norm"} <= norm.words:
        found.append(Evidence("tensors", "batchnorm", 0.9, f"it is called {norm.name}, but has no running statistics"))
        found += [Evidence("tensors", "layernorm", 0.9, "it has a bias")] if norm.biases else []
    elif norm.biases:
        found.append(Evidence("tensors", "layernorm", 0.999, "a bias is stored beside the scale"))
    return found


def is_of_front_end(norm: NormModules) -> bool:
    """Return whether a norm stands among the convolutions before a trunk: what is said of the trunk's is not of it."""
    return not _FRONT_END.isdisjoint(words_of("_".join((*norm.path[:1], *norm.parent[-2:]))))


def _by_name(norm: NormModules) -> list[Evidence]:
    words = norm.words
    found = []
    if words & {"rms", "rmsnorm"} or "rms" in norm.name.lower():
        found.append(Evidence("tensors", "rmsnorm", 0.95, f"it is called {norm.name}"))
    if is_of_heads(norm) and not norm.biases and _is_rms_of_heads(norm):
        found.append(Evidence("tensors", "rmsnorm", 0.85, "it norms queries or keys, without a bias"))
    if "a" in words and words & {"q", "kv"}:
        found.append(Evidence("tensors", "rmsnorm", 0.95, "it norms a compressed query or key: latent attention"))
    return found


def weigh(facts: Iterable[Evidence]) -> tuple[Kind, float, str]:
    """Return the kind that facts speak for, how sure that is, and the source of the strongest one.

    Returns:
        ("unknown", confidence of the likelier kind, source) where the likelier kind is not sure enough.
    """
    likelier, confidence, source = likeliest(facts)
    return (likelier if confidence >= ANSWER_ABOVE else "unknown"), confidence, source


def likeliest(facts: Iterable[Evidence]) -> tuple[Kind, float, str]:
    """Return the same as `weigh`, but the likelier kind however unsure it is."""
    facts = list(facts)
    odds = log_odds(facts)
    best = max(odds, key=lambda kind: odds[kind])
    total = sum(math.exp(value - odds[best]) for value in odds.values())
    confidence = min(1 / total, MOST_SURE)
    strongest = max((fact for fact in facts if fact.says == best), key=lambda fact: fact.strength, default=None)
    return best, confidence, strongest.source if strongest else "tensors"


def kind_facts(evidence: Iterable[Evidence]) -> list[Evidence]:
    """Return the facts that speak for a kind: not those on a scale, or a place."""
    return [fact for fact in evidence if fact.says in KINDS]


def log_odds(facts: Iterable[Evidence]) -> dict[Kind, float]:
    """Return the sum of what facts say for each kind that any speaks for, and for the two of transformers."""
    odds: dict[Kind, float] = {"layernorm": 0.0, "rmsnorm": 0.0}
    for fact in facts:
        kind: Kind = fact.says  # type: ignore[assignment]
        odds[kind] = odds.get(kind, 0.0) + 2 * math.atanh(min(fact.strength, 0.9999))
    return odds


def is_of_heads(norm: NormModules) -> bool:
    """Return whether a norm is of queries or keys, head by head."""
    words = norm.words
    return bool(words & {"q", "k", "query", "key", "qk", "kv"}) and not words & {"a"}


def _gating(called: set[str], residual: Sequence[NormModules]) -> list[Evidence]:
    if not any(pair <= called for pair in _GATED):
        return []
    if len(residual) < 2:
        return [
            Evidence("tensors", "layernorm", 0.6, "gated MLPs and one norm per layer without a bias: parallel blocks")
        ]
    return [Evidence("tensors", "rmsnorm", 0.93, "gated MLPs, two or more norms per layer, and no bias in them")]


def _lineage(called: set[str], residual: Sequence[NormModules]) -> list[Evidence]:
    names = {norm.name for norm in residual}
    found = []
    if called & _MIXERS:
        found.append(Evidence("tensors", "rmsnorm", 0.9, "state space mixers, which are built with RMSNorm"))
    if called & _T5 and residual:
        found.append(
            Evidence("tensors", "rmsnorm", 0.95, "relative attention biases beside norms without bias: T5's layout")
        )
    if {"pre_feedforward_layernorm", "post_feedforward_layernorm"} <= names:
        found.append(Evidence("tensors", "rmsnorm", 0.7, "norms before and after each sublayer"))
    if {"input_layernorm", "post_attention_layernorm"} <= names:
        found.append(Evidence("tensors", "rmsnorm", 0.5, "Llama's names, without a bias"))
    if called & _EXPERTS and len(residual) > 1:
        found.append(Evidence("tensors", "rmsnorm", 0.7, "a mixture of experts whose norms have no bias"))
    return found


def _bias_of_queries_alone(patterns: Iterable[str]) -> list[Evidence]:
    """Qwen and ChatGLM gave queries and keys a bias when RMSNorm had already taken the norms'."""
    biased = {pattern.split(".")[-2] for pattern in patterns if pattern.endswith(".bias") and "." in pattern}
    if biased and all(words_of(name) & {"q", "k", "v", "qkv", "query", "key", "value"} for name in biased):
        return [
            Evidence("tensors", "rmsnorm", 0.85, "of all layers in a block only queries, keys and values have a bias")
        ]
    return []


def _from_heads(norms: Sequence[NormModules]) -> list[Evidence]:
    """Where queries and keys are normed without a bias, the layers' norms are of the same kind as theirs."""
    heads = [norm for norm in norms if is_of_heads(norm)]
    if not heads or any(norm.biases for norm in heads):
        return []
    strength = 0.85 if all(map(_is_rms_of_heads, heads)) else 0.5
    return [Evidence("tensors", "rmsnorm", strength, "queries and keys are normed without a bias")]


def _from_twins(norms: Sequence[NormModules]) -> list[Evidence]:
    """A tower is built with one kind of norm: what has no bias in a tower full of rms-named norms is one too."""
    named = [norm for norm in norms if "rms" in norm.name.lower()]
    return [Evidence("tensors", "rmsnorm", 0.5, f"{named[0].name} stands in the same tower")] if named else []


def _group_norm(norm: NormModules, inventory: Inventory) -> str:
    """Return why a norm is a GroupNorm, or ""."""
    words = norm.words
    if words & {"gn", "groupnorm"} or {"group", "norm"} <= words:
        return f"it is called {norm.name}"
    if not norm.biases or not words & {"norm"} or words & {"layer", "ln"}:
        return ""
    parent = norm.pattern.rpartition(".")[0]
    below = inventory.below(parent)
    beside = {name for name in below if name.count(".") == 1}
    if "out" in words and "conv_out.weight" in beside:
        return "a convolution of the output follows it"
    if any(not words_of(part).isdisjoint(_OF_TRANSFORMERS) for name in below for part in name.split(".")):
        return ""
    if {"conv1.weight", "conv2.weight"} <= beside and words & {"1", "2"}:
        return "it stands between two convolutions"
    weights = [inventory.others[f"{parent}.{name}".removeprefix(".")][0] for name in beside if name.endswith(".weight")]
    if {"q.weight", "k.weight"} <= beside and all(map(_is_convolution, weights)):
        return "the attention beside it is made of convolutions"
    return ""


def _is_rms_of_heads(norm: NormModules) -> bool:
    """Not called a LayerNorm, and one scale for all heads: Cohere's LayerNorms of queries have one for each."""
    shape = norm.scales[0].shape
    is_flat = shape is None or sum(size > 1 for size in shape) == 1
    return is_flat and not norm.words & {"ln", "layer", "layernorm"}


def _is_convolution(tensor: Tensor) -> bool:
    return tensor.shape is not None and len(tensor.shape) >= 3
