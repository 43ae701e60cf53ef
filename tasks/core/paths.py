"""Reading tensor names: what each part of a dotted path means.

A name is untrusted text of any length. Everything here is linear in it: no recursion, and no regular expression that
could go back on itself. Paths are compared as patterns, each index written `#`: "model.layers.#.input_layernorm".
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

Leaf = Literal["scale", "bias", "running"]

# The last component of a tensor's name, by what it holds; gamma and beta are TensorFlow's, scale is Flax's.
LEAVES: dict[str, Leaf] = {
    "weight": "scale",
    "gamma": "scale",
    "scale": "scale",
    "g": "scale",
    "bias": "bias",
    "beta": "bias",
    "running_mean": "running",
    "running_var": "running",
    "moving_mean": "running",
    "moving_variance": "running",
}
# Components that training frameworks and adapters put into a path; they mean nothing for the model.
WRAPPERS = frozenset(
    {
        "module",
        "_fsdp_wrapped_module",
        "_checkpoint_wrapped_module",
        "_orig_mod",
        "base_model",
        "base_layer",
        "modules_to_save",
        "default",
    }
)
MAX_KEPT_CHARS = 96  # of a name whose pattern is remembered
MAX_SEGMENT_CHARS = 64  # a longer component is no module's name, and is not taken apart
_INDEX = re.compile(r"\.[0-9]{1,9}(?=\.)")
_NUMBERED_LAYER = re.compile(r"\.(layers?|blocks?)_?[0-9]{1,4}(?=\.)")  # "encoder.layer_3.": TensorFlow's way
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_NORM_WORDS = frozenset({"ln", "bn", "gn", "rms", "lnorm", "lns"})
# "normal", "normed", "normalizer" and weight norm's own name hold "norm", "adaLN_modulation" holds "LN": none is one
_NOT_A_NORM = re.compile(r"normal(?!i[sz]ation)|normed|weight_?norm|modulation")


def vocabulary(*lines: str) -> frozenset[str]:
    """Return the words of some lines."""
    return frozenset(word for line in lines for word in line.split())


def pattern_of(name: str) -> str:
    """Return a name with each index as `#`.

    A number that is the whole name's first component stays: it numbers the parts of a pipeline, not layers.
    """
    return _pattern_of_short(name) if len(name) <= MAX_KEPT_CHARS else _pattern_of(name)


def indices_of(name: str) -> tuple[int, ...]:
    """Return the indices that `pattern_of` replaces, in their order."""
    return _indices_of_short(name) if len(name) <= MAX_KEPT_CHARS else _indices_of(name)


def _pattern_of(name: str) -> str:
    name = name.replace("#", "_")
    if "/" in name and "." not in name:
        name = name.replace("/", ".")
    pattern = _INDEX.sub(".#", name)
    return pattern if "#" in pattern else _NUMBERED_LAYER.sub(r".\1.#", pattern)


def _indices_of(name: str) -> tuple[int, ...]:
    found = _INDEX.findall(name)
    if found:
        return tuple(int(text[1:]) for text in found)
    if "/" in name and "." not in name:
        name = name.replace("/", ".")
    return tuple(int(re.findall(r"[0-9]+", match.group())[-1]) for match in _NUMBERED_LAYER.finditer(name))


# many checkpoints name their tensors alike
_pattern_of_short = lru_cache(maxsize=16_384)(_pattern_of)
_indices_of_short = lru_cache(maxsize=4_096)(_indices_of)


def path_of(pattern: str) -> tuple[str, ...]:
    """Return a pattern's components without those of wrappers."""
    return tuple(part for part in pattern.split(".") if part and part not in WRAPPERS)


@lru_cache(maxsize=8192)
def _words_of_short(segment: str) -> frozenset[str]:
    return frozenset(word.lower() for word in _WORD.findall(segment))


def words_of(segment: str) -> frozenset[str]:
    """Return the words of one component in lower case: "post_attnLayerNorm1" has post, attn, layer, norm, 1."""
    return _words_of_short(segment) if len(segment) <= MAX_SEGMENT_CHARS else frozenset()


def names_a_norm(segment: str) -> bool:
    """Return whether a component is called a norm. Names are weak witnesses: this says nothing of the kind."""
    if len(segment) > MAX_SEGMENT_CHARS:
        return False
    lower = segment.lower()
    if _NOT_A_NORM.search(lower):
        return False
    return "norm" in lower or not _NORM_WORDS.isdisjoint(words_of(segment))
