"""What the streaming QR costs, and what else would: python -m benchmarks.spectrum [--widths 384 768] [--device cuda].

Prints, for white noise of N rows, seconds by the rows that wait for a fold, beside a covariance and an SVD of the whole
matrix, and how wrong each is where the spectrum spreads over 24 decades of λ. Seconds are of CPU time, all threads
together, or on an accelerator of wall time. Source: maths.md, section 4.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch

from tasks.core.spectrum import FOLD_ROWS_PER_COLUMN
from tasks.model import spectrum

FOLDS = (0.25, 0.5, 1, 2, 4, 8)  # rows that wait, times the width
DECADES = 12  # of σ, from 1 down
DRIVERS = ("gesvdj", "gesvd")  # cuSOLVER's; the first is the default, the second its way out
Row = tuple[str, float, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=[384, 768])
    parser.add_argument("--times", type=int, default=4, help="N, times the width")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3, help="the fastest counts")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print("| d | what | seconds | error of σ, of σ_max |\n| --- | --- | --- | --- |")
    for width in args.widths:
        for what, seconds, error in measured(width, args.times * width, args.device, args.rounds):
            print(f"| {width} | {what} | {seconds:.3f} | {error} |", flush=True)


def measured(width: int, count: int, device: str, rounds: int) -> Iterator[Row]:
    """Yield a row for each way to the singular values of a matrix, shape (count, width)."""
    noise = torch.randn(count, width, dtype=torch.float64, device=device)
    spread = steep(count, width, device)
    wanted = whole(spread)
    for times in FOLDS:
        if times * width <= count:
            yield timed(f"QR, {times}d rows wait", lambda rows, t=times: folded(rows, t), noise, rounds)
    for what, way in WAYS.items():
        error = float((way(spread) - wanted).abs().max() / wanted[0])
        yield *timed(what, way, noise, rounds)[:2], f"{error:.0e}"
    factor = folded(noise, FOLD_ROWS_PER_COLUMN)
    yield timed("of R: SVD with vectors", torch.linalg.svd, factor, rounds)
    if noise.is_cuda:
        for driver in DRIVERS:
            yield timed(f"of R: SVD with vectors, {driver}", partial(torch.linalg.svd, driver=driver), factor, rounds)
        yield timed("of R: SVD with vectors, on the processor", lambda r: torch.linalg.svd(r.cpu()), factor, rounds)
    yield timed("of R: singular values", torch.linalg.svdvals, factor, rounds)
    yield timed("of R: σ_min and σ_max by iteration", spectrum.sigma_min_max, factor, rounds)


def steep(count: int, width: int, device: str) -> torch.Tensor:
    """Return rows whose centred singular values fall from 1 to 1e-12."""
    left = torch.randn(count, width, dtype=torch.float64, device=device)
    left = torch.linalg.qr(left - left.mean(dim=0)).Q
    right = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64, device=device)).Q
    sigma = torch.logspace(0, -DECADES, width, dtype=torch.float64, device=device)
    return left * sigma @ right.T


def folded(rows: torch.Tensor, times: float) -> torch.Tensor:
    """Return R of the centred rows, folded so many widths at a time."""
    accumulator = spectrum.CentredQR(rows.shape[1], fold_rows=int(times * rows.shape[1]))
    accumulator.add(rows)
    return accumulator.factor


def streaming(rows: torch.Tensor) -> torch.Tensor:
    return torch.linalg.svdvals(folded(rows, FOLD_ROWS_PER_COLUMN))


def covariance(rows: torch.Tensor) -> torch.Tensor:
    centred = rows - rows.mean(dim=0)
    return torch.linalg.eigvalsh(centred.T @ centred).abs().sqrt().flip(0)


def whole(rows: torch.Tensor) -> torch.Tensor:
    once = rows - rows.mean(dim=0)
    return torch.linalg.svdvals(once - once.mean(dim=0))


WAYS = {"QR and the SVD of R": streaming, "covariance, eigenvalues": covariance, "SVD of the whole matrix": whole}


def timed(what: str, way: Callable[[torch.Tensor], object], rows: torch.Tensor, rounds: int) -> Row:
    return what, min(_seconds(way, rows) for _ in range(rounds)), ""


def _seconds(way: Callable[[torch.Tensor], object], rows: torch.Tensor) -> float:
    _wait(rows)
    clock = time.perf_counter if rows.is_cuda else time.process_time  # other work on the machine costs no CPU time here
    started = clock()
    way(rows)
    _wait(rows)
    return clock() - started


def _wait(rows: torch.Tensor) -> None:
    if rows.is_cuda:
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
