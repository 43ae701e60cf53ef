"""The command `normaudit sql`: every value in every format, and what may not be asked."""

import csv
import io

import duckdb
import pyarrow.parquet as pq
import pytest

from flows.query import open_reader
from flows.query import select as choose
from flows.results import write_result
from tests.command import normaudit, objects, process

pytestmark = pytest.mark.usefixtures("own_home")  # no test here reads a store that the environment names


def sql(store, query, *arguments, **options):
    return normaudit("sql", query, "--store", store, *arguments, **options)


@pytest.mark.parametrize("wanted", ["table", "csv", "json"])
def test_sql_answers_in_each_format(ranked_store, wanted):
    run = sql(ranked_store, "SELECT repo_id AS name, downloads FROM leaderboard", "--format", wanted)
    assert run.exit_code == 0
    assert run.stderr == ""
    found = {
        "json": lambda: [tuple(one.values()) for one in objects(run)],
        "csv": lambda: [(name, int(n)) for name, n in list(csv.reader(io.StringIO(run.stdout)))[1:]],
        "table": lambda: [(line.split()[0], int(line.split()[1])) for line in run.stdout.splitlines()[2:]],
    }[wanted]()
    assert found == [("org/b", 50), ("org/a", 5), ("org/c", 1)]


@pytest.mark.parametrize("arguments", [["--format", "parquet"], []])
def test_sql_writes_parquet_to_a_file_whose_name_says_so(ranked_store, tmp_path, arguments):
    file = tmp_path / "x.parquet"
    run = sql(ranked_store, "SELECT repo_id, gamma FROM kernels", "--output", file, *arguments)
    assert (run.exit_code, run.output) == (0, "")
    assert len(pq.read_table(file)) == 5


def test_sql_writes_parquet_into_a_pipe(ranked_store):
    with process("sql", "SELECT 1 AS a", "--store", ranked_store, "--format", "parquet", text=False) as run:
        out, _ = run.communicate(timeout=60)
    assert run.returncode == 0
    assert pq.read_table(io.BytesIO(out)).to_pylist() == [{"a": 1}]


def test_a_sum_is_a_number_in_json(ranked_store):
    [found] = objects(sql(ranked_store, "SELECT sum(downloads) AS total FROM listings", "--format", "json"))
    assert found == {"total": 1_000_066}


def test_every_column_of_every_table_can_be_had_in_every_format(ranked_store, tmp_path):
    with open_reader(str(ranked_store)) as database:
        tables = [name for (name,) in database.sql("SHOW TABLES").fetchall()]
        assert {"latest", "leaderboard", "audits", "kernels"} <= set(tables)
        for found in (choose(database, f"FROM {table}") for table in tables):
            for wanted in ("table", "csv", "json", "parquet"):
                write_result(found, wanted, tmp_path / "x")
                assert (tmp_path / "x").stat().st_size > 0 or (len(found) == 0 and wanted == "json")


def test_vectors_maps_bytes_and_times_can_be_had_as_json(ranked_store):
    run = sql(ranked_store, "SELECT dead_counts, spectrum, tensors, audited_at FROM probes JOIN audits USING (repo_id)"
              " LIMIT 1", "--format", "json")  # fmt: skip
    [found] = objects(run)
    assert found["dead_counts"] == {"1e-08": 1}
    assert found["tensors"] == b"names".hex()
    assert found["audited_at"] == "2026-11-01T03:00:00+00:00"


BEYOND_PYTHON = {
    "'infinity'::TIMESTAMP": "infinity",
    "'290000-01-01'::TIMESTAMP": "290000-01-01 00:00:00",
    "DATE '20000-01-01'": "20000-01-01",
    "DATE '-4000-01-01'": "4001-01-01 (BC)",
    "'infinity'::DATE": "infinity",
    "TIMESTAMPTZ '-infinity'": "-infinity",
    "TIMESTAMP_NS '2020-01-01 00:00:00.123456789'": "2020-01-01 00:00:00.123456789",
    "[DATE 'infinity']": "[infinity]",
}


