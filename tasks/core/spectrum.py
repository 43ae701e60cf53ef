"""The singular values of a centred matrix of any height, in one pass and O(d²) memory (maths.md, section 4).

A QR of the augmented matrix [1 | H] is folded block by block, R ← qr([R; block]). Its trailing d×d block is the R
factor of the centred H, exactly; its singular values and right singular vectors are those of the centred H. No
covariance is formed, whose squaring would lose all that lies below 1e-16 of the largest eigenvalue.
tasks/model/spectrum.py is the same for torch tensors.
"""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

FOLD_ROWS_PER_COLUMN = 2  # rows wait until there are so many times d: each fold also costs the QR of R's own d rows
SIGMA_TOLERANCE = 1e-7  # relative, of an iteration's residual, which bounds the error; mostly it is its square
MAX_STEPS = 300  # of an iteration; the soft edge of a random matrix of width 768 takes 60; past them, a full SVD
CHECK_EVERY = 5  # steps: a check costs an SVD of all steps so far
HUGE = 1e140  # an entry of R⁻¹ whose square would overflow; σ_min is then 0 for all that float64 can tell

Vector = NDArray[np.float64]
Array = Any  # of NumPy, or in the twin of torch


class CentredQR:
    """Accumulates rows; gives the R factor of the matrix that they form, each column's mean taken off.

    What knows NumPy are the static methods at the end alone; the twin for torch replaces them.

    Args:
        width: d, the number of columns.
        fold_rows: so many rows wait, in their own type, before they are folded; None: FOLD_ROWS_PER_COLUMN times d.
    """

    def __init__(self, width: int, fold_rows: int | None = None) -> None:
        self._width = width
        self._fold_rows = fold_rows or FOLD_ROWS_PER_COLUMN * width
        self._count = 0
        self._shift: Array = None  # taken off every row, near the mean, so that a large mean costs no digits
        self._triangle: Array = None  # R of [1 | H - shift], shape (≤ d + 1, d + 1), of the rows that do not wait
        self._room: Array = None  # for rows that wait, made once: rows that come and go would leave memory in pieces
        self._waiting_rows = 0

    @property
    def count(self) -> int:
        """Rows added so far, N."""
        return self._count

    @property
    def mean(self) -> Array:
        """Mean of the rows, shape (d,); ValueError where there are none."""
        top = self._folded()[0]
        return self._shift + top[1:] / top[0]

    @property
    def factor(self) -> Array:
        """R factor of the centred rows, upper triangular, any signs; ValueError where there are none.

        Its shape is (d, d); (N - 1, d) where N ≤ d.
        """
        return self._folded()[1:, 1:]

    @property
    def second_moment_rms(self) -> float:
        """Root mean square of all N·d entries, not centred; ValueError where there are none."""
        centred = self._folded()[1:, 1:]
        power_per_row = float((centred**2).sum()) / self._count + float((self.mean**2).sum())
        return math.sqrt(power_per_row / self._width)

    def add(self, rows: Array) -> None:
        """Add rows, shape (n, d), n ≥ 0, of any floating type; the first rows fix what is taken off all.

        Raises:
            ValueError: the rows have another width.
        """
        if rows.ndim != 2 or rows.shape[1] != self._width:
            raise ValueError(f"asked for rows of width {self._width:,}, got shape {tuple(rows.shape)}")
        while len(rows):
            some = rows[: self._fold_rows - self._waiting_rows]
            self._wait(some)
            rows = rows[len(some) :]

    def merge(self, other: Self) -> None:
        """Add all rows of another accumulator of the same width; the other's answers stay as they are.

        Raises:
            ValueError: the other has another width.
        """
        if other._width != self._width:
            raise ValueError(f"asked to merge rows of width {self._width:,}, got {other._width:,}")
        if not other._count:
            return
        if not self._count:
            self._shift = other._shift
        theirs = self._copy(other._folded())
        theirs[0, 1:] += theirs[0, 0] * (other._shift - self._shift)  # only R's first row knows what was taken off
        self._triangle = self._triangle_of([self._folded(), theirs] if self._count else [theirs], None, self._shift)
        self._count += other._count

    def _wait(self, rows: Array) -> None:
        if self._shift is None:
            self._shift = self._column_means(rows)
        if self._room is None or self._room.dtype != rows.dtype:
            if self._waiting_rows:
                self._folded()
            self._room = self._empty(rows, (self._fold_rows, self._width))
        self._room[self._waiting_rows : self._waiting_rows + len(rows)] = rows  # who gave them may write to them
        self._waiting_rows += len(rows)
        self._count += len(rows)
        if self._waiting_rows == self._fold_rows:
            self._folded()

    def _folded(self) -> Array:
        if not self._count:
            raise ValueError("asked for figures of rows, got no rows")
        if self._waiting_rows:
            above = [] if self._triangle is None else [self._triangle]
            self._triangle = self._triangle_of(above, self._room[: self._waiting_rows], self._shift)
            self._waiting_rows = 0
        return self._triangle

    @staticmethod
    @np.errstate(over="ignore", invalid="ignore")  # rows that are not finite give a factor that is not, and says so
    def _column_means(rows: Array) -> Array:
        return rows.mean(axis=0, dtype=np.float64)

    @staticmethod
    def _copy(rows: Array) -> Array:
        return rows.copy()

    @staticmethod
    def _empty(rows: Array, shape: tuple[int, int]) -> Array:
        """Return room for rows of the type of these."""
        return np.empty(shape, rows.dtype)

    @staticmethod
    @np.errstate(over="ignore", invalid="ignore")
    def _triangle_of(above: list[Array], rows: Array | None, shift: Array) -> Array:
        """Return R of the triangles above, stacked, and below them [1 | rows - shift] in float64."""
        stack = np.concatenate([*above, np.ones((0 if rows is None else len(rows), len(shift) + 1))])
        if rows is not None:
            np.subtract(rows, shift, out=stack[len(stack) - len(rows) :, 1:], dtype=np.float64)
        return np.linalg.qr(stack, mode="r")


