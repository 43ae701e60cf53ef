"""The columns of table probes that an observed forward pass gives (maths.md, sections 4 and 5)."""

from __future__ import annotations

from typing import Any

import numpy as np

from tasks.core.kernel import kernel_direction
from tasks.core.probing import SpectrumFigures, spectrum_figures, verdict
from tasks.core.residual import BlockFigures, block_figures
from tasks.model.answers import Row
from tasks.model.observe import Observer
from tasks.model.spectrum import singular_values

SPECTRUM_COLUMNS = ("alignment", "subspace_alignment", "subspace_overlap", "lambda_u_rel", "lambda_u_rel_float32")
BLOCK_COLUMNS = ("block_names", "block_sigma_min", "block_sigma_max", "block_sigma_ratio")


def figures_of(observer: Observer, body_dtype: str) -> tuple[Row, list[str]]:
    """Return the columns of sections 4 and 5, and what is to be said of those that are null."""
    norm, factor = observer.norm, observer.outputs_factor
    sigma, vectors = singular_values(factor)
    spectrum = spectrum_figures(
        factor.cpu().numpy(),
        observer.count,
        norm.gamma.numpy(),
        norm.kind,
        lambda_u_rel_float32=observer.lambda_u_rel_float32,
        decomposition=(sigma.cpu().numpy(), vectors.cpu().numpy()),
    )
    streams = observer.sigmas()
    blocks = block_figures(streams, observer.count, observer.width, body_dtype) if streams else None
    why = observer.why_no_streams or (blocks.reason if blocks else None)
    remarks = [norm.remark, spectrum.reason, f"no block ratios: {why}" if why and not spectrum.reason else None]
    share = observer.mean_share
    row = {**_spectrum_columns(spectrum), **_block_columns(blocks), "mean_share": share, "verdict": verdict(share)}
    return row, [remark for remark in remarks if remark]


def direction_of(observer: Observer) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return u of the norm that was observed."""
    return kernel_direction(observer.norm.gamma.numpy())


def _spectrum_columns(figures: SpectrumFigures) -> Row:
    counts = dict(figures.dead_counts) if figures.dead_counts is not None else None
    columns = {name: getattr(figures, name) for name in SPECTRUM_COLUMNS}
    return {**columns, "dead_counts": counts, "spectrum": list(figures.spectrum) if figures.spectrum else None}


def _block_columns(figures: BlockFigures | None) -> Row:
    if figures is None:
        return {}
    return {**{name: list(getattr(figures, name)) for name in BLOCK_COLUMNS}, "preserved": figures.preserved}
