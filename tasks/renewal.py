"""When the method changes: conclude the whole store anew, from what it keeps, without a request."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from uuid import uuid4

from storage.outdated import OutdatedAudit, outdated
from storage.parts import write_batch
from storage.store import open_store
from tasks.core.kernel import DEAD_TAU
from tasks.core.packing import unpack_config, unpack_tensors
from tasks.core.reconclude import reconclude
from tasks.core.records import METHOD_VERSION, READ_VERSION
from tasks.core.registry import Registry, load_registry
from tasks.core.rows import Row, Stamp, concluded_row, conclusion_rows, merge_rows
from tasks.keeping import kept_scales
from tasks.night import Night
from tasks.storing import VERSIONS

BATCH_AUDITS = 500

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
    concluded = reconclude(tensors, config, kept_scales(old), registry, tau)
    if concluded is None:
        return None
    rows = conclusion_rows(audit["repo_id"], audit["sha"], concluded.norms)
    return {"audits": [concluded_row(audit, concluded, stamp)], **rows}
