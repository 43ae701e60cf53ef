"""The leaderboard's columns and the statuses above it: what each is called, what it means, how its figures look."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tasks.core.errors import shown


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the leaderboard.

    Attributes:
        name: its name in the data.
        heading: its short name above the table.
        says: what it means, in a line.
        numeric: whether it holds numbers, which stand to the right.
        decimals: digits after the point, the same in every row; None: as many as a number needs.
    """

    name: str
    heading: str
    says: str
    numeric: bool = True
    decimals: int | None = None


COLUMNS = (
    Column("repo_id", "repo", "owner and name on the Hub", numeric=False),
    Column("downloads", "downloads", "of the last 30 days"),
    Column(
        "kind",
        "kind",
        "of the main final norm: layernorm subtracts the mean of its input, rmsnorm does not",
        numeric=False,
    ),
    Column(
        "parameterisation",
        "scale",
        "how the stored weight w gives the scale γ; plain: γ = w, one_plus: γ = 1 + w, a dash: no scale, γ = 1",
        numeric=False,
    ),
    Column("hidden_size", "d", "hidden size: length of the final norm's scale"),
    Column(
        "predicted_dead_dim", "dead", "directions of the output that the scale alone shows to be dead for every input"
    ),
    Column(
        "participation_fraction",
        "PR/d",
        "share of the coordinates over which the kernel direction u = γ⁻¹/‖γ⁻¹‖ is spread; 1: evenly over all",
        decimals=3,
    ),
    Column("top_share", "top share", "largest share uᵢ² that a single coordinate has in u", decimals=4),
    Column("condition_number", "cond.", "max|γ| / min|γ|; a dash where some γ is 0", decimals=1),
    Column("confidence", "conf.", "probability that the kind is right", decimals=3),
    Column("probe_verdict", "probe", "whether a forward pass showed the dead direction", numeric=False),
    Column("alignment", "align.", "|⟨u, v⟩| with the direction v of least variance in a forward pass", decimals=4),
    Column(
        "preserved", "preserved", "whether no block shrinks the residual stream's least singular value", numeric=False
    ),
    Column("audited_at", "audited", "when, in UTC", numeric=False),
)

STATUSES = {
    "ok": "read, with at least one norm",
    "no_norms": "read, and it has no norm: an adapter, say, or a plain MLP",
    "no_safetensors": "its weights are in other formats only",
    "gated": "asks for terms to be accepted first",
    "private": "not open to this audit",
    "disabled": "disabled by the Hub",
    "not_found": "gone when it was read",
    "bad_file": "its files contradict the format, or each other",
    "too_large": "its norms alone would cost more than the limit allows",
    "failed": "no answer from the Hub; a later night tries again",
    "waiting": "listed, and not audited yet",
}

LARGE, SMALL = 1e6, 1e-4  # floats from the one on and below the other are written with an exponent


def figure(value: Any, decimals: int | None = None) -> str:
    """Return a value as readers of the leaderboard see it.

    Args:
        value: of any column.
        decimals: digits after the point for floats; None: three significant digits.
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return _number(value, decimals)
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d}"
    return shown(value)


def _number(value: float, decimals: int | None) -> str:
    if value and not SMALL <= abs(value) < LARGE:
        return f"{value:.1e}"
    return f"{value:.3g}" if decimals is None else f"{value:,.{decimals}f}"
