"""Register the work pools and the deployments of deployments/prefect.yaml with a Prefect server.

python -m flows.deploying [--config FILE] [--gpus N], against the server that PREFECT_API_URL names. Run again, it
brings both up to date.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from flows.engine import EngineError
from flows.settings import DEFAULT_CONFIG

CRAWL_POOL, GPU_POOL = "crawl", "gpu"
NIGHTLY = "nightly/nightly"
BATCHES = "batches/batches"


def main() -> None:
    """Register everything with the named server."""
    parser = argparse.ArgumentParser(prog="python -m flows.deploying", description=__doc__.partition("\n")[0])
    parser.add_argument("--config", default=str(DEFAULT_CONFIG), help="the settings file, as the workers find it")
    parser.add_argument("--gpus", type=int, default=1, help="runs of the GPU pool at a time: one for each GPU")
    args = parser.parse_args()
    if not os.environ.get("PREFECT_API_URL"):
        parser.error("PREFECT_API_URL names no server; for one machine, `normaudit serve` starts one")
    register(args.config, args.gpus, os.environ)


def register(config: str, gpus: int, environment: Mapping[str, str]) -> None:
    """Make the work pools and the deployments, or bring them up to date.

    Args:
        config: the settings file, as the workers find it.
        gpus: runs of the GPU pool at a time.
        environment: names the server; of this process it must name the same.

    Raises:
        EngineError: `prefect deploy` fails; the message ends with what it said.
    """
    asyncio.run(_make_pools({CRAWL_POOL: None, GPU_POOL: gpus}))
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    run = subprocess.run(
        [*command, "--prefect-file", "deployments/prefect.yaml"],
        cwd=Path(str(files("deployments"))).parent,
        env={**environment, "NORMAUDIT_CONFIG": config, "COLUMNS": "200"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        said = " ".join((run.stdout + run.stderr).split())
        raise EngineError(f"the deployments could not be registered: prefect deploy said: …{said[-500:]}")


async def _make_pools(limits: Mapping[str, int | None]) -> None:
    from prefect import get_client
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    async with get_client() as client:
        for name, limit in limits.items():
            pool = WorkPoolCreate(name=name, type="process", base_job_template=template, concurrency_limit=limit)
            try:
                await client.create_work_pool(pool)
            except ObjectAlreadyExists:
                await client.update_work_pool(name, WorkPoolUpdate(concurrency_limit=limit))


if __name__ == "__main__":
    main()
