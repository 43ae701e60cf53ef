"""Whole nights through the command, with Prefect: faults, the gate, kill -9, and two at once."""

import signal
import time

import pytest

from deployments.demo.standin import Fault, StandIn
from storage.database import build, open_database
from storage.store import open_store
from tests.checkpoints import GPT2_CONFIG, gpt2, raw_file, safetensors_file
from tests.nights import crawl_with, finished, repo, repos, rows, run_night

pytestmark = pytest.mark.prefect


def test_each_fault_costs_one_model_and_the_night_goes_on(night, tmp_path):
    faults = ["range_ignored", "short_206", "wrong_content_range", "commit_moved", "reset", "http_503", "deleted"]
    bad = {
        "org/corrupt-header": raw_file(b"{]"),
        "org/truncated": safetensors_file(gpt2())[:-7],
        "org/web-page": b"<!DOCTYPE html><html></html>",
    }
    stock = [
        *repos(4),
        *(repo(f"org/{fault.replace('_', '-')}", gpt2(dim=128, layers=4), GPT2_CONFIG) for fault in faults),
        *(repo(name, gpt2(), GPT2_CONFIG) for name in bad),
        repo("org/gated", gpt2(), GPT2_CONFIG, gated="manual"),
        repo("org/disabled", gpt2(), GPT2_CONFIG, disabled=True),
        repo("org/once-503", gpt2(), GPT2_CONFIG),
        repo("org/once-429", gpt2(), GPT2_CONFIG),
    ]
    for found in stock:
        if found.repo_id in bad:
            found.files["model.safetensors"] = type(found.files["model.safetensors"])(bad[found.repo_id])
    with StandIn(stock) as hub:
        hub.switches.faults += [Fault(fault, repo_id=f"org/{fault.replace('_', '-')}") for fault in faults]
        hub.switches.faults += [Fault("http_503", repo_id="org/once-503", times=1)]
        hub.switches.faults += [Fault("hub_429", repo_id="org/once-429", times=1)]
        status, out, err = finished(night(hub, tmp_path / "store"))
        assert status == 1, err  # the gate holds: more than one in twenty failed
        with open_database(open_store(tmp_path / "store")) as database:
            found = dict(database.execute("SELECT repo_id, status FROM audits").fetchall())
            reasons = dict(database.execute("SELECT repo_id, reason FROM audits WHERE reason IS NOT NULL").fetchall())
    assert {name for name, status in found.items() if status == "ok"} >= {
        *(f"org/{kind}" for kind in ("llama-0", "gpt2-1", "llama-2", "gpt2-3", "once-503", "once-429"))
    }
    assert {name: found[name] for name in ("org/gated", "org/disabled", "org/deleted")} == {
        "org/gated": "gated",
        "org/disabled": "disabled",
        "org/deleted": "not_found",
    }
    assert {found[name] for name in bad} == {"bad_file"}
    assert {
        found[f"org/{name}"] for name in ("short-206", "wrong-content-range", "commit-moved", "reset", "http-503")
    } <= {
        "failed",
        "bad_file",
    }
    for name, reason in reasons.items():
        assert name in reason or "listing" in reason, (name, reason)
    assert "audits failed" in out
    assert not (tmp_path / "store" / "site").exists()
    assert (tmp_path / "store" / "audit.duckdb").exists()


def test_a_night_publishes_and_a_second_one_makes_no_range_request(night, tmp_path):
    with StandIn(repos()) as hub:
        status, out, err = finished(night(hub, tmp_path / "store"))
        assert status == 0, err
        assert "org/gpt2-1" in out
        assert "org/gpt2-1" in (tmp_path / "store" / "site" / "index.html").read_text()
        hub.clear()
        status, out, _ = finished(night(hub, tmp_path / "store"))
        assert status == 0
        assert [request.path for request in hub.requests] == ["/api/models"]
        assert "6 unchanged" in out


def test_killed_at_any_point_and_run_again_it_ends_with_the_same_rows(night, tmp_path):
    with StandIn(repos(30)) as hub:
        run_night(str(tmp_path / "undisturbed"), crawl_with(hub, sources=({"top": 1000},), limits={"batch_models": 5}))
        build(open_store(tmp_path / "undisturbed"))
        hub.switches.latency_s = 0.05
        store = tmp_path / "store"
        audits = store / "parts" / "audits"
        moments = [
            lambda: hub.requests,  # the listing is under way
            lambda: len(list(audits.rglob("*.parquet"))) >= 2,  # some batches are done
            lambda: len(list(audits.rglob("*.parquet"))) >= 6,  # all are, and the database is being built
        ]
        for moment in moments:
            hub.clear()
            process = night(hub, store)
            while not moment():
                assert process.poll() is None, process.communicate()
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.communicate()
        hub.clear()
        done = {path.name for path in audits.rglob("*.parquet")}
        assert finished(night(hub, store))[0] == 0
    assert not [request for request in hub.requests if len(done) >= 6 and request.origin == "cdn"]
    assert rows(store) == rows(tmp_path / "undisturbed")
    build(open_store(store))
    assert rows(store) == rows(tmp_path / "undisturbed")


def test_a_second_night_on_the_same_store_refuses_and_names_the_first(night, tmp_path):
    with StandIn(repos(30)) as hub:
        hub.switches.latency_s = 2  # until the second has been refused
        first = night(hub, tmp_path / "store")
        while not hub.requests:
            assert first.poll() is None
            time.sleep(0.01)
        status, _, err = finished(night(hub, tmp_path / "store"))
        hub.switches.latency_s = 0
        assert status == 2
        assert f"pid {first.pid}" in err
        assert len(err.strip().splitlines()) == 1
        assert finished(first)[0] == 0


def test_a_hub_that_is_not_there_is_one_clear_error(night, tmp_path):
    with StandIn([]) as hub:
        pass
    status, out, err = finished(night(hub, tmp_path / "store"))
    assert (status, out, len(err.splitlines())) == (1, "", 1)
    assert "127.0.0.1 gave no whole page" in err
    assert "tried 2 times" in err
    assert "`normaudit demo` needs no network" in err
