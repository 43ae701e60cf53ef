"""The figures of one forward pass: what the spectrum of a norm's outputs says of its kernel (maths.md, section 4)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.core.errors import DegenerateKernel
from tasks.core.kernel import DEAD_TAU, dead_subspace, kernel_direction
from tasks.core.records import Kind
from tasks.core.spectrum import singular_values

DEAD_EIGENVALUE = 1e-8  # of the mean eigenvalue; the square of DEAD_TAU
DEAD_THRESHOLDS = ("1e-04", "1e-06", "1e-08", "1e-10", "1e-12")  # the keys of dead_counts
PRESENT_BELOW = 1e-8  # mean_share of a norm that centres: 1e-31 in float64, so this is wide of it on both sides
ABSENT_ABOVE = 1e-4  # mean_share where nothing centres: 0.3 to 3 at random initialisation

Vector = NDArray[np.float64]
Verdict = Literal["present", "absent", "unclear"]


@dataclass(frozen=True, slots=True)
class SpectrumFigures:
    """What the spectrum of the centred outputs of a norm says; all None but the reason where there is no answer.

    Attributes:
        alignment: |⟨u, v_d⟩|, u the kernel direction, v_d the singular vector of the smallest singular value.
        subspace_alignment: ‖P u‖, P the projector on the dead eigenvectors (eigenvalue ≤ 1e-8 of the mean).
        subspace_overlap: ‖P B‖²/dim B, B the predicted dead subspace; None where none is predicted.
        lambda_u_rel: variance along u, divided by the mean eigenvalue.
        lambda_u_rel_float32: the same of the norm evaluated in float32.
        dead_counts: {threshold: number of eigenvalues at most threshold times the mean eigenvalue}.
        spectrum: the eigenvalues of the covariance divided by their mean, descending, d of them.
        reason: why there are no figures; None where there are.
    """

    alignment: float | None = None
    subspace_alignment: float | None = None
    subspace_overlap: float | None = None
    lambda_u_rel: float | None = None
    lambda_u_rel_float32: float | None = None
    dead_counts: Mapping[str, int] | None = None
    spectrum: tuple[float, ...] | None = None
    reason: str | None = None


def spectrum_figures(
    factor: Vector,
    count: int,
    gamma: Vector,
    kind: Kind,
    tau: float = DEAD_TAU,
    *,
    lambda_u_rel_float32: float | None = None,
    decomposition: tuple[Vector, Vector] | None = None,
) -> SpectrumFigures:
    """Return the figures of a norm's outputs from the R factor of their centred matrix.

    Args:
        factor: R, shape (d, d), of the centred outputs in float64 (`CentredQR.factor`); where N ≤ d nobody asks for
            its entries, and shape (0, d) will do.
        count: N, the number of outputs.
        gamma: effective scale, shape (d,).
        kind: what the norm is; it decides what is predicted to be dead.
        tau: threshold of near-dead coordinates, relative to rms(γ).
        lambda_u_rel_float32: of the outputs in float32 (`DirectionShare.value`); passed on where there are figures.
        decomposition: singular values and right singular vectors of the factor, where another device has found them.
    """
    reason = _no_figures(factor, count, gamma)
    if reason:
        return SpectrumFigures(reason=reason)
    sigma, vectors = singular_values(factor) if decomposition is None else decomposition
    u, basis = kernel_direction(gamma), dead_subspace(gamma, kind, tau)
    power = float(np.mean(sigma**2))  # N times the mean eigenvalue
    scaled = sigma**2 / power
    dead = vectors[scaled <= DEAD_EIGENVALUE]
    return SpectrumFigures(
        alignment=_share(vectors[-1:] @ u),
        subspace_alignment=_share(dead @ u),
        subspace_overlap=_overlap(dead, basis),
        lambda_u_rel=float(np.sum((factor @ u) ** 2)) / power,
        lambda_u_rel_float32=lambda_u_rel_float32,
        dead_counts={name: int(np.count_nonzero(scaled <= float(name))) for name in DEAD_THRESHOLDS},
        spectrum=tuple(scaled.tolist()),
    )


def _share(projection: Vector) -> float:
    return min(1.0, float(np.linalg.norm(projection)))


def _overlap(vectors: Vector, basis: Vector) -> float | None:
    if not basis.shape[1]:
        return None
    overlap = float(np.sum((vectors @ basis) ** 2)) / int(basis.shape[1])
    return min(1.0, overlap)


def _no_figures(factor: Vector, count: int, gamma: Vector) -> str | None:
    d = factor.shape[1]
    if count <= d:
        return f"{count:,} tokens for a width of {d:,}: the spectrum needs more tokens than the width"
    if not np.isfinite(factor).all():
        return "the norm's outputs hold NaN or Inf"
    try:
        kernel_direction(gamma)
    except DegenerateKernel as error:
        return str(error)
    return None if factor.any() else "all outputs of the norm are equal"


class MeanShare:
    """Accumulates mean_share: the mean over tokens of (n·1/√d)², divided by the mean of ‖n‖²/d; not centred.

    n is the norm's output with γ = 1 and β = 0. Takes arrays of NumPy and tensors of torch alike, in float64.
    """

    def __init__(self) -> None:
        self._along = 0.0
        self._power = 0.0

    @np.errstate(over="ignore", invalid="ignore")  # what is not finite has no value, and says so
    def add(self, normalised: Any) -> None:
        """Add the norm's outputs before the affine, shape (n, d), float64."""
        self._along += float((normalised.sum(axis=1) ** 2).sum())
        self._power += float((normalised**2).sum())

    @property
    def value(self) -> float | None:
        """mean_share; None where no output was added, all are 0, or some are not finite."""
        return self._along / self._power if self._power and math.isfinite(self._power) else None


