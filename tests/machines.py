"""A Prefect server and workers as an operator starts them, each a process that a test may kill and start again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from storage.database import open_database
from storage.store import open_store
from tests.nights import ROOT, children_of
from tests.test_engine import is_healthy, wait_for

PATIENCE_S = 300  # far more than anything here takes; reached only when something hangs
UNDER_WAY = frozenset({"RUNNING", "PENDING", "CANCELLING"})


@dataclass(frozen=True, slots=True)
class PrefectApi:
    """What a test asks of a Prefect server, which answers 503 while its SQLite is busy, and is then asked again."""

    url: str

    def ask(self, path: str, body: object = None) -> Any:
        """Return the answer to a POST of a body, or to a GET where there is none."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.url}/{path}", data, {"Content-Type": "application/json"})
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                with urlopen(request, timeout=60) as answer:
                    return json.load(answer)
            except HTTPError as error:
                error.close()
                if error.code != HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() > until:
                    raise

    def deployment(self, name: str) -> str:
        """Return the id of a deployment, named as flow/deployment."""
        found: str = self.ask(f"deployments/name/{name}")["id"]
        return found

    def run_night(self) -> None:
        """Ask for a night now."""
        self.ask(f"deployments/{self.deployment('nightly/nightly')}/create_flow_run", {})

    def schedule_night(self, cron: str) -> None:
        """Give the nights one more schedule, in UTC."""
        schedule = {"schedule": {"cron": cron, "timezone": "UTC"}, "active": True}
        self.ask(f"deployments/{self.deployment('nightly/nightly')}/schedules", [schedule])

    def runs(self) -> list[dict[str, Any]]:
        """Return the runs that do not wait for their hour."""
        return [run for run in self.ask("flow_runs/filter", {}) if run["state_type"] != "SCHEDULED"]

    def states(self) -> list[str]:
        """Return the state of each run."""
        return sorted(run["state_type"] for run in self.runs())

    def wait_until_idle(self) -> None:
        """Wait until no run is under way."""
        wait_for(lambda: not set(self.states()) & UNDER_WAY, PATIENCE_S)


class Machines:
    """A Prefect server on loopback and its workers for the length of a block; what a test has not ended ends with it.

    Attributes:
        api: of the server.
        server: its process, once it was started.
        store: the folder of the store.
    """

    def __init__(self, folder: Path, database: Mapping[str, str]) -> None:
        self._port = free_port()
        self.store = folder / "store"
        self.api = PrefectApi(f"http://127.0.0.1:{self._port}/api")
        self._config = folder / "nightly.toml"
        self._environment = {
            **os.environ,
            **database,
            "PREFECT_API_URL": self.api.url,
            "PREFECT_LOGGING_LEVEL": "ERROR",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "NORMAUDIT_HOME": str(folder),
            "DO_NOT_TRACK": "1",
        }
        self._started: list[subprocess.Popen[bytes]] = []

    def start_server(self) -> None:
        """Start the server, on the port and the database that it had before; return when it answers."""
        command = ("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self._port), "--no-ui")
        self.server = self._start(*command)
        wait_for(lambda: self.server.poll() is not None or is_healthy(self.api.url), PATIENCE_S)
        assert self.server.poll() is None

    def deploy(self, settings: str) -> None:
        """Write the settings file and register the deployments, as `make deploy` does."""
        self._config.write_text(f'store = "{self.store}"\n{settings}')
        self.run("flows.deploying", "--config", str(self._config), "--gpus", "1")

    def run(self, module: str, *arguments: str) -> None:
        """Run a module as a command, which must end well."""
        command = [sys.executable, "-m", module, *arguments]
        subprocess.run(command, cwd=ROOT, env=self._environment, check=True, timeout=PATIENCE_S)

    def start_worker(self, pool: str, name: str) -> subprocess.Popen[bytes]:
        """Start a worker; return when the server has heard of it."""
        worker = self._start("prefect", "worker", "start", "--pool", pool, "--name", name, "--limit", "1")
        path = f"work_pools/{pool}/workers/filter"
        wait_for(
            lambda: name in [one["name"] for one in self.api.ask(path, {}) if one["status"] == "ONLINE"], PATIENCE_S
        )
        return worker

    def finished_nights(self) -> list[Path]:
        """Return the marks of the nights that have ended."""
        return list(self.store.glob("nights/*/done-*.json"))

    def parts(self, table: str) -> list[Path]:
        """Return the part files of a table."""
        return list((self.store / "parts" / table).rglob("*.parquet"))

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return the store's answer to a query."""
        with open_database(open_store(str(self.store))) as database:
            return database.execute(query).fetchall()

    def __enter__(self) -> Machines:
        return self

    def __exit__(self, *_: object) -> None:
        everyone = [pid for process in self._started for pid in (process.pid, *below(process.pid))]
        for pid in everyone:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process in self._started:
            process.wait()

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        self._started.append(process)
        return process


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def below(pid: int) -> dict[int, str]:
    """Return the command lines of the processes that came of one, parents before children."""
    found: dict[int, str] = {}
    waiting = [pid]
    for one in waiting:
        children = children_of(one)
        found |= children
        waiting += children
    return found


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process without a word, as a machine that runs out of memory does."""
    process.kill()
    process.wait()
