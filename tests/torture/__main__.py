"""Kill nights with SIGKILL at random moments, run each again to its end, and compare it with an undisturbed night.

    python -m tests.torture --kills 50 --seed 7

A night's work lasts from its taking the store's lease to its end; the moments are drawn evenly over that time. The
nights share one Prefect server, which saves most of their start; that a night's own ends with it is seen to by
`tests/test_engine.py`. Exit status 1 if any night ended with other rows, or did not end well.
"""

from __future__ import annotations

import argparse
import os
import random
import secrets
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from deployments.demo.standin import StandIn
from flows.engine import prefect_api
from storage.nights import unfinished_nights
from storage.store import LEASE, SNAPSHOT, open_store
from tests.nights import NIGHT_S, SETTINGS, finished, repos, rows, start_night

MODELS = 30  # six batches of five
LATENCY_S = 0.1  # of the Hub: makes listing and reading last as long as rebuilding and publishing


@dataclass(frozen=True, slots=True)
class Torture:
    """Where the nights run: the Hub that they read, and a folder for their stores."""

    hub: StandIn
    folder: Path

    @property
    def config(self) -> Path:
        """Return the nights' settings."""
        return self.folder / "nightly.toml"

    def start(self, store: Path) -> subprocess.Popen[str]:
        """Start a night; return once it holds the store."""
        process = start_night(self.hub, store, self.config)
        gives_up_at = time.monotonic() + NIGHT_S
        while not (store / LEASE).exists():
            if process.poll() is not None or time.monotonic() > gives_up_at:
                process.kill()
                raise SystemExit(f"the night did not start: {process.communicate()[1]}")
            time.sleep(0.002)
        return process

    def undisturbed(self) -> tuple[Path, float]:
        """Run a night without disturbing it; return its store, and how long it worked, in seconds."""
        store = self.folder / "undisturbed"
        process = self.start(store)
        began = time.monotonic()
        status, _, said = finished(process)
        if status:
            raise SystemExit(f"the undisturbed night ended with status {status}: {said}")
        return store, time.monotonic() - began

    def killed(self, store: Path, after_s: float) -> str | None:
        """Start a night and kill it after a time; return how far it had come, None if it had ended before."""
        process = self.start(store)
        time.sleep(after_s)
        process.kill()
        process.communicate()
        return None if process.returncode == 0 else stage(store)

    def faults(self, store: Path, undisturbed: Path) -> list[str]:
        """Run a night that was killed again, to its end; return what is wrong with what it leaves."""
        status, _, said = finished(start_night(self.hub, store, self.config))
        if status:
            return [f"ended with status {status}: {said.strip()}"]
        wanted, got = rows(undisturbed), rows(store)
        checks = {
            **{f"other rows in {table}": wanted[table] == got[table] for table in wanted},
            "the lease was not given back": not (store / LEASE).exists(),
            "the night is not finished": not unfinished_nights(open_store(store)),
            "not published": (store / "site" / "index.html").exists(),
        }
        return [fault for fault, is_well in checks.items() if not is_well]


def stage(location: Path) -> str:
    """Return how far a night has come, by what lies in its store."""
    store = open_store(location)
    if not list(location.rglob("plan.parquet")):
        return "listing"
    if (done := len(list(location.glob("parts/audits/*/*.parquet")))) < MODELS // 5 and unfinished_nights(store):
        return f"reading, {done} batches done"
    if not unfinished_nights(store):
        return "merging"
    if (location / "site").exists():
        return "ending"
    return "publishing" if (location / SNAPSHOT).exists() else "rebuilding"


@contextmanager
def prepared() -> Iterator[Torture]:
    """Yield a Hub, a Prefect server and an empty folder, which are gone afterwards."""
    with TemporaryDirectory(prefix="torture-") as name, StandIn(repos(MODELS)) as hub:
        folder = Path(name)
        os.environ |= {"HOME": name, "HF_HOME": f"{name}/hf", "PREFECT_HOME": f"{name}/prefect"}
        hub.switches.latency_s = LATENCY_S
        (folder / "nightly.toml").write_text(SETTINGS)
        with prefect_api() as url:
            os.environ["PREFECT_API_URL"] = url
            yield Torture(hub, folder)


def torture(kills: int, seed: int) -> bool:
    """Kill so many nights and finish each; print how it went; return whether all ended well."""
    rng, began, stages, bad = random.Random(seed), time.monotonic(), Counter[str](), 0
    print(f"{kills} kills, seed {seed}", flush=True)
    with prepared() as place:
        undisturbed, work_s = place.undisturbed()
        print(f"an undisturbed night works for {work_s:.1f} s", flush=True)
        while stages.total() < kills:
            store, after_s = place.folder / "killed", rng.uniform(0, work_s)
            shutil.rmtree(store, ignore_errors=True)
            if (reached := place.killed(store, after_s)) is None:
                continue  # it had ended: no kill
            stages[reached.partition(",")[0]] += 1
            faults = place.faults(store, undisturbed)
            bad += bool(faults)
            print(
                f"{stages.total():3}  after {after_s:5.2f} s, {reached}: {'; '.join(faults) or 'same rows'}", flush=True
            )
    print(f"{kills - bad} of {kills} ended with the same rows, in {time.monotonic() - began:.0f} s")
    print("killed while " + ", ".join(f"{name} {count}" for name, count in stages.most_common()))
    return not bad


def main() -> None:
    """Read the command line, and torture."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description="Kill nights at random moments.")
    parser.add_argument("--kills", type=int, default=50, help="nights to kill")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="of the moments; printed")
    arguments = parser.parse_args()
    sys.exit(0 if torture(arguments.kills, arguments.seed) else 1)


if __name__ == "__main__":
    main()
