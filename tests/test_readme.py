"""The README is true: its queries give the output that stands below them, its files and commands exist."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from flows.cli import app
from flows.query import open_reader, select
from flows.results import write_result

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
QUERIES = re.findall(r"```sql\n(.*?)```\n\n```text\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def database(demo_store):
    with open_reader(str(demo_store)) as connection:
        yield connection


def printed(result, capsys):
    write_result(result, "table")
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_the_readme_asks_questions():
    assert len(QUERIES) >= 5


@pytest.mark.parametrize(("query", "shown"), QUERIES, ids=[query.split("\n")[0][:60] for query, _ in QUERIES])
def test_a_query_of_the_readme_answers_as_the_readme_says(query, shown, database, capsys):
    lines = printed(select(database, query), capsys)
    assert len(lines) > 2
    assert [line.rstrip() for line in shown.splitlines()] == lines


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(((?!https?:)[^)#]+)\)", README))))
def test_every_file_that_the_readme_links_to_is_there(path):
    assert (ROOT / path).exists()


def test_every_command_that_the_readme_names_exists():
    named = set(re.findall(r"normaudit (\w+)", README)) - {"answers", "nightly"}
    assert named <= set(get_command(app).commands)
