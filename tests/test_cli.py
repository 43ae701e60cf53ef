"""The command `normaudit audit` and what all commands share: streams, exit statuses, help."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from deployments.demo.catalogue import BytesContent
from deployments.demo.standin import Fault, StandIn
from flows.cli import app
from storage.database import open_database
from storage.store import open_store
from tests.checkpoints import GPT2_CONFIG, LLAMA_CONFIG, gpt2, llama, raw_file, safetensors_file
from tests.nights import repo

ROOT = Path(__file__).resolve().parent.parent
TOKEN = "hf_secret_of_the_tests"
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


@pytest.fixture
def folder(tmp_path):
    """A local GPT-2."""
    return checkpoint(tmp_path / "model")


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


def checkpoint(path, tensors=None, config=GPT2_CONFIG):
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(safetensors_file(tensors or gpt2()))
    (path / "config.json").write_text(json.dumps(config))
    return path


def normaudit(*arguments, **options):
    """Run the command in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], **options)


@contextmanager
def process(*arguments, **options):
    """Run the command in a process of its own, which does not outlive the block."""
    command = [sys.executable, "-m", "flows.cli", *map(str, arguments)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT, **options}
    with subprocess.Popen(command, **options) as running:
        try:
            yield running
        finally:
            running.kill()


def objects(result):
    """The objects that a run printed, one a line."""
    return [json.loads(line, parse_constant=pytest.fail) for line in result.stdout.splitlines()]


def count(store, table):
    with open_database(open_store(store)) as database:
        return database.sql(f"SELECT count(*) FROM {table}").fetchall()[0][0]


def commands():
    group = typer.main.get_command(app)
    return [(name, group.commands[name]) for name in group.commands]


def test_repos_revisions_folders_and_files_are_audited_in_the_order_given(hub, folder, store):
    sha = hub.repos["org/llama"].sha
    models = [f"org/llama@{sha}", str(folder), "org/gpt2", str(folder / "model.safetensors"), "org/llama@main"]
    run = normaudit("audit", *models, "--json", "--store", store)
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


def test_json_holds_what_the_contract_promises_for_every_status(hub, folder, store):
    run = normaudit("audit", folder, "org/gpt2", "org/broken", "org/gated", "org/none", "--json", "--store", store)
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


def test_one_model_that_cannot_be_read_is_a_row_and_exit_status_1(hub, store):
    hub.switches.faults.append(Fault("reset", repo_id="org/llama", times=0))
    names = ["org/gpt2", "org/gated", "org/locked", "org/missing", "org/broken"]
    run = normaudit("audit", *names, "--store", store)
    assert run.exit_code == 1
    lines = run.stdout.splitlines()
    assert [line.split()[0] for line in lines[2:7]] == names
    for name in names[1:]:
        assert any(line.startswith(name) and len(line) > len(name) + 20 for line in lines[7:]), f"no reason for {name}"
    assert count(store, "audits") == 5


def test_a_model_without_norms_is_an_answer_and_exit_status_0(tmp_path):
    plain = checkpoint(tmp_path / "mlp", {"fc1.weight": gpt2()["wte.weight"]}, {})
    run = normaudit("audit", plain, "--json", "--no-store")
    assert run.exit_code == 0
    assert objects(run)[0]["status"] == "no_norms"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["audit"], "MODEL"),
        (["audit", "x/y", "--norms", "some"], "Invalid value for '--norms'"),
        (["audit", ""], "an empty MODEL"),
        (["audit", "x/y", "--no-such-option"], "--no-such-option"),
        (["no-such-command"], "no-such-command"),
    ],
)
def test_wrong_usage_is_exit_status_2_and_names_what_is_wrong(own_home, arguments, says):
    run = normaudit(*arguments)
    assert run.exit_code == 2
    assert says in run.stderr
    assert run.stdout == ""


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


