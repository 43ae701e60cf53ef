"""The tables of the paper's protocol: a line for each probe, and what the protocol's findings are held to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.reader_tables import table

Row = Mapping[str, Any]

DEAD = "1e-08"  # the square of what makes a coordinate near-dead: maths.md, section 2
LEAST_ALIGNMENT, MOST_MEAN_SHARE, MOST_INVARIANCE = 0.99995, 1e-20, 1e-5
LEAST_CONTROL_INVARIANCE = 0.1  # "of order 1"
LEAST_OVERLAP = 0.9999
MINILM_DEAD = 3  # near-dead coordinates of its final norm: maths.md, section 2
NONE = "–"

HEAD = (
    "model", "kind", "weights", "d", "N", "dtype", "device", "alignment", "overlap", "mean_share", "lambda_u_rel",
    f"dead ≤ {DEAD}", "logit_invariance", "verdict", "preserved", "load s", "forward s", "algebra s", "peak GB",
)  # fmt: skip
README_HEAD = ("model", "kind", "weights", "N", "alignment", "mean_share", "verdict", "preserved")


def probes_table(rows: Sequence[Row], kinds: Mapping[str, str], head: Sequence[str] = HEAD) -> str:
    """Return a Markdown table with a line for each probe, LayerNorm first; a probe without an answer says why.

    Args:
        rows: of table probes.
        kinds: what each repo's final norm is.
        head: the columns that are wanted, of HEAD.
    """
    answered = [row for row in rows if row["status"] == "ok"]
    lines = [[_cells(row, kinds)[name] for name in head] for row in sorted(answered, key=lambda r: kinds[r["repo_id"]])]
    silent = [
        f"{row['repo_id']}, {row['weights']}: {row['status']}: {row['reason']}" for row in rows if row not in answered
    ]
    return "\n".join([table(head, lines), *([""] if silent else []), *silent])


def bounds_table(rows: Sequence[Row], kinds: Mapping[str, str], minilm: str) -> tuple[str, bool]:
    """Return what the findings are held to as a Markdown table, and whether all that was measured meets it.

    Args:
        rows: of table probes.
        kinds: what each repo's final norm is.
        minilm: repo of the trained model with dead coordinates.
    """
    answered = [row for row in rows if row["status"] == "ok"]
    found = [*_of_layernorm(answered, kinds), *_of_controls(answered, kinds), *_of_minilm(answered, minilm)]
    lines = [(*line[:3], "yes" if line[3] else "no") for line in found]
    blocks = [row["preserved"] for row in answered if row.get("preserved") is not None]
    told = f"{sum(blocks)} of {len(blocks)} probes with block ratios are preserved"
    met = len(answered) == len(rows) and all(line[3] for line in found)
    return f"{table(('what', 'bound', 'measured', 'met'), lines)}\n\n{told}", met


Line = tuple[str, str, str, bool]


def _of_layernorm(rows: Sequence[Row], kinds: Mapping[str, str]) -> Iterator[Line]:
    every = [row for row in rows if kinds[row["repo_id"]] == "layernorm"]
    fresh = [row for row in every if row["weights"] == "random"]
    yield from _extreme("LayerNorm, random: alignment", fresh, "alignment", min, LEAST_ALIGNMENT, "{:.7f}")
    yield from _extreme("LayerNorm: mean_share", every, "mean_share", max, MOST_MEAN_SHARE)
    yield from _extreme("LayerNorm: logit_invariance", every, "logit_invariance", max, MOST_INVARIANCE)
    yield from _verdicts("LayerNorm", every, "present")


def _of_controls(rows: Sequence[Row], kinds: Mapping[str, str]) -> Iterator[Line]:
    every = [row for row in rows if kinds[row["repo_id"]] == "rmsnorm"]
    alive = [row for row in every if not (row.get("dead_counts") or {}).get(DEAD)]
    what = "RMSNorm without dead directions: logit_invariance"
    yield from _extreme(what, alive, "logit_invariance", min, LEAST_CONTROL_INVARIANCE)
    yield from _verdicts("RMSNorm", every, "absent")


def _of_minilm(rows: Sequence[Row], minilm: str) -> Iterator[Line]:
    trained = [row for row in rows if row["repo_id"] == minilm and row["weights"] == "trained"]
    for row in (row for row in trained if row["dead_counts"]):
        dead = row["dead_counts"][DEAD]
        yield "MiniLM, trained: dead directions", f"{MINILM_DEAD}", f"{dead}", dead == MINILM_DEAD
    yield from _extreme("MiniLM, trained: subspace_overlap", trained, "subspace_overlap", min, LEAST_OVERLAP, "{:.7f}")


def _extreme(
    what: str,
    rows: Sequence[Row],
    column: str,
    worst: Callable[[Sequence[float]], float],
    bound: float,
    form: str = "{:.2g}",
) -> Iterator[Line]:
    """Yield the worst value of a column against its bound, where any row has one: the least (min) or most (max)."""
    values = [row[column] for row in rows if row.get(column) is not None]
    if values:
        found, is_least = worst(values), worst is min
        is_met = found >= bound if is_least else found <= bound
        yield f"{what}, {len(values)} probes", f"{'≥' if is_least else '≤'} {bound:g}", form.format(found), is_met


def _verdicts(kind: str, rows: Sequence[Row], wanted: str) -> Iterator[Line]:
    fitting = sum(row["verdict"] == wanted for row in rows)
    if rows:
        yield f"{kind}: verdict {wanted}", "all", f"{fitting} of {len(rows)}", fitting == len(rows)


def _cells(row: Row, kinds: Mapping[str, str]) -> dict[str, str]:
    counts = row.get("dead_counts")
    return {
        "model": row["repo_id"],
        "kind": kinds[row["repo_id"]],
        "weights": row["weights"],
        "d": str(len(row["spectrum"])) if row.get("spectrum") else NONE,
        "N": f"{row['n_tokens']:,}",
        "dtype": row["dtype"],
        "device": row["device"],
        "alignment": _number(row.get("alignment"), "{:.7f}"),
        "overlap": _number(row.get("subspace_overlap"), "{:.6f}"),
        "mean_share": _number(row["mean_share"], "{:.1e}"),
        "lambda_u_rel": _number(row.get("lambda_u_rel"), "{:.1e}"),
        f"dead ≤ {DEAD}": str(counts[DEAD]) if counts else NONE,
        "logit_invariance": _number(row.get("logit_invariance"), "{:.1e}"),
        "verdict": row["verdict"],
        "preserved": {True: "yes", False: "no", None: NONE}[row.get("preserved")],
        "load s": _number(row["seconds_load"], "{:.1f}"),
        "forward s": _number(row["seconds_forward"], "{:.1f}"),
        "algebra s": _number(row["seconds_linalg"], "{:.1f}"),
        "peak GB": _number(row["peak_memory_bytes"], "{:.2f}", 1e9),
    }


def _number(value: float | None, form: str, unit: float = 1.0) -> str:
    return NONE if value is None else form.format(value / unit)
