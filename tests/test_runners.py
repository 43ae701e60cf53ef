"""The same night by one process, by Dask and Ray, by three crawl workers of which one is killed: the same rows."""

import importlib.util
import json
import os
import signal
from bisect import bisect
from collections import Counter
from datetime import date
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from benchmarks.schedulers import crawl_workers, dask_scheduler, prefect_server, ray_head, register, wait_until
from deployments.demo.standin import StandIn, Switches
from flows.deploying import NIGHTLY
from storage.nights import night_summaries, read_plan
from storage.parts import read_columns
from storage.store import open_store
from tests.nights import SETTINGS, children_of, finished, repos, rows, start_night

pytestmark = [pytest.mark.prefect, pytest.mark.slow]

MODELS = 60
PLENTY = (1_000_000, 300.0)


SHARED_QUOTA, WINDOW_S = 60, 6.0
IN_FLIGHT = 4  # requests of a process that may have been sent in the window before; SETTINGS says so


class Crew:
    """A Prefect server and three crawl workers, and the nights that they do by one settings file."""

    def __init__(self, url, config):
        self.url, self.config = url, config

    def ask(self, path, body=None):
        """Return the server's answer to a POST, or a GET where there is no body, asked again while it is too busy."""
        content = None if body is None else json.dumps(body).encode()
        while True:
            try:
                with urlopen(Request(f"{self.url}/{path}", content, {"Content-Type": "application/json"})) as answer:
                    return json.load(answer)
            except HTTPError as error:
                if error.code != 503:  # SQLite is locked, while three workers begin
                    raise

    def start_night(self, hub, store, workers=3):
        named = f'endpoint = "{hub.endpoint}"\nstore = "{store}"\n'
        self.config.write_text(named + settings(workers, runner="workers"))
        self.ask(f"deployments/{self.ask(f'deployments/name/{NIGHTLY}')['id']}/create_flow_run", {})

    def runs(self, deployment, state):
        of_state = {"state": {"type": {"any_": [state]}}}
        return self.ask("flow_runs/filter", {"flow_runs": of_state, "deployments": {"name": {"any_": [deployment]}}})

    def run_of_batch(self):
        """Return which run audited which batch, by what the server has heard."""
        runs = self.ask("task_runs/filter", {"task_runs": {"name": {"like_": "audit batch"}}})
        return {int(run["name"].rpartition(" ")[2]): run["flow_run_id"] for run in runs}


@pytest.fixture
def crew(tmp_path, prefect_home):
    config = tmp_path / "nightly.toml"
    config.write_text("[[sources]]\ntop = 1\n")
    with prefect_server(prefect_home) as url:
        environment = {"PREFECT_API_URL": url, "NORMAUDIT_HOME": str(tmp_path), "PREFECT_WORKER_QUERY_SECONDS": "2"}
        register(config, environment)
        with crawl_workers(3, environment):
            yield Crew(url, config)


def settings(workers, **others):
    """Return the settings of a night by so many processes, as TOML."""
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in others.items()]
    limits = SETTINGS.replace("[limits]", f"[limits]\nworkers = {workers}")
    return "".join(lines) + limits + "[probe]\ngpu_seconds = 0\n"


def rows_of_one_process(hub, folder):
    """Return what a night in one process finds."""
    (folder / "one.toml").write_text(settings(1))
    status, _, err = finished(start_night(hub, folder / "one", folder / "one.toml"))
    assert status == 0, err
    return rows(folder / "one")


def audits(location, *columns):
    """Return some columns of all rows in the parts of a store's one night, duplicates and all; and its plan's rows."""
    store = open_store(location)
    [summary] = night_summaries(store)
    night = date.fromisoformat(summary["night"])
    return (
        read_columns(store, "audits", night, summary["audit_id"], columns).to_pylist(),
        read_plan(store, night).to_pylist(),
    )


def each_repo_is_there_once(location, count):
    found = [row["repo_id"] for row in audits(location, "repo_id")[0]]
    return len(found) == len(set(found)) == count


AUDITING = {"dask": "multiprocessing.spawn", "ray": "ray::audit"}  # in the command line of a process that audits
SCHEDULERS = {"dask": dask_scheduler, "ray": ray_head}


