"""A norm with its figures: from the stored weight to the effective scale, its statistics and its kernel direction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tasks.core.configs import MAX_WIDTH
from tasks.core.kernel import effective_scale, kernel_figures, scale_figures
from tasks.core.parameterisation import with_values
from tasks.core.records import Norm, ReadNorm
from tasks.core.verdicts import BIAS_NOT_FINITE, SCALE_NOT_FINITE, SCALES_ALL_ONE

Vector = NDArray[np.float64]


def with_scale(norm: Norm, weight: Vector, beta: Vector | None, gamma_sha256: str | None, tau: float) -> ReadNorm:
    """Return a norm with what its scale tells; the vectors and the kernel for final norms only.

    Args:
        norm: as it was classified without values; they may settle its parameterisation.
        weight: the scale as stored, shape (d,).
        beta: the bias, shape (d,), or None.
        gamma_sha256: of the scale's bytes in the file.
        tau: threshold of near-dead coordinates, relative to rms(γ).
    """
    ordered = np.sort(weight)
    norm = replace(with_values(norm, ordered), dim=weight.size)
    scale = scale_figures(effective_scale(ordered, norm.parameterisation), tau)  # 1 + w is in the order of w
    if not norm.is_final or not weight.size:
        return ReadNorm(norm, scale)
    gamma = effective_scale(weight, norm.parameterisation)
    return ReadNorm(norm, scale, kernel_figures(gamma, beta, norm.kind, tau), gamma, beta, gamma_sha256)


def without_scale(norm: Norm, tau: float) -> ReadNorm:
    """Return a norm that stores no scale with its figures, which are those of γ = 1, where its width is known.

    The width is that of some tensor; wider than MAX_WIDTH it is taken for a trap, and there are no figures.
    """
    if not norm.is_final or not norm.dim or norm.dim > MAX_WIDTH:
        return ReadNorm(norm)
    gamma = np.ones(norm.dim)
    return ReadNorm(norm, scale_figures(gamma, tau), kernel_figures(gamma, None, norm.kind, tau), gamma)


def value_verdicts(norms: Sequence[ReadNorm]) -> Iterator[str]:
    """Yield what is wrong with the scales and biases that were read, in the words of column `integrity`."""
    scales = [read.scale for read in norms if read.scale and read.norm.scale_tensor]
    if any(scale.nonfinite_count for scale in scales):
        yield SCALE_NOT_FINITE
    if any(read.beta is not None and not np.isfinite(read.beta).all() for read in norms):
        yield BIAS_NOT_FINITE
    if scales and all(scale.gamma_min == scale.gamma_max == 1 for scale in scales):
        yield SCALES_ALL_ONE
