import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.database import build, open_database
from storage.errors import StoreError
from storage.parts import write_batch, write_part
from storage.schema import KEYS, TABLES
from storage.store import open_store
from storage.views import DERIVED
from tests.stores import AUDITED_AT, NIGHT, audit, conclusions, listing, model, night_after, probe

BUILDER = """
import sys
from storage.database import build
from storage.store import open_store
print("ready", flush=True)
while True:
    build(open_store(sys.argv[1]))
    print("built", flush=True)
"""


def ask(store, query):
    with open_database(store) as database:
        return database.execute(query).fetchall()


def old_part(store, table, columns, name="old-0"):
    """A part as an older version wrote it: with these columns only."""
    path = store.place.local_path(f"parts/{table}/night=2026-11-01/{name}.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def test_a_store_without_parts_has_empty_tables_and_views_and_is_not_written(store):
    with open_database(store) as database:
        for relation in (*TABLES, *DERIVED):
            assert database.execute(f"FROM {relation}").fetchall() == []
    assert not store.location.exists()


def test_the_columns_of_a_table_are_those_of_the_schema_with_or_without_parts(store):
    for _ in range(2):
        with open_database(store) as database:
            for table, schema in TABLES.items():
                assert [column[0] for column in database.execute(f"FROM {table}").description] == schema.names
        write_batch(store, NIGHT, "run", 0, model("org/m"))


def test_every_column_of_every_table_and_view_has_a_comment(store):
    write_batch(store, NIGHT, "run", 0, model("org/m"))
    bare = """
        SELECT database_name, table_name, column_name FROM duckdb_columns()
        WHERE comment IS NULL AND NOT internal AND table_name <> 'built_with'
    """
    assert ask(store, bare) == []
    relations = "SELECT view_name FROM duckdb_views() WHERE NOT internal AND comment IS NOT NULL"
    assert {name for (name,) in ask(store, relations)} == {*TABLES, *DERIVED}


def test_a_comment_gives_unit_and_source(store):
    query = """
        SELECT comment FROM duckdb_columns()
        WHERE database_name = current_database() AND table_name = 'leaderboard' AND column_name = 'condition_number'
    """
    assert ask(store, query) == [("max|γ|/min|γ|; null with a zero [source: effective scale, section 2]",)]


def test_facts_and_vectors_come_back_as_one_row(store):
    write_batch(store, NIGHT, "run", 0, model("org/m"))
    write_batch(store, NIGHT, "run", 1, model("org/n", None))
    build(store)
    kernels = ask(store, "SELECT repo_id, predicted_dead_dim, gamma, beta FROM kernels ORDER BY ALL")
    assert kernels == [("org/m", 1, [1.0, 2.0, 4.0], None), ("org/n", 1, [1.0, 2.0, 4.0], None)]
    query = "SELECT spectrum, block_names, block_sigma_ratio, dead_counts FROM probes WHERE weights = 'random'"
    assert ask(store, query) == [([2.0, 1.0, 1e-75], ["embeddings", "h.0"], [None], {"1e-08": 1})] * 2
    assert ask(store, "SELECT tensors, config FROM audits") == [(b"names", None)] * 2


def test_times_are_shown_in_utc_wherever_the_reader_is(store, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    write_batch(store, NIGHT, "run", 0, model("org/m"))
    assert ask(store, "SELECT audited_at::VARCHAR FROM audits") == [("2026-11-01 03:00:00+00",)]


def test_the_facts_are_in_the_database_alone(store):
    write_batch(store, NIGHT, "run", 0, model("org/m"))
    build(store)
    for name in store.place.names("parts"):
        store.place.remove(name)
    assert ask(store, "SELECT kind, gamma FROM norms JOIN kernels USING (repo_id) WHERE is_main") == [
        ("layernorm", None)
    ]


@pytest.mark.parametrize("table", TABLES)
def test_a_key_that_is_there_twice_is_served_once(store, table):
    rows = {**model("org/m"), "listings": [listing("org/m")]}
    write_batch(store, NIGHT, "run", 0, rows)
    write_part(store, table, NIGHT, "run", 7, rows[table], {})
    assert build(store).rows[table] == len(rows[table])
    assert ask(store, f"SELECT count(*) FROM {table}") == [(len(rows[table]),)]


def test_of_two_audits_of_a_revision_the_later_counts_whole(store):
    later = conclusions("org/m")
    later["norms"] = [{**later["norms"][0], "module": "norm", "kind": "rmsnorm"}]
    later["kernels"] = [{**later["kernels"][0], "gamma": np.array([9.0])}]
    write_batch(store, night_after(1), "a", 0, {"audits": [audit("org/m", norm_kind="rmsnorm")], **later})
    earlier = audit("org/m", audited_at=AUDITED_AT - timedelta(hours=1))
    write_batch(store, night_after(2), "b", 0, {"audits": [earlier], **conclusions("org/m")})
    build(store)
    assert ask(store, "SELECT norm_kind, night FROM audits") == [("rmsnorm", night_after(1))]
    assert ask(store, "SELECT module, kind FROM norms") == [("norm", "rmsnorm")]
    assert ask(store, "SELECT gamma FROM kernels") == [([9.0],)]


def test_conclusions_of_each_method_version_are_kept(store):
    write_batch(store, NIGHT, "a", 0, {"audits": [audit("org/m")], **conclusions("org/m")})
    again = audit("org/m", method_version=2, audited_at=AUDITED_AT + timedelta(days=9))
    write_batch(store, night_after(9), "b", 0, {"audits": [again], **conclusions("org/m", method_version=2)})
    assert ask(store, "SELECT method_version FROM audits") == [(2,)]
    assert ask(store, "SELECT method_version, count(*) FROM norms GROUP BY ALL ORDER BY ALL") == [(1, 2), (2, 2)]


def test_a_batch_without_its_marker_is_not_served(store):
    write_part(store, "norms", NIGHT, "killed", 0, conclusions("org/m")["norms"], {})
    write_batch(store, NIGHT, "run", 1, model("org/n"))
    assert ask(store, "SELECT DISTINCT repo_id FROM norms") == [("org/n",)]


@pytest.mark.parametrize("damage", [lambda content: content[:-40], lambda content: content[:40], lambda content: b""])
def test_an_unreadable_part_is_set_aside_and_the_rest_is_served(store, damage):
    for batch in range(3):
        write_batch(store, NIGHT, "run", batch, model(f"org/{batch}"))
    path = store.place.local_path("parts/norms/night=2026-11-01/run-1.parquet")
    path.write_bytes(damage(path.read_bytes()))
    report = build(store)
    assert len(report.set_aside) == 1
    assert "norms/night=2026-11-01/run-1.parquet cannot be read" in report.set_aside[0]
    assert (report.rows["norms"], report.rows["audits"]) == (4, 3)
    assert build(store).set_aside == []


def test_a_part_of_vectors_that_was_cut_off_after_the_build_hides_no_other(store):
    for batch in range(2):
        write_batch(store, NIGHT, "run", batch, model(f"org/{batch}"))
    build(store)
    path = store.place.local_path("parts/kernels/night=2026-11-01/run-1.parquet")
    path.write_bytes(path.read_bytes()[:-40])
    assert ask(store, "SELECT repo_id, len(gamma) FROM kernels ORDER BY ALL") == [("org/0", 3), ("org/1", None)]


def test_parts_of_an_older_version_are_served_with_null_in_the_new_columns(store):
    key = {"repo_id": ["org/old"], "sha": ["s1"], "method_version": [1]}
    old_part(store, "audits", {**key, "read_version": [1], "status": ["ok"]})
    old_part(store, "norms", {**key, "tower": ["text"], "is_final": [True], "is_main": [True], "kind": ["rmsnorm"]})
    old_part(store, "kernels", {**key, "tower": ["text"], "top_share": [0.5]})
    for expected in (1, 2):
        assert build(store).rows["kernels"] == expected
        assert ask(store, "SELECT kind, top_share, audited_at FROM latest WHERE repo_id = 'org/old'") == [
            ("rmsnorm", 0.5, None)
        ]
        assert ask(store, "SELECT gamma, beta FROM kernels WHERE repo_id = 'org/old'") == [(None, None)]
        write_batch(store, NIGHT, "run", 0, model("org/new"))


def test_columns_of_a_newer_version_are_left_out(store):
    old_part(store, "listings", {"repo_id": ["org/m"], "night": [NIGHT], "colour": ["red"]}, "new-0")
    assert ask(store, "SELECT repo_id, night FROM listings") == [("org/m", NIGHT)]


@pytest.mark.parametrize("content", [b"", b"no database", None])
def test_a_missing_or_broken_database_is_built_again(store, content):
    write_batch(store, NIGHT, "run", 0, model("org/m"))
    build(store)
    path = store.place.local_path("audit.duckdb")
    path.unlink() if content is None else path.write_bytes(content)
    assert ask(store, "SELECT repo_id FROM audits") == [("org/m",)]


def test_a_reader_keeps_its_snapshot_while_another_is_put_in_place(store):
    write_batch(store, NIGHT, "run", 0, model("org/m"))
    build(store)
    with open_database(store) as database:
        write_batch(store, NIGHT, "run", 1, model("org/n"))
        build(store)
        assert database.execute("SELECT count(*) FROM audits").fetchall() == [(1,)]
        assert ask(store, "SELECT count(*) FROM audits") == [(2,)]


def test_a_build_killed_at_any_time_leaves_the_old_snapshot(store):
    write_batch(store, NIGHT, "run", 0, model("org/m"))
    build(store)
    command = [sys.executable, "-c", BUILDER, str(store.location)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as builder:
        assert builder.stdout.readline() == "ready\n"
        while not store.place.names(".tmp"):  # until a build is under way
            assert builder.poll() is None
        os.kill(builder.pid, signal.SIGKILL)
    with open_database(store) as database:
        assert database.execute("SELECT count(*) FROM snapshot.audits").fetchall() == [(1,)]


def test_the_snapshot_cannot_be_changed_through_the_connection(store):
    write_batch(store, NIGHT, "run", 0, model("org/m"))
    with open_database(store) as database, pytest.raises(Exception, match="read-only"):
        database.execute("DELETE FROM snapshot.audits")


def test_probes_that_differ_in_their_key_are_all_kept_and_the_last_of_equals_wins(store):
    probes = [probe("org/m", n_tokens=8), probe("org/m", n_tokens=9), probe("org/m", n_tokens=9, verdict="absent")]
    for batch, row in enumerate(probes):
        row["probed_at"] = AUDITED_AT + timedelta(seconds=batch)
        write_batch(store, NIGHT, f"probe-{batch}", 0, {"probes": [row]})
    query = "SELECT n_tokens, verdict, len(spectrum) FROM probes ORDER BY ALL"
    assert ask(store, query) == [(8, "present", 3), (9, "absent", 3)]


def test_a_store_whose_path_needs_quoting_works(tmp_path):
    store = open_store(tmp_path / "it's [a] *store*")
    write_batch(store, NIGHT, "run", 0, model("org/m"))
    assert ask(store, "SELECT len(gamma) FROM kernels") == [(3,)]


def test_every_key_of_the_schema_is_unique_in_the_database(store):
    for batch in range(2):
        write_batch(store, NIGHT, f"run-{batch}", 0, model("org/m"))
    build(store)
    for table, key in KEYS.items():
        names = ", ".join(key)
        assert ask(store, f"SELECT {names} FROM {table} GROUP BY ALL HAVING count(*) > 1") == []


def test_a_folder_in_the_place_of_the_database_is_an_error_that_says_what_to_do(store):
    write_batch(store, NIGHT, "run", 0, model("org/m"))
    store.place.local_path("audit.duckdb").mkdir()
    with pytest.raises(StoreError, match=r"audit\.duckdb; a store has a file there: move the folder away"):
        open_database(store)


KEY = {"repo_id": ["org/odd"], "sha": ["s1"], "method_version": [1]}


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ("audits", {**KEY, "read_version": ["one"], "status": ["ok"]}),
        ("audits", {**KEY, "read_version": [1], "night": ["some day"]}),
        ("audits", {**KEY, "read_version": [1], "integrity": [5]}),
        ("norms", {**KEY, "dim": ["wide"]}),
        ("norms", {**KEY, "is_final": ["perhaps"]}),
        ("listings", {"repo_id": ["org/odd"], "night": [NIGHT], "downloads": ["many"]}),
        ("probes", {**KEY, "dead_counts": [1]}),
    ],
)
def test_a_part_with_columns_of_other_types_is_set_aside_and_the_rest_is_served(store, table, columns):
    write_batch(store, NIGHT, "run", 0, model("org/m"))
    old_part(store, table, columns, "odd-0")
    report = build(store)
    assert len(report.set_aside) == 1
    assert f"{table}/night=2026-11-01/odd-0.parquet cannot be read" in report.set_aside[0]
    assert ask(store, f"SELECT DISTINCT repo_id FROM {table}") == [("org/m",)]


def test_a_part_whose_text_says_what_the_column_holds_is_served(store):
    write_batch(store, NIGHT, "run", 0, model("org/m"))
    old_part(store, "audits", {**KEY, "read_version": ["1"], "night": ["2026-11-01"], "status": ["ok"]})
    assert build(store).set_aside == []
    assert ask(store, "SELECT read_version, night FROM audits ORDER BY repo_id") == [(1, NIGHT), (1, NIGHT)]
