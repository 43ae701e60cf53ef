"""A query's result, a pyarrow.Table, on stdout or in a file: as table, CSV, JSON or Parquet."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import IO, Any

from flows.output import Show, UsageError, json_line, print_table, spelt
from tasks.core.errors import shown
from tasks.site import COLUMNS, figure, markdown_cell

EXPLAINED = ["explain_key", "explain_value"]  # of the answer to EXPLAIN, which is a drawing of many lines


def write_result(result: Any, wanted: str, output: Path | None = None) -> None:
    """Write a query's result to a file, or to stdout without one.

    Args:
        result: a pyarrow.Table; of columns with the same name the later ones are numbered.
        wanted: table, csv, json or parquet.
        output: the file, replaced if it is there.

    Raises:
        UsageError: Parquet was asked for on a terminal, or the file cannot be written.
        BrokenPipeError: whoever read stdout has gone.
    """
    result = result.rename_columns(_distinct(result.column_names))
    try:
        if wanted == "parquet":
            _write_parquet(result, output)
            return
        with output.open("w", newline="", encoding="utf-8") if output else nullcontext(sys.stdout) as file:
            _write_text(_spelt_where(_is_beyond_python, result), wanted, file)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageError(f"{output or 'standard output'}: cannot be written: {error.strerror or error}") from error


def print_ranking(result: Any, *, markdown: bool = False) -> None:
    """Print the leaderboard, a pyarrow.Table, under the site's short headings and with its figures' digits."""
    columns = {column.name: column for column in COLUMNS}
    chosen = [columns[name] for name in result.column_names]
    headings = [column.heading for column in chosen]
    shows: list[Show] = [partial(figure, decimals=column.decimals) for column in chosen]
    if markdown:
        looks = ([show(value) for show, value in zip(shows, row, strict=True)] for row in _rows(result))
        sys.stdout.writelines(_markdown(headings, looks))
    else:
        print_table(headings, _rows(result), shows=shows)


def _write_text(result: Any, wanted: str, file: IO[str]) -> None:
    if wanted == "csv":
        file.writelines(_for(file, line) for line in _csv(result))
    elif wanted == "json":
        names = result.column_names
        file.writelines(json_line(dict(zip(names, row, strict=True))) for row in _rows(result))
    elif result.column_names == EXPLAINED:
        file.writelines(f"{shown(line, 1_000)}\n" for text in result[1].to_pylist() for line in text.splitlines())
    else:
        print_table(result.column_names, ([_readable(value) for value in row] for row in _rows(result)), file)
    file.flush()


def _write_parquet(result: Any, output: Path | None) -> None:
    import pyarrow.parquet

    if output is None and sys.stdout.isatty():
        raise UsageError("Parquet is no text for a terminal; name a file with --output")
    # given a name rather than a file, Arrow would delete what has that name when it cannot write, a device too
    with output.open("wb") if output else nullcontext(sys.stdout.buffer) as file:
        pyarrow.parquet.write_table(_spelt_where(_is_beyond_parquet, result), file, compression="zstd")


def _spelt_where(is_beyond: Callable[[Any], bool], result: Any) -> Any:
    """Return a pyarrow.Table with those columns as text, in DuckDB's spelling.

    Args:
        is_beyond: whether the form to be written cannot hold a table of one column.
        result: as `write_result` takes it.
    """
    from duckdb import ColumnExpression, from_arrow

    for i, name in enumerate(result.column_names):
        column = result.select([i]).rename_columns(["value"])
        if is_beyond(column):
            text = from_arrow(column).select(ColumnExpression("value").cast("VARCHAR")).to_arrow_table()
            result = result.set_column(i, name, text.column(0))
    return result


def _is_beyond_python(column: Any) -> bool:
    """Return whether a date or time in a table of one column is none to Python: infinity, the year 20,000, 1 ns."""
    if not re.search("date|time", str(column.schema.types[0])):
        return False
    try:
        for _ in _rows(column):
            pass
    except (ValueError, OverflowError):
        return True
    return False


def _is_beyond_parquet(column: Any) -> bool:
    """Return whether Parquet has no form for the type of a table of one column, such as an interval."""
    import pyarrow
    import pyarrow.parquet

    try:
        pyarrow.parquet.write_table(column.slice(0, 0), pyarrow.BufferOutputStream())
    except pyarrow.ArrowNotImplementedError:
        return True
    return False


def _csv(result: Any) -> Iterator[str]:
    """Yield CSV line by line; a line holds a line break where a value does."""
    import csv
    import io

    buffer = io.StringIO()
    writer = csv.writer(buffer)  # only as its own line's end does it quote a "\r"
    for row in (result.column_names, *([_text(value) for value in row] for row in _rows(result))):
        writer.writerow(row)
        yield buffer.getvalue().removesuffix("\r\n") + "\n"
        buffer.seek(0)
        buffer.truncate()


def _markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(map(markdown_cell, columns))} |\n"
    yield f"|{' --- |' * len(columns)}\n"
    for row in rows:
        yield f"| {' | '.join(map(markdown_cell, row))} |\n"


def _rows(result: Any) -> Iterator[tuple[Any, ...]]:
    """Yield the rows as values of Python, maps as dicts."""
    for batch in result.to_batches():
        yield from zip(*(column.to_pylist(maps_as_pydicts="lossy") for column in batch.columns), strict=True)


def _readable(value: object) -> object:
    """Return a value as a table shows it: the exact numbers of SQL as plain ones."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value


def _text(value: object) -> object:
    """Return a value as CSV holds it: numbers in full, truth as in SQL, lists and maps as JSON."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, list | dict):
        return json_line(value).rstrip("\n")
    return value if value is None or isinstance(value, int | float | str) else spelt(value)


def _for(file: IO[str], line: str) -> str:
    """Return a line as it is; for a terminal, with what that would obey escaped."""
    return line if not file.isatty() else "".join(c if c.isprintable() or c == "\n" else shown(c) for c in line)


def _distinct(names: Sequence[str]) -> list[str]:
    """Return the names, those that were there before with a number behind: a, a_1, a_2."""
    found: list[str] = []
    for name in names:
        numbered = (f"{name}_{i}" for i in range(1, len(names) + 1))
        found.append(name if name not in found else next(n for n in numbered if n not in names and n not in found))
    return found
