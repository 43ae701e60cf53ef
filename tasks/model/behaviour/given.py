"""What the norms of the class that a config names are, as that very config, shrunk, builds it: without weights.

Nothing that a config says is followed out of transformers: not its auto_map, not a kernel or a backbone to be fetched.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tasks.core.registry import MAX_NESTING, NESTED_TEXT_CONFIGS
from tasks.model.behaviour.entries import line_of
from tasks.model.behaviour.measure import add_unseen, first_that_runs, prepare
from tasks.model.behaviour.tiny import shrunk, without_timm

FOLLOWED = re.compile(r"auto_map|_?attn_implementation.*|experts_implementation.*|quantization_config|_name_or_path")
MAX_LAYERS = 512  # of a config that is built whole, without values; the deepest real model has 126


def measure_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the registry's line of the class that a config names, as the config builds it, or {"failed": why, …}.

    Args:
        config: a whole config.json; its values may be anything.

    Raises:
        Exception: whatever transformers raises on such a config.
    """
    named = next(_named(config), None)
    if named is None:
        return {"failed": "unknown", "transformers": importlib.metadata.version("transformers")}
    cls, given = named
    prepare()
    whole = without_timm(cls.config_class.from_dict(_alone(given)))
    result, tiny = first_that_runs(cls, lambda recipe: shrunk(whole, recipe))
    if tiny is None:
        return result
    if not _is_deep(given):
        add_unseen(result, cls, [whole])
    line = {key: value for key, value in line_of(result, {}).items() if key not in ("parts", "variants")}
    return {
        "class": cls.__name__,
        "line": line,
        "prefixes": [result["prefix"]] if result["prefix"] else [],
        "transformers": importlib.metadata.version("transformers"),
    }


def _named(config: Any) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """Yield the class that a config names and that config, then the same of the text configs nested in it."""
    for _ in range(MAX_NESTING):
        if not isinstance(config, Mapping):
            return
        cls = _class_of(config)
        if cls is not None:
            yield cls, config
        nested = (config.get(key) for key in NESTED_TEXT_CONFIGS)
        config = next((inner for inner in nested if isinstance(inner, Mapping)), None)


def _class_of(config: Mapping[str, Any]) -> Any:
    """Return the class that runs a config, or None; a repo with code of its own is believed as the registry does."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    model_type, own_code = config.get("model_type"), bool(config.get("auto_map"))
    names = config.get("architectures")
    for name in names if isinstance(names, list) else ():
        cls = _exported(name)
        if cls is not None and (not own_code or cls.config_class.model_type == model_type):
            return cls
    main = MODEL_MAPPING_NAMES.get(model_type) if isinstance(model_type, str) and not own_code else None
    return _exported(main[0] if isinstance(main, tuple | list) else main)


def _exported(name: Any) -> Any:
    """Return the model class of transformers with this name, or None."""
    import transformers

    cls = getattr(transformers, name, None) if isinstance(name, str) else None
    is_model = isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)
    return cls if is_model and getattr(cls, "config_class", None) is not None else None


def _alone(value: Any) -> Any:
    """Return a config, and those nested in it, without what names code or weights elsewhere."""
    if isinstance(value, Mapping):
        return {key: _alone(inner) for key, inner in value.items() if not FOLLOWED.fullmatch(key)}
    return value


def _is_deep(config: Mapping[str, Any]) -> bool:
    counts = [value for key, value in config.items() if re.search(r"layer|depth|block", key)]
    nested = [value for value in config.values() if isinstance(value, Mapping)]
    return any(type(count) is int and count > MAX_LAYERS for count in counts) or any(map(_is_deep, nested))