def test_what_was_audited_is_seen_by_sql_at_once(hub, folder, store):
    assert normaudit("audit", folder, "org/gpt2", "--store", store).exit_code == 0
    assert normaudit("audit", "org/gpt2", "org/llama", "org/gpt2", "--store", store).exit_code == 0
    run = normaudit("sql", "SELECT repo_id, norm_kind FROM latest ORDER BY ALL", "--store", store, "--format", "json")
    assert objects(run) == [
        {"repo_id": str(folder), "norm_kind": "layernorm"},
        {"repo_id": "org/gpt2", "norm_kind": "layernorm"},
        {"repo_id": "org/llama", "norm_kind": "rmsnorm"},
    ]


def test_a_store_that_the_environment_names_is_used(folder, store, monkeypatch):
    monkeypatch.setenv("NORMAUDIT_STORE", str(store))
    assert str(store) in normaudit("audit", folder).stderr
    assert normaudit("sql", "SELECT count(*) AS n FROM audits", "--format", "csv").stdout == "n\n1\n"


def test_a_private_repo_is_stored_with_the_token_and_published_nowhere(hub, folder, store, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    run = normaudit("audit", "org/secret", "org/locked", "org/gpt2", folder, "--json", "--store", store)
    assert [found["status"] == "ok" for found in objects(run)] == [True, False, True, True]
    assert normaudit("leaderboard", "--store", store, "--out", tmp_path / "out").exit_code == 0
    ranking = normaudit("leaderboard", "--store", store, "--format", "csv")
    published = ranking.stdout + ranking.stderr
    published += "".join(path.read_text() for path in (tmp_path / "out").iterdir())
    assert "org/gpt2" in published
    assert "1 public models listed: ok 1\n" in ranking.stderr
    for name in ("secret", "locked", folder.name + "/", str(folder)):
        assert name not in published


def test_a_revision_that_was_asked_for_by_name_is_not_published_as_what_the_hub_serves(hub, store):
    sha = hub.repos["org/gpt2"].sha
    assert normaudit("audit", f"org/gpt2@{sha}", "--store", store).exit_code == 0
    assert count(store, "audits") == 1
    assert count(store, "listings") == 0
    assert count(store, "leaderboard") == 0


def test_the_token_goes_to_the_endpoint_and_is_shown_nowhere(hub, store, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    run = normaudit("audit", "org/secret", "org/locked", "org/broken", "org/gpt2", "--store", store)
    assert any(request.authorized for request in hub.requests if request.origin == "hub")
    assert not any(request.authorized for request in hub.requests if request.origin == "cdn")
    assert TOKEN not in run.output
    assert not [path for path in store.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


def test_without_a_token_a_private_repo_is_no_more_than_not_found(hub):
    [found] = objects(normaudit("audit", "org/secret", "--json", "--no-store"))
    assert found["status"] in ("private", "not_found")
    assert not any(request.authorized for request in hub.requests)


WRONG_ENDPOINTS = ["localhost:1", "foo", "ftp://hub", "no address", "http://", "http://[::1", "http://h:99999", "x\n",
                   "http://x?y=1"]  # fmt: skip


@pytest.mark.parametrize("endpoint", WRONG_ENDPOINTS)
def test_an_endpoint_that_is_no_address_is_one_line(own_home, monkeypatch, endpoint):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    run = normaudit("audit", "org/gpt2", "--no-store")
    assert run.exit_code == 2
    assert "HF_ENDPOINT" in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_a_token_that_no_header_can_carry_is_one_line(own_home, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "é")
    run = normaudit("audit", "org/gpt2", "--no-store")
    assert run.exit_code == 2
    assert "HF_TOKEN" in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_a_tilde_is_the_home_and_the_model_has_the_name_that_a_shell_would_give(own_home):
    checkpoint(own_home / "model")
    quoted, plain = objects(normaudit("audit", "~/model", own_home / "model", "--json", "--no-store"))
    assert quoted["status"] == "ok"
    assert quoted["repo_id"] == plain["repo_id"] == str(own_home / "model")


def test_the_home_of_nobody_is_a_path_that_is_not_there(own_home):
    run = normaudit("audit", "~no-such-user/x", "--json", "--no-store")
    assert [found["status"] for found in objects(run)] == ["not_found"]


def test_a_name_longer_than_any_path_is_one_line(own_home):
    run = normaudit("audit", "x" * 5000, "--no-store")
    assert run.exit_code == 2
    assert len(run.stderr.splitlines()) == 1
    assert "too long" in run.stderr


HOSTILE = "\x1b[31mred\x1b[0m[red]x[/red]\nnext\x9b31m\u202e"


def test_hostile_names_reach_no_terminal_raw(tmp_path, monkeypatch):
    tensors = {name.replace("ln_f", f"ln_f{HOSTILE}"): value for name, value in gpt2().items()}
    folder = checkpoint(tmp_path / HOSTILE, tensors)
    broken = tmp_path / f"{HOSTILE}-broken"
    broken.mkdir()
    (broken / f"{HOSTILE.replace('/', '')}.safetensors").write_bytes(raw_file(f'{{"{HOSTILE}": 1}}'.encode()))
    store = tmp_path / "store"
    table = normaudit("audit", folder, broken, "--norms", "all", "--store", store)
    lines = normaudit("audit", folder, broken, "--json", "--no-store")
    asked = normaudit("sql", "SELECT repo_id FROM latest ORDER BY repo_id DESC LIMIT 1", "--store", store)
    pivoted = normaudit("sql", "PIVOT (SELECT repo_id FROM audits) ON repo_id", "--store", store)
    complaint = normaudit("sql", "SELECT repo_id::INT FROM audits", "--store", store)
    for run in (table, lines, asked, pivoted, complaint, normaudit("status", "--store", store)):
        assert not [c for c in run.output if not (c.isprintable() or c == "\n")], run.output
    assert "[red]x[/red]" in table.stdout, "brackets are text, and stay"
    assert "[red]x[/red]" in complaint.stderr
    assert [found["repo_id"] for found in objects(lines)] == [str(folder), str(broken)]


def test_a_path_that_is_no_utf8_is_audited_and_stored(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    checkpoint(folder)
    run = normaudit("audit", folder, "--json", "--store", tmp_path / "store")
    assert run.exit_code == 0, run.stderr
    assert objects(run)[0]["repo_id"] == f"{tmp_path}/caf\\xe9"
    assert count(tmp_path / "store", "audits") == 1


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


def test_a_disk_that_fills_while_the_database_is_built_is_told_after_the_results(folder, store):
    with process("audit", folder, "--store", store, preexec_fn=limited_files) as run:
        out, err = run.communicate(timeout=60)
    assert run.returncode == 2, err
    assert str(folder) in out
    assert len(err.splitlines()) == 1
    assert "the audits are written, but the database could not be rebuilt" in err
    assert normaudit("sql", "SELECT count(*) AS n FROM audits", "--store", store, "--format", "csv").stdout == "n\n1\n"


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


def test_a_reader_that_leaves_early_ends_the_command_quietly(folder, store):
    with process("audit", *[folder] * 3, "--json", "--no-store") as run:
        run.stdout.close()
        assert run.wait(60) == 141
        assert run.stderr.read() == ""


def test_results_go_to_stdout_and_messages_to_stderr(folder, store):
    run = normaudit("audit", folder, "--json", "--store", store)
    assert len(run.stdout.splitlines()) == 1
    assert run.stderr == f"1 audit written to {store}\n"


@pytest.mark.parametrize("arguments", [["audit", "MODEL", "--store", "STORE"], ["status", "--store", "STORE"]])
def test_neither_prefect_nor_torch_is_imported_by_what_does_not_need_them(folder, store, arguments):
    normaudit("audit", folder, "--store", store)
    given = [{"MODEL": str(folder), "STORE": str(store)}.get(argument, argument) for argument in arguments]
    code = (
        "import sys; from flows.cli import app; app(sys.argv[1:], standalone_mode=False);"
        "print(*{'prefect', 'torch', 'transformers'} & set(sys.modules), file=sys.stderr, sep=',')"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, *given], capture_output=True, text=True, cwd=ROOT, check=False, timeout=60
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr.splitlines()[-1] == ""


def test_a_terminal_that_knows_no_greek_shows_escapes(folder):
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    with process("audit", folder, "--norms", "all", "--no-store", env=ascii_only) as run:
        out, err = run.communicate(timeout=60)
    assert run.returncode == 0, err
    assert "\\u03b3 min" in out


@pytest.mark.parametrize(("name", "command"), commands(), ids=[name for name, _ in commands()])
def test_each_command_explains_itself_with_an_example_and_every_option(name, command):
    assert command.help
    assert f"normaudit {name}" in command.epilog
    assert command.epilog.startswith("Example")
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{name}: {parameter.name} is not described"
    shown = normaudit(name, "--help")
    assert shown.exit_code == 0
    assert f"normaudit {name}" in " ".join(shown.stdout.split())


def test_the_version_names_what_figures_depend_on():
    run = normaudit("--version")
    assert run.exit_code == 0
    assert run.stdout.startswith("normaudit ")
    assert "method version" in run.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_had_for_each_shell(shell):
    env = {**os.environ, "_NORMAUDIT_COMPLETE": f"source_{shell}"}
    code = "from flows.cli import app; app(prog_name='normaudit')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=env, check=False)
    assert run.returncode == 0
    assert "normaudit" in run.stdout
    assert "complet" in run.stdout


@pytest.mark.parametrize(
    ("text", "complaints"),
    [
        ("norms = 'some'\n[[sources]]\ntop = 1\n", ["line 1: norms"]),
        ("contact = 3\nendpint = 'x'\n[[sources]]\ntop = 1\n", ["line 1: contact", "line 2: endpint"]),
        ("[[sources]\n", ["not valid TOML"]),
        ("[limits]\nretries = -1\n", ["sources", "line 2: limits.retries"]),
        ('contact = "é"\n[[sources]]\ntop = 1\n', ["line 1: contact"]),
        ('contact = "a\\r\\nX: y"\n[[sources]]\ntop = 1\n', ["line 1: contact"]),
        ('endpoint = "https://h:99999"\n[[sources]]\ntop = 1\n', ["line 1: endpoint"]),
        ('endpoint = "http://[::1"\n[[sources]]\ntop = 1\n', ["line 1: endpoint"]),
        ('endpoint = "http://x?y=1"\n[[sources]]\ntop = 1\n', ["line 1: endpoint"]),
    ],
)
def test_a_wrong_config_is_exit_status_2_and_a_line_for_each_complaint(tmp_path, own_home, text, complaints):
    config = tmp_path / "wrong.toml"
    config.write_text(text)
    run = normaudit("nightly", "--config", config, "--store", tmp_path / "store")
    assert run.exit_code == 2
    lines = run.stderr.splitlines()
    assert len(lines) == len(complaints)
    for complaint in complaints:
        assert any(complaint in line and str(config) in line for line in lines), lines
    assert run.stdout == ""
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("text", "variables", "complaint"),
    [
        ("[[sources]]\ntop = 1\n", {"HF_TOKEN": "é"}, "HF_TOKEN"),
        ("[[sources]]\ntop = 1\n", {"HF_ENDPOINT": "foo"}, "HF_ENDPOINT"),
        ("[[sources]]\nfile = 'no-such-list.txt'\n", {}, "no-such-list.txt"),
    ],
)
def test_what_no_night_can_use_is_told_before_a_server_is_started(
    tmp_path, own_home, monkeypatch, text, variables, complaint
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    (tmp_path / "nightly.toml").write_text(text)
    run = normaudit("nightly", "--config", tmp_path / "nightly.toml", "--store", tmp_path / "store")
    assert run.exit_code == 2
    assert complaint in run.stderr
    assert len(run.stderr.splitlines()) == 1
    assert not (tmp_path / "prefect").exists()


def test_a_config_that_is_not_there_is_one_line(tmp_path, own_home):
    run = normaudit("nightly", "--config", tmp_path / "none.toml")
    assert run.exit_code == 2
    assert len(run.stderr.splitlines()) == 1
    assert "none.toml" in run.stderr
