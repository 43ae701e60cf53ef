"""What a plan keeps of a listed repo: from the listing to rows of the plan, and back to what a batch audits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np
import orjson

from tasks.batch import Refusal
from tasks.core.records import Audit, Listing, Reading, RepoFile
from tasks.core.rows import Row

T = TypeVar("T")
# What of the Hub's config digest bears on norms; the rest (chat templates, say) is long and bears on nothing here.
DIGEST_KEYS = ("architectures", "model_type", "auto_map", "quantization_config", "diffusers")


class Seen:
    """Which names have come before, at eight bytes each: a set of a million names would take 150 MB."""

    def __init__(self) -> None:
        self._known = np.empty(0, np.int64)  # hashes, sorted; two names of a million share one in 1 of 10⁷ runs

    def first_of(self, names: Sequence[str]) -> list[int]:
        """Return the positions of the names that never came before, each once, and remember them."""
        hashes, positions = np.unique(np.fromiter(map(hash, names), np.int64, len(names)), return_index=True)
        places = np.searchsorted(self._known, hashes)
        is_new = np.append(self._known, 0)[places] != hashes
        is_new |= places == len(self._known)
        self._known = np.insert(self._known, places[is_new], hashes[is_new])
        return sorted(positions[is_new].tolist())


def pieces(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of this size; the last one may be shorter."""
    iterator = iter(items)
    return iter(lambda: list(islice(iterator, size)), [])


def candidate_row(item: Listing | Refusal) -> Row:
    """Return the row of the plan for one repo."""
    if isinstance(item, Refusal):
        return {"repo_id": item.repo_id, "sha": None, "status": item.status, "reason": item.reason}
    if item.disabled:
        return {"repo_id": item.repo_id, "sha": item.sha, "status": "disabled", "reason": "the Hub's listing says so"}
    digest = {key: item.config[key] for key in DIGEST_KEYS if key in item.config} if item.config else None
    return {
        "repo_id": item.repo_id,
        "sha": item.sha,
        "files": [{"path": file.path, "size_bytes": file.size_bytes, "sha256": file.sha256} for file in item.files],
        "config": orjson.dumps(digest).decode() if digest is not None else None,
        "private": item.private,
        "gated": item.gated,
        "parameter_count": item.parameter_count,
        "is_head": item.is_head,
    }


def listing_of_row(row: Row) -> Listing:
    """Return what is to be audited by a row of the plan."""
    return Listing(
        repo_id=row["repo_id"],
        sha=row["sha"],
        files=tuple(RepoFile(**file) for file in row["files"] or ()),
        config=orjson.loads(row["config"]) if row["config"] is not None else None,
        private=row["private"],
        gated=row["gated"],
        parameter_count=row["parameter_count"],
        is_head=row["is_head"] is not False,
    )


def refused(row: Row) -> Audit:
    """Return the audit of a repo for which the listing itself was the answer."""
    return Audit(Listing(row["repo_id"], row["sha"]), Reading(row["status"], row["reason"], None))
