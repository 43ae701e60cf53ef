"""Rows and stores for the tests of `storage`."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np

from storage.database import build
from storage.nights import writing_plan
from storage.parts import write_batch
from storage.rows import rows_to_table
from storage.schema import CANDIDATES
from storage.store import Store, open_store
from tasks.core.rows import merge_rows

NIGHT = date(2026, 11, 1)
AUDITED_AT = datetime(2026, 11, 1, 3, tzinfo=UTC)


def night_after(nights: int) -> date:
    """The night so many nights after NIGHT."""
    return NIGHT + timedelta(nights)


def write_plan(store: Store, night: date, rows: list[dict[str, Any]], facts: dict[str, Any], batch_models=500) -> None:
    """Write a night's plan at once."""
    with writing_plan(store, night, batch_models, facts) as plan:
        plan.add(rows_to_table(rows, CANDIDATES, "plan"))


def audit(repo_id: str, sha: str | None = "s1", **facts: Any) -> dict[str, Any]:
    """A row of table audits."""
    return {
        "repo_id": repo_id,
        "sha": sha,
        "read_version": 1,
        "method_version": 1,
        "status": "ok",
        "norm_kind": "layernorm",
        "audited_at": AUDITED_AT,
        "integrity": [],
        "tensors": b"names",
        **facts,
    }


def listing(repo_id: str, sha: str | None = "s1", **facts: Any) -> dict[str, Any]:
    """A row of table listings."""
    return {
        "repo_id": repo_id,
        "sha": sha,
        "downloads": 10,
        "private": False,
        "created_at": "2026-02-03T04:05:06.000Z",
        "tags": ["x"],
        **facts,
    }


def conclusions(repo_id: str, sha: str | None = "s1", method_version: int = 1) -> dict[str, list[dict[str, Any]]]:
    """The rows of norms, kernels and evidence of one audited model of two norms."""
    key = {"repo_id": repo_id, "sha": sha, "method_version": method_version}
    norm = {**key, "tower": "text", "kind": "layernorm", "dim": 3, "confidence": 0.9, "parameterisation": "plain"}
    return {
        "norms": [
            {
                **norm,
                "module": "ln_f",
                "scale_tensor": "ln_f.weight",
                "site": "final",
                "is_final": True,
                "is_main": True,
            },
            {
                **norm,
                "module": "h.0.ln",
                "scale_tensor": "h.0.ln.weight",
                "layer": 0,
                "is_final": False,
                "is_main": False,
            },
        ],
        "kernels": [{**key, "tower": "text", "dim": 3, "gamma": np.array([1.0, 2.0, 4.0]), "predicted_dead_dim": 1}],
        "evidence": [
            {**key, "module": "ln_f", "source": "tensors", "says": "layernorm", "strength": 0.9, "detail": "a bias"}
        ],
    }


def probe(repo_id: str, sha: str | None = "s1", weights: str = "trained", **facts: Any) -> dict[str, Any]:
    """A row of table probes."""
    return {
        "repo_id": repo_id,
        "sha": sha,
        "method_version": 1,
        "weights": weights,
        "seed": 0,
        "inputs": "text",
        "n_tokens": 12,
        "dtype": "float32",
        "device": "cpu",
        "status": "ok",
        "verdict": "present",
        "dead_counts": {"1e-08": 1},
        "spectrum": np.array([2.0, 1.0, 1e-75]),
        "block_names": ["embeddings", "h.0"],
        "block_sigma_ratio": [None],
        **facts,
    }


def model(repo_id: str, sha: str | None = "s1", **facts: Any) -> dict[str, list[dict[str, Any]]]:
    """All rows of one audited, listed and probed model."""
    return {
        "listings": [listing(repo_id, sha)],
        "audits": [audit(repo_id, sha, **facts)],
        **conclusions(repo_id, sha),
        "probes": [probe(repo_id, sha, "random"), probe(repo_id, sha, "trained")],
    }


def write_ranked(location: object) -> None:
    """Make a store of three public models, a private one, a local folder and a failed audit, with its database."""
    public = [
        {**model(f"org/{name}"), "listings": [listing(f"org/{name}", downloads=downloads)]}
        for name, downloads in (("a", 5), ("b", 50), ("c", 1))
    ]
    private = {**model("org/secret"), "listings": [listing("org/secret", downloads=10**6, private=True)]}
    local = {name: rows for name, rows in model("/home/me/local").items() if name != "listings"}
    failed = {
        "audits": [audit("org/down", status="failed", reason="org/down: 503")],
        "listings": [listing("org/down")],
    }
    write_batch(open_store(location), NIGHT, "test", 0, merge_rows([*public, private, local, failed]))
    build(open_store(location))
