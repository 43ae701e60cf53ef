"""Whether a scale is stored as it is, or less one.

`plain`: γ = w. `one_plus`: γ = 1 + w, the RMSNorm of Gemma 1 to 3 and Qwen3-Next, Nemotron's LayerNorm1P.
Source: maths.md, section 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tasks.core.modules import Inventory
from tasks.core.records import Evidence, Kind, Norm, Parameterisation

NEGATIVE = 0.05  # share of negative values; trained plain scales have hardly any
HALF = 0.5  # halfway between 0, where scales less one are centred, and 1
SCALES = ("plain", "one_plus")
ONE_FAMILY = 0.8  # LayerNorms are stored as they are, but for Nemotron's


def from_facts(kind: Kind, facts: Sequence[Evidence]) -> Parameterisation:
    """Return what is known of a scale's parameterisation, by the balance of the facts."""
    odds = {"plain": 0.0, "one_plus": 0.0}
    for fact in facts:
        if fact.says in odds:
            odds[fact.says] += math.atanh(min(fact.strength, 0.9999))
    if kind in ("layernorm", "batchnorm", "groupnorm"):
        odds["plain"] += math.atanh(ONE_FAMILY)
    if odds["plain"] == odds["one_plus"]:
        return "unknown"
    return "plain" if odds["plain"] > odds["one_plus"] else "one_plus"


def conversion_evidence(inventory: Inventory) -> list[Evidence]:
    """Return what a conversion says: MLX adds the 1 of some families to the scales that it stores."""
    leaves = {pattern.rpartition(".")[2] for pattern in inventory.others}
    if {"scales", "biases"} <= leaves:
        return [Evidence("tensors", "plain", 0.5, "scales and biases of quantised matrices, as MLX stores them")]
    return []


def with_values(norm: Norm, ordered: NDArray[np.float64]) -> Norm:
    """Return the norm with what its stored scale says of the parameterisation; where it contradicts, evidence says so.

    Args:
        norm: from `classify`.
        ordered: the stored scale's values, ascending and NaN last, as `np.sort` returns them; shape (d,). NaN and
            infinite ones are left out.
    """
    finite = ordered[ordered.searchsorted(-np.inf, "right") : ordered.searchsorted(np.inf)]
    facts = _from_values(finite)
    evidence = (*norm.evidence, *facts)
    return replace(norm, parameterisation=from_facts(norm.kind, evidence), evidence=evidence)


def _from_values(ordered: NDArray[np.float64]) -> list[Evidence]:
    """A scale is positive nearly everywhere; so values of both signs around 0 are stored less one."""
    if not ordered.size:
        return []
    below, above = ordered[(ordered.size - 1) // 2], ordered[ordered.size // 2]
    median, negative = float(below / 2 + above / 2), int(ordered.searchsorted(0.0)) / ordered.size
    detail = f"median {median:.3g}, {negative:.1%} negative"
    if ordered[0] == ordered[-1] == 1:
        return [Evidence("values", "plain", 0.9, "every value is 1: never trained, or folded into the next layer")]
    if negative >= NEGATIVE and median < HALF:
        return [Evidence("values", "one_plus", 0.9, f"{detail}: centred near 0")]
    if negative < NEGATIVE and median >= HALF:
        return [Evidence("values", "plain", 0.9 if median < 1 + HALF else 0.6, f"{detail}: positive, as a scale is")]
    return [Evidence("values", "plain", 0.6, detail)] if negative < NEGATIVE else []
