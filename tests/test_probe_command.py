"""The command `normaudit probe`: what it prints, stores and draws, and with which status it ends."""

import json

import pytest
from typer.testing import CliRunner

pytest.importorskip("transformers")

from flows.cli import app
from storage.database import open_database
from storage.schema import TABLES
from storage.store import open_store
from tasks.model.jobs import Job
from tasks.model.results import append, line_of
from tests.probes import probe_of, random_probe, saved


def normaudit(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def stored(store, what):
    with open_database(open_store(str(store))) as database:
        return database.sql(f"SELECT {what} FROM probes ORDER BY ALL").fetchall()


@pytest.fixture
def results(tmp_path):
    """A file of results: one model with an answer, another without."""
    file = tmp_path / "out.jsonl"
    append(file, line_of(Job("gpt2"), [random_probe("gpt2")]))
    append(file, line_of(Job("model"), [probe_of(tmp_path / "gone")]))
    return file


def test_results_from_elsewhere_become_rows_of_the_store(results, tmp_path):
    run = normaudit("probe", "--collect", results, "--store", tmp_path / "store")
    assert "2 probes written" in run.stderr
    assert stored(tmp_path / "store", "repo_id, status, verdict, weights") == [
        ("gpt2", "ok", "present", "random"),
        ("model", "not_found", None, "trained"),
    ]


def test_a_model_without_an_answer_makes_the_status_1(results):
    assert normaudit("probe", "--collect", results, "--no-store").exit_code == 1


def test_each_line_of_json_is_a_row_of_the_table(results):
    run = normaudit("probe", "--collect", results, "--no-store", "--json")
    first, second = (json.loads(line, parse_constant=pytest.fail) for line in run.stdout.splitlines())
    assert set(first) | set(second) <= set(TABLES["probes"].names)
    assert first["dead_counts"] == {"1e-04": 1, "1e-06": 1, "1e-08": 1, "1e-10": 1, "1e-12": 1}
    assert second["status"] == "not_found"


def test_what_was_found_elsewhere_by_another_version_is_stored_without_its_new_columns(tmp_path):
    found = random_probe("gpt2")
    found.row["figure_of_tomorrow"] = 1
    append(tmp_path / "out", line_of(Job("gpt2"), [found]))
    del found.row["figure_of_tomorrow"]
    assert normaudit("probe", "--collect", tmp_path / "out", "--store", tmp_path / "store").exit_code == 0
    assert stored(tmp_path / "store", "alignment > 0.99995") == [(True,)]


@pytest.mark.parametrize("arguments", [(), ("model", "--collect", "file"), ("--collect", "no-such-file")])
def test_models_and_collected_results_are_given_one_or_the_other(arguments):
    run = normaudit("probe", *arguments, "--no-store")
    assert run.exit_code == 2
    assert "--collect" in run.stderr


def test_figures_are_told_in_words_and_drawn(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    from flows.charts import draw
    from flows.probing import show

    draw([random_probe("gpt2")], tmp_path / "probe.svg")
    show([random_probe("gpt2")])
    told = capsys.readouterr().out
    assert "<svg" in (tmp_path / "probe.svg").read_text()
    assert "alignment" in told
    assert "predicted from γ" in told


def test_a_probe_without_an_answer_cannot_be_drawn(tmp_path):
    from flows.charts import draw
    from flows.output import UsageError

    with pytest.raises(UsageError, match="nothing to draw"):
        draw([probe_of(tmp_path / "gone")], tmp_path / "probe.png")


@pytest.mark.slow
def test_a_folder_is_probed_with_both_kinds_of_weights_and_stored(tmp_path):
    folder = saved("gpt2", tmp_path / "gpt2")
    run = normaudit("probe", folder, "--inputs", "random", "--json", "--store", tmp_path / "store")
    assert run.exit_code == 0
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert [(row["weights"], row["verdict"]) for row in rows] == [("random", "present"), ("trained", "present")]
    assert {row["repo_id"] for row in rows} == {str(folder)}
    assert len(rows[0]["sha"]) == 40
    assert stored(tmp_path / "store", "count(*)") == [(2,)]
