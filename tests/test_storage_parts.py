import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from storage.errors import StoreError
from storage.parts import finished_batches, live_parts, read_columns, write_batch, write_part
from storage.schema import TABLES
from storage.store import open_store
from tests.stores import NIGHT, audit, listing, model, night_after

WRITER = """
import sys
from storage.parts import write_batch
from storage.store import open_store
from tests.stores import NIGHT, model
store = open_store(sys.argv[1])
for batch in range(100_000):
    write_batch(store, NIGHT, "run", batch, model(f"org/{batch}"))
    print(batch, flush=True)
"""

HALF_WRITER = """
import sys, time
from storage.store import open_store
with open_store(sys.argv[1]).place.writing("parts/audits/night=2026-11-01/run-0.parquet") as file:
    file.write(b"PAR1")
    file.flush()
    print("half", flush=True)
    time.sleep(600)
"""


def killed_after(code, folder, lines):
    """Run a writer, and kill it once it has printed so many lines."""
    command = [sys.executable, "-c", code, str(folder)]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as writer:
        printed = [writer.stdout.readline().strip() for _ in range(lines)]
        os.kill(writer.pid, signal.SIGKILL)
    return printed


def test_a_writer_killed_in_the_middle_of_a_part_leaves_no_part(store):
    assert killed_after(HALF_WRITER, store.location, 1) == ["half"]
    assert store.place.names("parts") == []


def test_a_killed_writer_leaves_whole_parts_and_whole_batches(store):
    printed = killed_after(WRITER, store.location, 5)
    finished = finished_batches(store, NIGHT, "run")
    assert finished >= {int(line) for line in printed}
    for table in TABLES:
        sources = {
            name.rpartition("-")[2]: pq.ParquetFile(store.place.local_path(name)) for name in live_parts(store, table)
        }
        rows = {name: part.read().num_rows for name, part in sources.items()}
        for part in sources.values():
            part.close()
        assert {f"{batch}.parquet" for batch in finished} <= rows.keys()
        assert 0 not in rows.values()


def test_what_killed_writers_left_behind_is_swept_when_it_is_old(store):
    killed_after(HALF_WRITER, store.location, 1)
    [left] = store.place.names(".tmp")
    assert store.place.sweep(before_s=0) == 0
    assert store.place.exists(left)
    assert store.place.sweep(before_s=store.place.local_path(left).stat().st_mtime + 1) == 1
    assert not store.place.exists(left)


def test_many_writers_write_parts_at_once(store):
    def write(number):
        write_batch(store, NIGHT, f"run-{number % 3}", number, model(f"org/{number}"))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(24)))
    assert {run: finished_batches(store, NIGHT, f"run-{run}") for run in range(3)} == {
        run: set(range(run, 24, 3)) for run in range(3)
    }
    assert store.place.names(".tmp") == []


def test_opening_a_store_creates_nothing(tmp_path):
    store = open_store(tmp_path / "store")
    assert (store.place.names(""), live_parts(store, "audits"), finished_batches(store, NIGHT, "run")) == (
        [],
        [],
        set(),
    )
    assert not store.location.exists()


def test_a_location_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="a store is a folder, and this is a file"):
        open_store(tmp_path / "file")


def test_a_location_below_a_file_is_an_error_when_it_is_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="something else has the name of one of"):
        write_part(open_store(tmp_path / "file" / "store"), "audits", NIGHT, "run", 0, [audit("a")], {})


@pytest.mark.parametrize("location", ["x" * 300, "~nosuchuser/x", "a\0b", "\ud800"])
def test_a_location_that_no_folder_can_have_is_an_error(location):
    with pytest.raises(StoreError, match="cannot be the name of a store's folder"):
        open_store(location)


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no device here behaves like a full disk")
def test_a_full_disk_is_an_error_that_says_how_much_is_free(store, tmp_path):
    full = tmp_path / "full"
    full.symlink_to("/dev/full")  # whatever becomes of the link, the device stays
    with pytest.raises(StoreError, match=r"disk is full \([\d,]+ bytes free\)"), store.place.writing("x"):
        full.write_bytes(b"x")
    assert store.place.names("") == []


@pytest.mark.parametrize("audit_id", ["", "../x", "a/b", "merged-1", "a b", ".x", "x" * 101])
def test_an_audit_id_that_cannot_be_part_of_a_file_name_is_refused(store, audit_id):
    with pytest.raises(StoreError, match="a part's name takes"):
        write_part(store, "audits", NIGHT, audit_id, 0, [audit("a")], {})


