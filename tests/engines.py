"""A Prefect server that many tests share, and its database for those whose night starts a server of its own."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.nights import ROOT

DATABASE = "prefect.db"
UNTIL_STDIN_CLOSES = """
import sys
from flows.engine import prefect_api
with prefect_api() as url:
    print(url, flush=True)
    sys.stdin.read()
"""


@dataclass(frozen=True)
class Engine:
    """A running Prefect server: its API's URL, and the folder of its database."""

    url: str
    home: Path

    def copy_database(self, home: Path) -> Path:
        """Copy the database into a new home and return that; to create one takes longer than most tests."""
        home.mkdir()
        with (
            closing(sqlite3.connect(self.home / DATABASE)) as ours,
            closing(sqlite3.connect(home / DATABASE)) as copied,
        ):
            ours.backup(copied)
        return home


@contextmanager
def running_engine(home: Path) -> Iterator[Engine]:
    """Run a Prefect server with a database of its own."""
    environment = {**os.environ, "HOME": str(home), "PREFECT_HOME": str(home)}
    environment.pop("PREFECT_API_URL", None)
    command = [sys.executable, "-c", UNTIL_STDIN_CLOSES]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            url = server.stdout.readline().strip()
            assert url, "the Prefect server did not start"
            yield Engine(url, home)
        finally:
            server.stdin.close()
