"""The command `normaudit audit`: what may be asked, what is answered, and what is stored and published."""

import os
import signal
import time
from pathlib import Path

import pytest

from deployments.demo.catalogue import BytesContent
from deployments.demo.standin import Fault, StandIn
from tests.checkpoints import GPT2_CONFIG, LLAMA_CONFIG, gpt2, llama, raw_file
from tests.command import checkpoint, count, normaudit, objects, process
from tests.hub_tools import TOKEN
from tests.nights import repo

PROMISED = {
    "repo_id", "sha", "status", "reason", "norm_kind", "final_norms", "norms", "integrity", "hub_requests",
    "cdn_requests", "bytes_read", "checkpoint_bytes", "seconds",
}  # fmt: skip
PROMISED_OF_A_FINAL_NORM = {
    "tower", "main", "tensor", "bias_tensor", "kind", "parameterisation", "dim", "dtype", "confidence", "decided_by",
    "kernel",
}  # fmt: skip
PROMISED_OF_A_KERNEL = {
    "predicted_dead_dim", "dead_coordinate_count", "participation_ratio", "top_share", "top_coordinate", "cos_uniform",
    "condition_number", "u_dot_beta", "kernel_degenerate",
}  # fmt: skip


@pytest.fixture
def hub(own_home, monkeypatch):
    stock = [
        repo("org/gpt2", gpt2(), GPT2_CONFIG, downloads=20),
        repo("org/llama", llama(), LLAMA_CONFIG, downloads=10),
        repo("org/secret", gpt2(seed=1), GPT2_CONFIG, private=True, downloads=10**6),
        repo("org/locked", gpt2(seed=1), GPT2_CONFIG, private=True, readable_by_token=False),
        repo("org/gated", gpt2(), GPT2_CONFIG, gated="manual", readable_by_token=False),
        repo("org/broken", gpt2(), GPT2_CONFIG),
    ]
    stock[-1].files["model.safetensors"] = BytesContent(raw_file(b"{]"))
    with StandIn(stock, token=TOKEN) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        yield running


def test_repos_revisions_folders_and_files_are_audited_in_the_order_given(hub, folder, location):
    sha = hub.repos["org/llama"].sha
    models = [f"org/llama@{sha}", str(folder), "org/gpt2", str(folder / "model.safetensors"), "org/llama@main"]
    run = normaudit("audit", *models, "--json", "--store", location)
    assert run.exit_code == 0, run.stderr
    assert [found["repo_id"] for found in objects(run)] == [
        "org/llama",
        str(folder),
        "org/gpt2",
        str(folder / "model.safetensors"),
        "org/llama",
    ]
    assert [found["norm_kind"] for found in objects(run)] == ["rmsnorm", *["layernorm"] * 3, "rmsnorm"]
    assert {found["sha"] for found in objects(run) if found["repo_id"] == "org/llama"} == {sha}


def test_each_checkpoint_in_a_folder_of_checkpoints_is_audited(tmp_path):
    inner = checkpoint(tmp_path / "models" / "a"), checkpoint(tmp_path / "models" / "b", llama(), LLAMA_CONFIG)
    run = normaudit("audit", tmp_path / "models", "--json", "--no-store")
    assert [row["repo_id"] for row in objects(run)] == [str(path) for path in inner]


def test_a_folder_with_weights_of_its_own_is_one_checkpoint_whatever_lies_below(folder):
    checkpoint(folder / "checkpoint-500")
    run = normaudit("audit", folder, "--json", "--no-store")
    assert [row["repo_id"] for row in objects(run)] == [str(folder)]


