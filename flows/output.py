"""Tables on a terminal, in a pipe, or in a file; text from outside is shown escaped."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any, Literal

import orjson
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tasks.core.errors import shown
from tasks.core.records import Audit, ReadNorm
from tasks.site.render import COLUMNS, figure


class UsageError(ValueError):
    """What was asked for cannot be done as asked; the message says what can."""


PIPED_WIDTH = 100_000  # a pipe has no width: whoever reads it cuts lines, not we


def messages() -> Console:
    """Return the console for messages and progress: stderr."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    file: IO[str] | None = None,
    cell: Callable[[Any], str] | None = None,
) -> None:
    """Print rows in columns, numbers to the right; wrapped to a terminal's width, and in full width elsewhere."""
    plain = not (file or sys.stdout).isatty()
    console = Console(file=file, highlight=False, width=PIPED_WIDTH if plain else None)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    values = list(rows)
    for i, column in enumerate(columns):
        side: Literal["left", "right"] = "right" if _is_numeric(row[i] for row in values) else "left"
        table.add_column(Text(column), justify=side, no_wrap=plain, overflow="fold")
    for row in values:
        table.add_row(*(Text((cell or _cell)(value)) for value in row))
    console.print(table)


def print_audits(audits: Sequence[Audit], *, all_norms: bool = False) -> None:
    """Print one line for each model, then what is to be said of it in words, then every norm if all are wanted."""
    print_table(_AUDIT_COLUMNS, [_audit_cells(audit) for audit in audits])
    for audit in audits:
        if audit.reading.reason:
            print(audit.reading.reason)
        if audit.reading.integrity:
            print(f"{shown(audit.listing.repo_id)}: {', '.join(audit.reading.integrity)}")
        if all_norms and audit.reading.norms:
            print_table(_NORM_COLUMNS, [_norm_cells(read) for read in audit.reading.norms])


def print_ranking(result: Any) -> None:
    """Print the leaderboard, a pyarrow.Table, under the site's short headings."""
    headings = {column.name: column.heading for column in COLUMNS}
    print_table([headings[name] for name in result.column_names], list(_rows(result)), cell=figure)


def print_json(row: object) -> None:
    """Print one object as one line of JSON."""
    sys.stdout.write(json_line(row))
    sys.stdout.flush()


def json_line(row: object) -> str:
    """Return one line of JSON; NaN and Infinity become null, bytes are spelt in hexadecimal."""
    return orjson.dumps(row, default=_as_json, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY).decode()


def write_result(result: Any, wanted: str, output: Path | None) -> None:
    """Write a query's result, a pyarrow.Table, to a file or to stdout: as table, markdown, csv, json or parquet.

    Raises:
        UsageError: Parquet was asked for on a terminal, or the file cannot be written.
    """
    try:
        _write_result(result, wanted, output)
    except OSError as error:
        raise UsageError(f"{output or 'standard output'}: cannot be written: {error.strerror}") from error


def _write_result(result: Any, wanted: str, output: Path | None) -> None:
    if wanted == "parquet":
        _write_parquet(result, output)
        return
    with output.open("w", newline="") if output else nullcontext(sys.stdout) as file:
        if wanted == "csv":
            file.write(_csv(result))
        elif wanted == "json":
            file.writelines(json_line(row) for row in result.to_pylist())
        elif wanted == "markdown":
            file.writelines(_markdown(result.column_names, _rows(result)))
        else:
            print_table(result.column_names, _rows(result), file)


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


def _write_parquet(result: Any, output: Path | None) -> None:
    import pyarrow.parquet

    if output is None and sys.stdout.isatty():
        raise UsageError("Parquet is no text for a terminal; name a file with --output")
    pyarrow.parquet.write_table(result, output or sys.stdout.buffer, compression="zstd")


def _csv(result: Any) -> str:
    import csv
    import io

    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(result.column_names)
    writer.writerows([_text(value) for value in row] for row in _rows(result))
    return buffer.getvalue()


def _markdown(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    yield f"| {' | '.join(map(_escaped, columns))} |\n"
    yield f"|{' --- |' * len(columns)}\n"
    for row in rows:
        yield f"| {' | '.join(_escaped(_cell(value)) for value in row)} |\n"


def _escaped(text: str) -> str:
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>|#" else c for c in shown(text))


def _rows(result: Any) -> Iterable[tuple[Any, ...]]:
    return zip(*(column.to_pylist() for column in result.columns), strict=True)


def _is_numeric(values: Iterable[Any]) -> bool:
    found = [value for value in values if value is not None]
    return bool(found) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in found)


def _cell(value: object) -> str:
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
        return f"{value:%Y-%m-%d %H:%M}" if hasattr(value, "hour") else f"{value:%Y-%m-%d}"
    return shown(value)


def _text(value: object) -> object:
    """Return a value as CSV holds it: numbers in full, lists as JSON."""
    return json_line(value).rstrip("\n") if isinstance(value, list | dict | bytes) else value


def _as_json(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    return str(value)
