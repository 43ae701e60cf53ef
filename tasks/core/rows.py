"""An audit as rows of the store's tables, and as the object that `normaudit audit --json` prints."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from operator import attrgetter
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tasks.core.packing import pack_config, pack_tensors
from tasks.core.reconclude import Concluded
from tasks.core.records import (
    METHOD_VERSION,
    READ_VERSION,
    Audit,
    Evidence,
    Listing,
    Norm,
    Reading,
    ReadNorm,
    ScaleFigures,
)
from tasks.core.verdicts import FROM_NAMES

Row: TypeAlias = dict[str, Any]

COUNTED_KINDS = ("layernorm", "rmsnorm", "unknown")  # always in the JSON's counts, also when 0
_INDEX = re.compile(r"\d+")
_NORM_COLUMNS = [column.name for column in dataclasses.fields(Norm) if column.name != "evidence"]
_SCALE_COLUMNS = [column.name for column in dataclasses.fields(ScaleFigures)]
_norm_values, _scale_values = attrgetter(*_NORM_COLUMNS), attrgetter(*_SCALE_COLUMNS)
_UNREAD = dict.fromkeys(_SCALE_COLUMNS)


@dataclass(frozen=True, slots=True)
class Stamp:
    """Which run audits belong to, and when they were stored."""

    audit_id: str
    night: date
    audited_at: datetime


def audit_rows(audit: Audit, stamp: Stamp) -> dict[str, list[Row]]:
    """Return {table: rows} of one audit."""
    concluded = conclusion_rows(audit.listing.repo_id, audit.listing.sha, audit.reading.norms)
    return {"audits": [_audit_row(audit, stamp)], **concluded}


def listing_row(listing: Listing, night: date) -> Row:
    """Return one row of table `listings`."""
    config = listing.config or {}
    architectures = config.get("architectures")
    return {
        "night": night,
        **{name: getattr(listing, name) for name in _LISTING_COLUMNS},
        "tags": list(listing.tags),
        "model_type": _text(config.get("model_type")),
        "architectures": [str(name) for name in architectures] if isinstance(architectures, list) else None,
        "license": _tagged(listing.tags, "license:"),
        "base_models": list(
            dict.fromkeys(tag.rpartition(":")[2] for tag in listing.tags if tag.startswith("base_model:"))
        ),
    }


def audit_json(audit: Audit, *, all_norms: bool = False) -> Row:
    """Return the object that `normaudit audit --json` prints for one model; every number in it is finite."""
    reading, cost = audit.reading, audit.cost
    found = {
        "repo_id": audit.listing.repo_id,
        "sha": audit.listing.sha,
        "status": reading.status,
        "reason": reading.reason,
        "norm_kind": reading.norm_kind,
        "final_norms": [_final_json(read) for read in reading.norms if read.norm.is_final],
        "norms": _kind_counts(reading),
        "integrity": list(reading.integrity),
        **dataclasses.asdict(cost),
        "checkpoint_bytes": reading.checkpoint_bytes,
        "seconds": round(cost.seconds, 3),
    }
    return {**found, "norm_sites": [norm_row(read) for read in reading.norms]} if all_norms else found


def norm_row(read: ReadNorm) -> Row:
    """Return what table `norms` holds of one norm, without the key of its model."""
    columns = dict(zip(_NORM_COLUMNS, _norm_values(read.norm), strict=True))
    return columns | dict(zip(_SCALE_COLUMNS, _scale_values(read.scale), strict=True)) if read.scale else columns


def concluded_row(audit: Row, concluded: Concluded, stamp: Stamp) -> Row:
    """Return a stored row of table audits with what today's method concludes; what it cost to read stays as it was."""
    main = next((read.norm for read in concluded.norms if read.norm.is_main), None)
    return {
        **audit,
        **dataclasses.asdict(stamp),
        "method_version": METHOD_VERSION,
        "norm_kind": concluded.norm_kind,
        "final_tensor": main.scale_tensor if main else None,
        "integrity": [*concluded.integrity, *(word for word in audit["integrity"] or () if word not in FROM_NAMES)],
    }


