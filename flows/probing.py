"""Probes made on request: models named on the command line, run in processes of their own, shown and stored."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from flows.adhoc import model_named, rebuilt
from flows.charts import draw
from flows.output import UsageError, cell, messages, one_line, print_json, print_table
from storage.errors import StoreError
from storage.parts import write_batch
from storage.rows import rows_to_table
from storage.schema import TABLES
from storage.store import open_store
from tasks.core.errors import shown
from tasks.core.reading import ReadOptions
from tasks.core.records import METHOD_VERSION, READ_VERSION
from tasks.folder import audit_folder
from tasks.model.answers import Probed
from tasks.model.jobs import Job, parse_job

DEAD = "1e-08"  # the threshold of dead_counts that is shown: the square of that for near-dead coordinates
ANSWERED = "ok"
FINE = (ANSWERED, "no_norms")  # with any other status `probe` exits with 1


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table that a person sees.

    Attributes:
        name: as the column is called, or what is computed from it.
        means: in a line.
        of: its value in a row.
    """

    name: str
    means: str
    of: Callable[[Mapping[str, Any]], Any]


def jobs_for(models: Sequence[str], settings: Mapping[str, Any]) -> list[Job]:
    """Return a job for each model that a user names.

    Args:
        models: org/name, org/name@revision or a local folder.
        settings: fields of a job that hold for all; those that are None are left to their defaults.

    Raises:
        UsageError: a model or a setting cannot be used, or torch and transformers are not there.
    """
    lacking = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if lacking:
        raise UsageError(f"a probe needs {' and '.join(lacking)}; install the extra: pip install 'normaudit[probe]'")
    given = {name: value for name, value in settings.items() if value is not None}
    try:
        return [parse_job({**_place(text), **given}) for text in models]
    except ValueError as error:
        raise UsageError(str(error)) from error


def run(
    models: Sequence[str], settings: Mapping[str, Any], collect: Path | None, *, as_json: bool, plot: Path | None
) -> list[Probed]:
    """Probe models, or take in what was probed elsewhere; print each as it is done, and return all.

    Args:
        models: as the user names them.
        settings: of their jobs.
        collect: a file of results to take in instead; None: probe.
        as_json: print rows rather than tables.
        plot: a file to draw the last model into; None: draw nothing.

    Raises:
        UsageError: neither or both are given, or something of them cannot be used.
    """
    if bool(models) == bool(collect):
        raise UsageError("give either MODEL... to probe, or --collect FILE with what was probed elsewhere")
    every: list[Probed] = []
    groups = iter([collected(collect)]) if collect else _with_progress(jobs_for(models, settings))
    for found in groups:
        every += found
        for one in found if as_json else ():
            print_json(_known(one.row))
        if not as_json and not collect:
            show(found)
        if plot:
            draw(found, plot)
    return every


def _with_progress(jobs: Sequence[Job]) -> Iterator[list[Probed]]:
    """Yield what each job finds; on a terminal stderr says meanwhile how far it is."""
    for job in jobs:
        with messages().status(f"probing {shown(job.repo_id)}") as status:
            [found] = probed([job], status.update)
        yield found


def probed(jobs: Sequence[Job], say: Callable[[str], None]) -> Iterator[list[Probed]]:
    """Yield what each job finds, one result for each kind of weights."""
    from tasks.model.isolation import run_isolated

    for job in jobs:
        yield run_isolated(job, _saying_of(job, say))


def _saying_of(job: Job, say: Callable[[str], None]) -> Callable[[str], None]:
    return lambda text: say(f"{shown(job.repo_id)}: {shown(text)}")


def collected(file: Path) -> list[Probed]:
    """Return what a file of results of `python -m tasks.model` holds.

    Raises:
        UsageError: there is no such file.
    """
    from tasks.model.results import read_results

    if not file.is_file():
        raise UsageError(f"{file}: no such file; --collect takes what `python -m tasks.model` has written")
    return [found for done in read_results(file) for found in done.found]


def keep(found: Sequence[Probed], location: str) -> str:
    """Write rows of probes to the store, rebuild its database, and return what was done in words.

    Raises:
        StoreError: the store cannot be written.
    """
    store, now = open_store(location), datetime.now(UTC)
    audit_id = f"probe-{now:%Y%m%dT%H%M%S}-{uuid4().hex[:8]}"
    common = {"night": now.date(), "audit_id": audit_id}
    rows = [{**_known(one.row), "probed_at": one.row.get("probed_at") or now} for one in found]
    fitting = [row for row in rows if _fits(row, common)]
    versions = {"read_version": READ_VERSION, "method_version": METHOD_VERSION}
    write_batch(store, now.date(), audit_id, 0, {"probes": fitting}, versions)
    unfit = f", {len(rows) - len(fitting)} could not be stored" if len(fitting) < len(rows) else ""
    count = f"{len(fitting)} {'probe' if len(fitting) == 1 else 'probes'}"
    return f"{count} written to {store.location}{unfit}{rebuilt(store, 'the probes')}"