@pytest.mark.parametrize("wanted", ["table", "markdown", "csv", "json"])
@pytest.mark.parametrize("value", BEYOND_PYTHON)
def test_dates_that_python_does_not_know_are_shown_as_duckdb_spells_them(capsys, value, wanted):
    write_result(duckdb.sql(f'SELECT {value} AS "a.*"').to_arrow_table(), wanted)
    assert BEYOND_PYTHON[value] in capsys.readouterr().out.splitlines()[-1].replace("\\", "")


@pytest.mark.parametrize(
    ("value", "text"),
    [("INTERVAL '1 year'", "1 year"), ("union_value(k := 1)", "1"), ("{'a': INTERVAL '1 day'}", "{'a': 1 day}")],
)
def test_what_parquet_has_no_form_for_is_text_there(tmp_path, value, text):
    write_result(duckdb.sql(f"SELECT {value} AS a, 1 AS b").to_arrow_table(), "parquet", tmp_path / "x")
    assert pq.read_table(tmp_path / "x").to_pylist() == [{"a": text, "b": 1}]


@pytest.mark.parametrize("wanted", ["table", "markdown", "csv", "json", "parquet"])
def test_the_extremes_of_every_type_that_duckdb_has_can_be_had_in_every_format(tmp_path, wanted):
    result = duckdb.sql("FROM test_all_types()").to_arrow_table()
    write_result(result, wanted, tmp_path / "x")
    assert (tmp_path / "x").stat().st_size > 1000


@pytest.mark.parametrize(
    "query",
    [
        "SELECT nothing FROM latest",
        "SELEC 1",
        "",
        "SELECT 1; SELECT 2",
        "SELECT 'x'::INT",
        "DROP VIEW latest",
        "INSERT INTO snapshot.audits (repo_id) VALUES ('x')",
        "COPY audits TO '/tmp/x.csv'",
        "ATTACH '/tmp/x.duckdb'",
        "SET threads = 1",
        "INSTALL httpfs",
        "FROM read_text('/etc/passwd')",
        "FROM '/etc/passwd'",
        "FROM query('SELECT 1')",
        "SELECT getenv('HOME')",
        "WITH x AS (COPY audits TO 'x.csv') FROM x",
    ],
)
def test_what_cannot_or_may_not_run_is_one_line_and_exit_status_2(ranked_store, query):
    before = sorted((path, path.stat().st_size) for path in ranked_store.rglob("*"))
    run = sql(ranked_store, query)
    assert run.exit_code == 2
    assert run.stdout == ""
    assert len(run.stderr.splitlines()) == 1
    assert sorted((path, path.stat().st_size) for path in ranked_store.rglob("*")) == before


def test_the_query_can_come_through_a_pipe(ranked_store):
    run = normaudit(
        "sql", "--store", ranked_store, "--format", "csv", input="SELECT count(*) AS n\nFROM leaderboard;\n"
    )
    assert (run.exit_code, run.stdout, run.stderr) == (0, "n\n3\n", "")
    assert normaudit("sql", "--store", ranked_store, input="SELECT FROM;\n").exit_code == 2


def test_an_empty_store_has_all_tables_and_no_rows(tmp_path):
    (tmp_path / "store").mkdir()
    run = sql(tmp_path / "store", "SELECT count(*) AS n FROM latest", "--format", "csv")
    assert run.stdout == "n\n0\n"
    ranking = normaudit("leaderboard", "--store", tmp_path / "store")
    assert ranking.exit_code == 0
    assert ranking.stderr == "0 public models listed\n"


@pytest.mark.parametrize("command", [["sql", "SELECT 1"], ["leaderboard"], ["status"]])
def test_a_store_that_is_not_there_is_named_with_what_to_do(tmp_path, command):
    run = normaudit(*command, "--store", tmp_path / "none")
    assert run.exit_code == 2
    assert run.stdout == ""
    assert str(tmp_path / "none") in run.stderr
    assert "--store" in run.stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("command", [["sql", "SELECT 1"], ["leaderboard"], ["status"]])
def test_a_file_in_place_of_a_store_is_refused(tmp_path, command):
    (tmp_path / "file").write_text("")
    run = normaudit(*command, "--store", tmp_path / "file")
    assert run.exit_code == 2
    assert "is a file" in run.stderr
