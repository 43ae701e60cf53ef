import hashlib
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from storage.database import build, open_database
from storage.errors import StoreError
from storage.parts import write_batch
from storage.schema import TABLES
from storage.sql import check_select, lock
from storage.store import open_store
from storage.views import DERIVED
from tests.stores import NIGHT, model

A_PYTHON_TABLE = pa.table({"secret": ["in Python"]})

READING = [
    "SELECT 1",
    "SELECT repo_id FROM latest;",
    "/* why */ SELECT 1 -- because",
    "FROM leaderboard",
    "VALUES (1), (2)",
    "TABLE audits",
    "SELECT 1 UNION SELECT 2",
    "WITH x AS (SELECT 1 AS a) FROM x",
    "WITH RECURSIVE x AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM x WHERE a < 3) FROM x",
    "SELECT kernel_direction(gamma) FROM kernels",
    "SELECT unnest(gamma) FROM kernels",
    "SELECT * FROM range(3), (SELECT count(*) FROM norms)",
    "FROM (SELECT 'COPY audits TO ''x''; DROP TABLE audits' AS text)",
    "DESCRIBE audits",
    "SUMMARIZE norms",
    "SHOW TABLES",
    "EXPLAIN SELECT 1",
    "-- a plan\nexplain /* of */ FROM latest",
    "FROM duckdb_columns()",
    "FROM pragma_table_info('audits')",
    "FROM read_parquet('{store}/parts/audits/*/*.parquet')",
    "FROM parquet_metadata('{store}/parts/audits/*/*.parquet')",
    "FROM glob('{store}/*')",
]

WRITING = [
    "COPY audits TO '{store}/x.csv'",
    "COPY audits TO '{outside}/x.csv'",
    "COPY (SELECT 1) TO '{store}/parts/audits/x.parquet'",
    "WITH x AS (COPY audits TO '{store}/x.csv') SELECT * FROM x",
    "WITH x AS (COPY audits TO '{outside}/x.csv') SELECT * FROM x",
    "SELECT (SELECT count(*) FROM (WITH x AS (COPY audits TO '{store}/x.csv') FROM x))",
    "EXPLAIN WITH x AS (COPY audits TO '{store}/x.csv') SELECT * FROM x",
    "DESCRIBE WITH x AS (COPY audits TO '{store}/x.csv') SELECT * FROM x",
    "FROM query('WITH x AS (COPY audits TO ''{store}/x.csv'') SELECT * FROM x')",
    "FROM Query('SELECT 1')",
    "FROM system.main.query('SELECT 1')",
    "FROM query_table('audits')",
    "FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
    "WITH x AS (INSERT INTO snapshot.audits (repo_id) VALUES ('x') RETURNING *) SELECT * FROM x",
    "WITH x AS (DELETE FROM snapshot.audits RETURNING *) SELECT * FROM x",
    "WITH x AS (UPDATE snapshot.audits SET status = 'ok' RETURNING *) SELECT * FROM x",
    "EXPLAIN ANALYZE SELECT 1",
    "EXPLAIN /* quietly */ ANALYZE COPY audits TO '{store}/x.csv'",
    "EXPLAIN (ANALYZE) COPY audits TO '{store}/x.csv'",
    "EXPLAIN (FORMAT json) SELECT 1",
    "EXPLAIN COPY audits TO '{store}/x.csv'",
    "EXPORT DATABASE '{store}/export'",
    "IMPORT DATABASE '{store}'",
    "ATTACH '{store}/new.duckdb'",
    "DETACH snapshot",
    "USE snapshot",
    "INSTALL httpfs",
    "LOAD httpfs",
    "LOAD '{store}/x.duckdb_extension'",
    "SET threads = 1",
    "RESET threads",
    "SET enable_external_access = true",
    "PRAGMA threads = 1",
    "PRAGMA enable_profiling",
    "CALL pragma_version()",
    "CREATE TABLE t (a INT)",
    "CREATE TEMP TABLE t AS SELECT 1",
    "CREATE VIEW v AS SELECT 1",
    "CREATE MACRO m() AS 1",
    "CREATE SECRET s (TYPE s3)",
    "INSERT INTO snapshot.audits (repo_id) VALUES ('x')",
    "UPDATE snapshot.audits SET status = 'ok'",
    "DELETE FROM snapshot.audits",
    "TRUNCATE snapshot.audits",
    "DROP VIEW audits",
    "ALTER TABLE snapshot.audits ADD COLUMN x INT",
    "COMMENT ON VIEW audits IS 'x'",
    "BEGIN",
    "CHECKPOINT",
    "FROM checkpoint('snapshot')",
    "FROM force_checkpoint()",
    "VACUUM",
    "ANALYZE",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "DEALLOCATE p",
    "MERGE INTO snapshot.audits USING audits AS a USING (repo_id) WHEN MATCHED THEN DELETE",
    "SELECT 1; SELECT 2",
    "SELECT 1; COPY audits TO '{store}/x.csv'",
    "SELECT 1 /* ; */ ; -- \n DROP VIEW audits",
    "FROM enable_logging('QueryLog', storage = 'file', storage_path = '{store}/log')",
    "FROM enable_profiling(save_location = '{store}/profile')",
    "FROM read_duckdb('{store}/audit.duckdb', table_name = 'audits')",
    "FROM arrow_scan(1, 2, 3)",
    "FROM python_map_function(1)",
    "",
    ";",
    "-- nothing",
    "EXPLAIN",
    "no SQL",
    "SELECT 'open",
    "\x00",
]

