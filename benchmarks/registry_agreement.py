"""How far the registry agrees with a corpus of labelled architectures: python -m benchmarks.registry_agreement CORPUS.

Prints one row per fact (final, kind, parameterisation) with the number of labels that agree, then each that does not.
The corpus is never an input of the registry: where the two differ, one of them is wrong.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.core.registry import Architecture, NormFacts, Registry, load_registry, parse_registry

HUB_KEYS = ("architectures", "model_type", "auto_map")  # what decides in the Hub's digest of a config
JUDGED = ("layernorm", "rmsnorm")  # the kinds that the corpus labels; it lumps all others together
Row = tuple[str, str, str]  # fact, outcome, what differs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--registry", type=Path, help="another file than the one that comes with the package")
    parser.add_argument("--hub-config", action="store_true", help="look up by the Hub's digest of each config alone")
    args = parser.parse_args()
    registry = parse_registry(args.registry.read_bytes()) if args.registry else load_registry()
    with gzip.open(args.corpus, "rt") as lines:
        entries = [json.loads(line) for line in lines]
    rows = [row for entry in entries for row in compared(entry, registry, args.hub_config)]
    counts = Counter((fact, outcome) for fact, outcome, _ in rows)
    for (fact, outcome), count in sorted(counts.items()):
        print(f"{fact:24} {outcome:10} {count:6}")
    print(*(f"{fact} {outcome}: {text}" for fact, outcome, text in rows if text), sep="\n")
    return 0


def compared(entry: Mapping[str, Any], registry: Registry, hub_config: bool) -> Iterator[Row]:
    """Yield what the registry and a corpus entry say of the same things."""
    config = {key: entry["config"].get(key) for key in HUB_KEYS} if hub_config else entry["config"]
    architecture = registry.find(config)
    label = f"{entry['model_type']} ({entry['model_class']})"
    known = architecture is not None and architecture.class_name == entry["model_class"]
    yield "architecture", "measured" if known else "missing", "" if known else label
    if architecture is None:
        return
    for norm in entry["norms"]:
        if norm["kind"] in JUDGED:
            yield from _norm_rows(label, norm, registry.facts(architecture, norm["module"]))
    if entry["final"] and entry["final"]["kind"] in JUDGED:
        yield _final_row(label, entry, registry, architecture)


def _norm_rows(label: str, norm: Mapping[str, Any], facts: NormFacts | None) -> Iterator[Row]:
    where = f"{label} {norm['module']}"
    if facts is None:
        yield "kind", "missing", where
        return
    scale = None if norm["parameterisation"] == "none" else norm["parameterisation"]
    for fact, theirs, ours in (("kind", norm["kind"], facts.kind), ("scale", scale, facts.parameterisation)):
        same = theirs == ours
        yield fact, "agrees" if same else "differs", "" if same else f"{where}: corpus {theirs}, registry {ours}"


def _final_row(label: str, entry: Mapping[str, Any], registry: Registry, architecture: Architecture) -> Row:
    settled = entry["forward_ok"] and entry["final_by"] != "registration" and not entry["debatable"]
    fact = "final" if settled else "final, label unsettled"
    towers = entry["towers"].values() if entry["model_class"].endswith("Model") else ()
    accepted = {entry["final"]["module"], *(tower["final"] for tower in towers)}
    mains = _main_modules([norm["module"] for norm in entry["norms"]], registry, architecture)
    if len(mains) == 1 and mains[0] in accepted:
        return fact, "agrees", ""
    return fact, "differs", f"{label}: corpus {entry['final']['module']}, registry {mains} by {architecture.final_by}"


def _main_modules(modules: list[str], registry: Registry, architecture: Architecture) -> list[str]:
    """Return the module of each main final norm; of a norm that each layer has, the last layer's."""
    found = defaultdict(list)
    for module in modules:
        facts = registry.facts(architecture, module)
        if facts is not None and facts.is_main:
            found[facts].append(module)
    return [max(paths, key=_indices) if facts.last_layer_only else paths[0] for facts, paths in found.items()]


def _indices(module: str) -> list[int]:
    return [int(text) for text in re.findall(r"(?<![^.])\d+(?![^.])", module)]


if __name__ == "__main__":
    sys.exit(main())
