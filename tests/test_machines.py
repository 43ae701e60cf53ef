"""A standing Prefect server and workers of two pools: whoever is killed, and whenever, no model is lost or doubled."""

import json
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from deployments.demo.models import DEMO_TOKEN, demo_repos
from deployments.demo.standin import StandIn
from tests import postgres
from tests.machines import PATIENCE_S, Machines, below, kill
from tests.nights import SETTINGS, repos
from tests.test_engine import is_alive, wait_for

pytestmark = [pytest.mark.prefect, pytest.mark.slow]

AWAY_S = 20
PROBED = ("demo/chars-layernorm", "demo/gpt2-small", "demo/qwen3-small")
ON_CPU = '[probe]\ndevice = "cpu"\nweights = "trained"\n'


@pytest.fixture
def machines(tmp_path, prefect_home):
    """A standing server on SQLite, without deployments or workers so far."""
    with Machines(tmp_path, {}) as running:
        running.start_server()
        yield running


@pytest.fixture
def models_hub(models, monkeypatch):
    """A Hub of three models that can be run."""
    monkeypatch.setenv("HF_TOKEN", DEMO_TOKEN)
    with StandIn([repo for repo in demo_repos(models) if repo.repo_id in PROBED], token=DEMO_TOKEN) as hub:
        yield hub


def settings(hub, probe="[probe]\ngpu_seconds = 0\n"):
    return f'endpoint = "{hub.endpoint}"\n{SETTINGS}{probe}'


@pytest.fixture
def webhook():
    """Return the address of a chat service, and the messages that it has got."""
    told = []

    class Service(BaseHTTPRequestHandler):
        def do_POST(self):
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/hooks/audit", told
        server.shutdown()
        thread.join()


def soon():
    """Return the first minute that is far enough away for a server to be told of it, as cron says it."""
    minute = datetime.now(UTC) + timedelta(seconds=80)
    return f"{minute.minute} {minute.hour} * * *"


def is_probing(worker):
    """Return whether a model is being run by a process that came of a worker."""
    return any("tasks.model.attempt" in command for command in below(worker.pid).values())


def probes(machines):
    return sorted(machines.rows("SELECT repo_id, count(*), any_value(status) FROM probes GROUP BY repo_id"))


def test_the_schedule_fires_and_a_gpu_worker_killed_in_the_middle_leaves_nothing_lost_or_doubled(machines, models_hub):
    machines.deploy(settings(models_hub, ON_CPU))
    machines.start_worker("crawl", "crawl-1")
    worker = machines.start_worker("gpu", "gpu-1")
    machines.api.schedule_night(soon())
    wait_for(lambda: machines.parts("probes") and is_probing(worker), PATIENCE_S)
    everyone = below(worker.pid)
    kill(worker)
    wait_for(lambda: not any(map(is_alive, everyone)))
    machines.start_worker("gpu", "gpu-2")
    wait_for(machines.finished_nights, PATIENCE_S)
    machines.api.wait_until_idle()
    assert machines.api.states() == ["COMPLETED", "COMPLETED", "CRASHED"]
    assert [run["auto_scheduled"] for run in machines.api.runs()].count(True) == 1
    assert probes(machines) == [(name, 1, "ok") for name in PROBED]


def test_a_server_that_is_away_for_a_while_costs_a_night_nothing(machines):
    with StandIn(repos(60)) as hub:
        hub.switches.latency_s = 0.5
        machines.deploy(settings(hub))
        machines.start_worker("crawl", "crawl-1")
        machines.api.run_night()
        wait_for(lambda: machines.parts("audits"), PATIENCE_S)
        kill(machines.server)
        time.sleep(AWAY_S)
        assert not machines.finished_nights()
        machines.start_server()
        wait_for(machines.finished_nights, PATIENCE_S)
        machines.api.wait_until_idle()
    assert machines.api.states() == ["COMPLETED"]
    assert machines.rows("SELECT count(*), count(DISTINCT repo_id) FROM audits") == [(60, 60)]


def test_a_night_that_fails_is_told_to_a_chat_service_once(machines, webhook):
    url, told = webhook
    with StandIn(repos()) as gone:
        machines.deploy(settings(gone))
    for _ in range(2):  # run again, it replaces what it has made
        machines.run("flows.alerts", url)
    machines.start_worker("crawl", "crawl-1")
    machines.api.run_night()
    wait_for(lambda: told, PATIENCE_S)
    machines.api.wait_until_idle()
    assert machines.api.states() == ["FAILED"]
    assert len(machines.api.ask("automations/filter", {})) == 2
    [message] = told
    assert message["text"].startswith(f"normaudit: {machines.store} ended as Failed: ")
    assert "gave no whole page" in message["text"]


@pytest.mark.skipif(
    postgres.binaries() is None, reason="needs the binaries of Postgres, in PATH or /usr/lib/postgresql"
)
def test_on_postgres_two_crawl_workers_do_one_night_and_a_gpu_worker_its_probes(tmp_path, prefect_home, models_hub):
    with (
        postgres.running(postgres.binaries()) as url,
        Machines(tmp_path, {"PREFECT_API_DATABASE_CONNECTION_URL": url}) as machines,
    ):
        machines.start_server()
        machines.deploy(settings(models_hub, ON_CPU))
        for pool, name in (("crawl", "crawl-1"), ("crawl", "crawl-2"), ("gpu", "gpu-1")):
            machines.start_worker(pool, name)
        for _ in range(2):  # the second is cancelled, not queued
            machines.api.run_night()
        wait_for(machines.finished_nights, PATIENCE_S)
        machines.api.wait_until_idle()
        assert machines.api.states() == ["CANCELLED", "COMPLETED", "COMPLETED"]
    assert probes(machines) == [(name, 1, "ok") for name in PROBED]
