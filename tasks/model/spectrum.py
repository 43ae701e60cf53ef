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

    def add(self, rows: torch.Tensor) -> None:
        """Add rows, shape (n, d), n ≥ 0; no gradient is kept."""
        super().add(rows.detach())

    @staticmethod
    def _column_means(rows: torch.Tensor) -> torch.Tensor:
        return rows.double().mean(dim=0)

    @staticmethod
    def _copy(rows: torch.Tensor) -> torch.Tensor:
        return rows.clone()

    @staticmethod
    def _empty(rows: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        return rows.new_empty(shape)

    @staticmethod
    def _triangle_of(above: Sequence[torch.Tensor], rows: torch.Tensor | None, shift: torch.Tensor) -> torch.Tensor:
        """Return R; the stack is made as LAPACK wants it, column by column, and factored in place."""
        width, count = len(shift) + 1, sum(map(len, above)) + (0 if rows is None else len(rows))
        stack = shift.new_empty((width, count)).T
        start = 0
        for triangle in above:
            stack[start : start + len(triangle)] = triangle
            start += len(triangle)
        if rows is not None:
            stack[start:, 0] = 1
            torch.sub(rows, shift, out=stack[start:, 1:])
        torch.geqrf(stack, out=(stack, shift.new_empty(min(width, count))))
        return stack[:width].triu()


def singular_values(factor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the singular values, descending, shape (d,), and the right singular vectors as rows, (d, d).

    Raises:
        torch.linalg.LinAlgError: the factor holds NaN or Inf.
    """
    _, sigma, right_vectors = torch.linalg.svd(factor, full_matrices=False)
    return sigma, right_vectors


def sigma_min_max(factor: torch.Tensor, tolerance: float = SIGMA_TOLERANCE) -> tuple[float, float]:
    """Return the smallest and the largest singular value of a triangular factor without a full SVD.

    Args:
        factor: upper triangular, float64, shape (n, d), n ≤ d; with n < d, σ_min is 0.
        tolerance: relative; see the twin in tasks/core/spectrum.py.

    Returns:
        σ_min and σ_max; both NaN where the factor is not finite.
    """
    scale = float(factor.abs().max()) if factor.numel() else 0.0
    if not 0 < scale < math.inf:
        return 0 * scale, 0 * scale
    factor = factor / scale
    largest = _largest(factor, tolerance)
    if len(factor) < factor.shape[1]:
        return 0.0, scale * largest
    identity = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
    inverse = torch.linalg.solve_triangular(factor, identity, upper=True)  # not finite where the diagonal holds a 0
    if not float(inverse.abs().max()) < HUGE:
        return 0.0, scale * largest
    return scale / _largest(inverse, tolerance), scale * largest


def _largest(matrix: torch.Tensor, tolerance: float) -> float:
    n, d = matrix.shape
    steps = min(n, MAX_STEPS)
    lefts, rights = matrix.new_empty((steps, n)), matrix.new_empty((steps + 1, d))
    start = torch.randn(d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rights[0] = (start / start.norm()).to(matrix.device)
    found = largest_singular_value(matrix, lefts, rights, tolerance)
    return float(torch.linalg.matrix_norm(matrix, 2)) if found is None else found
