"""The nightly audit: list, choose, read in batches, rebuild, gate, publish."""

from __future__ import annotations

import logging
import os
import socket
import time
from datetime import UTC, datetime
from typing import Any

from prefect import flow
from prefect.artifacts import acreate_table_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.crawl import crawl_of
from flows.dispatch import probe_chosen
from flows.engine import close_dead_runs
from flows.scheduled import Settings
from flows.settings import Gate
from flows.spread import audit_open_batches, task_runner_of
from storage.lease import hold_lease
from storage.store import open_store
from tasks import steps
from tasks.night import Night, begin_night, summarise

log = logging.getLogger("normaudit")


@flow(name="nightly", flow_run_name="{settings.store_location}", persist_result=False)
async def nightly(settings: Settings) -> State[dict[str, Any]]:
    """Do one night's work on the store, or finish the night that was interrupted.

    Returns:
        The night's summary, as a completed state; as a failed one where the gate held: too many audits failed, so the
        database is rebuilt, but the site stays as it was.

    Raises:
        StoreError: another night holds the store, or it cannot be written.
        AuditError: the Hub's listing cannot be had.
        EngineError: the scheduler of Dask or Ray that the settings name cannot be used.
    """
    started, crawl, runner = time.monotonic(), crawl_of(settings), task_runner_of(settings)
    owner = f"nightly on {socket.gethostname()}, pid {os.getpid()}"
    with hold_lease(open_store(settings.store_location), owner) as lease:
        await close_dead_runs()
        night = begin_night(settings.store_location, datetime.now(UTC).date())
        await steps.renew(night)
        if not night.is_planned:
            await steps.plan(night, crawl)
        await audit_open_batches(night, settings, runner, lease)
        lease.check()  # a night that was stopped for longer than its lease lasts has been taken over
        built = await steps.rebuild(night)
        probes = await probe_chosen(night, settings)
        if probes:
            built = await steps.rebuild(night)
        summary = summarise(night) | {"seconds": round(time.monotonic() - started, 1), "set_aside": built.set_aside}
        summary["probes"] = probes
        held = held_by(settings.gate, summary)
        lease.check()
        if not held:
            await steps.publish(night.store, settings.hub_url)
        summary |= {"published": held is None, "gate": held}
        lease.check()
        await steps.end(night, summary)
        await _show_in_prefect(night, summary)
    return Failed(message=held, data=summary) if held else Completed(data=summary)


def held_by(gate: Gate, summary: dict[str, Any]) -> str | None:
    """Return why a night is not to be published, or None where it is."""
    audited, failed = summary["audited"], summary["statuses"].get("failed", 0)
    if audited < gate.min_models or failed <= gate.max_failed_fraction * audited:
        return None
    return (
        f"{failed:,} of {audited:,} audits failed, {failed / audited:.1%}; the gate lets {gate.max_failed_fraction:.1%}"
        " pass. The audits are stored, the site stays as it was; `normaudit status` says why they failed"
    )


async def _show_in_prefect(night: Night, summary: dict[str, Any]) -> None:
    rows = [{"figure": name, "value": str(value)} for name, value in summary.items()]
    await acreate_table_artifact(table=rows, key="night", description=f"Night of {night.night}")
