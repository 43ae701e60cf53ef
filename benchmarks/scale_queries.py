"""What questions cost on a large store: python -m benchmarks.scale_queries STORE.

The store is one that `python -m benchmarks.scale --store FOLDER` left. Each view is asked for its first rows and for
all of them; one model is asked for by name, in the database and, for its vectors, in the parts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.reader_child import memory_bytes
from storage.database import open_database
from storage.store import open_store
from storage.views import DERIVED

FIRST = 20  # rows: what a person looks at
RUNS = 3


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale_queries", description=__doc__)
    parser.add_argument("store", type=Path)
    store = open_store(parser.parse_args().store)
    before_bytes, started = memory_bytes("VmRSS"), time.perf_counter()
    with open_database(store) as database:
        print(f"opened in {time.perf_counter() - started:.2f} s\n\n| question | rows | s |\n| --- | --- | --- |")
        for question, rows, seconds in answers(database):
            print(f"| {question} | {rows:,} | {seconds:.3f} |", flush=True)
    print(f"\npeak memory {(memory_bytes('VmHWM') - before_bytes) / 1e6:,.0f} MB above the imports")


def answers(database: Any) -> Iterator[tuple[str, int, float]]:
    """Yield each question, its answer's rows and the least seconds that it took."""
    [(repo_id,)] = database.execute("SELECT repo_id FROM leaderboard OFFSET 1000 LIMIT 1").fetchall()
    questions = [
        *(f"FROM {view} LIMIT {FIRST}" for view in DERIVED),
        *(f"SELECT count(*) FROM {view}" for view in DERIVED),
        "SELECT kind, count(*), median(top_share) FROM leaderboard GROUP BY kind",
        "FROM latest WHERE repo_id = $repo",
        "SELECT gamma FROM kernels WHERE repo_id = $repo",
        "SELECT kernel_direction(gamma) FROM kernels WHERE repo_id = $repo",
    ]
    for question in questions:
        named = {"repo": repo_id} if "$repo" in question else {}
        yield question, *_timed(database, question, named)


def _timed(database: Any, question: str, named: dict[str, str]) -> tuple[int, float]:
    taken = []
    for _ in range(RUNS):
        started = time.perf_counter()
        rows = len(database.execute(question, named).fetchall())
        taken.append(time.perf_counter() - started)
    return rows, min(taken)


if __name__ == "__main__":
    main()
