"""The command `normaudit leaderboard`: the ranking on a terminal, as a file and as the site."""

import csv
import io
import json

import pytest

from tasks.site import COLUMNS as SITE_COLUMNS
from tests.command import normaudit, objects

pytestmark = pytest.mark.usefixtures("own_home")  # no test here reads a store that the environment names
COLUMNS = [
    "repo_id", "downloads", "kind", "parameterisation", "hidden_size", "predicted_dead_dim", "participation_fraction",
    "top_share", "condition_number", "confidence", "probe_verdict", "alignment", "preserved", "audited_at",
]  # fmt: skip


def ranked(store, *arguments):
    run = normaudit("leaderboard", "--store", store, "--format", "json", *arguments)
    assert run.exit_code == 0, run.stderr
    return [found["repo_id"] for found in objects(run)]


def test_the_ranking_is_by_downloads_and_without_private_and_local_models(ranked_store):
    assert ranked(ranked_store) == ["org/b", "org/a", "org/c"]
    run = normaudit("leaderboard", "--store", ranked_store)
    assert run.stderr == "4 public models listed: ok 3, failed 1\n"
    assert [line.split()[0] for line in run.stdout.splitlines()[2:]] == ["org/b", "org/a", "org/c"]


def test_the_ranking_has_the_promised_columns_in_each_format(ranked_store):
    found = {wanted: normaudit("leaderboard", "--store", ranked_store, "--format", wanted).stdout
             for wanted in ("csv", "json", "markdown")}  # fmt: skip
    assert next(csv.reader(io.StringIO(found["csv"]))) == COLUMNS
    assert list(json.loads(found["json"].splitlines()[0])) == COLUMNS
    headings = [column.heading for column in SITE_COLUMNS]
    assert found["markdown"].splitlines()[0] == f"| {' | '.join(headings)} |"
    assert len(found["markdown"].splitlines()) == 5


def test_the_ranking_is_sorted_by_any_column_cut_and_filtered(ranked_store):
    assert ranked(ranked_store, "--sort", "repo_id") == ["org/a", "org/b", "org/c"]
    assert ranked(ranked_store, "--limit", "2") == ["org/b", "org/a"]
    assert ranked(ranked_store, "--where", "downloads < 10") == ["org/a", "org/c"]
    assert ranked(ranked_store, "--where", "downloads < 10 -- small ones") == ["org/a", "org/c"]
    assert ranked(ranked_store, "--where", "kind = 'layernorm' OR true", "--limit", "1") == ["org/b"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--sort", "nothing"],
        ["--sort", 'downloads"; DROP VIEW latest; --'],
        ["--where", "nothing = 1"],
        ["--where", "downloads >"],
        ["--where", "true) UNION ALL (FROM leaderboard"],
        ["--where", "true) OR (true"],
        ["--where", "true; DROP VIEW latest"],
        ["--where", "true ORDER BY repo_id"],
        ["--where", "repo_id IN (SELECT content FROM read_text('/etc/passwd'))"],
        ["--where", "EXISTS (FROM '/etc/passwd')"],
        ["--where", "EXISTS (WITH x AS (COPY audits TO 'x.csv') FROM x)"],
        ["--where", "EXISTS (FROM query('SELECT 1'))"],
        ["--where", "getenv('HOME') = 'x'"],
    ],
)
def test_a_hostile_or_wrong_condition_is_one_line_and_exit_status_2(ranked_store, arguments):
    run = normaudit("leaderboard", "--store", ranked_store, *arguments, "--format", "csv")
    assert run.exit_code == 2
    assert run.stdout == ""
    assert len([line for line in run.stderr.splitlines() if "public models" not in line]) == 1


def test_the_site_is_written_and_written_again(ranked_store, tmp_path):
    for _ in range(2):
        assert normaudit("leaderboard", "--store", ranked_store, "--out", tmp_path / "site").exit_code == 0
    names = {"index.html", "leaderboard.json", "leaderboard.csv", "leaderboard.md"}
    assert {path.name for path in (tmp_path / "site").iterdir()} == names
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".site")] == []
    assert "org/b" in (tmp_path / "site" / "index.html").read_text()
    assert "secret" not in "".join(path.read_text() for path in (tmp_path / "site").iterdir())


@pytest.mark.parametrize("option", [["--sort", "downloads"], ["--where", "true"], ["--limit", 5], ["--format", "csv"]])
def test_the_site_is_whole_and_refuses_what_would_cut_it(ranked_store, tmp_path, option):
    run = normaudit("leaderboard", "--store", ranked_store, "--out", tmp_path / "site", *option)
    assert run.exit_code == 2
    assert len(run.stderr.splitlines()) == 1
    assert option[0] in run.stderr
    assert not (tmp_path / "site").exists()


def test_a_folder_that_holds_something_else_is_not_replaced(ranked_store, tmp_path, monkeypatch):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.html").write_text("mine")
    (tmp_path / "more").mkdir()
    assert normaudit("leaderboard", "--store", ranked_store, "--out", tmp_path / "more").exit_code == 0
    (tmp_path / "more" / "thesis.tex").write_text("mine")
    (tmp_path / "file").write_text("mine")
    monkeypatch.chdir(tmp_path / "docs")
    for out in (tmp_path / "docs", tmp_path / "more", tmp_path / "file", "."):
        run = normaudit("leaderboard", "--store", ranked_store, "--out", out)
        assert run.exit_code == 2, out
        assert len(run.stderr.splitlines()) == 1
    assert (tmp_path / "docs" / "index.html").read_text() == "mine"
    assert (tmp_path / "more" / "thesis.tex").exists()
    assert (tmp_path / "file").read_text() == "mine"
