"""The Prefect API that a flow on one machine talks to: the one that is named, or a server of its own.

Prefect's own embedded server outlives a flow that is killed. This one is a child that holds the read end of a pipe
and ends itself when the pipe closes, which the operating system sees to however the parent dies.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from uvicorn import Server

STARTUP_S = 120  # the first start creates Prefect's database, which takes 15 s on an idle machine
STOP_S = 10
QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",  # what fails is told once, by us
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
}


class EngineError(RuntimeError):
    """The Prefect server did not start."""


@contextmanager
def prefect_api() -> Iterator[str]:
    """Yield the URL of the Prefect API that flows started inside the block use.

    PREFECT_API_URL (or the active Prefect profile) names a standing server; otherwise one is started on loopback and
    stopped at the end. Prefect is imported here for the first time, so that its settings see the environment set above.

    Raises:
        EngineError: PREFECT_HOME cannot be written, or the server was not ready within STARTUP_S.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings(action="ignore"):  # that PREFECT_HOME cannot be made is told below, if it matters
        from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

    if named := PREFECT_API_URL.value():
        yield named
        return
    _require_writable(PREFECT_HOME.value())
    reach_loopback_directly()
    with _own_server() as url, temporary_settings({PREFECT_API_URL: url}):
        try:
            yield url
        finally:
            _send_what_waits()


async def close_dead_runs() -> int:
    """Mark as crashed what Prefect believes to be running under the name of the run that calls; return how many.

    To be called by the holder of the store's lease: nobody else works on that store, so such a run was killed.
    """
    from prefect import get_client, runtime
    from prefect.client.schemas import filters
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    running = filters.FlowRunFilter(
        name=filters.FlowRunFilterName(any_=[str(runtime.flow_run.name)]),
        state=filters.FlowRunFilterState(type=filters.FlowRunFilterStateType(any_=[StateType.RUNNING])),
    )
    async with get_client() as client:
        found = await client.read_flow_runs(flow_run_filter=running)
        dead = [run.id for run in found if str(run.id) != str(runtime.flow_run.id)]
        for run_id in dead:
            await client.set_flow_run_state(run_id, Crashed(message="killed; the next run went on"), force=True)
    return len(dead)


def _require_writable(home: Path) -> None:
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            return
    except OSError as error:
        raise EngineError(
            f"{home}: Prefect keeps its database here, and the folder cannot be written: {error.strerror};"
            " name another with PREFECT_HOME, or a server that runs with PREFECT_API_URL"
        ) from error


def reach_loopback_directly() -> None:
    """Except loopback from a proxy that the environment names: the server there is ours."""
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1")))


@contextmanager
def _own_server() -> Iterator[str]:
    environment = {**os.environ, "PREFECT_SERVER_UI_ENABLED": "false"}
    command = [sys.executable, "-m", "flows.engine"]
    with tempfile.TemporaryFile() as errors:
        server = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the night, which still has something to tell the server
        )
        try:
            assert server.stdout is not None
            port = server.stdout.readline().strip().decode()
            url = f"http://127.0.0.1:{port}/api"
            if not (port and _is_healthy(url, server)):
                raise EngineError(_failure(server, errors))
            yield url
        finally:
            _stop(server)


def _send_what_waits() -> None:
    """Let Prefect's background threads hand in what they hold; after the server's end they would retry for minutes."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (EventsWorker, APILogWorker):
        logging.getLogger(worker.__name__).setLevel(logging.ERROR)  # that it is still at it is no news
        worker.drain_all(timeout=STOP_S, at_exit=False)


def _is_healthy(url: str, server: subprocess.Popen[bytes]) -> bool:
    """Wait until the server answers, and return True; False where it ends or takes longer than STARTUP_S."""
    deadline = time.monotonic() + STARTUP_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return True
        except OSError:  # urllib's own errors are of this kind too
            time.sleep(0.05)
    return False


def _failure(server: subprocess.Popen[bytes], errors: IO[bytes]) -> str:
    """Return in words why the server does not serve: its last line that names an error tells most."""
    with suppress(subprocess.TimeoutExpired):
        server.wait(1)  # stdout closes a moment before the process ends
    ended = server.returncode is not None
    how = f"it ended with status {server.returncode}" if ended else f"no answer in {STARTUP_S} s"
    errors.seek(0)
    said = [line for line in errors.read().decode(errors="replace").splitlines() if "Error" in line]
    return (
        f"the Prefect server did not start: {how}{f' ({said[-1].strip()})' if said else ''};"
        " see that PREFECT_HOME can be written, or name a server that runs with PREFECT_API_URL"
    )


def _stop(server: subprocess.Popen[bytes]) -> None:
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.close()
    server.stdout.close()
    try:
        server.wait(STOP_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _serve() -> None:
    """Serve Prefect's API on a free loopback port, named on stdout, until stdin closes."""
    serving: list[Server] = []
    threading.Thread(target=_end_with_parent, args=(serving,), daemon=True).start()
    import uvicorn  # takes seconds, in which the parent may die: so the thread above is first
    from prefect.server.api.server import create_app

    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    config = uvicorn.Config(create_app(ephemeral=True, final=True), log_level="error", lifespan="on")
    serving.append(uvicorn.Server(config))
    serving[0].run(sockets=[listener])


def _end_with_parent(serving: list[Server]) -> None:
    os.read(0, 1)  # not sys.stdin, whose lock an ending interpreter waits for
    for server in serving:
        server.should_exit = True
        time.sleep(STOP_S / 2)
    os._exit(0)


if __name__ == "__main__":
    _serve()
