"""The command `normaudit`: what users type, and nothing that they could not do by calling the modules below.

Only `nightly` and `demo` import Prefect, and only when they run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flows import output
from flows.engine import EngineError
from flows.settings import DEFAULT_CONFIG, DEMO, SettingsError, default_store, load_settings
from storage.errors import StoreError
from tasks.core.errors import AuditError
from tasks.core.records import Audit
from tasks.core.rows import audit_json

app = typer.Typer(
    name="normaudit",
    help="Audit the normalisation layers of models on the Hugging Face Hub, from a few kilobytes per model.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ANSWERED = ("ok", "no_norms")  # with any other status `audit` exits with 1


class Norms(StrEnum):
    """Whose scales are read."""

    final = "final"
    all = "all"


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


StoreOption = Annotated[
    str | None,
    typer.Option("--store", metavar="DIR", help="The store; default: $NORMAUDIT_STORE, ./store, or the demo's."),
]


@app.command(epilog="Example: `normaudit audit openai-community/gpt2 ./my-model --norms all --json`")
def audit(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="org/name, org/name@revision, a local folder, or a .safetensors file."),
    ],
    norms: Annotated[Norms, typer.Option(help="Read the scales of the final norms only, or of all.")] = Norms.final,
    store: StoreOption = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    no_store: Annotated[bool, typer.Option("--no-store", help="Write nothing.")] = False,
    no_registry: Annotated[bool, typer.Option("--no-registry", help="Go by the general reader alone.")] = False,
) -> None:
    """Audit models now: read their norm scales, tell LayerNorm from RMSNorm, extract the kernel directions."""
    from flows import adhoc

    with _plain_errors():
        done: list[Audit] = []
        for found in adhoc.audits(models, norms=norms.value, use_registry=not no_registry):
            done.append(found)
            if json:
                output.print_json(audit_json(found, all_norms=norms is Norms.all))
        if not json:
            output.print_audits(done, all_norms=norms is Norms.all)
        if not no_store:
            output.messages().print(adhoc.keep(done, store or default_store()), markup=False)
    raise typer.Exit(0 if all(found.reading.status in ANSWERED for found in done) else 1)


@app.command(epilog="Example: `normaudit nightly --config deployments/nightly.toml`")
def nightly(
    config: Annotated[Path, typer.Option(help="The settings.")] = DEFAULT_CONFIG,
    store: StoreOption = None,
    endpoint: Annotated[
        str | None, typer.Option(metavar="URL", help='Another Hub than the settings name; "demo" is the stand-in.')
    ] = None,
) -> None:
    """Do one night's work: list, skip what is unchanged, audit, rebuild the database, publish.

    Killed at any point and run again, it goes on where it was.
    """
    with _plain_errors():
        settings = load_settings(config, store=store, endpoint=endpoint)
        from flows import night_run

        published = night_run.run(settings)
    raise typer.Exit(0 if published else 1)


@app.command(epilog="Example: `normaudit demo`")
def demo(store: StoreOption = None) -> None:
    """Run the nightly audit in about a minute against a small Hub on loopback, offline."""
    nightly(DEFAULT_CONFIG, store, DEMO)


@app.command(epilog='Example: `normaudit sql "select norm_kind, count(*) from latest group by all"`')
def sql(
    query: Annotated[
        str | None, typer.Argument(metavar="SELECT", help="One SELECT; without it a prompt opens.")
    ] = None,
    store: StoreOption = None,
    format: Annotated[Shape, typer.Option(help="How the result is written.")] = Shape.table,
    output_file: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="Write there rather than to stdout.")
    ] = None,
) -> None:
    """Ask the store in SQL; it can only be read.

    `show tables` lists what there is, and the comments in duckdb_columns() tell what each column means.
    """
    from flows import query as asking

    with _plain_errors():
        database = asking.open_reader(store or default_store())
        if query is None:
            asking.prompt(database)
        else:
            output.write_result(asking.select(database, query), format.value, output_file)


@app.command(epilog="Example: `normaudit leaderboard --where \"kind = 'layernorm'\" --sort participation_fraction`")
def leaderboard(
    store: StoreOption = None,
    sort: Annotated[str, typer.Option(help="Column to sort by; largest first.")] = "downloads",
    where: Annotated[str | None, typer.Option(metavar="SQL", help="Only rows for which this holds.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="So many rows.")] = 100,
    format: Annotated[RankingShape, typer.Option(help="How the ranking is written.")] = RankingShape.table,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write the site there instead.")] = None,
) -> None:
    """Show the ranking of models with the figures of their final norms, or write the site."""
    from flows import query as asking

    with _plain_errors():
        database = asking.open_reader(store or default_store())
        if out:
            asking.write_site(database, out)
            return
        output.messages().print(asking.coverage_line(database), markup=False)
        found = asking.ranking(database, sort, where, limit)
        if format is RankingShape.table:
            output.print_ranking(found)
        else:
            output.write_result(found, format.value, None)


@app.command(epilog="Example: `normaudit status`")
def status(store: StoreOption = None) -> None:
    """Show the last nights: audited, unchanged, failed and why, requests, bytes, seconds, what waits for a probe."""
    from flows import query as asking

    with _plain_errors():
        asking.print_status(store or default_store())


def main() -> None:
    """Run the command."""
    app()


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Turn what a user can mend into one line on stderr and exit status 2."""
    try:
        yield
    except (StoreError, SettingsError, AuditError, EngineError, output.UsageError) as error:
        output.messages().print(f"normaudit: {error}", style="red", markup=False)
        raise typer.Exit(2) from error
    except KeyboardInterrupt as error:
        raise typer.Exit(130) from error


if __name__ == "__main__":
    main()
