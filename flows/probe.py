"""The flow that a GPU worker runs: one job file, many models."""

from __future__ import annotations

import time
from datetime import date
from typing import Any

from prefect import flow, runtime
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.environment import variable
from flows.sending import beating
from storage.store import open_store
from tasks import steps
from tasks.model.parent import end_with_parent
from tasks.probes import ProbeBatch, open_jobs

LEAST_S = 5.0  # a probe takes longer than this to import what it needs


@flow(name="probe", flow_run_name="{audit_id}", persist_result=False)
async def probe(store: str, night: date, audit_id: str, endpoint: str, seconds: float) -> State[dict[str, Any]]:
    """Probe what is not done yet of a night's job file, and say how much that left open.

    Args:
        store: location of the store that holds the job file; the rows go there too.
        night: the night's date.
        audit_id: names the night's files.
        endpoint: of the Hub that serves the weights.
        seconds: no model is begun after so long.

    Raises:
        StoreError: the store cannot be read or written.
    """
    if runtime.deployment.id:
        end_with_parent()  # that is a worker; who kills it wants its GPU back, and the rest is sent again
    batch = ProbeBatch(store, night, audit_id)
    with beating(open_store(store), batch.beat_file):
        await probe_open(batch, endpoint, seconds)
    left = len(open_jobs(batch))
    return Completed(message=f"{left} models left open" if left else "all done", data={"left": left})


async def probe_open(batch: ProbeBatch, endpoint: str, seconds: float) -> None:
    """Probe one open job after the other while there is time."""
    until = time.monotonic() + seconds
    with variable("HF_ENDPOINT", endpoint):
        for number, job in open_jobs(batch).items():
            if (left_s := until - time.monotonic()) < LEAST_S:
                return
            await steps.probe(batch, number, job, left_s)
