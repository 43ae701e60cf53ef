"""A store in a bucket as its readers see it: the snapshot's copy, the vectors, the site."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.query import open_reader, select
from storage.bucket import PIECE_BYTES
from storage.database import build, open_database
from storage.errors import StoreError
from storage.merge import merge_night
from storage.outdated import outdated
from storage.parts import write_batch
from storage.sql import lock
from storage.store import SNAPSHOT, open_store
from tasks.publishing import publish
from tests.s3_server import put, python
from tests.stores import NIGHT, model, night_after
from tests.test_storage_bucket import bytes_of
from tests.test_storage_sql import run

READER = """
import sys
from storage.store import SNAPSHOT, open_store
print(open_store(sys.argv[1]).place.local_copy(SNAPSHOT), flush=True)
"""


@pytest.fixture
def store(bucket):
    """A store of two models, built."""
    store = open_store(bucket)
    for batch in range(2):
        write_batch(store, NIGHT, "run", batch, model(f"org/{batch}"))
    build(store)
    return store


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Return a function after which this is another machine: its user's cache is empty."""
    return lambda: monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / os.urandom(4).hex()))


def ask(store, query):
    with open_database(store) as database:
        return database.execute(query).fetchall()


def downloads(s3):
    return len(s3.asked("GET", SNAPSHOT))


def test_a_reader_downloads_the_snapshot_once_and_again_when_it_has_changed(store, s3, elsewhere):
    elsewhere()
    store = open_store(store.location)
    for _ in range(3):
        assert ask(store, "SELECT count(*) FROM audits") == [(2,)]
    s3.requests.clear()
    assert ask(store, "SELECT count(*) FROM audits") == [(2,)]
    assert (downloads(s3), len(s3.asked("HEAD", SNAPSHOT))) == (0, 1)
    other = open_store(store.location)
    write_batch(other, NIGHT, "run", 2, model("org/2"))
    elsewhere()
    build(open_store(store.location))
    s3.requests.clear()
    assert ask(store, "SELECT count(*) FROM audits") == [(3,)]
    assert downloads(s3) == 1


def test_who_built_the_snapshot_does_not_download_it(store, s3):
    s3.requests.clear()
    assert ask(store, "SELECT count(*) FROM audits") == [(2,)]
    assert downloads(s3) == 0


def test_many_readers_at_once_have_one_whole_copy(store, elsewhere):
    elsewhere()
    store = open_store(store.location)
    with ThreadPoolExecutor(6) as pool:
        copies = set(pool.map(lambda _: store.place.local_copy(SNAPSHOT), range(6)))
    [copy] = copies
    assert copy.read_bytes() == store.place.read(SNAPSHOT)


def test_a_reader_killed_in_the_middle_of_the_download_leaves_no_copy(store, s3, elsewhere):
    elsewhere()
    store = open_store(store.location)
    content = os.urandom(PIECE_BYTES) + b"end"
    put(store.place, SNAPSHOT, content)
    halfway, killed = threading.Event(), threading.Event()

    def wait(request):
        if request.range == f"bytes={PIECE_BYTES}-{PIECE_BYTES + 2}":
            halfway.set()
            killed.wait(60)

    s3.before = wait
    try:
        with python(READER, store.location) as reader:
            assert halfway.wait(60)
            os.kill(reader.pid, signal.SIGKILL)
        killed.set()
    finally:
        s3.before = lambda request: None
    cache = store.place.cache
    assert [name for name in cache.names("") if not name.startswith(".tmp/")] == []
    assert store.place.local_copy(SNAPSHOT).read_bytes() == content
    assert cache.sweep(before_s=datetime.now(UTC).timestamp() + 1) == 1


def test_a_snapshot_that_is_replaced_during_the_download_is_downloaded_anew(store, s3, elsewhere):
    elsewhere()
    store = open_store(store.location)
    put(store.place, SNAPSHOT, os.urandom(PIECE_BYTES + 3))
    newer = os.urandom(PIECE_BYTES + 3)

    def replace(request):
        if request.range.startswith(f"bytes={PIECE_BYTES}-"):
            s3.before = lambda request: None
            put(store.place, SNAPSHOT, newer)

    s3.before = replace
    assert store.place.local_copy(SNAPSHOT).read_bytes() == newer


