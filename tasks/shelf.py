"""What one process has at hand while it audits: how files are laid out, and weights that need not be read again."""

from __future__ import annotations

import asyncio
from typing import Protocol

from tasks.core.memory import MAX_REMEMBERED_TENSORS, Memory, Recent
from tasks.core.records import Listing, Reading
from tasks.core.sharing import Kept, kept_of

MAX_KEPT = 512  # checkpoints, of about 40 kB each: most copies of one come close upon each other


class StoredWeights(Protocol):
    """The weights that a store holds the figures of, by their sha256."""

    def __contains__(self, sha256: object) -> bool:
        """Return at once whether some were read."""
        ...

    def find(self, sha256: str) -> Kept | None:
        """Return what was read; it may take a while. None: they were not, after all."""
        ...


class Shelf:
    """Weights that were read before, by this process or, as far as a store tells, by another.

    Args:
        stored: what the store knows; None: nothing.
    """

    def __init__(self, stored: StoredWeights | None = None) -> None:
        self.memory = Memory()
        self._stored = stored
        self._kept: Recent[str, Kept] = Recent(MAX_KEPT)

    def __contains__(self, sha256: object) -> bool:
        return sha256 in self._kept or (self._stored is not None and sha256 in self._stored)

    async def find(self, sha256: str) -> Kept | None:
        """Return what was read of these weights; None: it cannot be had."""
        kept = self._kept.get(sha256)
        if kept is None and self._stored is not None:
            kept = await asyncio.to_thread(self._stored.find, sha256)
        return kept

    def keep(self, listing: Listing, reading: Reading) -> None:
        """Remember what was read, if it is of one file whose hash the Hub told, and may be named in others' rows."""
        is_told = reading.weights_sha256 is not None and reading.status == "ok" and not listing.private
        if is_told and len(reading.tensors) <= MAX_REMEMBERED_TENSORS:
            self._kept.put(str(reading.weights_sha256), kept_of(listing.repo_id, reading))
