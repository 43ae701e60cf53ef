"""Editions of the site for tests."""

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from tasks.site import COLUMNS, Edition, site_files

MADE = datetime(2026, 11, 2, 3, 4, tzinfo=UTC)


def row(repo_id: str = "org/a", **facts: Any) -> dict[str, Any]:
    """Return a row of the leaderboard."""
    return {
        "repo_id": repo_id,
        "downloads": 1234,
        "kind": "layernorm",
        "parameterisation": "plain",
        "hidden_size": 768,
        "predicted_dead_dim": 1,
        "participation_fraction": 0.51234,
        "top_share": 0.0421,
        "condition_number": 12.34,
        "confidence": 0.99,
        "audited_at": MADE,
        **facts,
    }


def edition(*rows: dict[str, Any], coverage=({"status": "ok", "models": 1},), **facts: Any) -> Edition:
    """Return an edition of these rows."""
    ranking = pa.table({column.name: [row.get(column.name) for row in rows] for column in COLUMNS})
    return Edition(ranking, coverage, MADE, 1, **facts)


def rendered(edition: Edition) -> dict[str, bytes]:
    """Return the content of each file of the site."""
    return {name: b"".join(pieces) for name, pieces in site_files(edition).items()}