def conclusion_rows(repo_id: str, sha: str | None, norms: Sequence[ReadNorm]) -> dict[str, list[Row]]:
    """Return the rows of tables norms, kernels and evidence of one checkpoint."""
    key = {"repo_id": repo_id, "sha": sha, "method_version": METHOD_VERSION}
    return {
        "norms": [{**key, **_UNREAD, **norm_row(read)} for read in norms],
        "kernels": [{**key, **_kernel_row(read)} for read in norms if read.kernel],
        "evidence": [{**key, **row} for row in _evidence_rows([read.norm for read in norms])],
    }


def merge_rows(parts: Sequence[Mapping[str, list[Row]]]) -> dict[str, list[Row]]:
    """Return the rows of many audits, table by table."""
    merged: dict[str, list[Row]] = {}
    for part in parts:
        for table, rows in part.items():
            merged.setdefault(table, []).extend(rows)
    return merged


_LISTING_COLUMNS = (
    "repo_id",
    "sha",
    "author",
    "created_at",
    "last_modified",
    "downloads",
    "likes",
    "library_name",
    "pipeline_tag",
    "gated",
    "private",
    "disabled",
    "parameter_count",
)


def _audit_row(audit: Audit, stamp: Stamp) -> Row:
    reading = audit.reading
    main = next((read.norm for read in reading.norms if read.norm.is_main), None)
    return {
        **dataclasses.asdict(stamp),
        "audited_at": audit.audited_at or stamp.audited_at,
        "repo_id": audit.listing.repo_id,
        "sha": audit.listing.sha,
        "read_version": READ_VERSION,
        "method_version": METHOD_VERSION,
        "status": reading.status,
        "reason": reading.reason,
        "norm_kind": reading.norm_kind,
        "final_tensor": main.scale_tensor if main else None,
        "integrity": list(reading.integrity),
        "tensors": pack_tensors(reading.tensors),
        "tensor_count": len(reading.tensors),
        "file_count": reading.file_count,
        "checkpoint_bytes": reading.checkpoint_bytes,
        **dataclasses.asdict(audit.cost),
        "weights_sha256": reading.weights_sha256,
        "shared_from": audit.shared_from,
        "config": pack_config(reading.config),
    }


def _kernel_row(read: ReadNorm) -> Row:
    return {
        **(dataclasses.asdict(read.kernel) if read.kernel else {}),
        "tower": read.norm.tower,
        "dim": read.norm.dim,
        "gamma": _finite(read.gamma),
        "beta": _finite(read.beta),
        "gamma_sha256": read.gamma_sha256,
    }


def _finite(vector: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
    """Return the vector, or None where it holds NaN or Inf: the store keeps neither."""
    return vector if vector is not None and np.isfinite(vector).all() else None


def _evidence_rows(norms: Sequence[Norm]) -> Iterator[Row]:
    """Yield all facts on final norms; of what the norms of many layers share, that on the first of them."""
    told: set[tuple[str, Evidence]] = set()
    told_whole: set[tuple[str, int]] = set()  # by identity: layers share one tuple of facts, costly to compare
    for norm in norms:
        pattern = _INDEX.sub("#", norm.module)
        if not norm.is_final and (pattern, id(norm.evidence)) in told_whole:
            continue
        told_whole.add((pattern, id(norm.evidence)))
        for fact in norm.evidence:
            if norm.is_final or (pattern, fact) not in told:
                told.add((pattern, fact))
                yield {
                    "module": norm.module,
                    "scale_tensor": norm.scale_tensor,
                    "source": fact.source,
                    "says": fact.says,
                    "strength": fact.strength,
                    "detail": fact.detail,
                }


def _final_json(read: ReadNorm) -> Row:
    norm = read.norm
    kernel = {k: v for k, v in dataclasses.asdict(read.kernel).items() if k != "dead_tau"} if read.kernel else None
    return {
        "tower": norm.tower,
        "main": norm.is_main,
        "tensor": norm.scale_tensor,
        "bias_tensor": norm.bias_tensor,
        "kind": norm.kind,
        "parameterisation": norm.parameterisation,
        "dim": norm.dim,
        "dtype": norm.dtype,
        "confidence": norm.confidence,
        "decided_by": norm.decided_by,
        "kernel": kernel,
    }


def _kind_counts(reading: Reading) -> dict[str, int]:
    counts = Counter(str(read.norm.kind) for read in reading.norms)
    return {**dict.fromkeys(COUNTED_KINDS, 0), **counts}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _tagged(tags: Sequence[str], prefix: str) -> str | None:
    return next((tag.removeprefix(prefix) for tag in tags if tag.startswith(prefix)), None)
