"""A Postgres server on loopback for tests, started from the binaries of this machine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.machines import free_port
from tests.test_engine import wait_for

PASSWORD = "hush-hush"
_UNPRIVILEGED = "nobody"  # Postgres refuses to run as root


def binaries() -> Path | None:
    """Return the folder that holds `initdb` and `postgres`, or None: the newest, where there are several."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    versions = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((path.parent for path in versions), key=lambda folder: int(folder.parent.name), default=None)


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """Run a server with an empty database `prefect` of its own for the length of a block; yield its URL for Prefect.

    Args:
        folder: of the binaries.
    """
    user = _UNPRIVILEGED if os.geteuid() == 0 else None
    port = free_port()
    with tempfile.TemporaryDirectory() as home:
        data, secret = Path(home) / "data", Path(home) / "password"
        secret.write_text(PASSWORD)
        if user:
            for path in (home, secret):
                shutil.chown(path, user)
        access = ["--auth=scram-sha-256", "--username=prefect", f"--pwfile={secret}"]
        create = [folder / "initdb", f"--pgdata={data}", *access, "--encoding=UTF8", "--locale=C", "--no-sync"]
        subprocess.run(create, check=True, user=user, cwd=home, stdout=subprocess.DEVNULL)
        serve = [folder / "postgres", "-D", data, "-p", str(port), "-k", home, "-c", "listen_addresses=127.0.0.1"]
        server = subprocess.Popen(serve, user=user, cwd=home, stderr=subprocess.DEVNULL)
        try:
            wait_for(lambda: server.poll() is not None or _answers(folder, port))
            yield f"postgresql+asyncpg://prefect:{PASSWORD}@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)  # ends what is connected, then the server
            server.wait()


def _answers(folder: Path, port: int) -> bool:
    command = [folder / "pg_isready", "--host=127.0.0.1", f"--port={port}", "--quiet"]
    return subprocess.run(command, check=False).returncode == 0
