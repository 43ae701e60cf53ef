"""A night's probes, sent to GPU workers or made here; what came of them is told by the rows in the store."""

from __future__ import annotations

import logging
import time

import httpx
from prefect.client.schemas.objects import StateType
from prefect.exceptions import PrefectException

from flows.probe import probe_open
from flows.sending import end_of, reached, send_run, worker_is_online
from flows.settings import NightlySettings, Probing
from storage.errors import StoreError
from storage.store import open_store
from tasks import steps
from tasks.night import Night
from tasks.probes import Choice, ProbeBatch, open_jobs, probe_statuses

SENDINGS = 5  # of one job file: each worker that died in the middle has cost one model, and the sixth is a defect

log = logging.getLogger("normaudit")


async def probe_chosen(night: Night, settings: NightlySettings) -> dict[str, int]:
    """Have the models that the settings choose probed, and return how many rows of each status that gave.

    They go to a GPU worker where one is online, else are probed here within `cpu_seconds`. What does not get its turn
    is chosen again another night; so is everything where probes cannot be had at all, which ends no night.

    Raises:
        StoreError: the store cannot be read.
    """
    batch = ProbeBatch(night.store, night.night, night.audit_id)
    try:
        await _probe(batch, settings.endpoint, settings.probe)
    except (StoreError, PrefectException, httpx.HTTPError) as error:
        log.warning("probes: %s; the night goes on without the rest of them", error)
    return probe_statuses(batch)


async def _probe(batch: ProbeBatch, endpoint: str, probing: Probing) -> None:
    on_gpu = probing.gpu_seconds > 0 and await reached(lambda client: worker_is_online(client, probing.deployment))
    seconds = probing.gpu_seconds if on_gpu else probing.cpu_seconds
    if not seconds or not await steps.choose(batch, _choice(probing, probing.device if on_gpu else "cpu", seconds)):
        return
    if on_gpu:
        await send(batch, endpoint, probing)
    else:
        await probe_open(batch, endpoint, seconds)


async def send(batch: ProbeBatch, endpoint: str, probing: Probing) -> None:
    """Send a job file to the GPU workers until it is done, or its time is up; send it again when a worker dies.

    A night that was interrupted finds the run that it had sent, and waits for that.
    """
    until = time.monotonic() + probing.gpu_seconds
    for sending in range(SENDINGS):
        left_s = until - time.monotonic()
        if left_s <= 0 or not open_jobs(batch):
            return
        given = {"store": batch.store, "night": batch.night.isoformat(), "audit_id": batch.audit_id}
        parameters = {**given, "endpoint": endpoint, "seconds": left_s}
        run_id = await send_run(probing.deployment, parameters, f"{batch.audit_id}-{sending}")
        state = await end_of(run_id, open_store(batch.store), batch.beat_file, probing.wait_seconds)
        if state.type == StateType.CANCELLED:
            log.warning("probes: %s; they wait for another night", state.message)
        if state.type in (StateType.COMPLETED, StateType.CANCELLED):
            return
        log.warning("probes: the GPU worker's run ended as %s (%s); sent again", state.name, state.message)
    log.warning("probes: given up, %d runs on GPU workers did not end well", SENDINGS)


def _choice(probing: Probing, device: str, seconds: int) -> Choice:
    settings = {
        "device": device,
        "dtype": probing.dtype,
        "weights": probing.weights,
        "tokens": probing.tokens,
        "limit_s": min(probing.model_seconds, seconds),
    }
    return Choice(probing.query, probing.models, probing.parameters, probing.bytes, settings)
