"""Whole nights over very many models: python -m benchmarks.scale --models 100000.

Three nights on one store, each in a process of its own: all models are new, all are unchanged, one in a hundred has
changed. The Hub is `benchmarks.scale_hub`, in a process of its own too. Told are seconds and memory of each stage, the
requests, and how much of a night is in none of its tasks: an upper bound of Prefect's share. With --compare the nights
run a second time, on a store of their own, without Prefect.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.reader_process import Child
from benchmarks.reader_standin import SHAPES
from benchmarks.scale_fill import fill
from benchmarks.scale_night import NO_STAGE, STAGES

CHANGED_FRACTION = 0.01
NIGHTS = ("new", "unchanged", "changed")
CONCURRENCY, BATCH_MODELS = 64, 500  # the defaults of a night's settings
PLENTY = 10**15
FILLED_FROM = 1_000  # models that are audited where --fill spares the rest


@dataclass(frozen=True)
class Result:
    """What one night took; `sample` is the answer of `scale_night`."""

    models: int
    night: str
    with_prefect: bool
    sample: Mapping[str, Any]
    requests: Mapping[str, int]
    store_bytes: int

    @property
    def peak_bytes(self) -> int:
        """Highest memory of the night."""
        return int(max(self.sample["peak_bytes"].values()))

    @property
    def edges_s(self) -> float:
        """Seconds before the first task and after the last one."""
        return float(self.sample["wall_s"] - self.sample["between_s"] - sum(self.sample["seconds"].values()))

    @property
    def between_fraction(self) -> float:
        """Share of the time from the first task to the last that is spent in none."""
        return float(self.sample["between_s"] / (self.sample["wall_s"] - self.edges_s))


def main() -> int:
    options = parsed()
    results = [result for models in options.models for result in results_of(models, options)]
    print(table(results))
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results]) + "\n")
    return 0


def parsed() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--models", nargs="+", type=int, default=[20_000, 100_000], help="sizes of the listing")
    parser.add_argument("--nights", nargs="+", choices=NIGHTS, default=NIGHTS, help="only these, in this order")
    parser.add_argument(
        "--fill", action="store_true", help="in the first night audit but 1,000 models, and copy their rows"
    )
    parser.add_argument("--shape", choices=SHAPES, default="tiny", help="of all checkpoints")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="added to each answer")
    parser.add_argument("--store", type=Path, help="a folder for the stores, kept; default: a temporary one")
    parser.add_argument("--compare", action="store_true", help="run the nights without Prefect too")
    parser.add_argument("--without-prefect", action="store_true", help="run them only so")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write every sample")
    return parser.parse_args()


def results_of(models: int, options: argparse.Namespace) -> Iterator[Result]:
    """Yield what each night over a listing of this size took."""
    ways = (False,) if options.without_prefect else (True, False) if options.compare else (True,)
    with tempfile.TemporaryDirectory() as folder, Child("benchmarks.scale_hub", options.shape) as hub:
        hub.ask(latency_s=options.latency_ms / 1000)
        for with_prefect in ways:
            place = (options.store or Path(folder)) / f"{models}-{'prefect' if with_prefect else 'plain'}"
            for night in options.nights:
                print(f"{models:,} models, {night}, {'with' if with_prefect else 'without'} Prefect", file=sys.stderr)
                new = FILLED_FROM if options.fill and night == "new" else models
                yield run(hub, new, night, with_prefect, place)
                if new < models:
                    fill(place, new, models)


def run(hub: Child, models: int, night: str, with_prefect: bool, store: Path) -> Result:
    """Run one night and return what it took."""
    changed = int(models * CHANGED_FRACTION) if night == "changed" else 0
    endpoint = hub.ask(models=models, changed=changed)["endpoint"]
    settings = {
        "endpoint": endpoint,
        "store": str(store),
        "sources": [{"top": models}],
        "limits": {"concurrency": CONCURRENCY, "batch_models": BATCH_MODELS, "requests": PLENTY, "bytes": PLENTY,
                   "models": PLENTY},
        "probe": {"gpu_seconds": 0},  # Prefect would be asked who is there
    }  # fmt: skip
    store.mkdir(parents=True, exist_ok=True)
    environment = {"PREFECT_HOME": str(store.parent / "prefect"), "HF_HOME": str(store.parent / "hf")}
    with Child("benchmarks.scale_night", environment=environment) as child:
        sample = child.ask(settings=settings, with_prefect=with_prefect)
    stored = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    return Result(models, night, with_prefect, sample, hub.ask()["requests"], stored)


def table(results: Sequence[Result]) -> str:
    """Return the results as a Markdown table: seconds and peak memory of each stage."""
    head = ["models", "night", "Prefect", "s", "models/s", "CPU s", *(f"{stage}: s, MB" for stage in STAGES),
            "peak MB", "start, end: s", "between tasks", "requests", "store MB"]  # fmt: skip
    rows = [head, ["---"] * len(head), *map(_cells, results)]
    load = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end; peak memory is of the night's process"
    return "\n".join([*(f"| {' | '.join(row)} |" for row in rows), "", load])


def _cells(result: Result) -> list[str]:
    sample = result.sample
    stages = [
        f"{sample['seconds'].get(stage, 0):.1f}, {sample['peak_bytes'].get(stage, 0) / 1e6:.0f}" for stage in STAGES
    ]
    between = f"{result.between_fraction:.2%}, {sample['peak_bytes'].get(NO_STAGE, 0) / 1e6:.0f} MB"
    requests = ", ".join(f"{count:,} {kind}" for kind, count in sorted(result.requests.items()))
    return [
        f"{result.models:,}", result.night, "yes" if result.with_prefect else "no", f"{sample['wall_s']:.1f}",
        f"{result.models / sample['wall_s']:.0f}", f"{sample['cpu_s']:.1f}", *stages,
        f"{result.peak_bytes / 1e6:.0f}", f"{result.edges_s:.1f}", between, requests, f"{result.store_bytes / 1e6:.0f}",
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
