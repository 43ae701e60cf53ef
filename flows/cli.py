"""The command `normaudit`: what users type, and nothing that they could not do by calling the modules below."""

from __future__ import annotations

import io
import sys
from importlib.metadata import version as version_of
from typing import Annotated

import typer

from flows.commands import models, nights, probe, serve, store
from flows.commands.shared import app
from tasks.core.records import METHOD_VERSION, READ_VERSION

SUBCOMMANDS = (models, probe, nights, serve, store)  # importing them is what adds their commands to the application


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


def main() -> None:
    """Run the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that knows no γ is no reason to fail
    app()


if __name__ == "__main__":
    main()