def test_json_holds_what_the_contract_promises_for_every_status(hub, folder, location):
    run = normaudit("audit", folder, "org/gpt2", "org/broken", "org/gated", "org/none", "--json", "--store", location)
    found = objects(run)
    assert [one["status"] for one in found] == ["ok", "ok", "bad_file", "gated", "not_found"]
    assert all(one.keys() >= PROMISED and one["norms"].keys() >= {"layernorm", "rmsnorm", "unknown"} for one in found)
    assert [bool(one["final_norms"]) for one in found] == [one["reason"] is None for one in found]
    [final] = found[1]["final_norms"]
    assert final.keys() >= PROMISED_OF_A_FINAL_NORM
    assert final["kernel"].keys() >= PROMISED_OF_A_KERNEL
    assert found[1]["hub_requests"] > 0
    assert found[1]["bytes_read"] > 0
    assert found[0]["hub_requests"] == found[0]["cdn_requests"] == 0


def test_all_norms_are_listed_when_asked_for(folder):
    run = normaudit("audit", folder, "--norms", "all", "--json", "--no-store")
    [found] = objects(run)
    assert len(found["norm_sites"]) == found["norms"]["layernorm"] == 5
    assert {norm["site"] for norm in found["norm_sites"]} >= {"final", "pre_mlp"}
    shown = normaudit("audit", folder, "--norms", "all", "--no-store").stdout
    assert "h.1.ln_2.weight" in shown


def test_one_model_that_cannot_be_read_is_a_row_and_exit_status_1(hub, location):
    hub.switches.faults.append(Fault("reset", repo_id="org/llama", times=0))
    names = ["org/gpt2", "org/gated", "org/locked", "org/missing", "org/broken"]
    run = normaudit("audit", *names, "--store", location)
    assert run.exit_code == 1
    lines = run.stdout.splitlines()
    assert [line.split()[0] for line in lines[2:7]] == names
    for name in names[1:]:
        assert any(line.startswith(name) and len(line) > len(name) + 20 for line in lines[7:]), f"no reason for {name}"
    assert count(location, "audits") == 5


def test_a_model_without_norms_is_an_answer_and_exit_status_0(tmp_path):
    plain = checkpoint(tmp_path / "mlp", {"fc1.weight": gpt2()["wte.weight"]}, {})
    run = normaudit("audit", plain, "--json", "--no-store")
    assert run.exit_code == 0
    assert objects(run)[0]["status"] == "no_norms"


@pytest.mark.parametrize("missing", ["./nothing", "../nothing", "nothing.safetensors", "/no/where", "a/b/c"])
def test_a_path_that_is_not_there_is_not_asked_of_the_hub(hub, missing):
    run = normaudit("audit", missing, "--json", "--no-store")
    assert run.exit_code == 1
    assert objects(run)[0]["status"] == "not_found"
    assert "no such folder or file" in objects(run)[0]["reason"]
    assert hub.requests == []


