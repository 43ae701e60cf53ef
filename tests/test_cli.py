"""What all commands of `normaudit` share: streams, names from strangers, help, and what importing them costs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from flows.cli import app
from tests.checkpoints import gpt2, raw_file
from tests.command import ROOT, checkpoint, count, normaudit, objects, process

HOSTILE = "\x1b[31mred\x1b[0m[red]x[/red]\nnext\x9b31m\u202e"


def test_hostile_names_reach_no_terminal_raw(tmp_path, monkeypatch):
    tensors = {name.replace("ln_f", f"ln_f{HOSTILE}"): value for name, value in gpt2().items()}
    folder = checkpoint(tmp_path / HOSTILE, tensors)
    broken = tmp_path / f"{HOSTILE}-broken"
    broken.mkdir()
    (broken / f"{HOSTILE.replace('/', '')}.safetensors").write_bytes(raw_file(f'{{"{HOSTILE}": 1}}'.encode()))
    location = tmp_path / "store"
    table = normaudit("audit", folder, broken, "--norms", "all", "--store", location)
    lines = normaudit("audit", folder, broken, "--json", "--no-store")
    asked = normaudit("sql", "SELECT repo_id FROM latest ORDER BY repo_id DESC LIMIT 1", "--store", location)
    pivoted = normaudit("sql", "PIVOT (SELECT repo_id FROM audits) ON repo_id", "--store", location)
    complaint = normaudit("sql", "SELECT repo_id::INT FROM audits", "--store", location)
    for run in (table, lines, asked, pivoted, complaint, normaudit("status", "--store", location)):
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


def test_a_reader_that_leaves_early_ends_the_command_quietly(folder, location):
    with process("audit", *[folder] * 3, "--json", "--no-store") as run:
        run.stdout.close()
        assert run.wait(60) == 141
        assert run.stderr.read() == ""


def test_results_go_to_stdout_and_messages_to_stderr(folder, location):
    run = normaudit("audit", folder, "--json", "--store", location)
    assert len(run.stdout.splitlines()) == 1
    assert run.stderr == f"1 audit written to {location}\n"


@pytest.mark.parametrize("arguments", [["audit", "MODEL", "--store", "STORE"], ["status", "--store", "STORE"]])
def test_neither_prefect_nor_torch_is_imported_by_what_does_not_need_them(folder, location, arguments):
    normaudit("audit", folder, "--store", location)
    given = [{"MODEL": str(folder), "STORE": str(location)}.get(argument, argument) for argument in arguments]
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


def commands():
    group = typer.main.get_command(app)
    return [(name, group.commands[name]) for name in group.commands]


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