REACHING_OUT = [
    "FROM read_text('{outside}/secret.txt')",
    "FROM read_text('{store}/../outside/secret.txt')",
    "FROM read_text('{store}/./x/../../outside/secret.txt')",
    "FROM read_blob('file://{outside}/secret.txt')",
    "FROM read_csv('{outside}/secret.txt')",
    "FROM read_json('{outside}/secret.txt')",
    "FROM read_parquet('{outside}/*.parquet')",
    "FROM '{outside}/secret.txt'",
    "FROM '{outside}/secret.csv'",
    "FROM glob('{outside}/*')",
    "FROM glob('/etc/*')",
    "FROM sniff_csv('{outside}/secret.csv')",
    "FROM parquet_schema('{outside}/secret.parquet')",
    "FROM read_text('/etc/passwd')",
    "FROM read_text('/proc/self/environ')",
    "FROM read_csv('/dev/stdin')",
    "FROM read_text('http://127.0.0.1:1/x')",
    "FROM read_text('s3://bucket/x')",
    "FROM A_PYTHON_TABLE",
    "FROM duckdb_secrets()",
    "SELECT getenv('PATH')",
]


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    folder = tmp_path_factory.mktemp("here") / "outside"
    folder.mkdir()
    for name in ("secret.txt", "secret.csv", "secret.parquet"):
        (folder / name).write_text("secret\n1\n")
    return folder


@pytest.fixture(scope="module")
def store(outside):
    store = open_store(outside.parent / "store")
    write_batch(store, NIGHT, "run", 0, model("org/m"))
    build(store)
    return store


@pytest.fixture(scope="module")
def database(store):
    with open_database(store) as connection:
        lock(connection, store)
        yield connection


def content_of(*folders):
    """Every file below these folders, by the hash of its bytes."""
    paths = sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def run(database, sql):
    check_select(database, sql)
    return database.execute(sql).fetchall()


@pytest.mark.parametrize("sql", READING)
def test_what_only_reads_runs(database, store, sql):
    assert run(database, sql.format(store=store.location))


@pytest.mark.parametrize("relation", [*TABLES, *DERIVED])
def test_every_table_and_view_can_be_read_when_locked(database, relation):
    assert run(database, f"SELECT count(*) FROM {relation}") == [(row_count(relation),)]


def row_count(relation):
    return {"probes": 2, "norms": 2, "changes": 0, "failures": 0}.get(relation, 1)


@pytest.mark.parametrize("sql", WRITING)
def test_what_could_write_is_refused_and_changes_nothing(database, store, outside, sql):
    before = content_of(store.location, outside)
    with pytest.raises(StoreError):
        run(database, sql.format(store=store.location, outside=outside))
    assert content_of(store.location, outside) == before
    assert run(database, "SELECT repo_id FROM audits") == [("org/m",)]


@pytest.mark.parametrize("sql", REACHING_OUT)
def test_nothing_outside_the_store_is_read(database, store, outside, sql):
    with pytest.raises((duckdb.Error, StoreError)) as caught:
        run(database, sql.format(store=store.location, outside=outside))
    assert "in Python" not in str(caught.value)
    assert "root:" not in str(caught.value)


def test_a_query_that_spills_to_disk_spills_outside_the_store_and_leaves_nothing(store, outside, monkeypatch):
    monkeypatch.setattr("storage.sql.MEMORY_LIMIT", "60MB")
    before = content_of(store.location, outside)
    with open_database(store) as database:
        lock(database, store)
        database.execute(
            "FROM (SELECT hash(range)::VARCHAR AS b FROM range(3_000_000)) ORDER BY b LIMIT 1 OFFSET 2_900_000"
        )
        [(folder,)] = database.execute("SELECT current_setting('temp_directory')").fetchall()
        assert Path(folder).is_dir()
        assert not Path(folder).is_relative_to(store.location)
    assert not Path(folder).exists()
    assert content_of(store.location, outside) == before


def test_the_lock_holds_even_for_what_is_not_checked(database, store, outside):
    for sql in ("SET threads = 1", f"COPY audits TO '{outside}/x.csv'", "SET allowed_directories = ['/']"):
        with pytest.raises(duckdb.Error):
            database.execute(sql)


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("DROP VIEW audits", "this is DROP, and the store is read-only"),
        ("SELECT 1; SELECT 2", "this holds 2 statements"),
        ("", "this holds 0 statements"),
        ("WITH x AS (COPY audits TO 'y') FROM x", "COPY inside a SELECT"),
        ("FROM query('SELECT 1')", "table function query is not among those that only read"),
        ("EXPLAIN ANALYZE SELECT 1", "EXPLAIN ANALYZE runs its statement"),
        ("SELEC 1", "no SELECT that DuckDB understands"),
    ],
)
def test_a_refusal_says_why(database, sql, says):
    with pytest.raises(StoreError, match=says):
        check_select(database, sql)
