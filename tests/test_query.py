"""The commands that ask a store: `sql`, `leaderboard` and `status`."""

import csv
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from flows.query import open_reader
from flows.query import select as choose
from flows.results import write_result
from storage.database import build
from storage.lease import hold_lease
from storage.nights import finish_night
from storage.parts import write_batch
from storage.store import open_store
from tasks.core.rows import merge_rows
from tasks.site import COLUMNS as SITE_COLUMNS
from tests.stores import NIGHT, audit, listing, model, night_after, write_plan
from tests.test_cli import ROOT, normaudit, objects, process

COLUMNS = [
    "repo_id", "downloads", "kind", "parameterisation", "hidden_size", "predicted_dead_dim", "participation_fraction",
    "top_share", "condition_number", "confidence", "probe_verdict", "alignment", "preserved", "audited_at",
]  # fmt: skip


def merged(*models):
    return merge_rows(models)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of three public models, a private one, a local folder and a failed audit; nothing here changes it."""
    location = tmp_path_factory.mktemp("query") / "store"
    rows = merged(
        *(
            {**model(f"org/{name}"), "listings": [listing(f"org/{name}", downloads=downloads)]}
            for name, downloads in (("a", 5), ("b", 50), ("c", 1))
        ),
        {**model("org/secret"), "listings": [listing("org/secret", downloads=10**6, private=True)]},
        {name: rows for name, rows in model("/home/me/local").items() if name != "listings"},
        {"audits": [audit("org/down", status="failed", reason="org/down: 503")], "listings": [listing("org/down")]},
    )
    write_batch(open_store(location), NIGHT, "test", 0, rows)
    build(open_store(location))
    return location


@pytest.fixture(autouse=True)
def home(own_home):
    """No test here reads a store that the environment names."""


def sql(store, query, *arguments, **options):
    return normaudit("sql", query, "--store", store, *arguments, **options)


@pytest.mark.parametrize("wanted", ["table", "csv", "json"])
def test_sql_answers_in_each_format(store, wanted):
    run = sql(store, "SELECT repo_id AS name, downloads FROM leaderboard", "--format", wanted)
    assert run.exit_code == 0
    assert run.stderr == ""
    found = {
        "json": lambda: [tuple(one.values()) for one in objects(run)],
        "csv": lambda: [(name, int(n)) for name, n in list(csv.reader(io.StringIO(run.stdout)))[1:]],
        "table": lambda: [(line.split()[0], int(line.split()[1])) for line in run.stdout.splitlines()[2:]],
    }[wanted]()
    assert found == [("org/b", 50), ("org/a", 5), ("org/c", 1)]


@pytest.mark.parametrize("arguments", [["--format", "parquet"], []])
def test_sql_writes_parquet_to_a_file_whose_name_says_so(store, tmp_path, arguments):
    file = tmp_path / "x.parquet"
    run = sql(store, "SELECT repo_id, gamma FROM kernels", "--output", file, *arguments)
    assert (run.exit_code, run.output) == (0, "")
    assert len(pq.read_table(file)) == 5


def test_sql_writes_parquet_into_a_pipe(store):
    with process("sql", "SELECT 1 AS a", "--store", store, "--format", "parquet", text=False) as run:
        out, _ = run.communicate(timeout=60)
    assert run.returncode == 0
    assert pq.read_table(io.BytesIO(out)).to_pylist() == [{"a": 1}]


def test_a_sum_is_a_number_in_json(store):
    [found] = objects(sql(store, "SELECT sum(downloads) AS total FROM listings", "--format", "json"))
    assert found == {"total": 1_000_066}


def test_every_column_of_every_table_can_be_had_in_every_format(store, tmp_path):
    with open_reader(str(store)) as database:
        tables = [name for (name,) in database.sql("SHOW TABLES").fetchall()]
        assert {"latest", "leaderboard", "audits", "kernels"} <= set(tables)
        for found in (choose(database, f"FROM {table}") for table in tables):
            for wanted in ("table", "csv", "json", "parquet"):
                write_result(found, wanted, tmp_path / "x")
                assert (tmp_path / "x").stat().st_size > 0 or (len(found) == 0 and wanted == "json")


def test_vectors_maps_bytes_and_times_can_be_had_as_json(store):
    run = sql(store, "SELECT dead_counts, spectrum, tensors, audited_at FROM probes JOIN audits USING (repo_id)"
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
def test_what_cannot_or_may_not_run_is_one_line_and_exit_status_2(store, query):
    before = sorted((path, path.stat().st_size) for path in store.rglob("*"))
    run = sql(store, query)
    assert run.exit_code == 2
    assert run.stdout == ""
    assert len(run.stderr.splitlines()) == 1
    assert sorted((path, path.stat().st_size) for path in store.rglob("*")) == before


def test_the_query_can_come_through_a_pipe(store):
    run = normaudit("sql", "--store", store, "--format", "csv", input="SELECT count(*) AS n\nFROM leaderboard;\n")
    assert (run.exit_code, run.stdout, run.stderr) == (0, "n\n3\n", "")
    assert normaudit("sql", "--store", store, input="SELECT FROM;\n").exit_code == 2


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


class Terminal:
    """A command on a pseudo-terminal of its own."""

    def __init__(self, *arguments):
        self.ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "flows.cli", *map(str, arguments)]
        streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        self.process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, **streams)
        os.close(theirs)
        self.seen = ""

    def read(self):
        """Add to `seen` what comes within a moment; return False once nothing can come any more."""
        if not select.select([self.ours], [], [], 0.1)[0]:
            return True
        try:
            said = os.read(self.ours, 65536)
        except OSError:  # EIO: how Linux tells that whoever had the terminal is gone
            return False
        self.seen += said.decode(errors="replace")
        return bool(said)

    def until(self, text, timeout_s=60):
        """Read until text has come since the last call; return what came."""
        deadline = time.monotonic() + timeout_s
        while text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            assert self.read(), f"the command ended before it said {text!r}: {self.seen}"
        before, _, self.seen = self.seen.partition(text)
        return before

    def insist(self, action, ends):
        """Do an action once a second until it has worked, as a person does.

        Python misses a Ctrl-C that comes between its looking for one and its waiting, and handles it a line later.
        """
        for _ in range(60):
            action()
            deadline = time.monotonic() + 1
            while time.monotonic() < deadline:
                self.read()
                if ends():
                    self.seen = ""
                    return
        pytest.fail(self.seen)

    def type(self, text):
        os.write(self.ours, text.encode())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self.ours)


def test_the_prompt_answers_survives_errors_and_ctrl_c_and_ends_with_ctrl_d(store):
    with Terminal("sql", "--store", store, "--format", "csv") as terminal:
        terminal.until("normaudit> ")
        terminal.type("SELECT repo_id FROM leaderboard ORDER BY 1 LIMIT 1;\n")
        assert "org/a" in terminal.until("normaudit> ")
        terminal.type("SELECT nothing FROM latest\n")
        assert "nothing" in terminal.until("normaudit> ").replace("SELECT nothing", "", 1)
        terminal.type("SELECT half")
        terminal.until("half")
        terminal.insist(lambda: terminal.process.send_signal(signal.SIGINT), lambda: "normaudit> " in terminal.seen)
        terminal.insist(lambda: terminal.type("SELECT 6 * 7 AS answer\n"), lambda: "42" in terminal.seen)
        terminal.insist(lambda: terminal.type("\x04"), lambda: terminal.process.poll() is not None)
        assert terminal.process.returncode == 0


ENDLESS = "SELECT count(*) FROM range(3000000) a, range(3000000) b WHERE hash(a.range, b.range) = 1"


def test_ctrl_c_drops_a_long_query_and_the_prompt_stays(store):
    with Terminal("sql", "--store", store, "--timeout", 60) as terminal:
        terminal.until("normaudit> ")
        terminal.type(f"{ENDLESS}\n")
        terminal.until("= 1\r\n")
        await_work(terminal.process)
        terminal.process.send_signal(signal.SIGINT)
        terminal.until("normaudit> ")
        terminal.type("quit\n")
        assert terminal.process.wait(60) == 0


def test_ctrl_c_ends_a_long_query_with_status_130(store):
    with process("sql", ENDLESS, "--store", store, "--timeout", 60, start_new_session=True) as run:
        await_work(run)
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=30)
    assert run.returncode == 130, err
    assert "Traceback" not in err


def test_a_query_that_takes_too_long_is_given_up_with_one_line(store):
    run = sql(store, ENDLESS, "--timeout", 1)
    assert run.exit_code == 2
    assert run.stderr == "normaudit: given up after 1 s; narrow the query, or raise --timeout\n"


def test_ctrl_c_ends_a_ranking_by_an_endless_condition(store):
    with process("leaderboard", "--where", f"downloads < ({ENDLESS})", "--store", store) as run:
        await_work(run)
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=30)
    assert run.returncode == 130, err
    assert "Traceback" not in err


def await_work(process):
    """Wait until a process has threads that have computed for longer than it takes to start."""
    stat = Path(f"/proc/{process.pid}/stat")
    deadline = time.monotonic() + 60
    while process.poll() is None and used_s(stat) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def used_s(stat):
    user, system = stat.read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def ranked(store, *arguments):
    run = normaudit("leaderboard", "--store", store, "--format", "json", *arguments)
    assert run.exit_code == 0, run.stderr
    return [found["repo_id"] for found in objects(run)]


def test_the_ranking_is_by_downloads_and_without_private_and_local_models(store):
    assert ranked(store) == ["org/b", "org/a", "org/c"]
    run = normaudit("leaderboard", "--store", store)
    assert run.stderr == "4 public models listed: ok 3, failed 1\n"
    assert [line.split()[0] for line in run.stdout.splitlines()[2:]] == ["org/b", "org/a", "org/c"]


def test_the_ranking_has_the_promised_columns_in_each_format(store):
    found = {wanted: normaudit("leaderboard", "--store", store, "--format", wanted).stdout
             for wanted in ("csv", "json", "markdown")}  # fmt: skip
    assert next(csv.reader(io.StringIO(found["csv"]))) == COLUMNS
    assert list(json.loads(found["json"].splitlines()[0])) == COLUMNS
    headings = [column.heading for column in SITE_COLUMNS]
    assert found["markdown"].splitlines()[0] == f"| {' | '.join(headings)} |"
    assert len(found["markdown"].splitlines()) == 5


def test_the_ranking_is_sorted_by_any_column_cut_and_filtered(store):
    assert ranked(store, "--sort", "repo_id") == ["org/a", "org/b", "org/c"]
    assert ranked(store, "--limit", "2") == ["org/b", "org/a"]
    assert ranked(store, "--where", "downloads < 10") == ["org/a", "org/c"]
    assert ranked(store, "--where", "downloads < 10 -- small ones") == ["org/a", "org/c"]
    assert ranked(store, "--where", "kind = 'layernorm' OR true", "--limit", "1") == ["org/b"]


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
def test_a_hostile_or_wrong_condition_is_one_line_and_exit_status_2(store, arguments):
    run = normaudit("leaderboard", "--store", store, *arguments, "--format", "csv")
    assert run.exit_code == 2
    assert run.stdout == ""
    assert len([line for line in run.stderr.splitlines() if "public models" not in line]) == 1


def test_the_site_is_written_and_written_again(store, tmp_path):
    for _ in range(2):
        assert normaudit("leaderboard", "--store", store, "--out", tmp_path / "site").exit_code == 0
    names = {"index.html", "leaderboard.json", "leaderboard.csv", "leaderboard.md"}
    assert {path.name for path in (tmp_path / "site").iterdir()} == names
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".site")] == []
    assert "org/b" in (tmp_path / "site" / "index.html").read_text()
    assert "secret" not in "".join(path.read_text() for path in (tmp_path / "site").iterdir())


@pytest.mark.parametrize("option", [["--sort", "downloads"], ["--where", "true"], ["--limit", 5], ["--format", "csv"]])
def test_the_site_is_whole_and_refuses_what_would_cut_it(store, tmp_path, option):
    run = normaudit("leaderboard", "--store", store, "--out", tmp_path / "site", *option)
    assert run.exit_code == 2
    assert len(run.stderr.splitlines()) == 1
    assert option[0] in run.stderr
    assert not (tmp_path / "site").exists()


def test_a_folder_that_holds_something_else_is_not_replaced(store, tmp_path, monkeypatch):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.html").write_text("mine")
    (tmp_path / "more").mkdir()
    assert normaudit("leaderboard", "--store", store, "--out", tmp_path / "more").exit_code == 0
    (tmp_path / "more" / "thesis.tex").write_text("mine")
    (tmp_path / "file").write_text("mine")
    monkeypatch.chdir(tmp_path / "docs")
    for out in (tmp_path / "docs", tmp_path / "more", tmp_path / "file", "."):
        run = normaudit("leaderboard", "--store", store, "--out", out)
        assert run.exit_code == 2, out
        assert len(run.stderr.splitlines()) == 1
    assert (tmp_path / "docs" / "index.html").read_text() == "mine"
    assert (tmp_path / "more" / "thesis.tex").exists()
    assert (tmp_path / "file").read_text() == "mine"


def test_status_of_a_store_without_nights_says_so(store):
    run = normaudit("status", "--store", store)
    assert run.exit_code == 0
    assert "No night has been finished" in run.stdout
    assert "org/down: 503" in run.stdout
    assert "4 public models listed: ok 3, failed 1" in run.stdout


@pytest.fixture
def nights(tmp_path):
    """A store of a finished night, one that the gate held, and an interrupted one."""
    store = open_store(tmp_path / "store")
    facts = {"listed": 10, "unchanged": 4, "waiting": 1, "planned": 5}
    costs = {"hub_requests": 11, "cdn_requests": 12, "bytes_read": 123_456, "seconds": 3.5}
    for day in range(3):
        write_plan(store, night_after(day), [], {"audit_id": f"a{day}", **facts})
    done = {**facts, **costs, "audited": 5, "statuses": {"ok": 4, "failed": 1}, "published": True, "gate": None}
    finish_night(store, NIGHT, {**done, "audit_id": "a0"})
    held = {"published": False, "gate": "3 of 5 audits failed"}
    finish_night(store, night_after(1), {**done, **held, "audit_id": "a1"})
    return store


def test_status_shows_finished_held_and_interrupted_nights(nights):
    lines = normaudit("status", "--store", nights.location).stdout.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines[2:4]}
    assert rows[str(NIGHT)] == ["10", "4", "5", "1", "11", "12", "123,456", "3.5", "yes"]
    assert rows[str(night_after(1))][-1] == "no"
    assert f"Night {night_after(1)} was not published: 3 of 5 audits failed" in lines
    assert f"Night {night_after(2)}: interrupted; `normaudit nightly` goes on with it" in lines


def test_status_as_json_is_a_line_for_each_finished_night(nights):
    run = normaudit("status", "--store", nights.location, "--json")
    assert [night["night"] for night in objects(run)] == ["2026-11-01", "2026-11-02"]


def test_status_names_who_works_on_a_night(nights):
    with hold_lease(nights, "the tests"):
        shown = normaudit("status", "--store", nights.location).stdout
    assert f"Night {night_after(2)}: running: the tests" in shown
    assert f"pid {os.getpid()}" in shown
    assert "interrupted" not in shown