def test_without_a_store_nothing_is_written(hub, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    run = normaudit("audit", folder, "org/gpt2", "--no-store")
    assert run.exit_code == 0
    assert run.stderr == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_what_was_audited_is_seen_by_sql_at_once(hub, folder, location):
    assert normaudit("audit", folder, "org/gpt2", "--store", location).exit_code == 0
    assert normaudit("audit", "org/gpt2", "org/llama", "org/gpt2", "--store", location).exit_code == 0
    run = normaudit(
        "sql", "SELECT repo_id, norm_kind FROM latest ORDER BY ALL", "--store", location, "--format", "json"
    )
    assert objects(run) == [
        {"repo_id": str(folder), "norm_kind": "layernorm"},
        {"repo_id": "org/gpt2", "norm_kind": "layernorm"},
        {"repo_id": "org/llama", "norm_kind": "rmsnorm"},
    ]


def test_a_store_that_the_environment_names_is_used(folder, location, monkeypatch):
    monkeypatch.setenv("NORMAUDIT_STORE", str(location))
    assert str(location) in normaudit("audit", folder).stderr
    assert normaudit("sql", "SELECT count(*) AS n FROM audits", "--format", "csv").stdout == "n\n1\n"


def test_a_private_repo_is_stored_with_the_token_and_published_nowhere(hub, folder, location, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    run = normaudit("audit", "org/secret", "org/locked", "org/gpt2", folder, "--json", "--store", location)
    assert [found["status"] == "ok" for found in objects(run)] == [True, False, True, True]
    assert normaudit("leaderboard", "--store", location, "--out", tmp_path / "out").exit_code == 0
    ranking = normaudit("leaderboard", "--store", location, "--format", "csv")
    published = ranking.stdout + ranking.stderr
    published += "".join(path.read_text() for path in (tmp_path / "out").iterdir())
    assert "org/gpt2" in published
    assert "1 public models listed: ok 1\n" in ranking.stderr
    for name in ("secret", "locked", folder.name + "/", str(folder)):
        assert name not in published


def test_a_revision_that_was_asked_for_by_name_is_not_published_as_what_the_hub_serves(hub, location):
    sha = hub.repos["org/gpt2"].sha
    assert normaudit("audit", f"org/gpt2@{sha}", "--store", location).exit_code == 0
    assert count(location, "audits") == 1
    assert count(location, "listings") == 0
    assert count(location, "leaderboard") == 0


def test_the_token_goes_to_the_endpoint_and_is_shown_nowhere(hub, location, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    run = normaudit("audit", "org/secret", "org/locked", "org/broken", "org/gpt2", "--store", location)
    assert any(request.authorized for request in hub.requests if request.origin == "hub")
    assert not any(request.authorized for request in hub.requests if request.origin == "cdn")
    assert TOKEN not in run.output
    assert not [path for path in Path(location).rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


def test_without_a_token_a_private_repo_is_no_more_than_not_found(hub):
    [found] = objects(normaudit("audit", "org/secret", "--json", "--no-store"))
    assert found["status"] in ("private", "not_found")
    assert not any(request.authorized for request in hub.requests)


def test_a_tilde_is_the_home_and_the_model_has_the_name_that_a_shell_would_give(own_home):
    checkpoint(own_home / "model")
    quoted, plain = objects(normaudit("audit", "~/model", own_home / "model", "--json", "--no-store"))
    assert quoted["status"] == "ok"
    assert quoted["repo_id"] == plain["repo_id"] == str(own_home / "model")


def test_the_home_of_nobody_is_a_path_that_is_not_there(own_home):
    run = normaudit("audit", "~no-such-user/x", "--json", "--no-store")
    assert [found["status"] for found in objects(run)] == ["not_found"]


def limited_files():
    """Let this process write no file of more than 20 kB, as on a disk that is nearly full."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


@pytest.mark.parametrize("form", [["--json"], []])
def test_where_the_store_cannot_be_written_the_results_are_printed_all_the_same(folder, tmp_path, form):
    (tmp_path / "file").write_text("")
    run = normaudit("audit", folder, *form, "--store", tmp_path / "file" / "store")
    assert run.exit_code == 2
    assert str(folder) in run.stdout
    assert "Not a directory" in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_a_disk_that_fills_while_the_database_is_built_is_told_after_the_results(folder, location):
    with process("audit", folder, "--store", location, preexec_fn=limited_files) as run:
        out, err = run.communicate(timeout=60)
    assert run.returncode == 2, err
    assert str(folder) in out
    assert len(err.splitlines()) == 1
    assert "the audits are written, but the database could not be rebuilt" in err
    assert (
        normaudit("sql", "SELECT count(*) AS n FROM audits", "--store", location, "--format", "csv").stdout == "n\n1\n"
    )


def test_ctrl_c_ends_an_audit_with_status_130_and_without_a_traceback(hub, tmp_path):
    hub.switches.latency_s = 5
    with process("audit", "org/gpt2", "--store", tmp_path / "store", start_new_session=True) as run:
        deadline = time.monotonic() + 60
        while not hub.requests:
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(run.pid, signal.SIGINT)
        _, err = run.communicate(timeout=60)
    hub.switches.latency_s = 0
    assert run.returncode == 130, err
    assert "Traceback" not in err
    assert not (tmp_path / "store").exists()
