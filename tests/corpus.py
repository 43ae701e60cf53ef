"""Labelled checkpoints, and how often the classifier is right on them.

A corpus has one JSON object per line: a model's config, its tensors, the truth about its norms. There are two sorts:
architectures of transformers as tiny models, labelled by running them, and published checkpoints, whose shapes are
filled in.
"""

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tasks.core.kinds import classify, with_values
from tasks.core.records import Norm, Tensor
from tasks.core.registry import Registry

NAMING_KEYS = ("model_type", "architectures", "auto_map", "_name_or_path")  # what names an architecture
DIGEST_KEYS = ("model_type", "architectures", "auto_map", "quantization_config")  # what the Hub's listing shows
TRANSFORMERS = ("layernorm", "rmsnorm")
MAIN_TOWERS = ("decoder", "language", "text", "model", "encoder", "vision", "image")
NOT_SCALES = (".bias", ".beta")


@dataclass(frozen=True)
class Model:
    """One labelled checkpoint.

    Attributes:
        finals: scale of each norm that may be called the main final one (None: it has no scale), with its kind and
            parameterisation; empty where the truth is not settled.
        kinds: kind of each norm by its scale.
    """

    name: str
    config: Mapping[str, object]
    tensors: list[Tensor]
    finals: Mapping[str | None, tuple[str, str | None]]
    kinds: Mapping[str, str]


@dataclass
class Score:
    """Counts of right, wrong and unknown answers, and the wrong ones in words."""

    counts: Counter = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def share(self, part: str, whole: str) -> float:
        return self.counts[part] / max(self.counts[whole], 1)

    @property
    def final(self) -> float:
        return self.share("final", "models")

    @property
    def kind(self) -> float:
        return self.share("kind", "models")

    @property
    def parameterisation(self) -> float:
        return self.share("parameterisation", "parameterisations")

    @property
    def sites(self) -> float:
        return self.share("site", "sites")


def read(path: Path) -> list[Model]:
    """Read a corpus of either sort."""
    with gzip.open(path, "rt") as lines:
        entries = [json.loads(line) for line in lines]
    return [_measured(entry) if "config" in entry else _published(entry) for entry in entries]


def blind(config: Mapping[str, object]) -> dict[str, object]:
    """A config without what names the architecture, at any depth, as for code that nobody has seen."""
    kept = {key: value for key, value in config.items() if key not in NAMING_KEYS}
    return {key: blind(value) if isinstance(value, dict) else value for key, value in kept.items()}


def digest(config: Mapping[str, object]) -> dict[str, object]:
    """What the Hub's listing shows of a config."""
    return {key: config[key] for key in DIGEST_KEYS if config.get(key) is not None}


def score(models: Iterable[Model], see=lambda config: config, registry: Registry | None = None) -> Score:
    """Classify models, their configs seen through `see`, and count."""
    result = Score()
    rng = np.random.default_rng(7)
    for model in models:
        norms = classify(model.tensors, see(model.config), registry).norms
        _score_sites(model, {norm.scale_tensor: norm.kind for norm in norms}, result)
        if model.finals:
            _score_final(model, [norm for norm in norms if norm.is_main], rng, result)
    return result


def _score_sites(model: Model, said: Mapping[str | None, str], result: Score) -> None:
    for scale, kind in model.kinds.items():
        got = said.get(scale, "missing")
        result.counts["sites"] += 1
        result.counts["site" if got == kind else "site unknown" if got in ("unknown", "missing") else "site WRONG"] += 1


def _score_final(model: Model, mains: list[Norm], rng: np.random.Generator, result: Score) -> None:
    result.counts["models"] += 1
    if len(mains) != 1 or mains[0].scale_tensor not in model.finals:
        result.wrong.append(f"{model.name}: final {[norm.scale_tensor for norm in mains]}, not {list(model.finals)}")
        return
    (norm,) = mains
    kind, parameterisation = model.finals[norm.scale_tensor]
    result.counts["final"] += 1
    result.counts["kind" if norm.kind == kind else "kind unknown" if norm.kind == "unknown" else "kind WRONG"] += 1
    if norm.kind != kind:
        result.wrong.append(f"{model.name}: kind {norm.kind}, not {kind}")
    if norm.scale_tensor and parameterisation:
        scale = rng.lognormal(0, 0.3, norm.dim or 64) - (parameterisation == "one_plus")
        result.counts["parameterisations"] += 1
        result.counts["parameterisation"] += with_values(norm, np.sort(scale)).parameterisation == parameterisation


def _measured(entry: dict) -> Model:
    norms = [norm for norm in entry["norms"] if norm["kind"] in TRANSFORMERS]
    tensors = [
        Tensor(name, "model.safetensors", dtype, tuple(shape)) for name, dtype, shape in sorted(entry["tensors"])
    ]
    kinds = {norm["scale"]: norm["kind"] for norm in norms if norm["scale"]}
    return Model(entry["model_type"], entry["config"], tensors, dict(_measured_finals(entry)), kinds)


def _measured_finals(entry: dict) -> Iterator[tuple[str | None, tuple[str, str | None]]]:
    """Yield the norms that may be main: of a model with several towers and no decoder (CLIP), any tower's."""
    final = entry["final"]
    settled = entry["forward_ok"] and not entry["debatable"] and entry["final_by"] != "registration"
    if final is None or final["kind"] not in TRANSFORMERS or not settled:
        return
    norms = {norm["module"]: norm for norm in entry["norms"]}
    towers = (
        [norms[tower["final"]] for tower in entry["towers"].values()] if entry["model_class"].endswith("Model") else []
    )
    for norm in (*towers, final):
        yield norm["scale"], (norm["kind"], norm["parameterisation"] if norm["scale"] else None)


def _published(entry: dict) -> Model:
    scales = {name for name in entry["norm_tensors"] if not name.endswith(NOT_SCALES)}
    vectors = {name for name in entry["tensors"] if name in scales or name.endswith(".bias")}
    width = entry["hidden_size"] or 64
    tensors = [
        Tensor(n, "model.safetensors", "BF16", (width,) if n in vectors else (width, width))
        for n in sorted(entry["tensors"])
    ]
    config = {"model_type": entry["model_type"], "architectures": entry["architectures"], "hidden_size": width}
    config = {**config, "num_hidden_layers": entry["num_layers"], **_nested(entry["norm_config"] or {})}
    kinds = {scale: kind for scale in scales if (kind := _published_kind(entry, scale))}
    return Model(
        entry["name"], {k: v for k, v in config.items() if v is not None}, tensors, _published_finals(entry), kinds
    )


def _published_finals(entry: dict) -> dict[str | None, tuple[str, str | None]]:
    parameterisation = {True: "one_plus", False: "plain"}.get(entry["one_plus"])
    for tower in MAIN_TOWERS:
        for label, names in entry["final"].items():
            if label.startswith(tower) and names:
                kinds = {name: _published_kind(entry, name) for name in names if not name.endswith(NOT_SCALES)}
                return {name: (kind, parameterisation) for name, kind in kinds.items()}
    return {}


def _published_kind(entry: dict, name: str) -> str | None:
    kinds = entry["kinds"] or {}
    found = kinds.get(re.sub(r"(?<=\.)\d+(?=\.)", "{i}", name)) or kinds.get(name)
    return found["kind"] if found else None


def _nested(flat: Mapping[str, object]) -> dict[str, object]:
    """Dotted keys as nested configs."""
    nested: dict = {}
    for key, value in flat.items():
        *parents, leaf = key.split(".")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return nested
