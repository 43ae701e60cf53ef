"""The whole pipeline without Prefect: from the listing to the night's parts, in a process of its own."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.reader_child import memory_bytes
from benchmarks.reader_process import Message, answer_lines
from tasks import night as stages
from tasks.core.reading import ReadOptions
from tasks.core.registry import load_registry
from tasks.hub import HubOptions, ListingQuery

TODAY = date(2026, 1, 1)
PLENTY = 10**15  # of requests and of bytes
CONCURRENCY, BATCH_MODELS = 64, 500  # the defaults of a night's settings


def main() -> None:
    load_registry()
    before_bytes = memory_bytes("VmRSS")
    answer_lines(lambda question: measured(before_bytes, **question))


def measured(before_bytes: int, organisation: str, norms: Any) -> Message:
    """Run one night on a new store and return what each stage took, and what was stored."""
    took: Message = {}
    with tempfile.TemporaryDirectory() as store:
        night = stages.begin_night(store, TODAY)
        crawl = crawl_of(organisation, norms)
        _timed(took, "plan", lambda: stages.plan_night(night, crawl))
        _timed(took, "audit", lambda: _audit(night, crawl))
        summary = stages.summarise(night)
        _timed(took, "end", lambda: stages.end_night(night, summary))
        stored_bytes = sum(path.stat().st_size for path in Path(store).rglob("*.parquet"))
    took |= {
        f"{what}_s": sum(took[f"{stage}_{what}_s"] for stage in ("plan", "audit", "end")) for what in ("wall", "cpu")
    }
    if summary["statuses"].keys() != {"ok"}:
        raise RuntimeError(f"not every model could be audited: {summary['statuses']}")
    return took | {
        "models": summary["audited"],
        "stored_bytes": stored_bytes,
        "peak_bytes": memory_bytes("VmHWM") - before_bytes,
    }


def crawl_of(organisation: str, norms: Any) -> stages.Crawl:
    """Return a night's crawl over one organisation's models."""
    return stages.Crawl(
        hub=HubOptions(os.environ["HF_ENDPOINT"]),
        queries=(ListingQuery(author=organisation),),
        repos=(),
        opt_out=(),
        read=ReadOptions(norms=norms),
        use_registry=True,
        models=1_000_000,
        concurrency=CONCURRENCY,
        batch_models=BATCH_MODELS,
    )


def _audit(night: stages.Night, crawl: stages.Crawl) -> None:
    for batch in stages.open_batches(night):
        asyncio.run(stages.audit_batch(night, crawl, batch, stages.remaining_budget(night, PLENTY, PLENTY)))


def _timed(took: Message, stage: str, work: Callable[[], object]) -> None:
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    work()
    took |= {f"{stage}_wall_s": time.perf_counter() - wall_s, f"{stage}_cpu_s": time.process_time() - cpu_s}


if __name__ == "__main__":
    main()
