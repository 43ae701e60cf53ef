"""The flow that a GPU worker runs: one job file, many models."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date
from typing import Any
from uuid import uuid4

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.environment import variable
from storage.errors import StoreError
from storage.store import open_store
from tasks import steps
from tasks.probes import ProbeBatch, open_jobs

BEAT_S = 10.0  # between two signs of life, each a small write to the store
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
    batch = ProbeBatch(store, night, audit_id)
    with beating(batch):
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


@contextmanager
def beating(batch: ProbeBatch, every_s: float = BEAT_S) -> Iterator[None]:
    """Rewrite the batch's beat file for the length of a block: who waits for the rows sees that somebody works."""
    ended = threading.Event()
    thread = threading.Thread(target=_beat, args=(batch, ended, every_s), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _beat(batch: ProbeBatch, ended: threading.Event, every_s: float) -> None:
    place = open_store(batch.store).place
    while True:
        with suppress(StoreError), place.writing(batch.beat_file) as file:  # a full disk may have room again later
            file.write(uuid4().hex.encode())
        if ended.wait(every_s):
            return
