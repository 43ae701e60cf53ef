"""Subcommands that ask the store: sql, leaderboard, status."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flows import output
from flows.commands.shared import StoreOption, app, plain_errors
from flows.settings import default_store

QUERY_TIMEOUT_S = 600  # the whole Hub is counted in seconds: what takes longer has lost its join condition


class Shape(StrEnum):
    """How a result is written."""

    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


class RankingShape(StrEnum):
    """How the leaderboard is written."""

    table = "table"
    markdown = "markdown"
    csv = "csv"
    json = "json"


@app.command(epilog='Example: `normaudit sql "select norm_kind, count(*) from latest group by all"`')
def sql(
    query: Annotated[
        str | None,
        typer.Argument(
            metavar="SELECT", help="One SELECT; without it stdin holds it, and on a terminal a prompt opens."
        ),
    ] = None,
    store: StoreOption = None,
    format: Annotated[
        Shape | None, typer.Option(help="How the result is written; default: as FILE ends, else a table.")
    ] = None,
    output_file: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="Write there rather than to stdout.")
    ] = None,
    timeout: Annotated[
        int, typer.Option(min=1, max=1_000_000, metavar="SECONDS", help="Give a statement up that takes longer.")
    ] = QUERY_TIMEOUT_S,
) -> None:
    """Ask the store in SQL; it can only be read.

    `show tables` lists what there is, and the comments in duckdb_columns() tell what each column means.
    """
    from flows import query as asking
    from flows import results

    with plain_errors():
        database = asking.open_reader(store or default_store())
        if query is None and sys.stdin.isatty() and output_file is None:
            asking.prompt(database, format or Shape.table, timeout)
        else:
            found = asking.select(database, sys.stdin.read() if query is None else query, timeout)
            results.write_result(found, format or _shape_of(output_file), output_file)


@app.command(epilog="Example: `normaudit leaderboard --where \"kind = 'layernorm'\" --sort participation_fraction`")
def leaderboard(
    context: typer.Context,
    store: StoreOption = None,
    sort: Annotated[
        str, typer.Option(metavar="COLUMN", help="Sort by it: figures largest first, text from A to Z.")
    ] = "downloads",
    where: Annotated[str | None, typer.Option(metavar="SQL", help="Only rows for which this holds.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000_000, help="So many rows.")] = 100,
    format: Annotated[RankingShape, typer.Option(help="How the ranking is written.")] = RankingShape.table,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the site there instead: every model, in all formats.")
    ] = None,
) -> None:
    """Show the ranking of models with the figures of their final norms, or write the site.

    Private repos, local folders and what was never listed are not in it.
    """
    from flows import query as asking
    from flows import results

    with plain_errors():
        if out:
            _refuse_beside_out(context)
        database = asking.open_reader(store or default_store())
        if out:
            asking.write_site(database, out)
            return
        output.say(asking.coverage_line(database))
        found = asking.ranking(database, sort, where, limit)
        if format in (RankingShape.table, RankingShape.markdown):
            results.print_ranking(found, markdown=format is RankingShape.markdown)
        else:
            results.write_result(found, format)


@app.command(epilog="Example: `normaudit status`")
def status(
    store: StoreOption = None, json: Annotated[bool, typer.Option("--json", help="One JSON object per night.")] = False
) -> None:
    """Show the last nights: audited, unchanged, failed and why, requests, bytes, seconds, what waits for a probe."""
    from flows import query as asking

    with plain_errors():
        asking.print_status(store or default_store(), as_json=json)


def _refuse_beside_out(context: typer.Context) -> None:
    """Complain of options that shape the ranking and that the site, which always holds all of it, does not know."""
    sources = {f"--{name}": context.get_parameter_source(name) for name in ("sort", "where", "limit", "format")}
    given = ", ".join(option for option, source in sources.items() if source and source.name != "DEFAULT")
    if given:
        raise output.UsageError(f"--out writes every model in all formats; {given} cannot go with it")


def _shape_of(file: Path | None) -> Shape:
    """Return the shape that a file's name ends in, or a table's."""
    ending = file.suffix.removeprefix(".") if file else ""
    return Shape(ending) if ending in list(Shape) else Shape.table
