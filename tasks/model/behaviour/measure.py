"""What one model class's norms are: built tiny, run and followed, as the registry's file tells them."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from tasks.core.matching import pattern_of
from tasks.model.behaviour import finals, variants
from tasks.model.behaviour.entries import Places, Seen, entries, tower_names
from tasks.model.behaviour.names import parts, renamed
from tasks.model.behaviour.norms import Behaviour, behaviour_of, candidates, guessed_inputs
from tasks.model.behaviour.tiny import (
    MAX_PARAMETERS,
    RECIPES,
    Recipe,
    default_config,
    stand_in_for_libraries,
    tiny_config,
    with_parts,
)
from tasks.model.behaviour.trace import Trace, run

MIN_REACHED = 0.9  # of the norms, for the finals of towers that were run one by one to be believed
MAX_SWITCHED_PARAMETERS = 10_000_000  # a model that does not shrink is not run again for each of its switches
INPUT_SIDE = re.compile(r"embed|projection|patch|pre_|stem", re.IGNORECASE)  # what lies before the layers
PER_TOKEN = ("layernorm", "rmsnorm", "unknown")


def measure(cls: Any) -> dict[str, Any]:
    """Return a class's norms as its default config builds them, with what failed on the way.

    Heads share the answers of the body below them, so that only bodies are built again with the config's switches
    turned.
    """
    prepare()
    result, config = first_that_runs(cls, lambda recipe: tiny_config(cls.config_class, recipe))
    if config is not None and not result["body"]:
        if result["parameters"] <= MAX_SWITCHED_PARAMETERS:
            variants.add_switched(result, config, lambda switched: measured(cls, switched))
        variants.mark_optional_biases(result, config, cls)
        add_unseen(result, cls, _fuller(cls, config))
    return result


def prepare() -> None:
    """Make what is measured the same every time, and let classes be built that ask for absent libraries."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    stand_in_for_libraries()


def first_that_runs(cls: Any, make: Callable[[Recipe], Any]) -> tuple[dict[str, Any], Any]:
    """Return the norms of a class as the first of its tiny configs that runs as a whole builds them, and that config.

    Args:
        cls: a model class.
        make: the config that a recipe makes; sizes are shrunk in one way after another.

    Returns:
        Where none runs, those of the config of which most ran; ({"failed": "build", …}, None) where none can be built.
    """
    tried, errors = [], []
    for recipe in RECIPES:
        try:
            config = make(recipe)
            tried.append((measured(cls, config), config))
        except Exception as error:  # whatever a model raises on sizes that do not go together
            errors.append(f"{recipe}: {type(error).__name__}: {str(error)[:200]}")
            continue
        if tried[-1][0]["whole"]:
            break
    if not tried:
        return {"failed": "build", "errors": errors, "model_type": cls.config_class.model_type}, None
    result, config = max(tried, key=lambda pair: (pair[0]["final_by"] == "forward", pair[0]["whole"], pair[0]["ran"]))
    result["errors"] += errors
    return result, config


def measured(cls: Any, config: Any) -> dict[str, Any]:
    """Return the norms of a class as one config builds it."""
    eps_fields = _mark_epsilons(config)
    model = _built(cls, config)
    found, towers = dict(candidates(model)), _towers(model)
    trace = run(model, found, towers)
    seen = _seen(found, trace)
    base = next((path for path, module in towers.items() if module is model.base_model), "")
    ends, ran = _ends(seen, base, towers, trace)
    names = tower_names(towers, [end.tower for end in ends])
    main = finals.main_final(ends, names)
    place = Places(base, towers, names, eps_fields)
    return {
        "model_type": cls.config_class.model_type,
        "final_by": "forward" if ran else "registration",
        "whole": base in {span.path for span in trace.spans},
        "ran": len(trace.spans),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "norms": entries(seen, place, {end.path for end in ends}, main.path if main else None),
        "switched_on": [],
        "renamed": renamed(model, seen),
        "parts": parts(config, towers),
        "body": type(model.base_model).__name__ if model.base_model is not model else None,
        "prefix": base or None,
        "errors": trace.errors[:3],
    }


def _built(cls: Any, config: Any) -> Any:
    config._attn_implementation = "eager"
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in cls(copy.deepcopy(config)).parameters())
    if count > MAX_PARAMETERS:
        raise MemoryError(f"{count:,} parameters, at most {MAX_PARAMETERS:,}")
    model = cls(config).eval()
    for _, norm in candidates(model):  # each with values of its own, so that its output is known wherever it turns up
        for parameter in norm.parameters(recurse=False):
            parameter.data.uniform_(0.5, 1.5)
    return model


def _towers(model: nn.Module) -> dict[str, Any]:
    """Return, by path, each part that transformers makes a model of its own, the whole model first."""
    return {path: module for path, module in model.named_modules() if hasattr(module, "main_input_name")}


