"""The same night by one process, by Dask's and Ray's workers and by crawl workers: python -m benchmarks.runners.

Each night audits the same made-up models (`benchmarks.scale_hub`), in large batches and in small ones. Every answer
comes late, so that a process waits rather than computes, as it does where it has a share of a rate limit. Told are
seconds from the plan to the last audit, what a batch costs more in the small ones, and whether the rows are the same.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from benchmarks.reader_process import ROOT, Child
from benchmarks.schedulers import crawl_workers, dask_scheduler, prefect_server, ray_head, register
from storage.database import open_database
from storage.nights import night_summaries
from storage.store import night_file, open_store

RUNNERS = {"threads": 1, "dask": 2, "ray": 2, "workers": 3}  # and the processes that audit
WARM_UP_MODELS = 50  # audited first, since a standing scheduler's processes have imported everything on other nights
CONCURRENCY = 8  # with 50 ms before each answer a process is idle for three quarters of the time


@dataclass(frozen=True)
class Result:
    """What a night took.

    Attributes:
        runner: a key of RUNNERS.
        batches: of the night.
        night_s: of all of it.
        audit_s: from its plan to its last audit.
        digest: of the norms and kernels that it found.
    """

    runner: str
    batches: int
    night_s: float
    audit_s: float
    digest: str


def main() -> int:
    options = parsed()
    with tempfile.TemporaryDirectory() as folder, Child("benchmarks.scale_hub", "tiny") as hub:
        endpoint = hub.ask(models=options.models, changed=0, latency_s=options.latency_ms / 1000)["endpoint"]
        print(table(list(results_of(options, endpoint, Path(folder))), options.models))
    return 0


def parsed() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runners", description=__doc__)
    parser.add_argument("--models", type=int, default=2_000, help="of each night")
    parser.add_argument("--batches", nargs=2, type=int, default=[20, 100], help="of a night: few, many")
    parser.add_argument("--latency-ms", type=float, default=50.0, help="before each answer")
    parser.add_argument("--runners", nargs="+", choices=RUNNERS, default=[*RUNNERS], help="only these")
    return parser.parse_args()


def results_of(options: argparse.Namespace, endpoint: str, folder: Path) -> Iterator[Result]:
    """Yield what each night took; all of them use one Prefect server."""
    with prefect_server(folder / "prefect") as url:
        environment = {"PREFECT_API_URL": url, "HF_HOME": str(folder / "hf"), "NORMAUDIT_HOME": str(folder)}
        os.environ.update(environment)
        for runner in options.runners:
            with standing(runner, folder) as scheduler:
                run(runner, scheduler, endpoint, WARM_UP_MODELS, RUNNERS[runner], folder)
                for batches in options.batches:
                    result = run(runner, scheduler, endpoint, options.models, batches, folder)
                    print(result, file=sys.stderr)
                    yield result


@contextmanager
def standing(runner: str, folder: Path) -> Iterator[str | None]:
    """Keep a runner's other processes for the length of a block; yield where they are to be found."""
    if runner == "workers":
        config = folder / "registered.toml"
        config.write_text("[[sources]]\ntop = 1\n")
        register(config, {})
        with crawl_workers(RUNNERS[runner] - 1, {}):
            yield None
    elif runner == "threads":
        yield None
    else:
        with (dask_scheduler if runner == "dask" else ray_head)(RUNNERS[runner]) as address:
            yield address


def run(runner: str, scheduler: str | None, endpoint: str, models: int, batches: int, folder: Path) -> Result:
    """Run one night and return what it took."""
    store = folder / f"{runner}-{models}-{batches}"
    config = store.with_suffix(".toml")
    config.write_text(
        f'endpoint = "{endpoint}"\nstore = "{store}"\nrunner = "{runner}"\n'
        + (f'scheduler = "{scheduler}"\n' if scheduler else "")
        + f"[[sources]]\ntop = {models}\n[limits]\nworkers = {RUNNERS[runner]}\nconcurrency = {CONCURRENCY}\n"
        + f"batch_models = {-(-models // batches)}\n[probe]\ngpu_seconds = 0\n"
    )
    command = [sys.executable, "-m", "flows.cli", "nightly", "--config", str(config)]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return result_in(store, runner, batches)


def result_in(location: Path, runner: str, batches: int) -> Result:
    """Return what the one night in a store took."""
    store = open_store(location)
    [summary] = night_summaries(store)
    planned_s = store.place.local_path(night_file(date.fromisoformat(summary["night"]), "plan.parquet")).stat().st_mtime
    with open_database(store) as database:
        [(last_s,)] = database.execute("SELECT epoch(max(audited_at)) FROM audits").fetchall()
        digests = [database.execute(_DIGEST.format(table=table)).fetchall() for table in ("norms", "kernels")]
    return Result(runner, batches, summary["seconds"], last_s - planned_s, str(digests))


_DIGEST = "SELECT count(*), bit_xor(hash(found)) FROM (SELECT * EXCLUDE (night, audit_id) FROM {table}) AS found"


def table(results: Sequence[Result], models: int) -> str:
    """Return the results as a Markdown table."""
    rows = [["runner", "processes", "batches", "night s", "audit s", "models/s", "ms a further batch", "rows"]]
    rows.append(["---"] * len(rows[0]))
    few: dict[str, Result] = {}
    for result in results:
        before = few.setdefault(result.runner, result)
        more_s = (result.audit_s - before.audit_s) * RUNNERS[result.runner]
        more = f"{1000 * more_s / (result.batches - before.batches):.0f}" if before is not result else ""
        same = "the same" if result.digest == results[0].digest else "OTHERS"
        rows.append(
            [result.runner, str(RUNNERS[result.runner]), str(result.batches), f"{result.night_s:.1f}",
             f"{result.audit_s:.1f}", f"{models / result.audit_s:.0f}", more, same]
        )  # fmt: skip
    load = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end; {models:,} models"
    return "\n".join([*(f"| {' | '.join(row)} |" for row in rows), "", load])


if __name__ == "__main__":
    sys.exit(main())
