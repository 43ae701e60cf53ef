"""The subcommand that runs models: probe."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flows import output
from flows.commands.shared import NO_ANSWER, StoreOption, app, plain_errors
from flows.settings import default_store

SECONDS = 1_800  # a model of 160 M parameters takes a minute on two cores


class Weights(StrEnum):
    """Which values the parameters have."""

    random = "random"
    trained = "trained"
    both = "both"


class Inputs(StrEnum):
    """What the model is run on."""

    text = "text"
    images = "images"
    audio = "audio"
    random = "random"


class Dtype(StrEnum):
    """What the model's body computes in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"
    float64 = "float64"


class Way(StrEnum):
    """How the model is held."""

    auto = "auto"
    whole = "whole"
    blocks = "blocks"


@app.command(epilog="Example: `normaudit probe ./my-model --weights both --plot probe.png`")
def probe(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL...", help="org/name, org/name@revision, or a local folder.")
    ] = None,
    weights: Annotated[Weights, typer.Option(help="Random initialisation, the checkpoint, or both.")] = Weights.both,
    inputs: Annotated[Inputs | None, typer.Option(help="What it is run on; default: what the model is for.")] = None,
    tokens: Annotated[int | None, typer.Option(min=8, metavar="N", help="Default: four times the width.")] = None,
    device: Annotated[str, typer.Option(help="As torch names it: cpu, cuda, cuda:1.")] = "cpu",
    dtype: Annotated[
        Dtype, typer.Option(help="Of the model's body; the norm is evaluated in float64.")
    ] = Dtype.float32,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of weights and inputs.")] = 0,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Pictures or 16-bit WAV files to run on, rather than noise.")
    ] = None,
    way: Annotated[Way, typer.Option(help="The whole model at once, block by block, or what fits.")] = Way.auto,
    timeout: Annotated[
        int, typer.Option(min=1, max=1_000_000, metavar="SECONDS", help="Give a model up that takes longer.")
    ] = SECONDS,
    memory: Annotated[
        int | None,
        typer.Option(min=1, max=2**50, metavar="BYTES", help="A model may take so much; default: all free."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw spectrum, block ratios and scale (png, svg, pdf).")
    ] = None,
    collect: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Store what `python -m tasks.model` has written there.")
    ] = None,
    store: StoreOption = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object per model and kind of weights.")] = False,
    no_store: Annotated[bool, typer.Option("--no-store", help="Write nothing.")] = False,
) -> None:
    """Run models, and show what their parameters say: the dead directions, the spectrum, the residual stream."""
    from flows import probing

    with plain_errors():
        settings = {
            "weights": weights.value,
            "inputs": inputs.value if inputs else None,
            "tokens": tokens,
            "device": device,
            "dtype": dtype.value,
            "seed": seed,
            "data": str(data) if data else None,
            "way": way.value,
            "limit_s": timeout,
            "limit_bytes": memory,
        }
        found = probing.run(models or [], settings, collect, as_json=json, plot=plot)
        if not no_store:
            output.say(probing.keep(found, store or default_store()))
    raise typer.Exit(0 if all(one.row["status"] in probing.FINE for one in found) else NO_ANSWER)
