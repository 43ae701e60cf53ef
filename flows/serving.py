"""The nightly schedule on one machine: a Prefect server, the deployments, the workers, and nothing left behind.

Each of them is run by `flows.tether`, which ends it and all that came of it however this process dies.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from flows import output
from flows.deploying import CRAWL_POOL, GPU_POOL, NIGHTLY, register
from flows.engine import QUIET, STARTUP_S, EngineError, reach_loopback_directly
from flows.settings import NightlySettings
from flows.tether import GRACE_S, POLL_S, adopt_orphans, end_descendants
from storage.lease import lease_holder
from storage.nights import unfinished_nights
from storage.store import open_store

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

LOOK_S = 0.5
ANEW_S = 5.0  # between two starts of what ends by itself
POLITE_S = GRACE_S + 2


@dataclass
class Child:
    """A process that is to run for as long as this one does.

    Attributes:
        called: its name in messages.
        command: what to run.
        environment: variables besides those of this process.
        is_quiet: what it prints on stdout is of no interest.
        process: its tether.
        started_at: monotonic time.
    """

    called: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    is_quiet: bool = False
    process: subprocess.Popen[bytes] = field(init=False)
    started_at: float = field(init=False)

    def start(self) -> None:
        """Start it, with a pipe that closes when this process ends."""
        self.started_at = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows.tether", *self.command],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL if self.is_quiet else sys.stderr.fileno(),
            env={**os.environ, **self.environment},
            start_new_session=True,  # Ctrl-C is for this process, which ends the others in their order
        )

    def let_go(self) -> None:
        """Tell it to end."""
        if self.process.stdin is not None:
            self.process.stdin.close()

    def wait(self, seconds: float) -> None:
        """Wait for its end; what takes longer is killed, and its own children with it."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def serve(settings: NightlySettings, config: Path, port: int, gpus: int) -> None:
    """Run the schedule until SIGINT or SIGTERM.

    Args:
        settings: what the settings file says.
        config: the settings file.
        port: of the Prefect server on loopback, if none is named.
        gpus: workers for probes, one for each GPU.

    Raises:
        EngineError: the port is taken, or the server does not start, or refuses.
        StoreError: the store cannot be read.
    """
    adopt_orphans()
    with _interruptible(), suppress(KeyboardInterrupt), ExitStack() as ends:
        is_own = _prepare_environment(port)
        ends.enter_context(_api(os.environ["PREFECT_API_URL"]))
        children: list[Child] = []
        ends.callback(_end, children)
        if is_own:
            _require_free(port)
            _start(_server(port), children)
            _wait_until_healthy(children[0], f"{os.environ['PREFECT_API_URL']}/health")
        register(str(config.absolute()), gpus or 1, os.environ)
        asyncio.run(_take_up_again(settings.store_location, is_own=is_own))
        crawlers = settings.limits.workers if settings.runner == "workers" else 1
        for worker in _workers(crawlers, gpus):
            _start(worker, children)
        output.say(f"normaudit: serving; Prefect's pages: {os.environ['PREFECT_API_URL'].removesuffix('/api')}")
        _keep(children)


def gpus_here() -> int:
    """Return how many NVIDIA GPUs this machine has."""
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM do what SIGINT does, and SIGINT that also where a shell has started this in the background."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _prepare_environment(port: int) -> bool:
    """Set what the children inherit; return whether the Prefect server is to be one of them."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("NORMAUDIT_HOME", str(Path.cwd()))
    from prefect.settings import PREFECT_API_URL

    if named := PREFECT_API_URL.value():
        os.environ["PREFECT_API_URL"] = named
        return False
    reach_loopback_directly()
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    return True


def _api(url: str) -> AbstractContextManager[object]:
    """Return a context in which this process's own requests go to the server too."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    return temporary_settings({PREFECT_API_URL: url})


def _require_free(port: int) -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            raise EngineError(
                f"port {port} is taken, perhaps by another `normaudit serve`; end that, choose another with --port,"
                " or name the server with PREFECT_API_URL"
            ) from error


def _server(port: int) -> Child:
    command = ("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))
    return Child("the Prefect server", (sys.executable, "-m", *command), is_quiet=True)


def _workers(crawlers: int, gpus: int) -> Iterator[Child]:
    """Yield workers for nights and their batches, and one for each GPU, which sees no other."""
    host = socket.gethostname()
    for crawler in range(crawlers):
        yield _worker(CRAWL_POOL, f"{CRAWL_POOL}-{host}-{crawler}", {})
    for gpu in range(gpus):
        yield _worker(GPU_POOL, f"{GPU_POOL}-{host}-{gpu}", {"CUDA_VISIBLE_DEVICES": str(gpu)} if gpus > 1 else {})


def _worker(pool: str, name: str, environment: Mapping[str, str]) -> Child:
    command = ("prefect", "worker", "start", "--pool", pool, "--name", name, "--limit", "1")
    return Child(f"worker {name}", (sys.executable, "-m", *command), environment)


def _start(child: Child, children: list[Child]) -> None:
    children.append(child)
    child.start()


def _wait_until_healthy(server: Child, url: str) -> None:
    """Wait until the server answers.

    Raises:
        EngineError: it has ended, or no answer came within STARTUP_S.
    """
    until = time.monotonic() + STARTUP_S
    while server.process.poll() is None and time.monotonic() < until:
        with suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(POLL_S)
    raise EngineError(
        "the Prefect server did not start; what it said stands above. See that PREFECT_HOME can be written"
    )


async def _take_up_again(location: str, *, is_own: bool) -> None:
    """Have a night that was interrupted go on now, rather than at its hour.

    On a server of our own whatever seems to run is dead: its workers are not started yet.
    """
    from prefect import get_client
    from prefect.deployments import arun_deployment

    if is_own:
        async with get_client() as client:
            await _close_runs(client)
    store = open_store(location)
    if unfinished_nights(store) and lease_holder(store) is None:
        output.say(f"normaudit: the night on {store.location} was interrupted, and goes on now")
        await arun_deployment(NIGHTLY, timeout=0)


async def _close_runs(client: PrefectClient) -> None:
    """Mark the runs of all deployments that were under way when their processes were killed as crashed."""
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    under_way = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    found = await client.read_flow_runs(
        flow_run_filter=filters.FlowRunFilter(
            state=filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=under_way)),
            deployment_id=filters.FlowRunFilterDeploymentId(is_null_=False),
        )
    )
    for run in found:
        await client.set_flow_run_state(run.id, Crashed(message="killed with its worker"), force=True)


def _keep(children: Sequence[Child]) -> None:
    """Start whatever ends by itself again, for good."""
    while True:
        time.sleep(LOOK_S)
        for child in children:
            if child.process.poll() is not None and time.monotonic() - child.started_at > ANEW_S:
                output.complain([f"{child.called} has ended; started again"])
                end_descendants([one.process.pid for one in children])
                child.start()


def _end(children: Sequence[Child]) -> None:
    """End all: first who works for the server, then the server."""
    for group in (children[1:], children[:1]):
        for child in group:
            child.let_go()
        for child in group:
            child.wait(POLITE_S)
    end_descendants()
