"""What the site's files hold. Repo names and reasons are untrusted text: everything is escaped where it is shown."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib import resources
from typing import Any, TypeAlias
from urllib.parse import quote

import jinja2
import orjson
import pyarrow as pa

from tasks.core.errors import shown
from tasks.site.columns import COLUMNS, STATUSES, Column, figure

Row: TypeAlias = Mapping[str, Any]

FORMULA_STARTS = ("=", "+", "-", "@")  # a spreadsheet would run a cell of text that begins so
_NAMES = [column.name for column in COLUMNS]
PAGE_ROWS = 5_000  # 5 MB of HTML, which a phone still sorts at once; CSV and JSON hold every row
_ROWS_AT_ONCE = 2_000  # in Python they take ten times what Arrow does


@dataclass(frozen=True, slots=True)
class Edition:
    """One edition of the leaderboard.

    Attributes:
        ranking: with at least the columns of COLUMNS; public repos only.
        coverage: rows of status and models.
        made_at: when it was made, UTC.
        method_version: of the figures.
        hub_url: where a repo's page is, without a closing slash; None: repos are not linked.
    """

    ranking: pa.Table
    coverage: Sequence[Row]
    made_at: datetime
    method_version: int
    hub_url: str | None = None


def site_files(edition: Edition) -> dict[str, Iterable[bytes]]:
    """Return {file name: its content, in pieces} of the site."""
    return {
        "index.html": (_page(edition).encode(),),
        "leaderboard.json": _json(edition),
        "leaderboard.csv": _csv(edition.ranking),
        "leaderboard.md": (_markdown(edition).encode(),),
    }


def markdown_cell(text: str) -> str:
    """Return untrusted text as one cell of a Markdown table, nothing in it being markup, HTML or a bare link."""
    escaped = "".join(f"\\{c}" if c in "\\`*_{}[]<>|#&~" else c for c in shown(text))
    return escaped.replace("://", ":\\//").replace("www.", "www\\.")


def _pieces(ranking: pa.Table) -> Iterator[list[dict[str, Any]]]:
    """Yield the ranking's rows, some at a time."""
    for batch in ranking.select(_NAMES).to_batches(_ROWS_AT_ONCE):
        if rows := batch.to_pylist():
            yield rows


def _first(ranking: pa.Table) -> list[dict[str, Any]]:
    """Return the rows that are shown on a page."""
    rows: list[dict[str, Any]] = ranking.select(_NAMES).slice(0, PAGE_ROWS).to_pylist()
    return rows


def _json(edition: Edition) -> Iterator[bytes]:
    """Yield the document; the models come last, so that it need not be held whole."""
    document = {
        "made_at": edition.made_at,
        "method_version": edition.method_version,
        "coverage": {row["status"]: row["models"] for row in edition.coverage},
        "columns": {column.name: column.says for column in COLUMNS},
        "models": [],
    }
    yield orjson.dumps(document).removesuffix(b"]}")
    separator = b""
    for rows in _pieces(edition.ranking):
        yield separator + orjson.dumps(rows, default=str)[1:-1]
        separator = b","
    yield b"]}"


def _page(edition: Edition) -> str:
    ranking = edition.ranking
    return (
        _environment()
        .get_template("index.html.j2")
        .render(
            columns=_filled(ranking),
            rows=_first(ranking),
            ranked=len(ranking),
            kinds=_counted(ranking["kind"]),
            coverage=edition.coverage,
            listed=sum(row["models"] for row in edition.coverage),
            says=STATUSES,
            made_at=edition.made_at,
            method_version=edition.method_version,
            hub_url=edition.hub_url,
        )
    )


def _counted(kinds: pa.ChunkedArray) -> list[tuple[str, int]]:
    """Return how often each kind occurs, most first."""
    found = [(pair["values"].as_py() or "unknown", pair["counts"].as_py()) for pair in kinds.value_counts()]
    return sorted(found, key=lambda pair: -pair[1])


def _filled(ranking: pa.Table) -> list[Column]:
    """Return the columns that hold anything: before the first probe, those of probes would be empty."""
    return [column for column in COLUMNS if not len(ranking) or ranking[column.name].null_count < len(ranking)]


class _Line:
    """What a CSV writer writes to: each line is passed on as it comes."""

    @staticmethod
    def write(line: str) -> bytes:
        return line.encode()


def _csv(ranking: pa.Table) -> Iterator[bytes]:
    writer = csv.writer(_Line, lineterminator="\n")
    yield writer.writerow(_NAMES)
    for rows in _pieces(ranking):
        yield b"".join(writer.writerow([_harmless(row[name]) for name in _NAMES]) for row in rows)


def _harmless(value: Any) -> Any:
    """Return a value as CSV holds it; text as one line that no spreadsheet runs."""
    if not isinstance(value, str):
        return value
    text = shown(value)
    return f"'{text}" if text.lstrip().startswith(FORMULA_STARTS) else text


def _markdown(edition: Edition) -> str:
    coverage = ", ".join(f"{row['status']} {row['models']:,}" for row in edition.coverage)
    left_out = len(edition.ranking) - PAGE_ROWS
    lines = [
        f"Made {edition.made_at:%Y-%m-%d %H:%M} UTC. Public models by status: {coverage or 'none yet'}.",
        "",
        f"| {' | '.join(column.heading for column in COLUMNS)} |",
        f"|{'|'.join(' ---: ' if column.numeric else ' --- ' for column in COLUMNS)}|",
        *(_markdown_row(row) for row in _first(edition.ranking)),
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
