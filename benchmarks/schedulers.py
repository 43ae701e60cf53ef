"""Standing schedulers on loopback for the length of a block: of Dask, of Ray, of Prefect with its crawl workers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from benchmarks.reader_process import ROOT

START_S = 180  # far more than any of them takes; reached only when something hangs
RAY_STORE_BYTES = 80_000_000  # the least that Ray takes


@contextmanager
def tethered(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Python module's command that ends, with all that came of it, when the block does."""
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.tether", sys.executable, "-m", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **(environment or {})},
        cwd=ROOT,
    )
    try:
        yield process
    finally:
        process.communicate()


@contextmanager
def dask_scheduler(workers: int) -> Iterator[str]:
    """Yield the address of a Dask scheduler that has so many worker processes."""
    [port] = free_ports(1)
    address = f"tcp://127.0.0.1:{port}"
    with (
        tethered(["dask", "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]) as scheduler,
        tethered(["dask", "worker", address, "--nworkers", str(workers), "--nthreads", "1", "--no-dashboard"]),
    ):
        wait_for_listener(port, scheduler)
        yield address


@contextmanager
def ray_head(workers: int) -> Iterator[str]:
    """Yield the address of a Ray head that has so many worker processes."""
    port, client_port = free_ports(2)
    limits = ["--num-cpus", str(workers), "--object-store-memory", str(RAY_STORE_BYTES)]
    ports = ["--node-ip-address", "127.0.0.1", "--port", str(port), "--ray-client-server-port", str(client_port)]
    command = ["ray.scripts.scripts", "start", "--head", "--block", "--include-dashboard", "false"]
    quiet = {"RAY_USAGE_STATS_ENABLED": "0"}
    with (
        tempfile.TemporaryDirectory(prefix="ray-") as folder,  # its sockets' names must stay below 107 characters
        tethered([*command, *ports, *limits, "--temp-dir", folder], quiet) as head,
    ):
        wait_for_listener(client_port, head)
        yield f"ray://127.0.0.1:{client_port}"


@contextmanager
def prefect_server(home: Path) -> Iterator[str]:
    """Yield the URL of a Prefect server's API."""
    [port] = free_ports(1)
    url = f"http://127.0.0.1:{port}/api"
    quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1", "PREFECT_HOME": str(home)}
    with tethered(["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)], quiet):
        wait_until(lambda: answers(f"{url}/health"))
        yield url


def register(config: Path, environment: Mapping[str, str]) -> None:
    """Register the pools and the deployments with the server that the environment names."""
    command = [sys.executable, "-m", "flows.deploying", "--config", str(config)]
    subprocess.run(command, env={**os.environ, **environment}, cwd=ROOT, check=True, timeout=START_S)


@contextmanager
def crawl_workers(count: int, environment: Mapping[str, str]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Yield the tethers of so many workers of the pool for nights."""
    command = ["prefect", "worker", "start", "--pool", "crawl", "--limit", "1", "--name"]
    with ExitStack() as ends:
        yield [ends.enter_context(tethered([*command, f"crawl-{number}"], environment)) for number in range(count)]


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def wait_for_listener(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until somebody listens on a port, which this process is to bring about."""
    wait_until(lambda: process.poll() is not None or is_open(port))
    assert process.poll() is None, f"{process.args} has ended"


def wait_until(condition: Callable[[], object]) -> None:
    """Wait until something is so."""
    until = time.monotonic() + START_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


def is_open(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


def answers(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(url, timeout=5):
        return True
    return False
