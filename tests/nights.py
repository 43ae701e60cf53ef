"""Whole nights for tests: small models, the command in a process of its own, and what it leaves in the store."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from deployments.demo.catalogue import BytesContent, StandInRepo
from deployments.demo.standin import StandIn
from flows.crawl import crawl_of
from flows.settings import NightlySettings
from storage.database import open_database
from storage.parts import read_columns
from storage.store import open_store
from tasks import night as stages
from tasks.night import Crawl, Night
from tests.checkpoints import GPT2_CONFIG, LLAMA_CONFIG, gpt2, llama, safetensors_file

ROOT = Path(__file__).resolve().parent.parent
TODAY, TOMORROW = date(2026, 3, 1), date(2026, 3, 2)
PLENTY = (10**9, 10**12)  # requests and bytes: no budget at all
NIGHT_S = 300  # far more than a night takes, also on a machine that does much else; reached only when something hangs
SETTINGS = """
[[sources]]
top = 1000
[limits]
batch_models = 5
concurrency = 4
retries = 1
timeout_s = 5
[gate]
min_models = 10
"""
# What differs between two nights that found the same: who wrote a row, when, and at what cost (a process that has seen
# more models guesses better where the next one's norms lie).
PASSING = {"audit_id", "audited_at", "night", "seconds", "bytes_read", "hub_requests", "cdn_requests"}


def repo(name: str, tensors: Mapping[str, Any], config: object, **facts: Any) -> StandInRepo:
    """Return a repo of one checkpoint and its config."""
    files = {
        "model.safetensors": BytesContent(safetensors_file(tensors)),
        "config.json": BytesContent(json.dumps(config).encode()),
    }
    return StandInRepo(name, files, **facts)


def repos(count: int = 6) -> list[StandInRepo]:
    """Return so many sound models, Llamas and GPT-2s in turn."""
    return [
        repo(f"org/gpt2-{i}", gpt2(seed=i), GPT2_CONFIG, downloads=100 - i)
        if i % 2
        else repo(f"org/llama-{i}", llama(seed=i), LLAMA_CONFIG, downloads=100 - i)
        for i in range(count)
    ]


def start_night(
    hub: StandIn, store: Path, config: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start a night against a Hub, in a process of its own."""
    command = [sys.executable, "-m", "flows.cli", "nightly", "--config", str(config), "--endpoint", hub.endpoint]
    return subprocess.Popen(
        [*command, "--store", str(store)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **(environment or {})},
        cwd=ROOT,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for the night's end; return its exit status and what it printed."""
    out, err = process.communicate(timeout=NIGHT_S)
    return process.returncode, out, err


def rows(store: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of every table of a store's database, but for the columns that no two nights share."""
    with open_database(open_store(store)) as database:
        return {
            table: database.execute(f"SELECT {_lasting(database, table)} FROM {table} ORDER BY ALL").fetchall()
            for table in ("listings", "audits", "norms", "kernels", "evidence")
        }


def _lasting(database: Any, table: str) -> str:
    columns = [name for name, *_ in database.execute(f"DESCRIBE {table}").fetchall()]
    return ", ".join(f'"{name}"' for name in columns if name not in PASSING)


def children_of(pid: int) -> dict[int, str]:
    """Return the command lines of the living processes that pid has started."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found[int(stat.parent.name)] = stat.with_name("cmdline").read_text()
        except (OSError, ProcessLookupError):
            continue
    return found


def crawl_with(hub: StandIn, **settings: Any) -> Crawl:
    """Return what a night asks of a Hub in small batches, with some settings changed."""
    limits = {"batch_models": 2, "concurrency": 4, "retries": 1, **settings.pop("limits", {})}
    return crawl_of(NightlySettings.model_validate({"endpoint": hub.endpoint, "limits": limits, **settings}))


def run_night(
    location: str,
    crawl: Crawl,
    today: date = TODAY,
    batches: int | None = None,
    budget: tuple[int, int] = PLENTY,
) -> Night:
    """Run a night's stages up to its end, or only some of its batches; return the night."""
    night = stages.begin_night(location, today)
    if not night.is_planned:
        stages.plan_night(night, crawl)
    for batch in stages.open_batches(night)[:batches]:
        asyncio.run(stages.audit_batch(night, crawl, batch, stages.remaining_budget(night, *budget)))
    if batches is None:
        stages.end_night(night, stages.summarise(night))
    return night


def audited(location: str, night: Night, *columns: str) -> list[tuple[Any, ...]]:
    """Return these columns of what a night has audited."""
    found = read_columns(
        open_store(location), "audits", night.night, night.audit_id, columns or ("repo_id", "status")
    ).to_pylist()
    return sorted(tuple(row.values()) for row in found)
