"""Other names that checkpoints have for a model's norms, and the towers that may be of any type."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from tasks.core.matching import pattern_of
from tasks.model.behaviour.entries import Seen


def renamed(model: Any, seen: list[Seen]) -> list[list[str]]:
    """Return [ours, theirs] for each beginning of a path that checkpoints may have otherwise (transformers' tables)."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import PrefixChange, revert_weight_conversion

    conversions = get_model_conversion_mapping(model, add_legacy=False)
    prefixes = [change.reverse_transform() for change in conversions if isinstance(change, PrefixChange)]
    pairs = set()
    for norm in seen:
        for name, parameter in list(norm.module.named_parameters(recurse=False))[:1]:
            full = f"{norm.path}.{name}"
            saved = [change.rename_source_key(full)[0] for change in prefixes]
            with contextlib.suppress(Exception):  # a conversion may need more than this one tensor
                saved += revert_weight_conversion(model, {full: parameter})
            pairs |= {_beginnings(pattern_of(norm.path), pattern_of(other.rpartition(".")[0])) for other in saved}
    return sorted([ours, theirs] for ours, theirs in pairs if ours != theirs)


def parts(config: Any, towers: Mapping[str, Any]) -> list[list[str]]:
    """Return [path, field, model_type] of each tower that may be of any type: its own config says of which."""
    found = []
    for field, spec in type(config).sub_configs.items():
        inner: Any = getattr(config, field, None)
        paths = [path for path, tower in towers.items() if path and inner is not None and tower.config is inner]
        if spec.__name__ == "AutoConfig" and paths:
            found.append([min(paths, key=len), field, inner.model_type])
    return found


def _beginnings(ours: str, theirs: str) -> tuple[str, str]:
    """Return two paths without the components in which they end alike."""
    first, second = ours.split("."), theirs.split(".")
    while first and second and first[-1] == second[-1]:
        first, second = first[:-1], second[:-1]
    return ".".join(first), ".".join(second)
