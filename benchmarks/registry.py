"""Measure the norms of every architecture of the installed transformers: python -m benchmarks.registry.

Each class is built tiny with random weights in a process of its own, with limits on time and memory and without
network; its norms are run one by one, and one forward pass shows which comes last. Writes tasks/core/registry.json,
which that package reads without transformers or torch.

It takes about twenty minutes of one core. What was measured is kept, class by class, in a log: an interrupted run goes
on where it was, and `--fresh` begins anew. The log also tells what failed and why.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import importlib
import importlib.metadata
import json
import os
import pkgutil
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.model.behaviour.entries import line_of
from tasks.model.behaviour.limits import Limits, limited
from tasks.model.behaviour.measure import measure

PER_CLASS = Limits(seconds=240, memory_bytes=4 << 30)  # on a busy machine; nearly all take under ten seconds
TARGET = Path("tasks/core/registry.json")
LOG = Path(".cache/registry.jsonl")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", help="model folders of transformers to measure; all without any")
    parser.add_argument("--out", type=Path, default=TARGET)
    parser.add_argument("--log", type=Path, default=LOG, help=f"results so far, a line of JSON per class ({LOG})")
    parser.add_argument("--fresh", action="store_true", help="measure again what the log holds")
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    args.log.parent.mkdir(parents=True, exist_ok=True)
    results = {} if args.fresh else logged(args.log)
    with args.log.open("w" if args.fresh else "a") as log:
        for name, cls in model_classes(args.folders):
            if name not in results:
                started = time.monotonic()
                results[name] = in_process(cls)
                seconds = round(time.monotonic() - started, 2)
                line = {"class": name, "transformers": version(), "seconds": seconds, **results[name]}
                print(json.dumps(line), file=log, flush=True)
    args.out.write_text(as_text(assemble(results)))
    outcomes = collections.Counter(result.get("failed", result.get("final_by")) for result in results.values())
    print(f"{len(results)} classes: {dict(outcomes)}; {args.out}: {args.out.stat().st_size:,} bytes", file=sys.stderr)
    return 0


def logged(log: Path) -> dict[str, dict[str, Any]]:
    """Return, by class, what an earlier run with the same transformers has measured; a class's last line counts."""
    if not log.exists():
        return {}
    whole = (line for line in log.read_text().splitlines(keepends=True) if line.endswith("}\n"))
    lines = [line for line in map(json.loads, whole) if line["transformers"] == version()]
    return {line["class"]: line for line in lines}


def version() -> str:
    """Return the version of transformers that is measured."""
    return importlib.metadata.version("transformers")


def model_classes(only: list[str]) -> Iterator[tuple[str, type]]:
    """Yield (name, class) of every model class of transformers that has a config class, base models first.

    A class that no module exports is a part of others, and is told where no exported class beside it has its config.
    """
    import transformers.models

    for folder in only or sorted(info.name for info in pkgutil.iter_modules(transformers.models.__path__)):
        modules = list(_modeling_modules(folder))
        exported = {
            name: cls for module in modules for name, cls in _classes(module, module.__dict__.get("__all__", ()))
        }
        told = {cls.config_class for cls in exported.values()}
        parts = {
            name: cls for module in modules for name, cls in _classes(module, vars(module)) if _is_own(cls, module)
        }
        yield from exported.items()
        yield from ((name, cls) for name, cls in parts.items() if cls.config_class not in told)


def _modeling_modules(folder: str) -> Iterator[Any]:
    package = importlib.import_module(f"transformers.models.{folder}")
    for name in sorted(info.name for info in pkgutil.iter_modules(package.__path__)):
        if name.startswith("modeling_"):
            with contextlib.suppress(ImportError):  # a backend that is not installed
                yield importlib.import_module(f"transformers.models.{folder}.{name}")


def _classes(module: Any, names: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Yield the model classes among a module's names that have a config class."""
    from transformers import PreTrainedModel

    for name in names:
        cls = None if re.search("Pre[Tt]rained", name) else getattr(module, name, None)
        if isinstance(cls, type) and issubclass(cls, PreTrainedModel) and cls.config_class is not None:
            yield name, cls


def _is_own(cls: Any, module: Any) -> bool:
    return cls.__module__ == module.__name__ and bool(cls.config_class.model_type)


def in_process(cls: type) -> dict[str, Any]:
    """Return what `measure` finds of a class, or {"failed": why}."""
    return limited(measure, cls, limits=PER_CLASS)


def assemble(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the document: a line per class, the norms that a class shares with its body told once."""
    lines: dict[str, Any] = {}
    for name, result in sorted(results.items(), key=lambda item: (item[1].get("model_type", ""), item[0])):
        if result.get("norms"):
            lines[name] = line_of(result, results)
    return {
        "format": 1,
        "transformers_version": version(),
        "prefixes": sorted({result["prefix"] for result in results.values() if result.get("prefix")}),
        "main_classes": main_classes(lines),
        "architectures": lines,
    }


def main_classes(lines: Mapping[str, Any]) -> dict[str, str]:
    """Return the class that stands for each model_type: the one that AutoModel takes, else the one with most norms."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    chosen = {}
    for name in sorted(lines, key=lambda name: len(lines[name].get("norms", ()))):
        chosen[lines[name]["type"]] = name
    for model_type, names in MODEL_MAPPING_NAMES.items():
        first = names if isinstance(names, str) else names[0]
        if first in lines:
            chosen[model_type] = first
    return dict(sorted(chosen.items()))


def as_text(document: Mapping[str, Any]) -> str:
    """Return the document as JSON with one line per architecture."""
    *head, (_, lines) = document.items()
    texts = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head]
    rows = ",\n".join(f"{json.dumps(name)}: {json.dumps(line)}" for name, line in lines.items())
    return "{\n" + ",\n".join([*texts, f'"architectures": {{\n{rows}\n}}']) + "\n}\n"


if __name__ == "__main__":
    sys.exit(main())
