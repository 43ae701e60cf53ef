"""What is said on a terminal: tables, messages, the results of audits; text from outside is shown escaped."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from typing import IO, Any, Literal, TypeVar

import orjson
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tasks.core.errors import shown
from tasks.core.records import Audit, ReadNorm

PIPED_WIDTH = 100_000  # a pipe has no width: whoever reads it cuts lines, not we
MAX_MESSAGE_CHARS = 2_000
MAX_CELL_CHARS = 1_000
NANOSECONDS_PER_SECOND = 1_000_000_000

T = TypeVar("T")
Show = Callable[[Any], str]


class UsageError(ValueError):
    """What was asked for cannot be done as asked; the message says what can."""


def messages() -> Console:
    """Return the console for messages and progress: stderr."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """Print a message on stderr."""
    messages().print(text, markup=False)


def complain(lines: Iterable[str]) -> None:
    """Print what went wrong on stderr, each complaint in a line of its own."""
    for line in lines:
        messages().print(f"normaudit: {line}", style="red", markup=False)


def one_line(error: BaseException) -> str:
    """Return an error's message as one printable line."""
    text, *_ = str(error).split("\n\nLINE ")  # there DuckDB repeats the statement, which the user has just typed
    return shown(" ".join(text.split()), MAX_MESSAGE_CHARS)


def awaited(items: Iterable[T], doing: str) -> Iterator[T]:
    """Yield the items; on a terminal stderr says meanwhile what is being done, and never beside the caller's output."""
    iterator = iter(items)
    while True:
        with messages().status(doing):
            item = next(iterator, None)
        if item is None:
            return
        yield item


def let_go_of_stdout() -> None:
    """Send what is still to be written to stdout nowhere: whoever read it has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    file: IO[str] | None = None,
    shows: Sequence[Show] | None = None,
) -> None:
    """Print rows in columns, numbers to the right; wrapped to a terminal's width, and in full width elsewhere.

    Args:
        columns: headings.
        rows: as many values each.
        file: where to; None: stdout.
        shows: for each column how a value of it looks; None: as `cell` has it.
    """
    plain = not (file or sys.stdout).isatty()
    console = Console(file=file, highlight=False, width=PIPED_WIDTH if plain else None)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    values = list(rows)
    for i, column in enumerate(columns):
        side: Literal["left", "right"] = "right" if _is_numeric(row[i] for row in values) else "left"
        table.add_column(Text(shown(column)), justify=side, no_wrap=plain, overflow="fold")
    looks = shows or [cell] * len(columns)
    for row in values:
        table.add_row(*(Text(show(value)) for show, value in zip(looks, row, strict=True)))
    console.print(table)


def print_audits(audits: Sequence[Audit], *, all_norms: bool = False) -> None:
    """Print one line for each model, then what is to be said of it in words, then every norm if all are wanted."""
    print_table(_AUDIT_COLUMNS, [_audit_cells(audit) for audit in audits])
    for audit in audits:
        if audit.reading.reason:
            print(shown(audit.reading.reason, MAX_MESSAGE_CHARS))
        if audit.reading.integrity:
            print(f"{shown(audit.listing.repo_id)}: {shown(', '.join(audit.reading.integrity), MAX_MESSAGE_CHARS)}")
        if all_norms and audit.reading.norms:
            print(f"\nNorms of {shown(audit.listing.repo_id)}")
            print_table(_NORM_COLUMNS, [_norm_cells(read) for read in audit.reading.norms])


def print_json(row: object) -> None:
    """Print one object as one line of JSON."""
    sys.stdout.write(json_line(row))
    sys.stdout.flush()


def json_line(row: object) -> str:
    """Return one line of JSON; NaN and Infinity become null, what a terminal would obey is spelt as an escape."""
    options = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    line = orjson.dumps(row, default=_as_json, option=options).decode()
    return line if line[:-1].isprintable() else "".join(map(_json_escaped, line[:-1])) + "\n"


def cell(value: object) -> str:
    """Return a value as a person reads it: six significant digits, thousands in large counts, a dash for nothing."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int):
        return f"{value:,}"
    if hasattr(value, "strftime"):
        return _moment(value)
    return shown(value, MAX_CELL_CHARS) if isinstance(value, str) else shown(_compact(value))


def spelt(value: Any) -> str:
    """Return a value that JSON and CSV have no form for as text: bytes in hexadecimal, an interval as ISO 8601 does."""
    if isinstance(value, bytes):
        return value.hex()
    if hasattr(value, "nanoseconds"):
        return f"P{value.months}M{value.days}DT{value.nanoseconds / NANOSECONDS_PER_SECOND:g}S"
    return str(value)


_AUDIT_COLUMNS = ("model", "status", "kind", "scale", "final norm", "d", "dead", "PR/d", "conf.", "requests", "bytes")


def _audit_cells(audit: Audit) -> Sequence[Any]:
    reading, cost = audit.reading, audit.cost
    spent = (cost.hub_requests + cost.cdn_requests, cost.bytes_read)
    main = next((read for read in reading.norms if read.norm.is_main), None)
    if main is None:
        return (audit.listing.repo_id, reading.status, reading.norm_kind, *(None,) * 6, *spent)
    norm, kernel = main.norm, main.kernel
    figures = (kernel.predicted_dead_dim, kernel.participation_fraction) if kernel else (None, None)
    tensor = norm.scale_tensor or "no affine"
    found = (norm.kind, norm.parameterisation, tensor, norm.dim, *figures, norm.confidence)
    return (audit.listing.repo_id, reading.status, *found, *spent)


_NORM_COLUMNS = ("tower", "layer", "site", "kind", "scale", "tensor", "d", "γ min", "γ max", "near-dead", "conf.")


def _norm_cells(read: ReadNorm) -> Sequence[Any]:
    norm, scale = read.norm, read.scale
    figures = (scale.gamma_min, scale.gamma_max, scale.dead_coordinate_count) if scale else (None,) * 3
    tensor = norm.scale_tensor or norm.module
    place = (norm.tower, norm.layer, norm.site, norm.kind, norm.parameterisation, tensor, norm.dim)
    return (*place, *figures, norm.confidence)


def _is_numeric(values: Iterable[Any]) -> bool:
    found = [value for value in values if value is not None]
    return bool(found) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in found)


def _compact(value: object) -> str:
    return json_line(value).rstrip("\n") if isinstance(value, list | dict) else spelt(value)


def _moment(value: Any) -> str:
    if not hasattr(value, "hour"):
        return f"{value:%Y-%m-%d}"
    return f"{value:%Y-%m-%d %H:%M}" if hasattr(value, "year") else f"{value:%H:%M:%S}"


def _json_escaped(character: str) -> str:
    # JSON's own marks are printable, so that only what stands inside a string is changed
    return character if character.isprintable() else json.dumps(character)[1:-1]


def _as_json(value: object) -> object:
    if isinstance(value, Decimal):  # what SQL's sum() of whole numbers is
        return orjson.Fragment(f"{value:f}".encode())
    return spelt(value)