@pytest.mark.parametrize("runner", SCHEDULERS)
def test_two_processes_of_a_scheduler_of_which_one_is_killed_find_what_one_process_finds(
    prefect_home, tmp_path, runner
):
    if importlib.util.find_spec(f"prefect_{runner}") is None:
        pytest.skip(f"needs the extra {runner}")
    store, config = tmp_path / "two", tmp_path / "two.toml"
    with StandIn(repos(30)) as hub, SCHEDULERS[runner](2) as scheduler:
        hub.switches.latency_s = 1.0
        config.write_text(settings(2, runner=runner, scheduler=scheduler))
        night = start_night(hub, store, config)
        wait_until(lambda: list((store / "parts" / "audits").rglob("*.parquet")) or night.poll() is not None)
        assert len(processes_of(runner)) == 2, below_this_one()
        os.kill(processes_of(runner)[0], signal.SIGKILL)
        hub.switches.latency_s = 0
        status, _, err = finished(night)
        assert status == 0, err
        assert rows(store) == rows_of_one_process(hub, tmp_path)
    assert each_repo_is_there_once(store, 30)


def processes_of(runner):
    """Return the processes that a scheduler below this one audits in."""
    return [pid for pid, command in below_this_one().items() if AUDITING[runner] in command]


def below_this_one():
    """Return the command lines of all processes that came of this one."""
    found, waiting = {}, [os.getpid()]
    while waiting:
        below = children_of(waiting.pop())
        found |= below
        waiting += below
    return found


def test_where_no_worker_is_to_be_had_the_nights_own_process_does_all(prefect_home, tmp_path):
    (tmp_path / "alone.toml").write_text(settings(3, runner="workers"))
    with StandIn(repos(30)) as hub:
        status, _, err = finished(start_night(hub, tmp_path / "alone", tmp_path / "alone.toml"))
        assert status == 0, err
        assert "the others take them over" in err
        assert rows(tmp_path / "alone") == rows_of_one_process(hub, tmp_path)


def test_three_crawl_workers_find_what_one_does_each_within_its_share_of_the_limit(crew, tmp_path):
    store, count = tmp_path / "three", 300
    switches = Switches(limits={"api": (1_000_000, 300.0), "resolvers": (SHARED_QUOTA, WINDOW_S)})
    with StandIn(repos(count), switches=switches) as hub:
        crew.start_night(hub, store)
        wait_until(lambda: crew.runs("nightly", "COMPLETED"))
        asked = [request for request in hub.requests if "/resolve/" in request.path]
        assert len(asked) == count
        assert 429 not in {request.status for request in asked}
        hub.switches.limits["resolvers"] = hub.switches.limits["api"]
        assert rows(store) == rows_of_one_process(hub, tmp_path)
    assert each_repo_is_there_once(store, count)
    spent = spent_by_run_and_window(store, crew.run_of_batch(), windows([request.received_at for request in asked]))
    assert len({run for run, _ in spent}) >= 3  # a worker may get a second, smaller portion
    assert max(spent.values()) <= SHARED_QUOTA // 3 + IN_FLIGHT


def windows(times):
    """Return when each window began: with a first request, as the stand-in's does."""
    begun = []
    for at in times:
        if not begun or at >= begun[-1] + WINDOW_S:
            begun.append(at)
    return begun


def spent_by_run_and_window(store, run_of_batch, begun):
    """Return the requests to the Hub of each run in each window."""
    found, plan = audits(store, "repo_id", "audited_at", "hub_requests")
    batch_of = {row["repo_id"]: row["batch"] for row in plan}
    spent = Counter()
    for row in found:
        window = bisect(begun, row["audited_at"].timestamp())
        spent[run_of_batch[batch_of[row["repo_id"]]], window] += row["hub_requests"]
    return spent


def test_a_crawl_worker_that_is_killed_loses_nothing_the_others_take_its_batches_over(crew, tmp_path):
    store, count = tmp_path / "three", 60
    with StandIn(repos(count)) as hub:
        hub.switches.latency_s = 0.5
        crew.start_night(hub, store)
        wait_until(lambda: crew.runs("batches", "RUNNING") and list(store.glob("nights/*/batches-*.beat")))
        [victim, *_] = crew.runs("batches", "RUNNING")
        run = int(victim["infrastructure_pid"].rpartition(":")[2])
        for pid in (parent_of(run), run, *children_of(run)):  # the worker first, so that it cannot tell
            os.kill(pid, signal.SIGKILL)
        hub.switches.latency_s = 0
        wait_until(lambda: crew.runs("nightly", "COMPLETED"))
        assert [lost["id"] for lost in crew.runs("batches", "CRASHED")] == [victim["id"]]
        assert rows(store) == rows_of_one_process(hub, tmp_path)
    assert each_repo_is_there_once(store, count)
    assert not list(store.glob("nights/*/batches-*.beat"))


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