def mean_share(normalised: Any) -> float | None:
    """Return mean_share of the norm's outputs before the affine, shape (N, d), float64; see MeanShare."""
    share = MeanShare()
    share.add(normalised)
    return share.value


def verdict(share: float | None) -> Verdict | None:
    """Return whether the data show a norm that centres, judged from mean_share; None where that is None."""
    if share is None:
        return None
    if share <= PRESENT_BELOW:
        return "present"
    return "absent" if share >= ABSENT_ABOVE else "unclear"


class DirectionShare:
    """Accumulates λ_u/λ̄: the variance along a direction, divided by the mean variance of a coordinate.

    It is `lambda_u_rel` without an SVD, for the outputs evaluated in float32, whose spectrum nobody asks for. Takes
    arrays of NumPy and tensors of torch alike.

    Args:
        direction: u, shape (d,), of norm 1, float64, of the rows' type and device.
    """

    def __init__(self, direction: Any) -> None:
        self._direction = direction
        self._count = 0
        self._mean = 0 * direction
        self._along = 0.0  # sum of squares along u, about the mean
        self._total = 0.0

    @np.errstate(over="ignore", invalid="ignore")
    def add(self, rows: Any) -> None:
        """Add rows, shape (n, d), n ≥ 1, widened to float64."""
        centre = rows.mean(axis=0)
        self._add_squares(rows - centre, 1.0)
        count = self._count + len(rows)
        gap = centre - self._mean
        self._add_squares(gap[None], self._count * len(rows) / count)  # between the means, as Chan et al. merge them
        self._mean = self._mean + gap * (len(rows) / count)
        self._count = count

    @property
    def value(self) -> float | None:
        """λ_u/λ̄; None where the rows are fewer than two, all equal, or not finite."""
        if not self._total or not math.isfinite(self._total):
            return None
        return self._along / self._total * len(self._direction)

    def _add_squares(self, rows: Any, weight: float) -> None:
        self._along += weight * float(((rows @ self._direction) ** 2).sum())
        self._total += weight * float((rows**2).sum())


def log10_deepening(at_random: float | None, trained: float | None, near_dead_count: int) -> float | None:
    """Return log10 of lambda_u_rel_float32 at random initialisation over that of the trained checkpoint.

    Args:
        at_random: lambda_u_rel_float32 at random initialisation.
        trained: the same of the trained checkpoint.
        near_dead_count: |Z_τ| of the trained scale; where it is not 0 the figure means nothing and is None.
    """
    if near_dead_count or not at_random or not trained:
        return None
    return math.log10(at_random / trained)
