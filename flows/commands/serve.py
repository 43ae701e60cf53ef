"""The subcommand that keeps the schedule: serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.shared import app, plain_errors
from flows.output import UsageError
from flows.settings import DEFAULT_CONFIG, DEMO, load_settings

PORT = 4200  # Prefect's own


@app.command(epilog="Example: `normaudit serve --config deployments/nightly.toml`")
def serve(
    config: Annotated[Path, typer.Option(help="The settings.")] = DEFAULT_CONFIG,
    port: Annotated[
        int,
        typer.Option(min=1, max=65_535, help="Of the Prefect server on 127.0.0.1, where PREFECT_API_URL names none."),
    ] = PORT,
    gpus: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Workers for probes; default: one for each NVIDIA GPU here.")
    ] = None,
) -> None:
    """Run the nightly schedule on this machine: a Prefect server, the deployments and their workers.

    SIGINT and SIGTERM end all of it. Killed and started again, it goes on with the night that was interrupted.
    """
    with plain_errors():
        settings = load_settings(config)
        if settings.endpoint == DEMO:
            raise UsageError(f'{config}: endpoint = "demo" lives for one night; name a Hub, or run `normaudit demo`')
        from flows import serving
        from flows.crawl import crawl_of

        crawl_of(settings)  # complains of what cannot be used
        serving.serve(settings, config, port, serving.gpus_here() if gpus is None else gpus)
