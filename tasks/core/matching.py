"""Finding the measured norm that a checkpoint's module path names.

Paths are compared as patterns with each index as {i}, from their ends: checkpoints gain and lose containers in front.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tasks.core.measured import NormFacts
from tasks.core.paths import WRAPPERS

# containers that paths gain or lose without another meaning; the registry adds transformers' own (bert, gpt_neox, …)
NEUTRAL = frozenset({"model", "transformer", "language_model", "text_model", "llm", "lm", "backbone"})
OTHER_TOWER = re.compile(r"vi(sion|sual|deo|t)|image|img|pixel|audio|speech|clip|enc|dec|qformer|mtp|draft|head", re.I)
MAX_COMPONENTS = 40  # the deepest module of transformers lies 14 down
_INDEX = re.compile(r"(?<![^.])[0-9]+(?![^.])")  # a path component of digits alone


def indexed(module: str) -> str:
    """Return a module path with each index as {i}."""
    return _INDEX.sub("{i}", module)


def pattern_of(module: str) -> str:
    """Return a module path without what wrappers add to it, each index as {i}."""
    parts = iter(indexed(module).split("."))
    kept = []
    for part in parts:
        if part == "modules_to_save":
            next(parts, None)  # the adapter's name
        elif part not in WRAPPERS:
            kept.append(part)
    return ".".join(kept)


def nearest(known: Mapping[str, NormFacts], pattern: str, neutral: frozenset[str]) -> NormFacts | None:
    """Return the facts of the known pattern that shares the longest ending with one, where only containers differ.

    Below a container of unknown meaning a norm keeps its kind, but is no final norm: that may be another tower.

    Args:
        known: facts by pattern.
        pattern: of the module that is looked for.
        neutral: containers without a meaning of their own.

    Returns:
        None where nothing fits, or where the best fits disagree.
    """
    path = pattern.split(".")
    if len(path) > MAX_COMPONENTS:
        return None
    ranked = [(rank, norm) for at, norm in known.items() if (rank := _rank(at.split("."), path, neutral))]
    if not ranked:
        return None
    best = max(rank for rank, _ in ranked)
    answers = [norm if best[0] else _no_final(norm) for rank, norm in ranked if rank == best]
    return answers[0] if len(set(map(_answer, answers))) == 1 else None


def _answer(norm: NormFacts) -> tuple[object, ...]:
    return norm.kind, norm.parameterisation, norm.is_final, norm.is_main


def _no_final(norm: NormFacts) -> NormFacts:
    site = "other" if norm.is_final else norm.site
    return replace(norm, is_final=False, is_main=False, last_layer_only=False, site=site)


def _rank(pattern: Sequence[str], path: Sequence[str], neutral: frozenset[str]) -> tuple[bool, int, int] | None:
    """Return how well a pattern fits a path: (only neutral containers differ, shared components, -differing ones)."""
    shared = _shared(pattern[::-1], path[::-1])
    ours, theirs = pattern[: len(pattern) - shared], path[: len(path) - shared]
    start = _shared(ours, theirs)
    missing, extra = ours[start:], theirs[start:]
    if not shared or "{i}" in missing or "{i}" in extra:
        return None
    is_neutral = neutral.issuperset(missing) and neutral.issuperset(extra)
    if not is_neutral and not _may_be_wrapped(pattern[-shared:], missing, extra):
        return None
    return is_neutral, shared + start, -len(missing) - len(extra)


def _may_be_wrapped(ending: Sequence[str], missing: Sequence[str], extra: Sequence[str]) -> bool:
    """Whether paths that share a layer's norm differ by one unknown container alone, and not by a tower."""
    if "{i}" not in ending or (missing and extra):
        return False
    return not any(OTHER_TOWER.search(part) for part in extra)


def _shared(first: Sequence[str], second: Sequence[str]) -> int:
    """Return how many components two paths have in common from their start."""
    count = 0
    for ours, theirs in zip(first, second, strict=False):
        if ours != theirs:
            break
        count += 1
    return count