def test_an_unknown_table_is_an_error(store):
    with pytest.raises(StoreError, match="no table norm;"):
        write_batch(store, NIGHT, "run", 0, {"norm": []})


def test_a_batch_is_finished_when_its_marker_is_there_even_without_rows(store):
    write_part(store, "norms", NIGHT, "run", 1, model("a")["norms"], {})
    write_batch(store, NIGHT, "run", 2, {})
    write_batch(store, NIGHT, "run-2", 3, {})  # another run, whose name begins alike
    assert finished_batches(store, NIGHT, "run") == {2}
    assert finished_batches(store, night_after(1), "run") == set()


def test_a_table_without_rows_gets_no_part(store):
    write_batch(store, NIGHT, "run", 0, {"norms": [], "audits": [audit("a")]})
    assert store.place.names("parts") == ["parts/audits/night=2026-11-01/run-0.parquet"]


def test_a_batch_written_again_replaces_itself(store):
    for downloads in (1, 2):
        write_batch(store, NIGHT, "run", 0, {"listings": [listing("a", downloads=downloads)]})
    assert read_columns(store, "listings", NIGHT, "run", ["downloads"])["downloads"].to_pylist() == [2]


def test_night_and_run_are_filled_in_and_versions_stand_in_the_metadata(store):
    write_batch(store, NIGHT, "run", 0, model("a"))
    for name in (name for table in TABLES for name in live_parts(store, table)):
        with pq.ParquetFile(store.place.local_path(name)) as part:
            rows = part.read()
            assert (rows["night"][0].as_py(), rows["audit_id"][0].as_py()) == (NIGHT, "run")
            versions = {key: value for key, value in rows.schema.metadata.items() if key.endswith(b"_version")}
            assert versions == {b"read_version": b"1", b"method_version": b"1"}
            column = part.metadata.row_group(0).column(0)
            assert (column.compression, column.is_stats_set) == ("ZSTD", True)


def test_columns_of_one_run_are_read_without_those_of_another(store):
    write_batch(store, NIGHT, "run", 0, model("a"))
    write_batch(store, NIGHT, "run", 1, model("b"))
    write_batch(store, NIGHT, "other", 0, model("c"))
    assert sorted(read_columns(store, "audits", NIGHT, "run", ["repo_id"])["repo_id"].to_pylist()) == ["a", "b"]
    assert read_columns(store, "audits", NIGHT, "none", ["repo_id", "seconds"]).schema.names == ["repo_id", "seconds"]


def test_a_part_that_cannot_be_read_is_set_aside_and_the_rest_is_read(store, caplog):
    write_batch(store, NIGHT, "run", 0, model("a"))
    write_batch(store, NIGHT, "run", 1, model("b"))
    path = store.place.local_path("parts/audits/night=2026-11-01/run-0.parquet")
    path.write_bytes(path.read_bytes()[:-30])
    assert read_columns(store, "audits", NIGHT, "run", ["repo_id"])["repo_id"].to_pylist() == ["b"]
    assert finished_batches(store, NIGHT, "run") == {1}
    assert "parts/audits/night=2026-11-01/run-0.parquet cannot be read" in caplog.text
    assert store.place.names("parts/_set_aside") == ["parts/_set_aside/audits/night=2026-11-01/run-0.parquet"]


def test_swap_replaces_only_what_is_expected(store):
    place = store.place
    assert not place.swap("x", b"old", b"new")
    assert place.swap("x", None, b"old")
    assert not place.swap("x", None, b"new")
    assert place.swap("x", b"old", b"new")
    assert (place.read("x"), place.swap("x", b"new", None), place.read("x")) == (b"new", True, None)


@pytest.mark.parametrize(
    "name",
    [
        "parts/audits/copy.parquet",
        "parts/audits/night=2026-13-45/run-1.parquet",
        "parts/audits/night=2026-11-01/backup/run-1.parquet",
        "parts/audits/backup/night=2026-11-01/run-1.parquet",
    ],
)
def test_a_file_that_is_not_named_as_a_part_is_none(store, name):
    write_batch(store, NIGHT, "run", 0, model("a"))
    with store.place.writing(name) as file:
        file.write(b"mine")
    assert live_parts(store, "audits") == ["parts/audits/night=2026-11-01/run-0.parquet"]
    assert finished_batches(store, NIGHT, "run") == {0}
