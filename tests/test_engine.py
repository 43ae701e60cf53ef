"""The Prefect server of a night: it ends with its parent however that dies, and its failure is one clear error."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import get_args

import pytest

from tests.command import ROOT, normaudit

pytestmark = pytest.mark.prefect

SERVE = """
import sys, time
from flows.engine import prefect_api
with prefect_api() as url:
    print(url, flush=True)
    time.sleep(600)
"""


NAMED = """
import os
from pathlib import Path
from flows.engine import prefect_api
with prefect_api() as url:
    print(url, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())
"""


def children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(condition, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_healthy(url):
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_the_server_ends_with_its_parent_however_that_ends(prefect_home, how):
    process = subprocess.Popen([sys.executable, "-c", SERVE], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        url = process.stdout.readline().strip()
        assert is_healthy(url)
        children = children_of(process.pid)
        assert children
        process.send_signal(how)
        process.wait(60)
        wait_for(lambda: not any(map(is_alive, children)))
        assert not is_healthy(url)
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


def test_a_named_server_is_used_and_none_is_started(prefect_server):
    run = subprocess.run([sys.executable, "-c", NAMED], capture_output=True, text=True, cwd=ROOT, check=True)
    assert run.stdout.split() == [prefect_server, "[]"]
    assert is_healthy(prefect_server)


def test_a_home_that_cannot_be_written_is_one_line(tmp_path, own_home):
    (tmp_path / "file").write_text("")
    config = tmp_path / "nightly.toml"
    config.write_text("[[sources]]\ntop = 1\n")
    env = {**os.environ, "PREFECT_HOME": str(tmp_path / "file" / "home")}
    command = [
        sys.executable,
        "-m",
        "flows.cli",
        "nightly",
        "--config",
        str(config),
        "--store",
        str(tmp_path / "store"),
    ]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, check=False, timeout=120)
    assert run.returncode == 2
    assert run.stdout == ""
    assert len(run.stderr.splitlines()) == 1
    assert str(tmp_path / "file" / "home") in run.stderr
    assert "PREFECT_API_URL" in run.stderr


def test_a_server_that_cannot_start_is_one_error_with_its_reason(own_home, monkeypatch):
    monkeypatch.setenv("PREFECT_HOME", str(own_home))
    (own_home / "prefect.db").mkdir()
    code = "from flows.engine import prefect_api\nwith prefect_api() as url: print(url)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode == 1
    assert "EngineError: the Prefect server did not start: it ended with status" in run.stderr
    assert "unable to open database file" in run.stderr


RECONCILE = """
import asyncio, json
from flows.engine import close_dead_runs, prefect_api

async def main():
    from prefect import flow, get_client
    from prefect.states import Running

    @flow(name="nightly", flow_run_name="the-store")
    async def night():
        return await close_dead_runs()

    async with get_client() as client:
        runs = {}
        for name in ("the-store", "another-store"):
            run = await client.create_flow_run(night, name=name, state=Running())
            runs[name] = run.id
        closed = await night()
        states = {name: (await client.read_flow_run(run)).state for name, run in runs.items()}
    print(json.dumps([closed, {name: [state.type, state.message] for name, state in states.items()}]))

with prefect_api():
    asyncio.run(main())
"""


def test_dead_runs_of_the_same_store_are_closed_as_crashed_and_others_stay(prefect_server):
    run = subprocess.run([sys.executable, "-c", RECONCILE], capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == [
        1,
        {"the-store": ["CRASHED", "killed; the next run went on"], "another-store": ["RUNNING", None]},
    ]


@pytest.mark.usefixtures("models")
def test_the_demo_shows_every_status_and_its_second_night_reads_nothing(prefect_home, engine, tmp_path):
    from deployments.demo.models import demo_repos
    from flows.night_run import DEMO_CACHE
    from storage.database import open_database
    from storage.store import open_store
    from tasks.core.records import Status

    store = tmp_path / "store"
    command = [sys.executable, "-m", "flows.cli", "demo", "--store", str(store)]
    first, second = (
        subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=300, env=environment)
        for environment in (None, {**os.environ, "PREFECT_API_URL": engine.url})
    )
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    with open_database(open_store(store)) as database:
        statuses = dict(database.execute("SELECT repo_id, status FROM latest").fetchall())
        audits = database.execute("SELECT repo_id, sum(cdn_requests) FROM audits GROUP BY ALL").fetchall()
    assert set(statuses.values()) == set(get_args(Status))
    expected = {
        repo.repo_id: tag.removeprefix("expected:")
        for repo in demo_repos(ROOT / DEMO_CACHE)
        for tag in repo.tags
        if tag.startswith("expected:")
    }
    assert {repo: statuses[repo] for repo in expected} == expected
    assert len(audits) == len(statuses)
    assert "0 to its CDN, 0 bytes read" in second.stdout
    assert "private-draft" not in first.stdout
    assert str(store / "site" / "index.html") in first.stdout
    assert normaudit("status", "--store", store).exit_code == 0
