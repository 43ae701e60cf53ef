"""The twin of tasks/core/spectrum.py for torch tensors on any device that has float64 (maths.md, section 4)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from tasks.core import spectrum
from tasks.core.spectrum import HUGE, MAX_STEPS, SIGMA_TOLERANCE, largest_singular_value


class CentredQR(spectrum.CentredQR):
    """Accumulates rows, torch tensors of any floating type; the factor is float64, on the rows' device.

    Rows wait in their own type, so that an accumulator fed bfloat16 holds little more than R.
    """

    @staticmethod
    def _column_means(rows: torch.Tensor) -> torch.Tensor:
        return rows.detach().double().mean(dim=0)

    @staticmethod
    def _copy(rows: torch.Tensor) -> torch.Tensor:
        return rows.detach().clone()

    @staticmethod
    def _augmented(waiting: Sequence[torch.Tensor], shift: torch.Tensor) -> torch.Tensor:
        block = shift.new_ones((sum(map(len, waiting)), len(shift) + 1))
        start = 0
        for rows in waiting:
            torch.sub(rows, shift, out=block[start : start + len(rows), 1:])
            start += len(rows)
        return block

    @staticmethod
    def _reduced(stacks: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.linalg.qr(torch.cat(stacks), mode="r").R

    @staticmethod
    def _squared(top: torch.Tensor) -> torch.Tensor:
        square = top.new_zeros((top.shape[1], top.shape[1]))
        square[: len(top)] = top
        return square


def singular_values(factor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the singular values, descending, shape (d,), and the right singular vectors as rows, (d, d).

    Raises:
        torch.linalg.LinAlgError: the factor holds NaN or Inf.
    """
    _, sigma, right_vectors = torch.linalg.svd(factor)
    return sigma, right_vectors


def sigma_min_max(factor: torch.Tensor, tolerance: float = SIGMA_TOLERANCE) -> tuple[float, float]:
    """Return the smallest and the largest singular value of a triangular factor without a full SVD.

    Args:
        factor: upper triangular, float64, shape (d, d), d ≥ 1.
        tolerance: relative; see the twin in tasks/core/spectrum.py.

    Returns:
        σ_min and σ_max; both NaN where the factor is not finite.
    """
    scale = float(factor.abs().max())
    if not 0 < scale < math.inf:
        return 0 * scale, 0 * scale
    factor = factor / scale
    largest = _largest(factor, tolerance)
    identity = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
    inverse = torch.linalg.solve_triangular(factor, identity, upper=True)  # not finite where the diagonal holds a 0
    if not float(inverse.abs().max()) < HUGE:
        return 0.0, scale * largest
    return scale / _largest(inverse, tolerance), scale * largest


def _largest(matrix: torch.Tensor, tolerance: float) -> float:
    d = len(matrix)
    steps = min(d, MAX_STEPS)
    lefts, rights = matrix.new_empty((steps, d)), matrix.new_empty((steps + 1, d))
    start = torch.randn(d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rights[0] = (start / start.norm()).to(matrix.device)
    found = largest_singular_value(matrix, lefts, rights, tolerance)
    return float(torch.linalg.matrix_norm(matrix, 2)) if found is None else found
