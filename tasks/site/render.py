"""What the site's files hold. Repo names and reasons are untrusted text: everything is escaped where it is shown."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib import resources
from typing import Any, TypeAlias
from urllib.parse import quote

import jinja2
import orjson

from tasks.core.errors import shown

Row: TypeAlias = Mapping[str, Any]

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run a cell of text that begins so


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the leaderboard: its name in the data, its heading, and what it means in a line."""

    name: str
    heading: str
    says: str
    numeric: bool = True


COLUMNS = (
    Column("repo_id", "repo", "owner and name on the Hub", numeric=False),
    Column("downloads", "downloads", "of the last 30 days"),
    Column("kind", "kind", "of the main final norm: layernorm centres its input, rmsnorm does not", numeric=False),
    Column("parameterisation", "scale", "plain: γ = w; one_plus: γ = 1 + w", numeric=False),
    Column("hidden_size", "d", "hidden size: length of the final norm's scale"),
    Column("predicted_dead_dim", "dead", "directions that the scale alone proves or predicts to be dead"),
    Column("participation_fraction", "PR/d", "how many coordinates share the kernel direction u, of all; 1: evenly"),
    Column("top_share", "top share", "largest share uᵢ² of one coordinate"),
    Column("condition_number", "cond.", "max|γ| / min|γ|"),
    Column("confidence", "conf.", "that the kind is right"),
    Column("probe_verdict", "probe", "whether a forward pass showed the dead direction", numeric=False),
    Column("alignment", "align.", "|⟨u, v⟩| with the direction v of least variance in a forward pass"),
    Column(
        "preserved", "preserved", "whether no block shrinks the residual stream's least singular value", numeric=False
    ),
    Column("audited_at", "audited", "when, in UTC", numeric=False),
)


@dataclass(frozen=True, slots=True)
class Edition:
    """One edition of the leaderboard.

    Attributes:
        rows: the ranking, with at least the columns of COLUMNS; public repos only.
        coverage: rows of status and count.
        made_at: when it was made, UTC.
        method_version: of the figures.
        hub_url: where a repo's page is, without a closing slash; None: repos are not linked.
    """

    rows: Sequence[Row]
    coverage: Sequence[Row]
    made_at: datetime
    method_version: int
    hub_url: str | None = None


def site_files(edition: Edition) -> dict[str, bytes]:
    """Return {file name: content} of the site."""
    picked = [{column.name: row.get(column.name) for column in COLUMNS} for row in edition.rows]
    return {
        "index.html": _page(edition, picked).encode(),
        "leaderboard.json": orjson.dumps(_document(edition, picked), default=str),
        "leaderboard.csv": _csv(picked).encode(),
        "leaderboard.md": _markdown(edition, picked).encode(),
    }


def _document(edition: Edition, rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "made_at": edition.made_at,
        "method_version": edition.method_version,
        "coverage": {row["status"]: row["models"] for row in edition.coverage},
        "columns": {column.name: column.says for column in COLUMNS},
        "models": rows,
    }


def _page(edition: Edition, rows: Sequence[Row]) -> str:
    template = _environment().get_template("index.html.j2")
    return template.render(
        columns=COLUMNS,
        rows=rows,
        coverage=edition.coverage,
        models=sum(row["models"] for row in edition.coverage),
        made_at=edition.made_at,
        method_version=edition.method_version,
        hub_url=edition.hub_url,
        kinds=_kind_counts(rows),
    )


def _kind_counts(rows: Sequence[Row]) -> list[tuple[str, int]]:
    kinds = [str(row["kind"]) for row in rows]
    return sorted(((kind, kinds.count(kind)) for kind in set(kinds)), key=lambda pair: -pair[1])


def _csv(rows: Sequence[Row]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([column.name for column in COLUMNS])
    writer.writerows([_harmless(row[column.name]) for column in COLUMNS] for row in rows)
    return buffer.getvalue()


def _harmless(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value


def _markdown(edition: Edition, rows: Sequence[Row]) -> str:
    coverage = ", ".join(f"{row['status']} {row['models']:,}" for row in edition.coverage)
    lines = [
        f"Coverage: {coverage}.",
        "",
        f"| {' | '.join(column.heading for column in COLUMNS)} |",
        f"|{'|'.join(' ---: ' if column.numeric else ' --- ' for column in COLUMNS)}|",
        *(f"| {' | '.join(_plain(figure(row[column.name])) for column in COLUMNS)} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>|#" else c for c in shown(text))


def figure(value: Any) -> str:
    """Return a value as readers of the page see it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1e4 else f"{value:.1e}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d}"
    return shown(value)


@cache
def _environment() -> jinja2.Environment:
    templates = resources.files("tasks.site") / "templates"
    loader = jinja2.FunctionLoader(lambda name: (templates / name).read_text(encoding="utf-8"))
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"figure": figure, "path": lambda text: quote(text, safe="/")}
    return environment