def singular_values(factor: Vector) -> tuple[Vector, Vector]:
    """Return the singular values of a matrix, descending, shape (d,), and its right singular vectors as rows, (d, d).

    Raises:
        numpy.linalg.LinAlgError: the factor holds NaN or Inf.
    """
    _, sigma, right_vectors = np.linalg.svd(factor)
    return sigma, right_vectors


def sigma_min_max(factor: Vector, tolerance: float = SIGMA_TOLERANCE) -> tuple[float, float]:
    """Return the smallest and the largest singular value of a triangular factor without a full SVD.

    A power iteration with R for the largest and an inverse iteration, with R⁻¹, for the smallest, both from a fixed
    random start, and keeping all that they saw (Golub and Kahan's bidiagonalisation). Both are accurate to tolerance,
    relative (mostly to its square), and, for the smallest, a few eps·σ_max more. A factor with a zero on its
    diagonal gives exactly 0.

    Args:
        factor: upper triangular, shape (n, d), n ≤ d; with n < d, σ_min is 0.
        tolerance: relative, of the iterations' residual.

    Returns:
        σ_min and σ_max; both NaN where the factor is not finite.
    """
    scale = float(np.abs(factor).max(initial=0.0))
    if not 0 < scale < math.inf:
        return 0 * scale, 0 * scale
    factor = factor / scale
    largest = _largest(factor, tolerance)
    if len(factor) < factor.shape[1] or not np.diagonal(factor).all():
        return 0.0, scale * largest
    inverse = np.asarray(np.linalg.inv(factor), np.float64)
    if not np.abs(inverse).max() < HUGE:
        return 0.0, scale * largest
    return scale / _largest(inverse, tolerance), scale * largest


def largest_singular_value(matrix: Array, lefts: Array, rights: Array, tolerance: float) -> float | None:
    """Return the largest singular value by bidiagonalisation with full reorthogonalisation; None if too few steps.

    Args:
        matrix: shape (n, d), n ≤ d, an array of NumPy or of torch.
        lefts: room for the left basis, shape (steps, n), of the matrix's type.
        rights: room for the right basis, shape (steps + 1, d); its first row is the start, of norm 1.
        tolerance: stop where the residual is at most tolerance times the value.
    """
    steps = len(lefts)
    bidiagonal = np.zeros((steps, steps + 1))
    for k in range(steps):
        bidiagonal[k, k] = _next(matrix @ rights[k], lefts, k)
        bidiagonal[k, k + 1] = _next(matrix.T @ lefts[k], rights, k + 1)
        if (k + 1) % CHECK_EVERY and k + 1 < steps:
            continue
        vectors, values, _ = np.linalg.svd(bidiagonal[: k + 1, : k + 1])
        if bidiagonal[k, k + 1] * abs(vectors[k, 0]) <= tolerance * values[0]:
            return float(values[0])
    return None


def _next(image: Array, basis: Array, k: int) -> float:
    """Write into row k of a basis what is new in the image, with norm 1; return the norm that it had."""
    for _ in range(2):  # twice is enough to be orthogonal to rounding
        image = image - basis[:k].T @ (basis[:k] @ image)
    norm = math.sqrt(image @ image)
    basis[k] = image / norm if norm > 0 else 0 * image
    return norm


def _largest(matrix: Vector, tolerance: float) -> float:
    n, d = matrix.shape
    steps = min(n, MAX_STEPS)
    lefts, rights = np.empty((steps, n)), np.empty((steps + 1, d))
    start = np.random.default_rng(0).standard_normal(d)
    rights[0] = start / np.linalg.norm(start)
    found = largest_singular_value(matrix, lefts, rights, tolerance)
    return float(np.linalg.norm(matrix, 2)) if found is None else found
