"""A probe's answer: its row of table probes, without the columns that the store fills in. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal, TypeAlias

import numpy as np

from tasks.core.kernel import near_dead
from tasks.core.probing import log10_deepening
from tasks.core.records import METHOD_VERSION
from tasks.model.faults import NoProbe
from tasks.model.jobs import Job

Row: TypeAlias = dict[str, Any]
Kind = Literal["random", "trained"]
Say = Callable[[str], None]  # is told of the progress

REASON_CHARS = 1_000


@dataclass(frozen=True)
class Probed:
    """What one probe has found.

    Attributes:
        row: of table probes.
        gamma: the norm's effective scale; empty where there is no answer.
    """

    row: Row
    gamma: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Spent:
    """What a probe took, in seconds and bytes."""

    load_s: float
    forward_s: float
    linalg_s: float
    peak_bytes: int | None


def answered(job: Job, kind: Kind, columns: Row, remarks: list[str], spent: Spent) -> Row:
    """Return the row of a probe with an answer."""
    return {
        **_key(job, kind),
        **columns,
        "seconds_load": spent.load_s,
        "seconds_forward": spent.forward_s,
        "seconds_linalg": spent.linalg_s,
        "peak_memory_bytes": spent.peak_bytes,
        "status": "ok",
        "reason": "; ".join(remarks)[:REASON_CHARS] or None,
    }


def failed(job: Job, kind: Kind, error: NoProbe) -> Probed:
    """Return the row of a probe without an answer."""
    row = {**_key(job, kind), "inputs": job.inputs, "n_tokens": job.tokens}
    return Probed({**row, "status": error.status, "reason": str(error)[:REASON_CHARS]})


def deepened(at_random: Probed, trained: Probed) -> Probed:
    """Return the trained probe with log10_deepening, which takes both."""
    gamma = np.array(trained.gamma)
    before, after = (one.row.get("lambda_u_rel_float32") for one in (at_random, trained))
    value = log10_deepening(before, after, near_dead(gamma).size if gamma.size else 0)
    return Probed({**trained.row, "log10_deepening": value}, trained.gamma)


def _key(job: Job, kind: Kind) -> Row:
    return {
        "repo_id": job.repo_id,
        "sha": job.sha,
        "method_version": METHOD_VERSION,
        "weights": kind,
        "seed": job.seed,
        "dtype": job.dtype,
        "device": job.device,
        **_versions(),
    }


@cache
def _versions() -> Row:
    return {f"{name}_version": _version(name) for name in ("torch", "transformers")}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
