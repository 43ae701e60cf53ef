"""`normaudit serve` on loopback: one server, one schedule, no orphan, nothing lost or doubled whoever is killed."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest

from deployments.demo.standin import StandIn
from storage.database import open_database
from storage.store import open_store
from tests.machines import PATIENCE_S, PrefectApi, below, free_port
from tests.nights import ROOT, SETTINGS, children_of, repos
from tests.test_engine import is_alive, wait_for

pytestmark = [pytest.mark.prefect, pytest.mark.slow]


@pytest.fixture
def serving(tmp_path, prefect_home):
    """Return a context in which a Hub's nights are served, on a port and with a store of its own."""
    port, config = free_port(), tmp_path / "nightly.toml"
    command = [sys.executable, "-m", "flows.cli", "serve", "--config", str(config), "--port", str(port), "--gpus", "1"]
    environment = {**os.environ, "NORMAUDIT_HOME": str(tmp_path)}

    @contextmanager
    def start(hub, probe="gpu_seconds = 0"):
        config.write_text(f'endpoint = "{hub.endpoint}"\nstore = "{tmp_path / "store"}"\n{SETTINGS}[probe]\n{probe}\n')
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        try:
            said = []
            while not said or "serving;" not in said[-1]:
                said.append(process.stderr.readline())
                assert said[-1], said
            yield Served(process, f"http://127.0.0.1:{port}/api", tmp_path / "store")
        finally:
            process.terminate()
            process.communicate(timeout=PATIENCE_S)

    return start


class Served:
    """A running `normaudit serve`."""

    def __init__(self, process, url, store):
        self.process, self.api, self.store = process, PrefectApi(url), store

    def everyone(self):
        """Return the processes that came of it, with their command lines."""
        return below(self.process.pid)

    def finished_nights(self):
        return list(self.store.glob("nights/*/done-*.json"))

    def parts(self, table):
        return list((self.store / "parts" / table).rglob("*.parquet"))


def rows(store, query):
    with open_database(open_store(store)) as database:
        return database.execute(query).fetchall()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_all_its_children(serving, own_hub, how):
    with serving(own_hub) as served:
        wait_for(lambda: len(served.everyone()) == 6, PATIENCE_S)  # a server and two workers, each with its tether
        everyone = served.everyone()
        served.process.send_signal(how)
        assert served.process.wait(PATIENCE_S) == 0
        assert not any(map(is_alive, everyone))


def test_killed_in_the_middle_of_a_night_it_leaves_no_orphan_and_goes_on_when_it_is_started_again(serving):
    with StandIn(repos(30)) as hub:
        hub.switches.latency_s = 0.2
        with serving(hub) as served:
            served.api.run_night()
            wait_for(lambda: len(served.parts("audits")) >= 2, PATIENCE_S)
            everyone = served.everyone()
            served.process.send_signal(signal.SIGKILL)
            served.process.wait()
            wait_for(lambda: not any(map(is_alive, everyone)), PATIENCE_S)
            assert not served.finished_nights()
        hub.switches.latency_s = 0
        with serving(hub) as served:
            wait_for(served.finished_nights, PATIENCE_S)
            served.api.wait_until_idle()
            assert served.api.states() == ["COMPLETED", "CRASHED"]
            schedules = [one["schedules"] for one in served.api.ask("deployments/filter", {})]
            assert sum(map(len, schedules)) == 1
        assert rows(served.store, "SELECT count(*), count(DISTINCT repo_id) FROM audits") == [(30, 30)]


@pytest.mark.usefixtures("models")
def test_a_gpu_worker_that_dies_costs_the_model_at_hand_and_the_rest_is_sent_again(serving, models, monkeypatch):
    from deployments.demo.models import DEMO_TOKEN, demo_repos

    monkeypatch.setenv("HF_TOKEN", DEMO_TOKEN)
    names = {"demo/chars-layernorm", "demo/gpt2-small", "demo/qwen3-small"}
    stock = [repo for repo in demo_repos(models) if repo.repo_id in names]
    with StandIn(stock, token=DEMO_TOKEN) as hub, serving(hub, 'device = "cpu"\nweights = "trained"') as served:
        served.api.run_night()
        wait_for(lambda: served.parts("probes"), PATIENCE_S)
        worker = next(pid for pid, command in served.everyone().items() if is_gpu_worker(command))
        for pid in (worker, *children_of(worker)):
            os.kill(pid, signal.SIGKILL)
        wait_for(served.finished_nights, PATIENCE_S)
        served.api.wait_until_idle()
        assert served.api.states() == ["COMPLETED", "COMPLETED", "CRASHED"]
        found = rows(served.store, "SELECT repo_id, count(*), any_value(status) FROM probes GROUP BY repo_id")
        assert sorted(found) == [(name, 1, "ok") for name in sorted(names)]


def is_gpu_worker(command):
    words = command.split("\0")
    return "worker" in words and "gpu" in words and "flows.tether" not in words


def test_a_port_that_is_taken_is_one_line_that_says_what_to_do(own_home, tmp_path):
    config = tmp_path / "nightly.toml"
    config.write_text("[[sources]]\ntop = 1\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "flows.cli", "serve", "--config", str(config), "--port", str(port)]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert f"port {port} is taken" in run.stderr
