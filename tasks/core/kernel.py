"""The kernel direction of a norm, and every figure of it (maths.md, section 2).

A LayerNorm's output y satisfies γ⁻¹ · (y - β) = 0 for every input. u = γ⁻¹/‖γ⁻¹‖ is therefore dead whatever the data:
it is known from the scale alone. Where scales vanish, their axes are dead instead, and the mean direction is absorbed
by them.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tasks.core.errors import DegenerateKernel
from tasks.core.records import KernelFigures, Kind, Parameterisation, ScaleFigures

DEAD_TAU = 1e-4  # near-dead: |γ| ≤ τ·rms(γ); its square, 1e-8, is the probe's threshold for a dead eigenvalue
LISTED_COORDINATES = 64  # of the near-dead coordinates, so many are listed
CENTRING: frozenset[Kind] = frozenset({"layernorm"})
_TINY = float(np.finfo(np.float64).tiny)

Vector = NDArray[np.float64]


def effective_scale(weight: Vector, parameterisation: Parameterisation | None) -> Vector:
    """Return γ, shape (d,), from the stored weight w, shape (d,): w itself, or 1 + w for "one_plus"."""
    return weight + 1.0 if parameterisation == "one_plus" else weight


def kernel_direction(gamma: Vector) -> Vector:
    """Return the unit vector u with u · (y - β) = 0 for every output y of the LayerNorm with scale gamma.

    Computed as (m/γ)/‖m/γ‖ with m the smallest nonzero |γ|, so that nothing overflows. Where some γ are exactly 0, u
    is the normalised indicator of those coordinates.

    Args:
        gamma: effective scale, shape (d,).

    Returns:
        Shape (d,), Euclidean norm 1.

    Raises:
        DegenerateKernel: gamma is empty or holds NaN or Inf.

    Source: arXiv 2606.19491; maths.md, section 2.
    """
    if gamma.size == 0 or not np.isfinite(gamma).all():
        raise DegenerateKernel(
            f"a scale of {gamma.size:,} values, {_nonfinite(gamma):,} of them NaN or Inf, has no kernel"
        )
    zero = gamma == 0
    if zero.any():
        return np.asarray(zero / np.sqrt(np.count_nonzero(zero)))
    inverse = np.abs(gamma).min() / gamma
    return np.asarray(inverse / np.linalg.norm(inverse))


def near_dead(gamma: Vector, tau: float = DEAD_TAU) -> NDArray[np.intp]:
    """Return the coordinates i with |γᵢ| ≤ τ·rms(γ), ascending; gamma is finite, shape (d,)."""
    return np.flatnonzero(np.abs(gamma) <= tau * _rms(gamma))


def dead_subspace(gamma: Vector, kind: Kind, tau: float = DEAD_TAU) -> Vector:
    """Return an orthonormal basis B of the predicted dead subspace, shape (d, k), k ≥ 0.

    The axes of the near-dead coordinates where there are any; otherwise u for a norm that centres, nothing for one that
    does not.

    Raises:
        DegenerateKernel: gamma is empty or holds NaN or Inf.
    """
    u = kernel_direction(gamma)
    axes = near_dead(gamma, tau)
    if axes.size:
        basis = np.zeros((gamma.size, axes.size))
        basis[axes, np.arange(axes.size)] = 1
        return basis
    return u[:, None] if kind in CENTRING else np.empty((gamma.size, 0))


def kernel_figures(gamma: Vector, beta: Vector | None, kind: Kind, tau: float = DEAD_TAU) -> KernelFigures:
    """Return every figure of the kernel direction that the store keeps; with NaN or Inf in gamma all are None.

    Args:
        gamma: effective scale, shape (d,).
        beta: bias, shape (d,), or None where there is none.
        kind: what the norm is; decides predicted_dead_dim only (None for kinds other than LayerNorm and RMSNorm).
        tau: threshold of near-dead coordinates, relative to rms(γ).
    """
    try:
        u = kernel_direction(gamma)
    except DegenerateKernel:
        return KernelFigures(None, None, (), tau, None, None, None, None, None, None, None, None)
    shares = u**2
    top = int(np.argmax(shares))
    participation_ratio = float(1 / np.sum(shares**2))
    dead = near_dead(gamma, tau)
    return KernelFigures(
        predicted_dead_dim=_dead_dim(dead.size, kind),
        dead_coordinate_count=dead.size,
        dead_coordinates=tuple(int(i) for i in dead[:LISTED_COORDINATES]),
        dead_tau=tau,
        participation_ratio=participation_ratio,
        participation_fraction=participation_ratio / gamma.size,
        top_share=float(shares[top]),
        top_coordinate=top,
        cos_uniform=min(1.0, abs(float(u.sum())) / float(np.sqrt(gamma.size))),
        condition_number=_condition_number(gamma),
        u_dot_beta=_u_dot_beta(u, beta),
        kernel_degenerate=bool((gamma == 0).any()),
    )


def scale_figures(ordered: Vector, tau: float = DEAD_TAU) -> ScaleFigures:
    """Return the statistics of an effective scale; those that NaN or Inf make meaningless are None.

    Args:
        ordered: the scale's values, ascending and NaN last, as `np.sort` returns them; shape (d,). Counts are then
            found by bisection, which takes half the time of looking at each value.
        tau: threshold of near-dead coordinates, relative to rms(γ).
    """
    finite_stop = int(ordered.searchsorted(np.inf))
    nonfinite = ordered.size - finite_stop + int(ordered.searchsorted(-np.inf, "right"))
    negatives = int(ordered.searchsorted(0.0))
    zeros = int(ordered.searchsorted(0.0, "right")) - negatives
    if nonfinite or ordered.size == 0:
        return ScaleFigures(None, None, None, None, None, zeros, negatives, None, nonfinite)
    least, most = float(ordered[0]), float(ordered[-1])
    unit = max(-least, most, _TINY)  # so that squares of huge scales do not overflow
    scaled = ordered / unit
    mean = float(scaled.sum()) / scaled.size
    rms = unit * _root_mean_square(scaled)
    near = ordered.searchsorted(tau * rms, "right") - ordered.searchsorted(-tau * rms)
    return ScaleFigures(
        gamma_min=least,
        gamma_max=most,
        gamma_mean=_finite(mean * unit),
        gamma_std=_finite(_root_mean_square(scaled - mean) * unit),
        gamma_rms=_finite(rms),
        zero_count=zeros,
        negative_count=negatives,
        dead_coordinate_count=int(near),
        nonfinite_count=0,
    )


def _rms(gamma: Vector) -> float:
    unit = float(np.abs(gamma).max())
    return unit * _root_mean_square(gamma / unit) if unit > 0 else 0.0


def _root_mean_square(values: Vector) -> float:
    return math.sqrt(float(values @ values) / values.size)


def _dead_dim(near_dead_count: int, kind: Kind) -> int | None:
    if kind in CENTRING:
        return max(1, near_dead_count)
    return near_dead_count if kind == "rmsnorm" else None


def _condition_number(gamma: Vector) -> float | None:
    sizes = np.abs(gamma)
    smallest = float(sizes.min())
    with np.errstate(over="ignore"):
        return _finite(float(sizes.max() / smallest)) if smallest > 0 else None


def _u_dot_beta(u: Vector, beta: Vector | None) -> float | None:
    if beta is None:
        return 0.0
    with np.errstate(over="ignore", invalid="ignore"):  # an infinite bias meets zeros of u; the product is then None
        return _finite(float(u @ beta)) if beta.shape == u.shape else None


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _nonfinite(gamma: Vector) -> int:
    return int(gamma.size - np.count_nonzero(np.isfinite(gamma)))
