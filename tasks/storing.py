"""Audits into the store: a model whose rows cannot be stored costs that model alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pyarrow as pa

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
PACKED_AT_ONCE = 32  # audits: as objects one of 7 B parameters takes a megabyte, as columns a twentieth of it

log = logging.getLogger("normaudit")


class AuditWriter:
    """The audits of one batch on their way into its parts: they are held as columns, a few as objects.

    What a strange file makes of a row may be more than a column can hold. Such a model is stored as `failed`.

    Args:
        store: where to.
        stamp: of all of them.
        batch: its number.
        stored: is given each audit as it will be stored, in the order of `add`.
    """

    def __init__(self, store: Store, stamp: Stamp, batch: int, stored: Callable[[Audit], object]) -> None:
        self._store, self._stamp, self._batch, self._stored = store, stamp, batch, stored
        self._waiting: list[Audit] = []
        self._packed: dict[str, list[pa.Table]] = {}

    def add(self, audit: Audit) -> None:
        """Take one audit in."""
        self._waiting.append(audit)
        if len(self._waiting) == PACKED_AT_ONCE:
            self._pack()

    def write(self, listings: Sequence[Row] = ()) -> None:
        """Write the batch's parts, the marker last.

        Raises:
            StoreError: the store cannot be written.
        """
        self._pack()
        self._hold({"listings": listings})
        tables = {table: pa.concat_tables(packed) for table, packed in self._packed.items()}
        write_batch(self._store, self._stamp.night, self._stamp.audit_id, self._batch, tables, VERSIONS)

    def _pack(self) -> None:
        """Turn what waits into columns; where something does not fit, that audit alone becomes one that failed."""
        waiting, self._waiting = self._waiting, []
        try:
            self._hold(merge_rows([audit_rows(audit, self._stamp) for audit in waiting]))
        except _UNFIT:
            waiting = [self._storable(audit) for audit in waiting]
            self._hold(merge_rows([audit_rows(audit, self._stamp) for audit in waiting]))
        for audit in waiting:
            self._stored(audit)

    def _hold(self, rows: Mapping[str, Sequence[Row]]) -> None:
        for table, packed in self._columns(rows).items():
            self._packed.setdefault(table, []).append(packed)

    def _columns(self, rows: Mapping[str, Sequence[Row]]) -> dict[str, pa.Table]:
        common = {"night": self._stamp.night, "audit_id": self._stamp.audit_id}
        return {table: rows_to_table(group, TABLES[table], table, common) for table, group in rows.items() if group}

    def _storable(self, audit: Audit) -> Audit:
        """Return the audit itself if its rows fit the tables, else one that failed and says why."""
        try:
            self._columns(audit_rows(audit, self._stamp))
        except _UNFIT as error:
            listing = replace(audit.listing, config=None)
            failed = Failed(f"{shown(listing.repo_id)}: what was read cannot be stored: {shown(error, 300)}")
            log.warning("%s", failed)
            return replace(audit, listing=listing, reading=unreadable(failed, listing))
        return audit


_UNFIT = (StoreError, ValueError, TypeError, RecursionError)
