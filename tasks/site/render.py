"""What the site's files hold. Repo names and reasons are untrusted text: everything is escaped where it is shown."""

from __future__ import annotations

import csv
import io
from collections import Counter
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
from tasks.site.columns import COLUMNS, STATUSES, Column, figure

Row: TypeAlias = Mapping[str, Any]

FORMULA_STARTS = ("=", "+", "-", "@")  # a spreadsheet would run a cell of text that begins so
_NAMES = dict.fromkeys(column.name for column in COLUMNS).keys()
PAGE_ROWS = 5_000  # 5 MB of HTML, which a phone still sorts at once; CSV and JSON hold every row


@dataclass(frozen=True, slots=True)
class Edition:
    """One edition of the leaderboard.

    Attributes:
        rows: the ranking, with at least the columns of COLUMNS; public repos only.
        coverage: rows of status and models.
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
    picked = [_picked(row) for row in edition.rows]
    return {
        "index.html": _page(edition, picked).encode(),
        "leaderboard.json": orjson.dumps(_document(edition, picked), default=str),
        "leaderboard.csv": _csv(picked).encode(),
        "leaderboard.md": _markdown(edition, picked).encode(),
    }


def markdown_cell(text: str) -> str:
    """Return untrusted text as one cell of a Markdown table, nothing in it being markup, HTML or a bare link."""
    escaped = "".join(f"\\{c}" if c in "\\`*_{}[]<>|#&~" else c for c in shown(text))
    return escaped.replace("://", ":\\//").replace("www.", "www\\.")


def _picked(row: Row) -> Row:
    """Return a row with exactly the columns shown; the row itself where it is so, for there are very many."""
    return row if row.keys() == _NAMES else {name: row.get(name) for name in _NAMES}


def _document(edition: Edition, rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "made_at": edition.made_at,
        "method_version": edition.method_version,
        "coverage": {row["status"]: row["models"] for row in edition.coverage},
        "columns": {column.name: column.says for column in COLUMNS},
        "models": rows,
    }


def _page(edition: Edition, rows: Sequence[Row]) -> str:
    kinds = Counter(str(row["kind"] or "unknown") for row in rows)
    return (
        _environment()
        .get_template("index.html.j2")
        .render(
            columns=_filled(rows),
            rows=rows[:PAGE_ROWS],
            ranked=len(rows),
            kinds=kinds.most_common(),
            coverage=edition.coverage,
            listed=sum(row["models"] for row in edition.coverage),
            says=STATUSES,
            made_at=edition.made_at,
            method_version=edition.method_version,
            hub_url=edition.hub_url,
        )
    )


def _filled(rows: Sequence[Row]) -> list[Column]:
    """Return the columns that hold anything: before the first probe, those of probes would be empty."""
    return [column for column in COLUMNS if not rows or any(row[column.name] is not None for row in rows)]


def _csv(rows: Sequence[Row]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([column.name for column in COLUMNS])
    writer.writerows([_harmless(row[column.name]) for column in COLUMNS] for row in rows)
    return buffer.getvalue()


def _harmless(value: Any) -> Any:
    """Return a value as CSV holds it; text as one line that no spreadsheet runs."""
    if not isinstance(value, str):
        return value
    text = shown(value)
    return f"'{text}" if text.lstrip().startswith(FORMULA_STARTS) else text


def _markdown(edition: Edition, rows: Sequence[Row]) -> str:
    coverage = ", ".join(f"{row['status']} {row['models']:,}" for row in edition.coverage)
    left_out = len(rows) - PAGE_ROWS
    lines = [
        f"Made {edition.made_at:%Y-%m-%d %H:%M} UTC. Public models by status: {coverage or 'none yet'}.",
        "",
        f"| {' | '.join(column.heading for column in COLUMNS)} |",
        f"|{'|'.join(' ---: ' if column.numeric else ' --- ' for column in COLUMNS)}|",
        *(_markdown_row(row) for row in rows[:PAGE_ROWS]),
        *(["", f"{left_out:,} more models are in leaderboard.csv and leaderboard.json."] if left_out > 0 else []),
        "",
        *(f"- **{column.heading}**: {markdown_cell(column.says)}" for column in COLUMNS),
    ]
    return "\n".join(lines) + "\n"


def _markdown_row(row: Row) -> str:
    return f"| {' | '.join(markdown_cell(figure(row[column.name], column.decimals)) for column in COLUMNS)} |"


@cache
def _environment() -> jinja2.Environment:
    templates = resources.files("tasks.site") / "templates"
    loader = jinja2.FunctionLoader(lambda name: (templates / name).read_text(encoding="utf-8"))
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "figure": figure,
        "count": "{:,}".format,
        "path": lambda text: quote(text, safe="/"),
    }
    return environment
