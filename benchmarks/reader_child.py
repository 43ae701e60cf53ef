"""One reader in a process of its own: reads the models that each question names, and tells what that took of it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.reader_process import Message, answer_lines

Repo = Mapping[str, Any]
Read = Callable[[Sequence[Repo], str, int], list[Any]]
OURS: Mapping[str, Mapping[str, Any]] = {
    "ours": {},
    "ours again": {"remembers": True},
    "ours by the index": {"shard_headers": "index"},
}


def main() -> None:
    read, digest = reader(sys.argv[1])
    before_bytes = memory_bytes("VmRSS")
    answer_lines(lambda question: measured(read, digest, before_bytes, **question))


def reader(name: str) -> tuple[Read, Callable[[Any], str | None]]:
    """Return a reader, and what its results amount to; each imports only what it needs."""
    endpoint = os.environ["HF_ENDPOINT"]
    if name in OURS:
        return ours(endpoint, **OURS[name]), digest_of_audit
    if name == "told":
        from benchmarks import reader_told

        return reader_told.reader(endpoint), digest_of_values
    import tasks.core.kernel  # noqa: F401 - for the digests, so that it is not counted as the rival's memory
    from benchmarks import reader_rivals as rivals

    return {
        "headers": rivals.headers_only,
        "headers in threads": rivals.headers_in_threads,
        "files in sequence": rivals.files_in_sequence,
        "files in threads": rivals.files_in_threads,
        "plain loop": partial(rivals.plain_loop, endpoint=endpoint),
    }[name], digest_of_values


def measured(
    read: Read,
    digest: Callable[[Any], str | None],
    before_bytes: int,
    repos: Sequence[Repo],
    norms: str,
    concurrency: int,
) -> Message:
    """Read the models and return the seconds, CPU seconds and memory that it took, and digests of the values read.

    Memory is the highest yet of this process, less what it had before its first model.
    """
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    results = read(repos, norms, concurrency)
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    grown = memory_bytes("VmHWM") - before_bytes
    return {
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "peak_bytes": grown,
        "digests": sorted({found for result in results if (found := digest(result))}),
        "models": len(results),
    }


def ours(endpoint: str, *, remembers: bool = False, shard_headers: Any = "auto") -> Read:
    """Return normaudit's own way: `audit_models`, whole, as a night's batch runs it.

    Args:
        endpoint: of the Hub.
        remembers: keep what was learnt of layouts from one question to the next, as a night does from batch to batch.
        shard_headers: where to learn what shards hold, as in `HubOptions`.
    """
    from tasks.batch import audit_models
    from tasks.core.reading import ReadOptions
    from tasks.core.records import Listing, RepoFile
    from tasks.core.registry import load_registry
    from tasks.hub import HubOptions, Learned
    from tasks.shelf import Shelf

    registry, learned, shelf = load_registry(), Learned(), Shelf()

    def listing(repo: Repo) -> Listing:
        files = tuple(map(RepoFile, repo["files"]))
        return Listing(repo["repo_id"], repo["sha"], files, repo["config"], parameter_count=repo["parameter_count"])

    async def audited(repos: Sequence[Repo], norms: Any, concurrency: int) -> list[Any]:
        options = ReadOptions(norms=norms, registry=registry)
        hub = HubOptions(endpoint, shard_headers=shard_headers)
        found = audit_models(
            map(listing, repos),
            hub,
            options,
            concurrency=concurrency,
            learned=learned,
            shelf=shelf if remembers else Shelf(),
        )
        async with aclosing(found):
            return [audit async for audit in found]

    return lambda repos, norms, concurrency: asyncio.run(audited(repos, norms, concurrency))


def digest_of_audit(audit: Any) -> str:
    """Return a digest of the figures of each scale that an audit read.

    Raises:
        RuntimeError: the audit failed.
    """
    if audit.reading.status != "ok":
        raise RuntimeError(f"{audit.listing.repo_id}: {audit.reading.status}: {audit.reading.reason}")
    return _digest({read.norm.scale_tensor: read.scale for read in audit.reading.norms if read.scale})


def digest_of_values(values: Mapping[str, Any] | None) -> str | None:
    """Return the same digest of values that were read in any other way."""
    import numpy as np

    from tasks.core.kernel import DEAD_TAU, scale_figures

    if values is None:
        return None
    return _digest({name: scale_figures(np.sort(gamma), DEAD_TAU) for name, gamma in values.items()})


def _digest(figures: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps({name: str(figures[name]) for name in sorted(figures)}).encode()).hexdigest()


def memory_bytes(field: str) -> int:
    """Return the resident memory of this process: now (VmRSS) or at its highest (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]


if __name__ == "__main__":
    main()
