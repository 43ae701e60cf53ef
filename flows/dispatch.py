"""A night's probes, sent to GPU workers or made here; what came of them is told by the rows in the store."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import httpx
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import State, StateType, WorkerStatus
from prefect.deployments import arun_deployment
from prefect.exceptions import ObjectNotFound, PrefectException, PrefectHTTPStatusError
from prefect.states import Cancelled, Crashed

from flows.probe import BEAT_S, probe_open
from flows.settings import NightlySettings, Probing
from storage.errors import StoreError
from storage.store import open_store
from tasks import steps
from tasks.night import Night
from tasks.probes import Choice, ProbeBatch, open_jobs, probe_statuses

SENDINGS = 5  # of one job file: each worker that died in the middle has cost one model, and the sixth is a defect
POLL_S = 2.0
SILENT_S = 6 * BEAT_S  # without a sign of life a worker is dead, or cannot write what it finds
UNREACHABLE_S = 300.0  # a server that is started anew is back by then

log = logging.getLogger("normaudit")

T = TypeVar("T")


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
    on_gpu = probing.gpu_seconds > 0 and await _reached(lambda client: _worker_is_online(client, probing.deployment))
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
        sent = partial(_sent, deployment=probing.deployment, parameters=parameters, sending=sending)
        run_id = await _reached(sent)
        state = await _end_of(run_id, batch, probing)
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


async def _worker_is_online(client: PrefectClient, deployment: str) -> bool:
    """Return whether the server knows the deployment, and a worker that serves its pool has lately been heard of."""
    try:
        pool = (await client.read_deployment_by_name(deployment)).work_pool_name
    except ObjectNotFound:
        return False
    workers = await client.read_workers_for_work_pool(pool) if pool else []
    return any(worker.status == WorkerStatus.ONLINE for worker in workers)


async def _sent(client: PrefectClient, deployment: str, parameters: dict[str, Any], sending: int) -> UUID:
    """Return the run of a deployment for this sending; the same one if it was sent before."""
    key = f"{parameters['audit_id']}-{sending}"
    run = await arun_deployment(deployment, client, parameters, timeout=0, idempotency_key=key)
    return run.id


async def _end_of(run_id: UUID, batch: ProbeBatch, probing: Probing) -> State[Any]:
    """Wait for a run's end and return its state; one that nobody takes or whose worker is dead is ended here."""
    known, heard_at = None, time.monotonic()
    while True:
        state = (await _reached(lambda client: client.read_flow_run(run_id))).state
        if state is not None and state.is_final():
            return state
        news = (state and state.type, open_store(batch.store).place.read(batch.beat_file))
        known, heard_at = news, heard_at if news == known else time.monotonic()
        silent_s = time.monotonic() - heard_at
        if state is not None and state.is_running() and silent_s > SILENT_S:
            return await _ended(run_id, Crashed(message=f"no sign of life for {silent_s:.0f} s"))
        if silent_s > max(SILENT_S, probing.wait_seconds):
            log.warning("probes: no GPU worker has taken them within %d s; they wait for another night", silent_s)
            return await _ended(run_id, Cancelled(message="no worker has taken it"))
        await asyncio.sleep(POLL_S)


async def _ended(run_id: UUID, state: State[Any]) -> State[Any]:
    """Force a run into its last state, and return that."""
    await _reached(lambda client: client.set_flow_run_state(run_id, state, force=True))
    return state


async def _reached(ask: Callable[[PrefectClient], Awaitable[T]]) -> T:
    """Return what the server answers, asked again while it is away for at most UNREACHABLE_S.

    Raises:
        httpx.HTTPError: it stays away, or refuses.
    """
    until = time.monotonic() + UNREACHABLE_S
    while True:
        try:
            async with get_client() as client:
                return await ask(client)
        except (httpx.TransportError, PrefectHTTPStatusError) as error:
            is_refusal = isinstance(error, PrefectHTTPStatusError) and not error.response.is_server_error
            if is_refusal or time.monotonic() > until:
                raise
            await asyncio.sleep(POLL_S)
