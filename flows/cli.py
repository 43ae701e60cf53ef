"""The command `normaudit`: what users type, and nothing that they could not do by calling the modules below.

Only `nightly` and `demo` import Prefect, and only when they run.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib.metadata import version as version_of
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from flows import output
from flows.engine import EngineError
from flows.settings import DEFAULT_CONFIG, DEMO, SettingsError, default_store, load_settings
from storage.errors import StoreError
from tasks.core.errors import AuditError
from tasks.core.records import METHOD_VERSION, READ_VERSION, Audit
from tasks.core.rows import audit_json

app = typer.Typer(
    name="normaudit",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ANSWERED = ("ok", "no_norms")  # with any other status `audit` exits with 1
WRONG_USAGE = 2
QUERY_TIMEOUT_S = 600  # the whole Hub is counted in seconds: what takes longer has lost its join condition
INTERRUPTED, READER_GONE = 130, 141  # what a shell reports of a program that SIGINT or SIGPIPE has ended


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


NightStoreOption = Annotated[
    str | None,
    typer.Option("--store", metavar="DIR", help="The store; default: as the settings say, ./demo-store for the demo."),
]
StoreOption = Annotated[
    str | None,
    typer.Option("--store", metavar="DIR", help="The store; default: $NORMAUDIT_STORE, ./store, or the demo's."),
]
WeightsEvidenceOption = Annotated[
    int,
    typer.Option(
        "--weights-evidence",
        min=0,
        metavar="BYTES",
        help="Read so many bytes of each model's smallest output projections where nothing else tells a kind.",
    ),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"normaudit {version_of('normaudit')}, read version {READ_VERSION}, method version {METHOD_VERSION}")
        raise typer.Exit


@app.callback()
def _normaudit(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the versions and exit.")
    ] = False,
) -> None:
    """Audit the normalisation layers of models on the Hugging Face Hub, from a few kilobytes per model."""


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
    weights_evidence: WeightsEvidenceOption = 0,
) -> None:
    """Audit models now: read their norm scales, tell LayerNorm from RMSNorm, extract the kernel directions."""
    from flows import adhoc

    with _plain_errors():
        named = [adhoc.model_named(text) for text in models]
        done: list[Audit] = []
        audits = adhoc.audits(
            named, norms=norms.value, use_registry=not no_registry, weights_evidence_bytes=weights_evidence
        )
        for found in output.awaited(audits, "auditing"):
            done.append(found)
            if json:
                output.print_json(audit_json(found, all_norms=norms is Norms.all))
        if not json:
            output.print_audits(done, all_norms=norms is Norms.all)
        if not no_store:
            output.say(adhoc.keep(named, done, store or default_store()))
    raise typer.Exit(0 if all(found.reading.status in ANSWERED for found in done) else 1)


@app.command(epilog="Example: `normaudit explain openai-community/gpt2`")
def explain(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="org/name, org/name@revision, a local folder, or a .safetensors file."),
    ],
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    no_registry: Annotated[bool, typer.Option("--no-registry", help="Go by the general reader alone.")] = False,
    weights_evidence: WeightsEvidenceOption = 0,
) -> None:
    """Show the norms found, which is final and why, each piece of evidence, what would change the answer."""
    from flows import explaining

    with _plain_errors():
        found = explaining.explained(model, use_registry=not no_registry, weights_evidence_bytes=weights_evidence)
        if json:
            output.print_json(explaining.as_json(found))
        else:
            explaining.show(found)
    raise typer.Exit(0 if found.audit.reading.status in ANSWERED else 1)


@app.command(epilog="Example: `normaudit nightly --config deployments/nightly.toml`")
def nightly(
    config: Annotated[Path, typer.Option(help="The settings.")] = DEFAULT_CONFIG,
    store: NightStoreOption = None,
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
def demo(store: NightStoreOption = None) -> None:
    """Run the nightly audit in about a minute against a small Hub on loopback, offline."""
    nightly(Path(str(files("deployments") / DEFAULT_CONFIG.name)), store, DEMO)


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

    with _plain_errors():
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
    limit: Annotated[int, typer.Option(min=1, help="So many rows.")] = 100,
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

    with _plain_errors():
        if out:
            _refuse_beside_out(context)
        database = asking.open_reader(store or default_store())
        if out:
            asking.write_site(database, out)
            return
        output.say(asking.coverage_line(database))
        found = asking.ranking(database, sort, where, limit)
        if format is RankingShape.table:
            results.print_ranking(found)
        else:
            results.write_result(found, format)


@app.command(epilog="Example: `normaudit status`")
def status(store: StoreOption = None) -> None:
    """Show the last nights: audited, unchanged, failed and why, requests, bytes, seconds, what waits for a probe."""
    from flows import query as asking

    with _plain_errors():
        asking.print_status(store or default_store())


def main() -> None:
    """Run the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that knows no γ is no reason to fail
    app()


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


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Turn what a user can mend into one line on stderr and exit status 2."""
    try:
        yield
    except SettingsError as error:  # one line for each wrong setting
        output.complain(str(error).splitlines())
        raise typer.Exit(WRONG_USAGE) from error
    except BrokenPipeError as error:
        output.let_go_of_stdout()
        raise typer.Exit(READER_GONE) from error
    except (StoreError, AuditError, EngineError, output.UsageError, OSError) as error:
        output.complain([output.one_line(error)])
        raise typer.Exit(WRONG_USAGE) from error
    except KeyboardInterrupt as error:
        raise typer.Exit(INTERRUPTED) from error


if __name__ == "__main__":
    main()
