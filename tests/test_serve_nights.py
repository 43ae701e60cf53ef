"""Nights with probes but without a GPU worker: made here within a budget, and never what a night fails of."""

import pytest

from deployments.demo.models import DEMO_TOKEN, demo_repos
from deployments.demo.standin import StandIn
from storage.database import open_database
from storage.store import open_store
from tests.nights import SETTINGS, finished, start_night

pytestmark = pytest.mark.prefect


@pytest.fixture
def night(tmp_path, prefect_server, models):
    """Return a function that runs a night with these settings of probes on a Hub of two models that can be run."""
    stock = [repo for repo in demo_repos(models) if repo.repo_id in ("demo/chars-layernorm", "demo/gpt2-small")]
    config, store = tmp_path / "nightly.toml", tmp_path / "store"

    def run(probe):
        config.write_text(f"{SETTINGS}[probe]\n{probe}\n")
        with StandIn(stock, token=DEMO_TOKEN) as hub:
            status, _, err = finished(start_night(hub, store, config, {"HF_TOKEN": DEMO_TOKEN}))
        with open_database(open_store(store)) as database:
            probes = database.execute("SELECT repo_id, weights, status, device FROM probes").fetchall()
        return status, err, probes

    return run


def test_without_a_gpu_worker_models_are_probed_here_within_the_budget(night, tmp_path):
    status, err, probes = night('cpu_seconds = 600\nmodels = 1\nweights = "trained"')
    assert status == 0, err
    assert probes == [("demo/gpt2-small", "trained", "ok", "cpu")]
    assert "present" in (tmp_path / "store" / "site" / "leaderboard.csv").read_text()


def test_a_query_of_the_settings_that_cannot_be_answered_is_told_and_costs_the_probes_alone(night, tmp_path):
    status, err, probes = night('cpu_seconds = 600\nquery = "SELECT nonsense FROM latest"')
    assert status == 0, err
    assert probes == []
    assert "the setting probe.query" in err
    assert (tmp_path / "store" / "site" / "index.html").exists()
