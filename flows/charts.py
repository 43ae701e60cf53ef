"""What a probe found, as a picture: the scaled spectrum with u marked, the block ratios, γ sorted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.output import UsageError
from tasks.core.errors import shown
from tasks.model.answers import Probed

FLAGGED_BELOW = 0.1  # a block ratio below it is flagged (maths.md, section 5)
INCHES = (15, 4.5)
COLOURS = {"random": "#888888", "trained": "#1f77b4"}


def draw(found: Sequence[Probed], file: Path) -> None:
    """Draw the probes of one model into a file, whose ending decides its form (png, svg, pdf).

    Raises:
        UsageError: nothing was found, Matplotlib is not there, or the file cannot be written in such a form.
    """
    answered = [one for one in found if one.row["status"] == "ok"]
    if not answered:
        raise UsageError(f"{file}: nothing to draw, the probe has no answer")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("--plot needs Matplotlib; install the extra: pip install 'normaudit[probe]'") from error
    figure = Figure(figsize=INCHES, layout="constrained")
    spectrum, ratios, gamma = figure.subplots(1, 3)
    for one in answered:
        _spectrum(spectrum, one.row)
        _ratios(ratios, one.row)
        _gamma(gamma, one)
    ratios.axhline(FLAGGED_BELOW, color="#d62728", linewidth=0.8, linestyle=":")
    _label(spectrum, "eigenvalues of the normed outputs", "index", "of the mean eigenvalue (log)")
    _label(ratios, "least singular value, block to block", "block", "ratio")
    _label(gamma, "scale of the final norm, sorted", "rank", "|γ| (log)")
    figure.suptitle(shown(answered[0].row["repo_id"]))
    try:
        figure.savefig(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: cannot be drawn: {error}") from error


def _spectrum(axes: Any, row: Mapping[str, Any]) -> None:
    values = row["spectrum"] or []
    colour = COLOURS[row["weights"]]
    positive = [value if value > 0 else None for value in values]
    axes.semilogy(range(1, len(values) + 1), positive, color=colour, label=row["weights"])
    if row["lambda_u_rel"]:
        axes.semilogy([len(values)], [row["lambda_u_rel"]], "o", color=colour, label=f"along u, {row['weights']}")


def _ratios(axes: Any, row: Mapping[str, Any]) -> None:
    ratios = row.get("block_sigma_ratio") or []
    axes.plot(range(len(ratios)), ratios, "o-", markersize=3, color=COLOURS[row["weights"]], label=row["weights"])


def _gamma(axes: Any, one: Probed) -> None:
    sizes = sorted(abs(value) for value in one.gamma)
    positive = [size if size > 0 else None for size in sizes]
    axes.semilogy(range(1, len(sizes) + 1), positive, color=COLOURS[one.row["weights"]], label=one.row["weights"])


def _label(axes: Any, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.legend(fontsize=8)
