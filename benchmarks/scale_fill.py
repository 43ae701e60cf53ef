"""A store of very many audited models from the store of a few, without reading them: their rows, under other names."""

from __future__ import annotations

from pathlib import Path

import duckdb

from storage.nights import night_summaries
from storage.parts import live_parts
from storage.schema import TABLES
from storage.store import open_store

PIECE_MODELS = 50_000  # of a part that is written


def fill(location: Path, audited: int, models: int) -> None:
    """Make of a store that holds models 0 to `audited` one that holds as many as are wanted.

    Model n gets the rows of model n modulo `audited`, with the repo and the commit that `scale_hub` gives to n.
    """
    store = open_store(location)
    [night] = {summary["night"] for summary in night_summaries(store)}
    with duckdb.connect(config={"memory_limit": "1GB", "preserve_insertion_order": False}) as database:
        for table in TABLES:
            parts = [str(store.place.local_path(name)) for name in live_parts(store, table)]
            for first in range(audited, models if parts else audited, PIECE_MODELS):
                target = store.place.local_path(f"parts/{table}/night={night}/filled-{first}.parquet")
                last = min(first + PIECE_MODELS, models)
                database.execute(_copies(target), {"parts": parts, "audited": audited, "first": first, "last": last})


def _copies(target: Path) -> str:
    return f"""
        COPY (
            SELECT rows.* REPLACE (
                printf('scale-%d/model-%d', n % 997, n) AS repo_id, printf('%08x%032x', 0, n) AS sha
            )
            FROM range($first, $last) AS numbers(n)
            JOIN read_parquet($parts, hive_partitioning = false) AS rows
                ON regexp_extract(rows.repo_id, '[0-9]+$')::BIGINT = n % $audited
        ) TO '{target}' (FORMAT parquet, COMPRESSION zstd)
    """
