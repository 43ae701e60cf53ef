"""What a probe holds at most, at once and block by block: python -m benchmarks.probe_memory [--only pythia-160m].

Prints a line for each way of architectures of the paper's protocol with random weights. A peak is of a process of its
own, beyond its import baseline, as column peak_memory_bytes has it; a stream is what N tokens take between two blocks.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch

from benchmarks.paper_configs import LAYERNORM, Architecture
from benchmarks.paper_controls import RMSNORM
from tasks.model.build import blueprint, skeleton
from tasks.model.isolation import run_isolated
from tasks.model.jobs import CHOICES, Job
from tasks.model.structure import look

CHOSEN = ("pythia-160m", "SmolLM2-135M", "vit-base", "gpt2-medium")
HEAD = ("model", "way", "dtype", "N", "in a batch", "model MB", "block MB", "stream MB", "peak MB", "peak / model",
        "peak − 2 blocks, MB", "seconds")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.probe_memory", description=__doc__)
    parser.add_argument(
        "--only", nargs="+", default=CHOSEN, metavar="TEXT", help="models with one of these in their name"
    )
    parser.add_argument("--ways", nargs="+", choices=("whole", "blocks"), default=("whole", "blocks"))
    parser.add_argument("--dtype", choices=CHOICES["dtype"], default="float32")
    parser.add_argument("--tokens", type=int, help="default: four times the norm's width")
    parser.add_argument("--batch-tokens", type=int, nargs="+", default=[512], help="each of these, one after the other")
    options = parser.parse_args()
    print(f"| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}")
    for cells in lines(options):
        print(f"| {' | '.join(cells)} |", flush=True)


def lines(options: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """Yield the cells of each line."""
    for architecture in (*LAYERNORM, *RMSNORM):
        if any(text in architecture.repo_id for text in options.only):
            for way, batch_tokens in ((way, size) for way in options.ways for size in options.batch_tokens):
                yield line(architecture, way, batch_tokens, options)


def line(architecture: Architecture, way: str, batch_tokens: int, options: argparse.Namespace) -> tuple[str, ...]:
    """Probe an architecture one way."""
    job = Job(
        architecture.repo_id,
        weights="random",
        config=architecture.config,
        way=way,
        dtype=options.dtype,
        tokens=options.tokens,
        batch_tokens=batch_tokens,
    )
    [found] = run_isolated(job, lambda text: None)
    if found.row["status"] != "ok":
        raise SystemExit(found.row["reason"])
    entry_bytes = getattr(torch, job.dtype).itemsize
    block, width = largest_block(architecture)
    model_bytes, block_bytes = architecture.parameters * entry_bytes, block * entry_bytes
    peak, tokens = found.row["peak_memory_bytes"], found.row["n_tokens"]
    seconds = sum(found.row[f"seconds_{part}"] for part in ("load", "forward", "linalg"))
    sizes = (model_bytes, block_bytes, tokens * width * entry_bytes, peak)
    return (
        architecture.repo_id,
        way,
        job.dtype,
        f"{tokens:,}",
        f"{batch_tokens:,}",
        *(f"{size / 1e6:,.0f}" for size in sizes),
        f"{peak / model_bytes:.2f}",
        f"{(peak - 2 * block_bytes) / 1e6:,.0f}" if way == "blocks" else "–",
        f"{seconds:.0f}",
    )


def largest_block(architecture: Architecture) -> tuple[int, int]:
    """Return the parameters of the largest block of the stack, and the stream's width."""
    plan = blueprint(architecture.config, architecture.repo_id)
    model = skeleton(plan, torch.bfloat16)
    sight = look(plan, model)
    blocks = (model.get_submodule(path) for path in sight.blocks)
    return max(sum(value.numel() for value in block.parameters()) for block in blocks), sight.width


if __name__ == "__main__":
    main()
