"""From the store's rows of one audit back to what was read: for a new method, or for a repo with the same weights."""

from __future__ import annotations

import dataclasses
import weakref
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from storage.outdated import OutdatedAudit
from storage.shared import KnownWeights
from storage.store import open_store
from tasks.core.reconclude import FROM_BYTES, KeptScale
from tasks.core.records import READ_VERSION, Evidence, ScaleFigures
from tasks.core.sharing import Kept
from tasks.core.verdicts import FROM_VALUES
from tasks.shelf import Shelf

_FIGURES = [field.name for field in dataclasses.fields(ScaleFigures)]


@lru_cache(maxsize=1)
def shelf_of(location: str, audit_id: str) -> Shelf:
    """Return what a process need not read again in a run: one for all its batches.

    Args:
        location: of the store, whose earlier nights' weights are known.
        audit_id: names the run.

    Raises:
        StoreError: the store cannot be read.
    """
    known = KnownWeights(open_store(location), READ_VERSION)
    shelf = Shelf(_Stored(known))
    weakref.finalize(shelf, known.close)  # at the latest when the process ends
    return shelf


def kept_scales(old: OutdatedAudit) -> dict[str, KeptScale]:
    """Return what the store keeps of the scales of one audit, by the scale tensor's name."""
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


def kept_of_rows(old: OutdatedAudit) -> Kept:
    """Return what the store keeps of a checkpoint of one file."""
    audit = old.audit
    return Kept(
        audit["repo_id"],
        audit["tensors"],
        kept_scales(old),
        tuple(word for word in audit["integrity"] or () if word in FROM_VALUES),
        audit["checkpoint_bytes"],
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Stored:
    """The store's known weights, as a shelf asks for them."""

    known: KnownWeights

    def __contains__(self, sha256: object) -> bool:
        return sha256 in self.known

    def find(self, sha256: str) -> Kept | None:
        old = self.known.find(sha256)
        return kept_of_rows(old) if old else None


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
