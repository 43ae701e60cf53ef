"""Work sent to another machine as the run of a deployment: how it is sent, shows that it lives, and is waited for."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar
from uuid import UUID, uuid4

import httpx
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import State, WorkerStatus
from prefect.deployments import arun_deployment
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import Cancelled, Crashed

from storage.errors import StoreError
from storage.store import Store

BEAT_S = 10.0  # between two signs of life, each a small write to the store
SILENT_S = 6 * BEAT_S  # without a sign of life a worker is dead, or cannot write what it finds
POLL_S = 2.0
UNREACHABLE_S = 300.0  # a server that is started anew is back by then

T = TypeVar("T")


def beat() -> bytes:
    """Return a sign of life that says nothing else."""
    return uuid4().hex.encode()


@contextmanager
def beating(store: Store, file: str, sign: Callable[[], bytes] = beat, every_s: float = BEAT_S) -> Iterator[None]:
    """Rewrite a file of the store for the length of a block, and once after it: who waits sees that somebody works.

    Args:
        store: that the work is for.
        file: its name in the store.
        sign: what to write; each time something else.
        every_s: between two writes.
    """
    ended = threading.Event()
    thread = threading.Thread(target=_beat, args=(store, file, sign, ended, every_s), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


async def send_run(deployment: str, parameters: Mapping[str, Any], key: str) -> UUID:
    """Return the run of a deployment with these parameters; the same one if it was sent under this key before.

    Raises:
        httpx.HTTPError: the server stays away, or refuses.
    """
    run = await reached(
        lambda client: arun_deployment(deployment, client, dict(parameters), timeout=0, idempotency_key=key)
    )
    return run.id


async def end_of(
    run_id: UUID,
    store: Store,
    beat_file: str,
    wait_s: float,
    heard: Callable[[bytes | None], None] = lambda said: None,
) -> State[Any]:
    """Wait for a run's end and return its state.

    One whose worker is dead is ended here, as crashed; so is one that nobody takes, as cancelled.

    Args:
        run_id: of the run.
        store: that it works on.
        beat_file: that it rewrites while it lives.
        wait_s: for a worker to take it, at least SILENT_S.
        heard: gets what stands in the beat file, whenever that is something new.
    """
    known, heard_at = None, time.monotonic()
    while True:
        state = (await reached(lambda client: client.read_flow_run(run_id))).state
        said = store.place.read(beat_file)
        if (state and state.type, said) != known:
            known, heard_at = (state and state.type, said), time.monotonic()
            heard(said)
        if state is not None and state.is_final():
            return state
        silent_s = time.monotonic() - heard_at
        if state is not None and state.is_running() and silent_s > SILENT_S:
            return await _ended(run_id, Crashed(message=f"no sign of life for {silent_s:.0f} s"))
        if silent_s > max(SILENT_S, wait_s):
            return await _ended(run_id, Cancelled(message=f"no worker has taken it within {silent_s:.0f} s"))
        await asyncio.sleep(POLL_S)


async def worker_is_online(client: PrefectClient, deployment: str) -> bool:
    """Return whether the server knows the deployment, and a worker that serves its pool has lately been heard of."""
    try:
        pool = (await client.read_deployment_by_name(deployment)).work_pool_name
    except ObjectNotFound:
        return False
    workers = await client.read_workers_for_work_pool(pool) if pool else []
    return any(worker.status == WorkerStatus.ONLINE for worker in workers)


async def reached(ask: Callable[[PrefectClient], Awaitable[T]]) -> T:
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


async def _ended(run_id: UUID, state: State[Any]) -> State[Any]:
    """Force a run into its last state, and return that."""
    await reached(lambda client: client.set_flow_run_state(run_id, state, force=True))
    return state


def _beat(store: Store, file: str, sign: Callable[[], bytes], ended: threading.Event, every_s: float) -> None:
    while True:
        is_last = ended.is_set()
        with suppress(StoreError), store.place.writing(file) as written:  # a full disk may have room again later
            written.write(sign())
        if is_last:
            return
        ended.wait(every_s)
