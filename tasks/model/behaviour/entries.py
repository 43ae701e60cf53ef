"""The norms of a model as entries of the registry's file: one for each pattern of module paths."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from tasks.core.matching import pattern_of
from tasks.model.behaviour.finals import smallest_tower, tower_name
from tasks.model.behaviour.norms import Behaviour

SITES = (  # by the last components of a path; the first that fits decides
    ("query", r"(^|[._])q(uery)?_?(a_)?(layer)?_?(norm|ln)|norm_q|ln_q"),
    ("key", r"(^|[._])k(ey|v)?_?(a_)?(layer)?_?(norm|ln)|norm_k|ln_k"),
    ("embedding", r"embed"),
    ("pre_attention", r"input_layer_?norm|ln_1$|ln_attn|layer_?norm_?1$|norm1$|norm_before|pre_att|attention_norm$"),
    (
        "post_attention",
        r"attention\.output\.LayerNorm|self_attn_layer_norm|post_self_attn|sa_layer_norm|attn_layer_norm",
    ),
    ("pre_mlp", r"post_attention_layer_?norm|pre_feedforward|ln_2$|ln_mlp|layer_?norm_?2$|norm2$|norm_after|ffn_norm$"),
    ("post_mlp", r"post_feedforward|output\.LayerNorm|output_layer_norm|final_layer_norm|post_mlp"),
)
USUAL = {  # what measured.py takes an absent key for
    "kind": "layernorm",
    "scale": "plain",
    "bias": False,
    "eps": None,
    "tower": "text",
    "site": "other",
    "final": False,
    "main": False,
    "runs": True,
}


@dataclass(frozen=True)
class Seen:
    """One norm of the tiny model."""

    path: str
    module: nn.Module
    behaviour: Behaviour
    ran: bool


@dataclass(frozen=True)
class Places:
    """Where in a model a norm stands.

    Attributes:
        base: path of the model without its task's head.
        towers: models within the model, by path.
        names: of the towers.
        eps_fields: field of the config that has set an epsilon of this value.
    """

    base: str
    towers: Mapping[str, Any]
    names: Mapping[str, str]
    eps_fields: Mapping[float, str]

    def tower(self, path: str) -> str:
        """Return the name of the smallest tower around a norm."""
        return self.names[smallest_tower(path, self.towers)]

    def site(self, path: str) -> str:
        """Return a norm's place in its block, by its path."""
        if self.base and not path.startswith(f"{self.base}."):
            return "head"
        return next((site for site, names in SITES if re.search(names, path.rsplit("{i}", 1)[-1])), "other")


def tower_names(towers: Mapping[str, Any], ending: list[str]) -> dict[str, str]:
    """Return a name for each tower.

    Args:
        towers: models within the model, by path.
        ending: paths of the towers that end in a norm; only a pair of them is called encoder and decoder.
    """
    leaves = {path.rsplit(".", 1)[-1] for path in ending}
    is_pair = any("encoder" in leaf for leaf in leaves) and any("decoder" in leaf for leaf in leaves)
    return {path: tower_name(path, tower, is_pair) for path, tower in towers.items()}


def entries(seen: list[Seen], place: Places, ends: set[str], main: str | None) -> list[dict[str, Any]]:
    """Return one entry per pattern; modules of one pattern that differ get entries of their own.

    Args:
        seen: all norms.
        place: where they stand.
        ends: paths of the final norms.
        main: path of the main one.
    """
    groups: dict[str, list[Seen]] = {}
    for norm in seen:
        groups.setdefault(pattern_of(norm.path), []).append(norm)
    found = []
    for pattern, group in groups.items():
        if len({(norm.behaviour.kind, norm.behaviour.parameterisation) for norm in group}) > 1:
            found += [_entry(norm.path, [norm], place, ends, main) for norm in group]
        else:
            found.append(_entry(pattern, group, place, ends, main))
    return found


def line_of(result: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return a class's line, without what its body's line says as well."""
    line = {"type": result["model_type"], "final_by": result["final_by"]}
    body, prefix = result.get("body"), result.get("prefix")
    shared = _prefixed(results.get(body, {}), prefix) if body and prefix else None
    norms = result["norms"]
    if shared and all(norm in norms for norm in shared):
        line |= {"body": body, "prefix": prefix}
        norms = [norm for norm in norms if norm not in shared]
    norms = norms + result.get("switched_on", [])
    if line["final_by"] == "forward":
        del line["final_by"]
    return (
        line
        | ({"norms": norms} if norms else {})
        | {k: v for k in ("renamed", "parts", "variants") if (v := result.get(k))}
    )


def _prefixed(body: Mapping[str, Any], prefix: str) -> list[dict[str, Any]]:
    """Return a body's norms as a class that holds it would tell them."""
    return [
        {key: value for key, value in norm.items() if key != "bias_optional"} | {"at": f"{prefix}.{norm['at']}"}
        for norm in body.get("norms", ())
    ]


def _entry(at: str, group: list[Seen], place: Places, ends: set[str], main: str | None) -> dict[str, Any]:
    behaviour, last = group[0].behaviour, max(group, key=_indices)
    final: bool | str = last.path in ends and ("last_layer" if "{i}" in at else True)
    entry = {
        "kind": behaviour.kind,
        "scale": behaviour.parameterisation,
        "bias": any(norm.behaviour.has_bias for norm in group),
        "eps": place.eps_fields.get(behaviour.eps or 0.0),
        "tower": place.tower(group[0].path),
        "site": place.site(at),
        "final": final,
        "main": bool(final) and last.path == main,
        "runs": any(norm.ran for norm in group),
    }
    return {"at": at} | {key: value for key, value in entry.items() if value != USUAL[key]}


def _indices(norm: Seen) -> list[int]:
    return [int(text) for text in re.findall(r"(?<![^.])\d+(?![^.])", norm.path)]
