"""What a config's switches change: norms that they bring in, kinds, final norms, biases."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import nn

from tasks.core.matching import pattern_of
from tasks.model.behaviour.norms import BIAS_NAME, candidates

SWITCHES = re.compile(r"norm|parallel|architecture|alternat|pre_ln|post_ln", re.IGNORECASE)
BIAS_SWITCHES = re.compile(r"bias", re.IGNORECASE)
# values that fields of text whose name holds "norm" take somewhere in transformers
NORM_NAMES = ("layernorm", "layer_norm", "rmsnorm", "rms_norm", "batchnorm", "batch_norm", "group", "layer", "no_norm")


def add_switched(result: dict[str, Any], config: Any, measured: Callable[[Any], Mapping[str, Any]]) -> None:
    """Add the norms that switches of a config bring in, and, as variants, the answers that they change.

    Args:
        result: of the config as it is; gains `switched_on` and `variants`.
        config: of the tiny model.
        measured: measures the class with another config.
    """
    usual = {norm["at"]: norm for norm in result["norms"]}
    for dotted, value in _switches(config, SWITCHES):
        try:
            norms = measured(_with(config, dotted, value))["norms"]
        except Exception:  # a value that this class does not know
            continue
        found = {norm["at"]: norm for norm in norms}
        changed = [norm for at, norm in found.items() if at in usual and _answer(norm) != _answer(usual[at])]
        gone = [at for at, norm in usual.items() if at not in found and norm.get("final")]
        new = [norm for at, norm in found.items() if at not in usual]
        if changed or gone or any(norm.get("final") for norm in new):
            variant = {"field": dotted, "value": value, "norms": changed + new, "gone": gone}
            result.setdefault("variants", []).append(variant)
        else:
            result["switched_on"] += [{**norm, "runs": False} for norm in new]
            usual |= {norm["at"]: norm for norm in new}


def switched(config: Any) -> Iterator[Any]:
    """Yield a config with each of its switches turned, whatever they are for."""
    for dotted, value in _switches(config, re.compile("")):
        if isinstance(value, bool):
            with contextlib.suppress(Exception):  # a value that this class does not know
                crossed = dotted == "add_cross_attention"  # for decoders alone
                yield _with(_with(config, "is_decoder", True) if crossed else config, dotted, value)


def mark_optional_biases(result: dict[str, Any], config: Any, cls: Any) -> None:
    """Mark the norms whose bias a field of the config adds or removes."""
    with torch.device("meta"):
        usual = _biased(cls(copy.deepcopy(config)))
        changed = set()
        for dotted, value in (*_switches(config, BIAS_SWITCHES), *_switches(config, SWITCHES)):
            with contextlib.suppress(Exception):  # a value that this class does not know
                varied = _biased(cls(_with(config, dotted, value)))
                changed |= {at for at in varied.keys() & usual.keys() if varied[at] != usual[at]}
    for norm in result["norms"]:
        if norm["at"] in changed:
            norm["bias_optional"] = True


def _biased(model: nn.Module) -> dict[str, bool]:
    """Return, by pattern, whether a norm stores a bias."""
    names = {pattern_of(path): [name for name, _ in norm.named_parameters()] for path, norm in candidates(model)}
    return {at: any(BIAS_NAME.search(name) for name in stored) for at, stored in names.items()}


def _answer(norm: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(norm.get(key) for key in ("kind", "scale", "final", "main"))


def _switches(config: Any, names: re.Pattern[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted field, another value) for each field that may switch a norm."""
    for field in fields(config):
        value = vars(config).get(config.attribute_map.get(field.name, field.name))
        if hasattr(value, "to_diff_dict"):
            yield from _switches(value, names, f"{prefix}{field.name}.")
        elif names.search(field.name) and isinstance(value, bool):
            yield f"{prefix}{field.name}", not value
        elif "norm" in field.name and names.search(field.name) and isinstance(value, str):
            yield from ((f"{prefix}{field.name}", name) for name in NORM_NAMES if name != value)


def _with(config: Any, dotted: str, value: Any) -> Any:
    """Return a copy of a config with one field changed, and what the class derives from it."""
    key, _, rest = dotted.partition(".")
    changed = {key: _with(getattr(config, key), rest, value) if rest else value}
    kept = {
        field.name: vars(config)[field.name] for field in fields(config) if field.init and field.name in vars(config)
    }
    return type(config)(**{name: copy.deepcopy(old) for name, old in kept.items()} | changed)
