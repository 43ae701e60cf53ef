"""Audits into the store: a model whose rows cannot be stored costs that model alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from storage.errors import StoreError
from storage.parts import write_batch
from storage.rows import rows_to_table
from storage.schema import TABLES
from storage.store import Store
from tasks.core.errors import Failed, shown
from tasks.core.reading import unreadable
from tasks.core.records import METHOD_VERSION, READ_VERSION, Audit
from tasks.core.rows import Row, Stamp, audit_rows, merge_rows

VERSIONS = {"read_version": READ_VERSION, "method_version": METHOD_VERSION}

log = logging.getLogger("normaudit")


def store_audits(
    store: Store, stamp: Stamp, batch: int, audits: Sequence[Audit], listings: Sequence[Row] = ()
) -> list[Audit]:
    """Write the parts of a batch, the marker last; return the audits as they were stored.

    What a strange file makes of a row may be more than a column can hold. Such a model is stored as `failed`.

    Raises:
        StoreError: the store cannot be written.
    """
    try:
        _write(store, stamp, batch, [audit_rows(audit, stamp) for audit in audits], listings)
        return list(audits)
    except (StoreError, ValueError, TypeError, RecursionError) as error:
        fitting = [_storable(audit, stamp) for audit in audits]
        if fitting == list(audits):
            raise error if isinstance(error, StoreError) else StoreError(f"{store.location}: {error}") from error
    _write(store, stamp, batch, [audit_rows(audit, stamp) for audit in fitting], listings)
    return fitting


def _write(
    store: Store, stamp: Stamp, batch: int, rows: Sequence[Mapping[str, list[Row]]], listings: Sequence[Row]
) -> None:
    merged = merge_rows([{"listings": list(listings)}, *rows])
    write_batch(store, stamp.night, stamp.audit_id, batch, merged, VERSIONS)


def _storable(audit: Audit, stamp: Stamp) -> Audit:
    """Return the audit itself if its rows fit the tables, else one that failed and says why."""
    try:
        for table, rows in audit_rows(audit, stamp).items():
            rows_to_table(rows, TABLES[table], table, {"night": stamp.night, "audit_id": stamp.audit_id})
    except (StoreError, ValueError, TypeError, RecursionError) as error:
        listing = replace(audit.listing, config=None)
        failed = Failed(f"{shown(listing.repo_id)}: what was read cannot be stored: {shown(error, 300)}")
        log.warning("%s", failed)
        return replace(audit, listing=listing, reading=unreadable(failed, listing))
    return audit
