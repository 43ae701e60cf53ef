"""The registry: the norms of each architecture of transformers, measured, and how to look one up.

`registry.json` is written by `make registry`, which builds every model class of the installed transformers with tiny
random weights and runs its norms; measured.py tells what its lines say. Neither transformers nor torch is needed here.

Source: maths.md, sections 1 and 6.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources

from tasks.core.configs import is_digest
from tasks.core.matching import NEUTRAL, OTHER_TOWER, indexed, nearest, pattern_of
from tasks.core.measured import (
    Architecture,
    Line,
    NormFacts,
    below,
    final_by,
    norms_of,
    variants_of,
    varied,
    with_aliases,
)

__all__ = ["Architecture", "NormFacts", "Registry", "load_registry", "measuring", "parse_registry"]

FORMAT = 1  # raised when a reader of the old file would misread the new one
NESTED_TEXT_CONFIGS = ("text_config", "llm_config", "language_config", "thinker_config")
MAX_NESTING = 4  # configs of real models are nested at most three deep
_ABSENT = object()
Measure = Callable[[Mapping[str, object]], Architecture | None]  # of a config


@dataclass(frozen=True)
class Registry:
    """All measured architectures, by class name.

    Attributes:
        transformers_version: that was measured.
        measure: is asked for the architecture of a config that names none of them; None: nobody is.
    """

    transformers_version: str
    _lines: Mapping[str, Line] = field(repr=False)
    _main_classes: Mapping[str, str] = field(repr=False)  # model_type: class
    _neutral: frozenset[str] = field(repr=False)  # containers without a meaning of their own
    measure: Measure | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def find(self, config: Mapping[str, object] | None) -> Architecture | None:
        """Return the architecture that a config names, or None: no class measured here runs its code.

        A class named in `architectures` decides, else the model_type's main class, else the same of the nested text
        config (then only that tower is known). A repo with code of its own is believed only where it names a class and
        a model_type that belong together here.

        Args:
            config: a config.json, or the Hub's digest of one; its values may be anything.
        """
        known = self._find(config)
        if known is None and self.measure is not None and isinstance(config, Mapping):
            return self.measure(config)
        return known

    def architecture(self, class_name: str) -> Architecture:
        """Return a class as its default config builds it.

        Raises:
            KeyError: no class of this name was measured.
        """
        return self._resolved(class_name, {})

    def facts(self, architecture: Architecture, module: str) -> NormFacts | None:
        """Return the facts of the norm at a checkpoint's module path; None where no pattern fits, or several disagree.

        Args:
            architecture: from `find`.
            module: path without the tensor's own name, e.g. "model.layers.17.input_layernorm".
        """
        known, pattern = architecture.by_pattern, pattern_of(module)
        neutral = self._neutral | architecture.neutral if architecture.neutral else self._neutral
        return known.get(indexed(module)) or known.get(pattern) or nearest(known, pattern, neutral)

    def _find(self, config: Mapping[str, object] | None) -> Architecture | None:
        for _ in range(MAX_NESTING):
            if not isinstance(config, Mapping):
                return None
            name = self._class_of(config)
            if name is not None:
                return self._resolved(name, config)
            nested = (config.get(key) for key in NESTED_TEXT_CONFIGS)
            config = next((inner for inner in nested if isinstance(inner, Mapping)), None)
        return None

    def _class_of(self, config: Mapping[str, object]) -> str | None:
        model_type, own_code = config.get("model_type"), bool(config.get("auto_map"))
        named = config.get("architectures")
        for name in named if isinstance(named, list | tuple) else ():
            line = self._lines.get(name) if isinstance(name, str) else None
            if line is not None and (not own_code or line["type"] == model_type):
                return str(name)
        return None if own_code or not isinstance(model_type, str) else self._main_classes.get(model_type)

    def _resolved(self, name: str, config: Mapping[str, object], nesting: int = 0) -> Architecture:
        """Return a class as a config builds it; without any of it ({}), as its default config does."""
        line, hidden = self._lines[name], bool(config) and is_digest(config)
        norms = {norm.pattern: norm for norm in norms_of(self._lines, name)}
        depends_on: dict[str, None] = {}
        for prefix, variant in variants_of(self._lines, name):
            value = _value_at(config, variant["field"])
            if value is _ABSENT and hidden:
                depends_on[variant["field"]] = None
            elif value == variant["value"] and type(value) is type(variant["value"]):
                norms = varied(norms, variant, prefix)
        for path, key, usual in line.get("parts", ()):
            part = config.get(key)
            if isinstance(part, Mapping):
                norms = self._with_part(norms, path, part, usual, nesting)
            elif hidden:
                depends_on[f"{key}.model_type"] = None
        known = tuple(with_aliases(norm, line.get("renamed", ())) for norm in norms.values())
        return Architecture(line["type"], name, known, final_by(self._lines, name), tuple(depends_on))

    def _with_part(
        self, norms: dict[str, NormFacts], path: str, part: Mapping[str, object], usual: str, nesting: int
    ) -> dict[str, NormFacts]:
        """Return the norms with those of one tower replaced by those of the type that its own config names."""
        model_type = part.get("model_type", usual)
        if model_type == usual or nesting >= MAX_NESTING:
            return norms
        old = {at: norm for at, norm in norms.items() if at.startswith(f"{path}.")}
        rest = {at: norm for at, norm in norms.items() if at not in old}
        name = self._main_classes.get(model_type) if isinstance(model_type, str) else None
        if name is None:
            return rest  # of a type that was not measured, nothing is known
        is_main = any(norm.is_main for norm in old.values())
        tower = next((norm.tower for norm in old.values()), "text")
        inner = (below(path, norm) for norm in self._resolved(name, part, nesting + 1).norms)
        return rest | {norm.pattern: _placed(norm, tower, is_main) for norm in inner}


def measuring(registry: Registry | None, measure: Measure) -> Registry:
    """Return a registry (None: one that knows nothing) that has measured what it does not know."""
    return replace(registry or Registry("", {}, {}, NEUTRAL), measure=measure)


def parse_registry(data: bytes) -> Registry:
    """Parse a registry file. A class's norms are parsed when they are asked for.

    Args:
        data: the whole file.

    Raises:
        ValueError: the file is no registry of this format.
    """
    try:
        document = json.loads(data)
        if document["format"] != FORMAT:
            raise ValueError(f"its format is {document['format']!r}, this version reads {FORMAT}")
        lines, version = document["architectures"], document["transformers_version"]
        untyped = [name for name, line in lines.items() if not isinstance(line["type"], str)]
        if untyped or not isinstance(version, str):
            raise ValueError(f"classes without a type: {untyped[:5]}; transformers_version: {version!r}")
        neutral = NEUTRAL | {part for part in document["prefixes"] if not OTHER_TOWER.search(part)}
        return Registry(version, lines, dict(document["main_classes"]), neutral)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"registry: {type(error).__name__}: {error}; write it anew with `make registry`") from error


@cache
def load_registry() -> Registry:
    """Return the registry that comes with this package; parsed once per process."""
    return parse_registry(resources.files("tasks.core").joinpath("registry.json").read_bytes())


def _value_at(config: Mapping[str, object], dotted: str) -> object:
    """Return a config's value at a dotted path, or _ABSENT."""
    value: object = config
    for key in dotted.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return _ABSENT
        value = value[key]
    return value


def _placed(norm: NormFacts, tower: str, may_be_main: bool) -> NormFacts:
    """Return a part's norm with the whole model's name for its tower."""
    name = norm.tower if norm.tower in ("encoder", "decoder") else tower
    return replace(norm, tower=name, is_main=norm.is_main and may_be_main, aliases=())