def test_a_copy_that_nobody_has_opened_for_a_day_is_removed(store):
    old, recent = (store.place.cache.local_path(f"{number:016}-{SNAPSHOT}") for number in range(2))
    for path in (old, recent):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    store.place.local_copy(SNAPSHOT)
    assert (old.exists(), recent.exists()) == (False, True)


def test_a_store_without_parts_has_empty_tables_and_nothing_is_written(bucket):
    store = open_store(bucket)
    assert ask(store, "SELECT gamma FROM kernels") == []
    assert store.place.names("") == []


def test_parts_are_opened_only_for_vectors_and_of_those_only_where_the_model_is(store, s3):
    with open_database(store) as database:
        lock(database, store)
        s3.requests.clear()
        assert len(database.execute("FROM leaderboard").fetchall()) == 2
        assert s3.requests == []
        query = "SELECT repo_id, gamma FROM kernels WHERE repo_id = 'org/1'"
        assert database.execute(query).fetchall() == [("org/1", [1.0, 2.0, 4.0])]
        assert {request.path.split("/parts/")[1] for request in s3.requests} == {
            f"kernels/night=2026-11-01/run-{batch}.parquet" for batch in range(2)
        }


def test_a_query_that_is_running_while_parts_are_read_by_another_is_answered(store):
    [old, _] = outdated(store, read_version=1, method_version=2)
    assert old.kernels[0]["gamma"] == [1.0, 2.0, 4.0]


def test_opening_a_store_takes_no_more_requests_for_more_merged_nights(store, s3):
    asked = []
    merge_night(store, NIGHT)
    for nights in range(1, 4):
        for batch in range(2):
            write_batch(store, night_after(nights), "run", batch, model(f"org/{nights}-{batch}"))
        merge_night(store, night_after(nights))
        build(store)
        s3.requests.clear()
        with open_database(store):
            asked.append(len(s3.requests))
    assert asked == [7] * 3  # is the snapshot new; and for each of three tables with vectors, two listings


def test_footers_are_read_once_for_all_queries_of_a_reader(store, s3):
    with open_database(store) as database:
        asked = []
        for _ in range(2):
            s3.requests.clear()
            assert database.execute("SELECT count(gamma) FROM kernels").fetchall() == [(2,)]
            asked.append(len(s3.requests))
    assert asked[1] < asked[0]


def test_a_query_whose_parts_cannot_be_reached_says_so_in_a_line(store, monkeypatch):
    with open_reader(str(store.location)) as database:
        monkeypatch.setattr("storage.objects._RETRIES", {"max_retries": 0})
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:5")
        said = r"^DuckDB: s3://.*: cannot read parts/kernels/.*: its server cannot be reached; see .* is set$"
        with pytest.raises(StoreError, match=said):
            select(database, "SELECT gamma FROM kernels")


def test_of_a_large_part_a_query_fetches_the_rows_that_it_wants(store, s3):
    rows = 4_000
    columns = {
        "repo_id": [f"org/{i}" for i in range(rows)],
        **{name: ["x"] * rows for name in ("sha", "status", "audit_id")},
        **{name: [1] * rows for name in ("read_version", "method_version")},
        "tensors": [os.urandom(4_000) for _ in range(rows)],
    }
    name = "parts/audits/night=2026-11-01/large-0.parquet"
    with store.place.writing(name) as file:
        pq.write_table(pa.table(columns), file, row_group_size=500)
    build(store)
    with open_database(store) as database:
        s3.requests.clear()
        query = "SELECT octet_length(tensors) FROM audits WHERE repo_id = 'org/3999'"
        assert database.execute(query).fetchall() == [(4_000,)]
    fetched = sum(bytes_of(request.range) for request in s3.asked("GET", "large-0.parquet"))
    assert 0 < fetched < store.place.sizes("parts/audits")[name] / 2


