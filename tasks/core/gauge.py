"""What a matrix that writes to the residual stream tells of the norms that read it (maths.md, section 7).

A LayerNorm centres what it reads, so nothing of a writer W along 1 is ever seen: the gradient there is 0, that part of
W stays as it was while all else grows, and `gauge_share(W)` falls below 1. Under RMSNorm 1 is a direction like any
other: to flip the sign of a coordinate throughout the model leaves its function alone, and initial weights and
optimisers do not know signs, so that 1 cannot be told from a random vector of ±1. Such vectors are the controls, and
1 falls below all of n controls by chance in one model of n + 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.core.errors import shown
from tasks.core.records import Evidence

CONTROLS = 127  # random directions: 1 falls below all of them by chance in one model of 128
SEED = 0  # of the controls: the same matrices give the same answer on every night

# The calibration, on 64 models trained for it: python -m benchmarks.gauge, benchmarks/LOG.md. A confidence is Laplace's
# (n + 1)/(n + m + 2), the lower of two: over the models trained longest, and over those half trained as well.
LAYERNORM_BELOW = (  # (share, confidence), where 1 also stands below every control
    (0.5, 0.94),  # LayerNorm 17, RMSNorm 0; half trained as well 29 and 0
    (0.8, 0.89),  # LayerNorm 9, RMSNorm 0; half trained as well 16 and 1: no answer by itself
)
RMSNORM_ABOVE = 0.9
RMSNORM_CONFIDENCE = 0.74  # RMSNorm 22, LayerNorm 1; half trained as well 88 and 30; untrained, both alike
CENTRED_BELOW = 1e-3  # rounding to bfloat16 leaves 3e-6 of a centred matrix, training under LayerNorm no less than 0.07


@dataclass(frozen=True, slots=True, eq=False)
class Gauge:
    """Gauge shares of some matrices that write to one stream; of several, the median along each direction.

    Attributes:
        share: along 1; NaN where some matrix is 0 or holds NaN or infinite values.
        controls: along random directions of ±1, shape (CONTROLS,).
    """

    share: float
    controls: NDArray[np.float64]

    @property
    def is_special(self) -> bool:
        """Whether 1 stands below every control, as it does by chance in one model of CONTROLS + 1."""
        return bool(self.share < self.controls.min())


def gauge_share(matrix: NDArray[np.float64]) -> float:
    """Return ‖1ᵀW‖²/‖W‖_F²: 1 in the mean over matrices of independent entries, 0 where every column is centred.

    Args:
        matrix: W, shape (d, m); d is the width of the stream, and y = W x is added to it. Of any scale.

    Returns:
        From 0 to d; NaN where W is 0 or holds NaN or infinite values.

    Source: maths.md, section 7.
    """
    return float(_shares(matrix, np.ones((1, matrix.shape[0])))[0])


def gauge(matrices: Iterable[NDArray[np.float64]], width: int) -> Gauge:
    """Return the gauge of matrices that write to the same stream, the same controls for all of them.

    Args:
        matrices: one or more, shape (width, m) each; m may differ. Read one at a time.
        width: of the stream.
    """
    random = np.random.default_rng(SEED).choice((-1.0, 1.0), (CONTROLS, width))
    directions = np.vstack([np.ones(width), random])
    medians = np.median([_shares(matrix, directions) for matrix in matrices], axis=0)
    return Gauge(float(medians[0]), medians[1:])


def gauge_evidence(found: Gauge, names: Sequence[str]) -> Evidence:
    """Return what a gauge says of the norms that read the stream.

    Args:
        found: the gauge of one or more matrices.
        names: of the matrices.
    """
    if not np.isfinite(found.share):
        return Evidence("weights", "unknown", 0.0, f"0 or not finite: {_listed(names)}")
    says, confidence, remark = _answer(found)
    low, high = found.controls.min(), found.controls.max()
    numbers = f"gauge_share {found.share:.2g} along 1, {low:.2f} to {high:.2f} along random directions"
    return Evidence("weights", says, 2 * confidence - 1, f"{numbers}, of {_listed(names)}{remark}")


def _answer(found: Gauge) -> tuple[str, float, str]:
    """Return the kind that a gauge speaks for, how sure that is where nothing else is known, and a remark."""
    if found.share < CENTRED_BELOW:
        return "unknown", 0.5, ": centred on purpose, as when a norm is folded away"
    for below, confidence in LAYERNORM_BELOW if found.is_special else ():
        if found.share < below:
            return "layernorm", confidence, ""
    if found.share > RMSNORM_ABOVE:
        return "rmsnorm", RMSNORM_CONFIDENCE, ""
    return "unknown", 0.5, ": neither"


def _listed(names: Sequence[str]) -> str:
    listed = ", ".join(map(shown, names))
    return f"the median of {listed}" if len(names) > 1 else listed


def _shares(matrix: NDArray[np.float64], directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ‖sᵀW‖²/‖W‖_F² for each row s of directions, shape (count, d)."""
    largest = np.abs(matrix).max(initial=0.0)
    if not 0 < largest < np.inf:  # NaN fails as well
        return np.full(len(directions), np.nan)
    scaled = matrix / largest  # no square overflows, and none of the largest vanishes
    along = directions @ scaled
    shares: NDArray[np.float64] = np.square(along).sum(1) / np.square(scaled).sum()
    return shares
