"""The file of results: a line of JSON for each job that is done. It is the whole state of a run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.model.answers import Probed
from tasks.model.jobs import Job


@dataclass(frozen=True)
class Done:
    """One job that is done.

    Attributes:
        digest: the job's.
        found: its results.
    """

    digest: str
    found: tuple[Probed, ...]


def line_of(job: Job, found: Sequence[Probed]) -> str:
    """Return a job's line; `read_results` is its inverse."""
    results = [{"row": one.row, "gamma": one.gamma} for one in found]
    return json.dumps({"job": job.digest, "results": results}, allow_nan=False)


def append(path: Path, line: str) -> None:
    """Add a line, behind a line break where the last one was torn, and see it onto the disk."""
    with path.open("ab+") as file:
        file.seek(0, os.SEEK_END)
        if file.tell():
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else f"\n{line}"
        file.write(f"{line}\n".encode())
        file.flush()
        os.fsync(file.fileno())


def read_results(path: Path) -> list[Done]:
    """Return what a file of results holds, nothing where there is none; torn lines are passed over."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            results = tuple(Probed(one["row"], tuple(one["gamma"])) for one in entry["results"])
            found.append(Done(entry["job"], results))
        except (ValueError, KeyError, TypeError):
            continue  # a run was stopped while it wrote this; the job is done again
    return found


def done(results: Iterable[Done]) -> set[str]:
    """Return the digests of the jobs that are done."""
    return {result.digest for result in results}
