"""How often the classifier is right, how well its confidence says so, what it costs: python -m benchmarks.classifier.

The corpora hold labelled checkpoints. No rule knows one of them by its name; but the rules were written with these
corpora in view, and on all of its evidence the classifier is hardly ever wrong there. So its confidence is tested on
thin evidence as well, each fact kept with a chance of one half: then answers of every confidence occur, and errors.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median

import numpy as np

from tasks.core.configs import is_digest
from tasks.core.evidence import kind_facts, likeliest
from tasks.core.kinds import classify
from tasks.core.matching import indexed
from tasks.core.records import Evidence, Norm, Tensor
from tasks.core.registry import Registry, load_registry
from tests.corpus import Model, blind, digest, read, score

ROOT = Path(__file__).resolve().parent.parent
CORPORA = {
    "architectures": ROOT / "tests" / "data" / "architectures.jsonl.gz",
    "published": ROOT.parent / "shared" / "corpus" / "real-checkpoints.jsonl.gz",
}
BINS = (0.5, 0.7, 0.9, 0.95, 0.98, 0.99, 1.0)  # below 0.9 the answer is "unknown", and the likelier kind is judged
REPEATS = 20
KEPT, DRAWS, SEED = 0.5, 4, 7  # thin evidence: the chance that a fact is kept, draws of each norm
MOE_LAYERS, MOE_EXPERTS = 61, 256  # DeepSeek-V3: 93,696 tensors of experts, each with the scales of its blocks

Config = Mapping[str, object]


@dataclass(frozen=True)
class View:
    """What the classifier is shown of a model."""

    name: str
    of_config: Callable[[Config], Config]
    with_registry: bool

    @property
    def registry(self) -> Registry | None:
        """What was measured of known architectures, where the classifier may consult it."""
        return load_registry() if self.with_registry else None


VIEWS = (
    View("config.json, registry", dict, True),
    View("config.json", dict, False),
    View("the Hub's digest, registry", digest, True),
    View("the Hub's digest", digest, False),
    View("no architecture named", blind, False),
)
TESTED = (VIEWS[2], VIEWS[4])  # where confidence is tested: where the crawl works, and on code that nobody has seen


@dataclass(frozen=True)
class Accuracy:
    """Shares of right answers; a kind that is unknown is not right, and not wrong."""

    corpus: str
    view: str
    models: int
    final: float
    kind: float
    kind_wrong: int
    kind_unknown: int
    parameterisation: float
    norms: float
    norms_wrong: int
    config_wanted: float


@dataclass(frozen=True)
class Judgement:
    """One norm pattern of one model: how sure the likelier kind was, and whether it is right."""

    confidence: float
    is_right: bool
    is_final: bool


@dataclass(frozen=True)
class Bin:
    """Judgements of like confidence, from low up to (but for the last bin) high."""

    low: float
    high: float
    count: int
    mean_confidence: float | None
    right: float | None


@dataclass(frozen=True)
class Reliability:
    """How well confidence says how often an answer is right.

    Attributes:
        brier: mean of (confidence - right)², 0 at best.
        error: expected calibration error: mean over judgements of |their bin's confidence - its share right|.
    """

    corpus: str
    view: str
    of: str
    count: int
    brier: float
    error: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class Cost:
    """CPU milliseconds of one classification."""

    model: str
    tensors: int
    least_ms: float
    median_ms: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one object instead of Markdown")
    args = parser.parse_args()
    corpora = {name: read(path) for name, path in CORPORA.items() if path.exists()}
    accuracies = [accuracy(name, models, view) for name, models in corpora.items() for view in VIEWS]
    reliabilities = [r for name, models in corpora.items() for view in TESTED for r in of_view(name, models, view)]
    costs = [
        cost("Llama of 33 layers", llama(), "llama", "LlamaForCausalLM"),
        cost("mixture of experts", mixture_of_experts(), "deepseek_v3", "DeepseekV3ForCausalLM"),
    ]
    if args.json:
        tables = {"accuracy": accuracies, "reliability": reliabilities, "cost": costs}
        print(json.dumps({name: [asdict(row) for row in rows] for name, rows in tables.items()}))
    else:
        sys.stdout.writelines(report(accuracies, reliabilities, costs))
    return 0


def accuracy(corpus: str, models: Sequence[Model], view: View) -> Accuracy:
    result = score(models, view.of_config, view.registry)
    counts = result.counts
    return Accuracy(
        corpus=corpus,
        view=view.name,
        models=counts["models"],
        final=result.final,
        kind=result.kind,
        kind_wrong=counts["kind WRONG"],
        kind_unknown=counts["kind unknown"],
        parameterisation=result.parameterisation,
        norms=result.sites,
        norms_wrong=counts["site WRONG"],
        config_wanted=config_wanted(models, view),
    )


def config_wanted(models: Sequence[Model], view: View) -> float:
    """Return the share of models whose whole config.json would be asked for; of a config that is whole, none."""
    seen = [(model.tensors, view.of_config(model.config)) for model in models]
    return fmean(
        is_digest(config) and classify(tensors, config, view.registry).needs_config for tensors, config in seen
    )


def of_view(corpus: str, models: Iterable[Model], view: View) -> Iterator[Reliability]:
    """Yield the reliability of all norms, of final norms, and of all norms on thin evidence."""
    labelled = [found for model in models for found in patterns(model, view)]
    whole = [judgement(norm, kind_facts(norm.evidence), truth) for norm, truth in labelled]
    rng = np.random.default_rng(SEED)
    thin = [
        (norm, [fact for fact in kind_facts(norm.evidence) if rng.random() < KEPT], truth)
        for norm, truth in labelled * DRAWS
    ]
    yield reliability(corpus, view.name, "all norms", whole)
    yield reliability(corpus, view.name, "final norms", [found for found in whole if found.is_final])
    yield reliability(corpus, view.name, "thin evidence", [judgement(*found) for found in thin if found[1]])


def patterns(model: Model, view: View) -> Iterator[tuple[Norm, str]]:
    """Yield one norm of each pattern, and its true kind: the norms of one pattern share their verdict."""
    seen: set[tuple[str, bool]] = set()
    for norm in classify(model.tensors, view.of_config(model.config), view.registry).norms:
        truth, key = model.kinds.get(norm.scale_tensor or ""), (indexed(norm.module), norm.is_final)
        if truth is not None and key not in seen:
            seen.add(key)
            yield norm, truth


def judgement(norm: Norm, evidence: Sequence[Evidence], truth: str) -> Judgement:
    """Judge the kind that evidence speaks for, also where that is not enough for an answer."""
    kind, confidence, _ = likeliest(evidence)
    return Judgement(confidence, kind == truth, norm.is_final)


def reliability(corpus: str, view: str, of: str, found: Sequence[Judgement]) -> Reliability:
    bins = tuple(_bin(low, high, found) for low, high in pairwise(BINS))
    gaps = [b.count * abs(b.mean_confidence - b.right) for b in bins if b.mean_confidence and b.right is not None]
    total = max(len(found), 1)
    brier = sum((judgement.confidence - judgement.is_right) ** 2 for judgement in found) / total
    return Reliability(corpus, view, of, len(found), brier, sum(gaps) / total, bins)


def _bin(low: float, high: float, found: Iterable[Judgement]) -> Bin:
    held = [j for j in found if low <= j.confidence < high or j.confidence == high == BINS[-1]]
    if not held:
        return Bin(low, high, 0, None, None)
    return Bin(low, high, len(held), fmean(j.confidence for j in held), fmean(j.is_right for j in held))


def cost(model: str, tensors: Sequence[Tensor], model_type: str, class_name: str) -> Cost:
    """Time the classification of a model that the registry knows, from the Hub's digest of its config."""
    config = {"model_type": model_type, "architectures": [class_name]}
    registry = load_registry()
    spent = []
    for _ in range(REPEATS):
        started = time.process_time()
        classify(tensors, config, registry)
        spent.append(1000 * (time.process_time() - started))
    return Cost(model, len(tensors), min(spent), median(spent))


