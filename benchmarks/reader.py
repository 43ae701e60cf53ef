"""Measure normaudit's reader against what one would use instead: python -m benchmarks.reader.

The Hub is the stand-in of `deployments.demo`, in a process of its own; each reader has a process of its own too. All
run on one machine, in turns, on checkpoints of the shape of a 7B (one file) and a 70B model (30 shards), whose norms
are real and whose matrices are zeros that nobody reads. Every reader must come to the same values.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import reader_tables as tables
from benchmarks.reader_bounds import bounds_table
from benchmarks.reader_cells import READERS, Bench, Case, Result
from benchmarks.reader_process import Child

ROWS = ("7B/final", "7B/all", "70B/final", "70B/all", "night")
NIGHT_LATENCY_MS = 50
NIGHTS = {  # by name: the shape of the models, and which norms are read
    "final": ("7B", "final"),
    "final, each model a header of its own": ("7B, own headers", "final"),
    "all": ("7B", "all"),
}
ALL_NORMS_COST = 10  # so many times fewer models in a night that reads all their norms
PACKAGES = ("huggingface_hub", "fsspec", "httpx2", "aiohttp")


def main() -> int:
    options = parsed()
    started, load = time.monotonic(), os.getloadavg()[0]
    cases = [row for row in options.rows if row != "night"]
    with tempfile.TemporaryDirectory() as home, Child("benchmarks.reader_standin") as hub:
        bench = Bench(hub, home)
        results = [result for row in cases for result in row_results(bench, row, options)]
        nights = night_results(hub, bench.environment, options) if "night" in options.rows else {}
    print(setting(options, load))
    for part in report(results, nights):
        print(part, end="\n\n")
    if options.json:
        document = {"results": [asdict(result) for result in results], "nights": nights}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)
    return 0


def parsed() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reader", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round, at 50 ms alone, and a smaller night")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS, help="only these")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write every sample")
    options = parser.parse_args()
    options.rounds = 1 if options.quick else 3
    options.latencies_ms = (50,) if options.quick else (0, 50)
    options.night_models = 500 if options.quick else 1_500
    return options


def row_results(bench: Bench, row: str, options: argparse.Namespace) -> Iterator[Result]:
    """Yield what each reader took on one shape and choice of norms; headers are read but once a shape."""
    shape, norms = row.split("/")
    readers = [name for name in READERS if _is_told_by(name, shape, norms)]
    for latency_ms in options.latencies_ms:
        print(f"{row} at {latency_ms} ms", file=sys.stderr)
        yield from bench.run_case(Case(shape, norms, latency_ms), readers, options.rounds)


def _is_told_by(reader: str, shape: str, norms: str) -> bool:
    """Headers are read but once a shape, and only shards have an index, or threads to read them."""
    if reader in ("ours by the index", "headers in threads"):
        return shape == "70B" and (norms == "final" or reader.startswith("ours"))
    return norms == "final" or reader != "headers"


def night_results(
    hub: Child, environment: Mapping[str, str], options: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    """Return what whole nights took, by the norms that they read."""
    nights = {}
    for number, (name, (shape, norms)) in enumerate(NIGHTS.items()):
        print(f"night, {name}", file=sys.stderr)
        organisation = f"night-{number}"
        models = options.night_models // (1 if norms == "final" else ALL_NORMS_COST)
        hub.ask(stock=(shape, organisation, models), latency_s=NIGHT_LATENCY_MS / 1000)
        with Child("benchmarks.reader_night", environment=environment) as child:
            samples = [_night(hub, child, organisation, norms) for _ in range(options.rounds + 1)]
        nights[name] = samples[1:]
    return nights


def _night(hub: Child, child: Child, organisation: str, norms: str) -> dict[str, Any]:
    before_s = hub.ask()["cpu_s"]
    sample = child.ask(organisation=organisation, norms=norms)
    return sample | {"hub_busy": (hub.ask()["cpu_s"] - before_s) / sample["wall_s"]}


def setting(options: argparse.Namespace, load: float) -> str:
    """Return on what and how this was measured."""
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"Python {platform.python_version()}, {packages}; {os.cpu_count()} cores, shared by reader, stand-in Hub"
        f" and whatever else runs (load {load:.1f} at the start, {os.getloadavg()[0]:.1f} at the end).\n"
        f"Rounds: {options.rounds} after a warm-up, all readers in turn. Medians (lowest to highest), × the ratio to"
        " ours, round by round. CPU and memory are of the reader's own process; memory is growth after its imports.\n"
        "normaudit also finds the norms and classifies them, checks every answer and computes the figures; the others"
        " are told which tensors to read. ≥: the stand-in was busy over 90 % of the time, so it set the pace.\n"
    )


def report(results: Sequence[Result], nights: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """Yield the tables, each under its title."""
    yield f"## Bounds, by the best round\n\n{bounds_table(results, nights)}"
    titles: list[tuple[str, Callable[[Sequence[Result]], str]]] = [
        ("Readers", tables.readers_table),
        ("Models an hour within the Hub's quotas, computed from the measured requests", tables.quota_table),
        ("What is read of a checkpoint", tables.read_table),
    ]
    for title, render in titles if results else ():
        yield f"## {title}\n\n{render(results)}"
    if nights:
        models, fewer = (nights[norms][0]["models"] for norms in ("final", "all"))
        yield (
            f"## A night without Prefect: {models:,} models of the 7B shape ({fewer:,} for all norms),"
            f" {NIGHT_LATENCY_MS} ms, from the listing to the merged parts\n\n{tables.night_table(nights)}"
        )


if __name__ == "__main__":
    sys.exit(main())