OUT_OF_REACH = [
    "FROM read_text('/etc/passwd')",
    "FROM read_parquet('{location}/parts/audits/*/*.parquet')",
    "FROM read_text('audits://../secret')",
    "COPY audits TO 'audits://x.csv'",
    "COPY audits TO 'audits://parts/audits/night=2026-11-01/run-0.parquet'",
    "FROM read_text('s3://tests/secret')",
    "FROM read_text('http://127.0.0.1:1/x')",
    "FROM glob('{cache}/*')",
    "FROM duckdb_secrets()",
    "COPY audits TO '{cache}/x.csv'",
    "COPY audits TO '{location}/x.csv'",
    "SELECT getenv('AWS_SECRET_ACCESS_KEY')",
    "FROM arrow_scan(1, 2, 3)",
]


def is_refused(database, query):
    try:
        run(database, query)
    except (duckdb.Error, StoreError):
        return True
    return False


def test_a_locked_reader_reaches_the_tables_and_nothing_else(store):
    with open_database(store) as database:
        lock(database, store)
        queries = [query.format(location=store.location, cache=store.place.cache.root) for query in OUT_OF_REACH]
        assert [query for query in queries if not is_refused(database, query)] == []
        assert database.execute("SELECT count(gamma) FROM kernels").fetchall() == [(2,)]


def test_a_part_of_columns_of_other_types_is_set_aside_and_the_rest_is_served(store):
    odd = {"repo_id": ["org/odd"], "sha": ["s1"], "method_version": [1], "dim": ["wide"]}
    with store.place.writing("parts/norms/night=2026-11-01/odd-0.parquet") as file:
        pq.write_table(pa.table(odd), file)
    report = build(store)
    assert len(report.set_aside) == 1
    assert "norms/night=2026-11-01/odd-0.parquet cannot be read" in report.set_aside[0]
    assert ask(store, "SELECT DISTINCT repo_id FROM norms ORDER BY 1") == [("org/0",), ("org/1",)]


def test_parts_of_an_older_version_are_served_with_null_in_the_new_columns(store):
    key = {"repo_id": ["org/old"], "sha": ["s1"], "method_version": [1]}
    for table, facts in (("audits", {"read_version": ["1"], "status": ["ok"]}), ("kernels", {"top_share": [0.5]})):
        with store.place.writing(f"parts/{table}/night=2026-11-01/old-0.parquet") as file:
            pq.write_table(pa.table(key | facts), file)
    assert build(store).set_aside == []
    query = "SELECT top_share, gamma FROM kernels WHERE repo_id = 'org/old'"
    assert ask(store, query) == [(0.5, None)]
    assert ask(store, "SELECT read_version FROM audits WHERE repo_id = 'org/old'") == [(1,)]


def test_the_site_is_published_as_objects_with_their_types_the_front_page_last(store, s3):
    put(store.place, "site/stale.html")
    s3.requests.clear()
    assert publish(str(store.location), datetime.now(UTC), None) == f"{store.location}/site"
    written = {request.path.rpartition("/")[2]: request.content_type for request in s3.asked("PUT")}
    assert written == {
        "leaderboard.json": "application/json",
        "leaderboard.csv": "text/csv; charset=utf-8",
        "leaderboard.md": "text/markdown; charset=utf-8",
        "index.html": "text/html; charset=utf-8",
    }
    assert list(written)[-1] == "index.html"
    assert b"org/0" in store.place.read("site/index.html")
    assert store.place.names("site") == sorted(f"site/{name}" for name in written)


def test_a_later_night_is_published_in_place_of_the_earlier(store):
    publish(str(store.location), datetime.now(UTC), None)
    write_batch(store, night_after(1), "later", 0, model("org/later"))
    build(store)
    publish(str(store.location), datetime.now(UTC), None)
    assert b"org/later" in store.place.read("site/leaderboard.json")
