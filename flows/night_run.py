"""Run a night on this machine, with a Prefect server and, for the demo, a Hub of its own; tell how it goes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows import output, results
from flows.crawl import crawl_of
from flows.engine import prefect_api
from flows.environment import variable
from flows.narration import narrated
from flows.settings import DEMO, NightlySettings
from storage.lease import require_free
from storage.store import open_store

DEMO_CACHE = Path(".cache/demo-models")
LEADERBOARD_ROWS = 50
TERMINATED = 143  # what a shell reports of a program that SIGTERM has ended
DEMO_PROBES = {"cpu_seconds": 60, "models": 1, "parameters": 1_000_000, "weights": "trained"}  # a probe takes 5 s


def run(settings: NightlySettings) -> bool:
    """Run one night; return whether it was published.

    Raises:
        StoreError: another night holds the store, or it cannot be written.
        AuditError: the Hub's listing cannot be had.
        SettingsError: HF_ENDPOINT, HF_TOKEN or a file that the settings name cannot be used.
    """
    with _hub(settings) as settings:
        crawl_of(settings)  # complains of what cannot be used before a server is started for nothing
        require_free(open_store(settings.store_location))
        with prefect_api(), narrated(), _told_of_sigterm():
            state = asyncio.run(_nightly(settings))
    result: Any = asyncio.run(state.aresult(raise_on_failure=False))
    if isinstance(result, BaseException):
        raise result
    _report(settings, result, state.message if state.is_failed() else None)
    return not state.is_failed()


@contextmanager
def _told_of_sigterm() -> Iterator[None]:
    """End as a program does that SIGTERM ends, with a line that says so; Prefect makes an exception of the signal."""
    from prefect.exceptions import TerminationSignal

    try:
        yield
    except TerminationSignal as error:
        output.complain(["ended by SIGTERM; run again, the night goes on where it was"])
        raise SystemExit(TERMINATED) from error


async def _nightly(settings: NightlySettings) -> Any:
    from flows.audit import nightly

    return await nightly(settings, return_state=True)


@contextmanager
def _hub(settings: NightlySettings) -> Iterator[NightlySettings]:
    """Yield settings with a real endpoint: for the demo, that of a stand-in Hub which runs inside the block."""
    if settings.endpoint != DEMO:
        yield settings
        return
    from deployments.demo.models import DEMO_TOKEN, build_models, demo_faults, demo_repos
    from deployments.demo.standin import StandIn, Switches

    with output.messages().status("building the demo's models, once"):
        build_models(DEMO_CACHE)
    with (
        variable("HF_TOKEN", DEMO_TOKEN),
        StandIn(demo_repos(DEMO_CACHE), token=DEMO_TOKEN, switches=Switches(faults=demo_faults())) as hub,
    ):
        probe = settings.probe.model_copy(update=DEMO_PROBES)
        here = {"endpoint": hub.endpoint, "store": settings.store_location, "probe": probe}
        try:
            yield settings.model_copy(update=here)
        finally:
            logging.getLogger("uvicorn.error").disabled = True  # Prefect has set it up to tell of every server's end


def _report(settings: NightlySettings, summary: dict[str, Any], held: str | None) -> None:
    """Print the leaderboard, the night's figures and where the rest lies."""
    from flows import query

    location = settings.store_location.rstrip("/")
    with query.open_reader(settings.store_location) as database:
        results.print_ranking(query.ranking(database, "downloads", None, LEADERBOARD_ROWS))
        print(query.coverage_line(database))
    print()
    print(query.night_line(summary))
    if held:
        print(f"Not published: {held}.")
    if open_store(location).place.exists("site/index.html"):
        print(f"Site      {location}/site/index.html")
    print(f'Database  {location}/audit.duckdb   ask it: normaudit sql --store {location} "from latest"')
    print(f"Parts     {location}/parts   Parquet, one folder per table and night")