def llama(layers: int = 33) -> list[Tensor]:
    """Tensors of a Llama, nine to a layer, as its header describes them."""
    block = ("input_layernorm", "post_attention_layernorm")
    matrices = (
        *(f"self_attn.{name}_proj" for name in "qkvo"),
        *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
    )
    found = [("model.embed_tokens", (32_000, 4096)), ("lm_head", (32_000, 4096)), ("model.norm", (4096,))]
    for i in range(layers):
        found += [(f"model.layers.{i}.{name}", (4096,)) for name in block]
        found += [(f"model.layers.{i}.{name}", (4096, 4096)) for name in matrices]
    return [Tensor(f"{name}.weight", "model.safetensors", "BF16", shape) for name, shape in sorted(found)]


def mixture_of_experts() -> list[Tensor]:
    """Tensors of a quantised mixture of experts, as its index names them: no shapes yet."""
    experts = [
        f"model.layers.{layer}.mlp.experts.{expert}.{name}_proj.{leaf}"
        for layer in range(MOE_LAYERS)
        for expert in range(MOE_EXPERTS)
        for name in ("gate", "up", "down")
        for leaf in ("weight", "weight_scale_inv")
    ]
    names = sorted([tensor.name for tensor in llama(MOE_LAYERS)] + experts)
    return [Tensor(name, f"model-{i * 163 // len(names) + 1:05}-of-00163.safetensors") for i, name in enumerate(names)]


def report(
    accuracies: Sequence[Accuracy], reliabilities: Sequence[Reliability], costs: Sequence[Cost]
) -> Iterator[str]:
    """Yield the lines of the report, in Markdown."""
    yield from _table(
        ("corpus", "shown", "models", "final", "kind", "wrong", "unknown", "scale", "norms", "wrong", "config wanted"),
        (_accuracy_cells(row) for row in accuracies),
    )
    yield "\nShare right (number of norm patterns) by confidence. Below 0.9 the answer is unknown; there the likelier\n"
    yield f"kind is judged. Thin evidence: each fact is kept with a chance of {KEPT}.\n\n"
    headings = (f"{low} to {high}" for low, high in pairwise(BINS))
    yield from _table(("corpus", "shown", "of", *headings, "Brier", "ECE"), map(_reliability_cells, reliabilities))
    yield "\n"
    yield from _table(
        ("model", "tensors", "CPU ms, least", "median"),
        ((row.model, f"{row.tensors:,}", f"{row.least_ms:.2f}", f"{row.median_ms:.2f}") for row in costs),
    )


def _accuracy_cells(row: Accuracy) -> Iterator[str]:
    return (f"{value:.4f}" if isinstance(value, float) else f"{value}" for value in asdict(row).values())


def _reliability_cells(row: Reliability) -> Sequence[str]:
    shares = ("–" if b.right is None else f"{b.right:.3f} ({b.count:,})" for b in row.bins)
    return (row.corpus, row.view, row.of, *shares, f"{row.brier:.4f}", f"{row.error:.4f}")


def _table(headings: Sequence[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    yield f"| {' | '.join(headings)} |\n|{' --- |' * len(headings)}\n"
    yield from (f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    sys.exit(main())