def show(found: Sequence[Probed]) -> None:
    """Print the figures of one model, a column for each kind of weights, and what each means."""
    rows = [one.row for one in found]
    answered = [row for row in rows if row["status"] == ANSWERED]
    for row in rows:
        print(f"{shown(row['repo_id'])}, {row['weights']} weights: {_headline(row)}")
    if answered:
        columns = ["figure", *(row["weights"] for row in answered), "what it means"]
        lines = [(f.name, *(cell(f.of(row)) for row in answered), f.means) for f in FIGURES]
        print_table(columns, [line for line in lines if set(line[1:-1]) != {cell(None)}])
    print()


FIGURES = (
    Figure("verdict", "whether the norm takes the mean off what it is given, seen in the data", lambda r: r["verdict"]),
    Figure(
        "mean_share",
        "power of the normed data along 1: 1e-31 under a LayerNorm, about 1 else",
        lambda r: r["mean_share"],
    ),
    Figure("alignment", "the direction of least variance against u, predicted from γ", lambda r: r["alignment"]),
    Figure("subspace_alignment", "share of u that lies within all dead directions", lambda r: r["subspace_alignment"]),
    Figure("subspace_overlap", "share of the predicted dead directions that are dead", lambda r: r["subspace_overlap"]),
    Figure(
        "dead directions", f"eigenvalues at most {DEAD} of the mean one", lambda r: (r["dead_counts"] or {}).get(DEAD)
    ),
    Figure("lambda_u_rel", "variance along u, of the mean variance; norm in float64", lambda r: r["lambda_u_rel"]),
    Figure(
        "lambda_u_rel_float32",
        "the same, norm in float32: what rounding makes of it",
        lambda r: r["lambda_u_rel_float32"],
    ),
    Figure(
        "logit_invariance",
        "change of the logits along u, of that along random directions",
        lambda r: r["logit_invariance"],
    ),
    Figure(
        "smallest block ratio", "worst factor by which a block shrinks the stream's least σ", lambda r: _worst_ratio(r)
    ),
    Figure("preserved", "no block shrinks it below a tenth", lambda r: r.get("preserved")),
    Figure("log10_deepening", "decades that training has deepened λ_u by", lambda r: r.get("log10_deepening")),
    Figure("tokens", "tokens measured", lambda r: r["n_tokens"]),
    Figure("load s", "to build and fill the model", lambda r: r["seconds_load"]),
    Figure("forward s", "for the forward passes", lambda r: r["seconds_forward"]),
    Figure("linear algebra s", "for factors and singular values", lambda r: r["seconds_linalg"]),
    Figure("peak bytes", "memory beyond what importing the libraries takes", lambda r: r["peak_memory_bytes"]),
)


def _place(text: str) -> dict[str, Any]:
    """Return the fields of a job that say which model is meant."""
    model = model_named(text)
    if model.path is None:
        return {"repo_id": model.repo_id, "sha": model.revision}
    name = os.fsencode(model.path).decode("utf-8", "backslashreplace")
    return {"repo_id": name, "folder": model.path, "sha": audit_folder(model.path, ReadOptions()).listing.sha}


def _known(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a row that the table has: a file of results may come from another version."""
    return {name: value for name, value in row.items() if name in TABLES["probes"].names}


def _fits(row: Mapping[str, Any], common: Mapping[str, Any]) -> bool:
    try:
        rows_to_table([row], TABLES["probes"], "probes", common)
    except (StoreError, ValueError, TypeError):
        return False
    return True


def _headline(row: Mapping[str, Any]) -> str:
    if row["status"] != ANSWERED:
        return f"{row['status']}: {one_line(ValueError(row['reason']))}"
    norm = shown(row["final_tensor"]) if row["final_tensor"] else "a norm without affine"
    said = f"{norm}, {row['inputs']} inputs, {row['dtype']} on {shown(row['device'])}"
    return f"{said}; {shown(row['reason'], 1_000)}" if row["reason"] else said


def _worst_ratio(row: Mapping[str, Any]) -> float | None:
    ratios = [ratio for ratio in (row.get("block_sigma_ratio") or [])[1:] if ratio is not None]
    return min(ratios, default=None)
