"""What a config says of norms: facts from its keys, at any nesting, for each part of a model.

Keys are read by their words, never by the model's name. They lie both ways (maths.md, section 6), so each fact has a
strength and none settles a kind alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

from tasks.core.errors import shown
from tasks.core.paths import MAX_SEGMENT_CHARS, vocabulary, words_of
from tasks.core.records import Evidence
from tasks.core.towers import AUX, Role, role_of

DIGEST_KEYS = frozenset(  # all that the Hub's listing shows of a config
    {"architectures", "model_type", "auto_map", "quantization_config", "tokenizer_config", "processor_config"}
)
WIDTH_KEYS = ("hidden_size", "n_embd", "d_model", "dim")
MAX_WIDTH = 2**20  # the widest real models have 2**15
MAX_DEPTH = 6  # nested configs of real models are at most three deep
MAX_KEYS = 20_000  # label maps of classifiers have thousands
# Words of keys that speak of single norms: of queries (qk_norm), of a front end (feat_extract_norm), of a head
_OF_PARTS = AUX | vocabulary("q k qk query key feat extract")
_NOT_OF_THE_MODEL = frozenset({"quantization_config"})  # how its weights were packed
OF_ANOTHER_TOWER = 0.75  # share of its strength that a fact keeps for a tower that it was not said of
_EPS = re.compile(r"(rms|layer|ln)?_?(norm)?_?(variance_)?(eps|epsilon)$")
_RMS_KEY = re.compile(r"(use_)?rms_?norm$|(use_)?rms$")
_TYPE_KEY = re.compile(
    r"(\w+_)?norm(alization|_layer|_layers)?(_type|_class|_cls|_name|_fn|_mode|_function)?$|normalization$"
)
_BIAS_KEY = re.compile(r"(use_)?(layer_?)?(norm|ln)_(use_)?bias$|use_(layer_?)?norm_bias$|bias_(norm|ln)$")
_ONE_PLUS_KEY = re.compile(
    r"(apply_)?(layer|rms)_?norm_(1p|zero_centered(_gamma)?)$|zero_centered_gamma$|norm_(add_unit_offset|unit_offset)$"
)


@dataclass(frozen=True, slots=True)
class Scope:
    """One (nested) config: the part of the model that it is for, and what it says of that part's norms."""

    role: Role
    depth: int
    facts: tuple[Evidence, ...]
    eps: float | None


def is_digest(config: Mapping[str, object] | None) -> bool:
    """Return whether a config is missing or only the Hub's digest of one."""
    return config is None or DIGEST_KEYS.issuperset(config)


def scopes_of(config: Mapping[str, object] | None) -> tuple[Scope, ...]:
    """Return what a config and the configs nested in it say, the outermost first."""
    return tuple(_scope(path, mapping) for path, mapping in _nested(config or {}))


def scopes_for(role: Role, is_main: bool, scopes: Sequence[Scope]) -> tuple[Scope, ...]:
    """Return the scopes that speak for a tower: those of its own role, else the general ones."""
    own = tuple(scope for scope in scopes if scope.depth and scope.role == role and (scope.facts or scope.eps))
    if own and role:
        return own
    if is_main:
        return tuple(scope for scope in scopes if scope.role in ("", "text", role) and (scope.facts or scope.eps))
    return tuple(_weakened(scope) for scope in scopes if scope.depth == 0)


def _weakened(scope: Scope) -> Scope:
    """What a config says at its own level is of the main tower first; of others it is a hint."""
    facts = tuple(replace(fact, strength=OF_ANOTHER_TOWER * fact.strength) for fact in scope.facts)
    return replace(scope, facts=facts, eps=None)


def width_of(config: Mapping[str, object] | None) -> int | None:
    """Return the hidden size that a config names at its own level or in a nested text config."""
    for path, mapping in _nested(config or {}):
        if role_of(path) in ("", "text"):
            for key in WIDTH_KEYS:
                value = mapping.get(key)
                if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_WIDTH:
                    return value
    return None


def outside_last(config: Mapping[str, object] | None) -> bool:
    """Return False where a config says that the norm beside a stack of layers runs before them (post-norm encoders)."""
    return not any(mapping.get("do_stable_layer_norm") is False for _, mapping in _nested(config or {}))


def _nested(config: Mapping[str, object]) -> Iterator[tuple[tuple[str, ...], Mapping[str, object]]]:
    waiting: list[tuple[tuple[str, ...], Mapping[str, object]]] = [((), config)]
    seen = 0
    while waiting:
        path, mapping = waiting.pop(0)
        yield path, mapping
        seen += len(mapping)
        if len(path) >= MAX_DEPTH or seen > MAX_KEYS:
            continue
        inner = ((str(key), value) for key, value in mapping.items() if isinstance(value, Mapping))
        waiting += [((*path, key), value) for key, value in inner if key not in _NOT_OF_THE_MODEL]


def _scope(path: tuple[str, ...], mapping: Mapping[str, object]) -> Scope:
    facts: list[Evidence] = []
    eps = None
    for key, value in mapping.items():
        if not isinstance(key, str) or len(key) > MAX_SEGMENT_CHARS or words_of(key) & _OF_PARTS:
            continue
        lower = key.lower()
        if fact := _fact(lower, value):
            facts.append(fact)
        if _EPS.fullmatch(lower) and _is_epsilon(value) and eps is None:
            eps = value
    return Scope(role_of(path), len(path), tuple(facts), eps)


def _fact(key: str, value: object) -> Evidence | None:
    """Return what one key says, or None."""
    said = f"{key}: {shown(value, 60)}"
    if _ONE_PLUS_KEY.fullmatch(key) and isinstance(value, bool):
        return Evidence("config", "one_plus" if value else "plain", 0.95, said)
    if _RMS_KEY.fullmatch(key) and isinstance(value, bool):
        return Evidence("config", "rmsnorm" if value else "layernorm", 0.97, said)
    if _BIAS_KEY.fullmatch(key) and isinstance(value, bool):
        return Evidence("config", "layernorm", 0.9, f"{said}: a bias to switch off, which an RMSNorm has not")
    if _TYPE_KEY.fullmatch(key) and isinstance(value, str):
        return _named(value, said)
    if _EPS.fullmatch(key) and _is_epsilon(value):
        return _by_eps_key(key, said)
    return None


def _is_epsilon(value: object) -> TypeGuard[float]:
    return isinstance(value, float) and 0 < value < 1


def _named(value: str, said: str) -> Evidence | None:
    lower = value.lower()[:MAX_SEGMENT_CHARS]
    if "rms" in lower:
        return Evidence("config", "rmsnorm", 0.97, said)
    if "layer" in lower or lower == "ln":
        return Evidence("config", "layernorm", 0.95, said)
    return None


def _by_eps_key(key: str, said: str) -> Evidence | None:
    if key.startswith("rms"):
        return Evidence("config", "rmsnorm", 0.95, said)
    if key.endswith("eps") and key.startswith(("layer", "ln")):
        return Evidence("config", "layernorm", 0.45, f"{said}: many RMSNorms have this key too")
    return None
