"""Probing what lies on the Hub: by ranges, part by part, with the figures of the same files in a folder."""

import pytest

pytest.importorskip("transformers")

from deployments.demo.catalogue import BytesContent, StandInRepo
from deployments.demo.standin import StandIn
from tasks.model.attempt import probed
from tasks.model.jobs import Job
from tests.probes import probe_of, saved, unheard

REPO = "acme/tiny"


@pytest.fixture
def folder(tmp_path):
    return saved("gpt2", tmp_path / "gpt2", max_shard_size="40kB")


@pytest.fixture
def hub(folder, own_home, monkeypatch):
    def files():
        return {path.name: BytesContent(path.read_bytes()) for path in folder.iterdir()}

    with StandIn([StandInRepo(REPO, files())]) as standin:
        monkeypatch.setenv("HF_ENDPOINT", standin.endpoint)
        yield standin


def probe(**fields):
    [found] = probed(Job(REPO, **{"weights": "trained", "inputs": "random", **fields}), unheard)
    return found


@pytest.mark.parametrize("way", ["whole", "blocks"])
def test_a_checkpoint_on_the_hub_gives_the_figures_of_the_same_files_in_a_folder(hub, folder, way):
    found = probe(way=way)
    assert found.row["status"] == "ok"
    assert found.row["sha"] == hub.repos[REPO].sha
    assert found.row["spectrum"] == probe_of(folder, way=way).row["spectrum"]


def test_weights_are_read_by_ranges_alone(hub):
    probe()
    weights = [request for request in hub.requests if request.path.endswith(".safetensors") and request.origin == "cdn"]
    assert weights
    assert all(request.status == 206 for request in weights)


def test_random_weights_cost_no_request_for_tensors(hub):
    assert probe(weights="random").row["status"] == "ok"
    assert not [request for request in hub.requests if request.path.endswith(".safetensors")]


def test_a_repo_that_is_not_there_is_not_found(hub):
    [found] = probed(Job("acme/other", weights="trained"), unheard)
    assert found.row["status"] == "not_found"


def test_a_shard_that_is_gone_is_a_bad_file(hub):
    gone = next(name for name in hub.repos[REPO].files if name.endswith(".safetensors"))
    del hub.repos[REPO].files[gone]
    row = probe().row
    assert (row["status"], gone in row["reason"]) == ("bad_file", True)


def test_a_config_that_is_no_json_is_a_bad_file(hub):
    hub.repos[REPO].files["config.json"] = BytesContent(b"{")
    assert probe().row["status"] == "bad_file"
