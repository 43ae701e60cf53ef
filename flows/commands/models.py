"""Subcommands about models that are named on the command line: audit, explain."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from flows import output
from flows.commands.shared import StoreOption, app, plain_errors
from flows.settings import default_store
from tasks.core.records import Audit
from tasks.core.rows import audit_json

ANSWERED = ("ok", "no_norms")  # with any other status `audit` exits with 1


class Norms(StrEnum):
    """Whose scales are read."""

    final = "final"
    all = "all"


WeightsEvidenceOption = Annotated[
    int,
    typer.Option(
        "--weights-evidence",
        min=0,
        metavar="BYTES",
        help="Read so many bytes of each model's smallest output projections where nothing else tells a kind.",
    ),
]


BehaviourOption = Annotated[
    bool,
    typer.Option(
        "--behaviour",
        help="Build an architecture that the registry does not know, tiny, from the model's config, and run it;"
        " needs the extra `probe`.",
    ),
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
    behaviour: BehaviourOption = False,
    weights_evidence: WeightsEvidenceOption = 0,
) -> None:
    """Audit models now: read their norm scales, tell LayerNorm from RMSNorm, extract the kernel directions."""
    from flows import adhoc

    with plain_errors():
        named = [model for text in models for model in adhoc.checkpoints_of(adhoc.model_named(text))]
        done: list[Audit] = []
        registry = adhoc.registry_for(use_registry=not no_registry, behaviour=behaviour)
        audits = adhoc.audits(named, norms=norms.value, registry=registry, weights_evidence_bytes=weights_evidence)
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
    behaviour: BehaviourOption = False,
    weights_evidence: WeightsEvidenceOption = 0,
) -> None:
    """Show the norms found, which is final and why, each piece of evidence, what would change the answer."""
    from flows import explaining

    with plain_errors():
        found = explaining.explained(
            model, use_registry=not no_registry, behaviour=behaviour, weights_evidence_bytes=weights_evidence
        )
        if json:
            output.print_json(explaining.as_json(found))
        else:
            explaining.show(found)
    raise typer.Exit(0 if found.audit.reading.status in ANSWERED else 1)
