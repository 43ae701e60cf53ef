"""When the method changes: conclude the whole store anew, from what it keeps, without a request."""

from __future__ import annotations

import dataclasses
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import numpy as np

from storage.outdated import OutdatedAudit, outdated
from storage.parts import write_batch
from storage.store import open_store
from tasks.core.kernel import DEAD_TAU
from tasks.core.reconclude import KeptScale, reconclude
from tasks.core.records import METHOD_VERSION, READ_VERSION, Evidence, ScaleFigures
from tasks.core.registry import Registry, load_registry
from tasks.core.rows import Row, Stamp, concluded_row, conclusion_rows, merge_rows, unpack_config, unpack_tensors
from tasks.night import Night
from tasks.storing import VERSIONS

BATCH_AUDITS = 500
FROM_BYTES = (
    "values",
    "weights",
    "behaviour",
)  # sources of evidence that cannot be asked again without reading, or running
_FIGURES = [field.name for field in dataclasses.fields(ScaleFigures)]

log = logging.getLogger("normaudit")


def renew(night: Night, method_version: int = METHOD_VERSION) -> int:
    """Conclude by today's method what an older one concluded; return how many audits were renewed.

    Killed and run again, it does some of them twice, which leaves no duplicate: the key holds the method_version.

    Raises:
        StoreError: the store cannot be read or written.
    """
    store, registry = open_store(night.store), load_registry()
    stamp = Stamp(f"{night.audit_id}-renewal-{uuid4().hex[:8]}", night.night, datetime.now(UTC))
    waiting: list[dict[str, list[Row]]] = []
    batches = renewed = 0
    for old in outdated(store, READ_VERSION, method_version):
        if rows := _renewed(old, registry, stamp):
            waiting.append(rows)
            renewed += 1
        if len(waiting) == BATCH_AUDITS:
            write_batch(store, night.night, stamp.audit_id, batches, merge_rows(waiting), VERSIONS)
            waiting, batches = [], batches + 1
    if waiting:
        write_batch(store, night.night, stamp.audit_id, batches, merge_rows(waiting), VERSIONS)
    if renewed:
        log.info("concluded %d audits anew by method %d, without a request", renewed, method_version)
    return renewed


def _renewed(old: OutdatedAudit, registry: Registry, stamp: Stamp) -> dict[str, list[Row]] | None:
    """Return the rows of one audit by today's method; None where a scale is wanted that was never read."""
    audit = old.audit
    tensors, config = unpack_tensors(audit["tensors"]), unpack_config(audit["config"])
    tau = next((kernel["dead_tau"] for kernel in old.kernels), DEAD_TAU)
    concluded = reconclude(tensors, config, _kept(old), registry, tau)
    if concluded is None:
        return None
    rows = conclusion_rows(audit["repo_id"], audit["sha"], concluded.norms)
    return {"audits": [concluded_row(audit, concluded, stamp)], **rows}


def _kept(old: OutdatedAudit) -> dict[str, KeptScale]:
    kernels = {kernel["tower"]: kernel for kernel in old.kernels}
    seen: dict[str, list[Evidence]] = defaultdict(list)
    for row in old.evidence:
        if row["source"] in FROM_BYTES:
            seen[row["scale_tensor"]].append(Evidence(row["source"], row["says"], row["strength"], row["detail"]))
    return {
        norm["scale_tensor"]: _kept_scale(norm, kernels.get(norm["tower"]) if norm["is_final"] else None, seen)
        for norm in old.norms
        if norm["scale_tensor"]
    }


def _kept_scale(
    norm: Mapping[str, Any], kernel: Mapping[str, Any] | None, seen: Mapping[str, Sequence[Evidence]]
) -> KeptScale:
    was_read = norm["nonfinite_count"] is not None
    vectors = {name: kernel[name] if kernel else None for name in ("gamma", "beta")}
    return KeptScale(
        parameterisation=norm["parameterisation"],
        figures=ScaleFigures(**{name: norm[name] for name in _FIGURES}) if was_read else None,
        **{name: None if values is None else np.array(values, np.float64) for name, values in vectors.items()},
        gamma_sha256=kernel["gamma_sha256"] if kernel else None,
        seen=tuple(seen.get(norm["scale_tensor"], ())),
        kind=norm["kind"],
        confidence=norm["confidence"],
        decided_by=norm["decided_by"],
    )
