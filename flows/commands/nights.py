"""Subcommands that do a night's work: nightly, demo. Only they import Prefect, and only when they run."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.shared import app, plain_errors
from flows.settings import DEFAULT_CONFIG, DEMO, load_settings

NightStoreOption = Annotated[
    str | None,
    typer.Option("--store", metavar="DIR", help="The store; default: as the settings say, ./demo-store for the demo."),
]


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
    with plain_errors():
        settings = load_settings(config, store=store, endpoint=endpoint)
        from flows import night_run

        published = night_run.run(settings)
    raise typer.Exit(0 if published else 1)


@app.command(epilog="Example: `normaudit demo`")
def demo(store: NightStoreOption = None) -> None:
    """Run the nightly audit in about a minute against a small Hub on loopback, offline."""
    nightly(Path(str(files("deployments") / DEFAULT_CONFIG.name)), store, DEMO)