def _mark_epsilons(config: Any, prefix: str = "", marked: dict[float, str] | None = None) -> dict[float, str]:
    """Give each epsilon of a config a value of its own; return {value: dotted field}."""
    marked = {} if marked is None else marked
    for name, value in list(vars(config).items()):
        if hasattr(value, "to_diff_dict"):
            _mark_epsilons(value, f"{prefix}{name}.", marked)
        elif isinstance(value, float) and re.search(r"eps", name) and 0 < value < 0.1:
            marked[own := 1e-6 * (1 + len(marked) / 64)] = f"{prefix}{name}"
            setattr(config, name, own)
    return marked


def _seen(found: Mapping[str, nn.Module], trace: Trace) -> list[Seen]:
    """Return the norms among the candidates; those of one pattern and make are run once."""
    first = {call.path: call for call in reversed(trace.calls)}
    known: dict[Any, Behaviour | None] = {}
    seen = []
    for path, module in found.items():
        call = first.get(path)
        make = (pattern_of(path), type(module), tuple(dict(module.named_parameters())))
        if make not in known:
            given = [(call.args, call.kwargs)] if call else [((x,), {}) for x in guessed_inputs(module)]
            answers = (behaviour_of(module, args, kwargs) for args, kwargs in given)
            known[make] = next((answer for answer in answers if answer is not None), None)
        if (behaviour := known[make]) is not None:
            seen.append(Seen(path, module, behaviour, call is not None))
    return seen


def _ends(seen: list[Seen], base: str, towers: Mapping[str, Any], trace: Trace) -> tuple[list[finals.Final], bool]:
    """Return each tower's final norm, and whether a forward pass has shown them."""
    spanned = {span.path for span in trace.spans}
    trunk = base if base in spanned or "" not in spanned else ""
    per_token = [norm for norm in seen if norm.behaviour.kind in PER_TOKEN]
    ends = finals.finals_of(trunk, towers, {norm.path for norm in per_token}, trace)
    reached = sum(norm.ran for norm in per_token)
    if trunk in spanned or reached >= MIN_REACHED * max(len(per_token), 1):
        return ends, True
    inside = [norm.path for norm in per_token if finals.within(norm.path, base)]
    return ends + _registered_last(inside, ends, towers), False


def _registered_last(paths: list[str], ends: list[finals.Final], towers: Mapping[str, Any]) -> list[finals.Final]:
    """Return, for each tower without an end, the last norm that it registers outside of its layers, or of all."""
    groups: dict[str, list[str]] = {}
    for path in paths:
        tower = finals.smallest_tower(path, towers)
        if not any(finals.within(path, end.tower) for end in ends):
            groups.setdefault(tower, []).append(path)
    layered = {
        tower: registered for tower, registered in groups.items() if any("{i}" in pattern_of(p) for p in registered)
    }
    last = []
    for order, (tower, registered) in enumerate((layered or groups).items()):
        within = {path: path.removeprefix(tower) for path in registered}
        outside = [path for path in registered if "{i}" not in pattern_of(within[path])]
        outside = [path for path in outside if not INPUT_SIDE.search(within[path])]
        last.append(finals.Final((outside or registered)[-1], tower, order, is_output=False, is_reached=False))
    return last


def add_unseen(result: dict[str, Any], cls: Any, configs: Iterable[Any]) -> None:
    """Add the norms that only fuller configs than the one that was run bring in.

    The models are built without values, and only norms that are new are run, each by itself.
    """
    known = {norm["at"] for norm in result["norms"] + result["switched_on"]}
    for config in configs:
        eps_fields = _mark_epsilons(config)
        try:
            with torch.device("meta"):
                model = cls(config)
        except Exception as error:  # some classes compute with values while they are built, or refuse this config
            result["errors"].append(f"unseen: {type(error).__name__}: {str(error)[:200]}")
            continue
        new = {path: norm.to_empty(device="cpu") for path, norm in candidates(model) if pattern_of(path) not in known}
        towers = _towers(model)
        place = Places(result["prefix"] or "", towers, tower_names(towers, []), eps_fields)
        result["switched_on"] += entries(_seen(new, Trace()), place, set(), None)
        known |= {pattern_of(path) for path in new}


def _fuller(cls: Any, tiny: Any) -> Iterator[Any]:
    """Yield configs with more layers, with the nested configs that are absent by default, with each switch turned."""
    whole = default_config(cls.config_class)
    yield from (whole, with_parts(whole))
    filled = []
    with contextlib.suppress(Exception):  # sizes that do not go together
        filled.append(tiny_config(cls.config_class, "filled"))
    for config in (tiny, *filled):
        yield from variants.switched(config)
