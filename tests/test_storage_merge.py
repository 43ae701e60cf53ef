import itertools
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage import merge
from storage.database import build, open_database
from storage.errors import StoreError
from storage.merge import merge_night
from storage.nights import finish_night
from storage.parts import finished_batches, live_parts, read_columns, write_batch, write_part
from storage.place import LocalPlace
from storage.schema import TABLES
from storage.store import Store, open_store
from tests.stores import AUDITED_AT, NIGHT, audit, model, night_after, write_plan


class PowerCut(BaseException):
    """The process ends here."""


@dataclass(frozen=True)
class MortalPlace(LocalPlace):
    """A folder whose user dies before the n-th change to it."""

    changes_left: itertools.count = field(default_factory=lambda: itertools.count(0, 0))

    @contextmanager
    def writing(self, name):
        self._live_on()
        with super().writing(name) as file:
            yield file
            self._live_on()

    def remove(self, name):
        self._live_on()
        super().remove(name)

    def _live_on(self):
        if next(self.changes_left) == 0:
            raise PowerCut


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path / "store")
    for batch in range(4):
        write_batch(store, NIGHT, "run", batch, model(f"org/{batch}"))
    return store


def rows_of(store):
    """What all live parts hold, table by table, sorted."""
    found = {}
    for table, schema in TABLES.items():
        rows = [
            row
            for name in live_parts(store, table)
            for row in pq.ParquetFile(store.place.local_path(name)).read().to_pylist()
        ]
        assert all(list(row) == schema.names for row in rows)
        found[table] = sorted(rows, key=repr)
    return found


def test_a_merged_night_is_one_part_a_table_with_the_same_rows(store):
    before = rows_of(store)
    report = merge_night(store, NIGHT)
    assert (report.parts_before, report.parts_after, report.set_aside) == (24, 6, [])
    assert rows_of(store) == before
    assert len(store.place.names("parts")) == 6
    assert finished_batches(store, NIGHT, "run") == {0, 1, 2, 3}
    assert len(read_columns(store, "audits", NIGHT, "run", ["status"])) == 4


def test_merging_again_changes_nothing(store):
    merge_night(store, NIGHT)
    names = store.place.names("parts")
    assert merge_night(store, NIGHT).parts_after == 6
    assert store.place.names("parts") == names


def test_what_a_later_run_of_the_night_wrote_is_merged_too(store):
    merge_night(store, NIGHT)
    write_batch(store, NIGHT, "later", 0, model("org/later"))
    before = rows_of(store)
    assert merge_night(store, NIGHT).parts_after == 6
    assert rows_of(store) == before
    assert (finished_batches(store, NIGHT, "run"), finished_batches(store, NIGHT, "later")) == ({0, 1, 2, 3}, {0})


def test_a_part_of_any_length_is_merged_a_piece_at_a_time(store, monkeypatch):
    monkeypatch.setattr(merge, "READ_ROWS", 10)
    monkeypatch.setattr(merge, "_GROUP_BYTES", 1_000)
    write_batch(store, NIGHT, "long", 0, {"audits": [audit(f"org/long-{n}") for n in range(95)]})
    before = rows_of(store)
    merge_night(store, NIGHT)
    assert rows_of(store) == before
    [name] = live_parts(store, "audits")
    with pq.ParquetFile(store.place.local_path(name)) as merged:
        assert max(merged.metadata.row_group(i).num_rows for i in range(merged.num_row_groups)) <= 20


def test_files_stay_below_the_limit(store):
    sizes = [store.place.local_path(name).stat().st_size for name in live_parts(store, "norms")]
    merge_night(store, NIGHT, max_bytes=sizes[0] + sizes[1])
    assert len(live_parts(store, "norms")) == 2


def test_the_night_that_is_not_finished_is_not_merged(store):
    write_plan(store, NIGHT, [{"repo_id": "org/0"}], {"audit_id": "run"})
    with pytest.raises(StoreError, match="2026-11-01 is not finished"):
        merge_night(store, NIGHT)
    finish_night(store, NIGHT, {"audit_id": "run"})
    assert merge_night(store, NIGHT).parts_after == 6


def test_a_merged_batch_is_not_written_again(store):
    merge_night(store, NIGHT)
    with pytest.raises(StoreError, match="was merged with its night already"):
        write_batch(store, NIGHT, "run", 0, model("org/0"))


@pytest.mark.parametrize("changes", range(0, 40, 3))  # 8 files written, each in two steps, and 24 removed
def test_a_merge_killed_at_any_point_serves_every_row_once(store, changes):
    before = rows_of(store)
    mortal = Store(MortalPlace(store.location, itertools.count(changes, -1)))
    with pytest.raises(PowerCut):
        merge_night(mortal, NIGHT)
    assert rows_of(store) == before
    assert finished_batches(store, NIGHT, "run") == {0, 1, 2, 3}
    merge_night(store, NIGHT)
    assert rows_of(store) == before
    assert len(store.place.names("parts")) == 6


def test_a_part_that_cannot_be_read_is_set_aside_and_the_rest_merged(store):
    broken = store.place.local_path("parts/kernels/night=2026-11-01/run-2.parquet")
    content = bytearray(broken.read_bytes())
    content[4:60] = bytes(56)  # its pages, not its footer
    broken.write_bytes(content)
    report = merge_night(store, NIGHT)
    assert len(report.set_aside) == 1
    assert "kernels/night=2026-11-01/run-2.parquet cannot be read" in report.set_aside[0]
    assert {row["repo_id"] for row in rows_of(store)["kernels"]} == {"org/0", "org/1", "org/3"}
    assert len(rows_of(store)["audits"]) == 4


def test_parts_of_an_older_version_are_merged_with_null_in_the_new_columns(store):
    name = "parts/audits/night=2026-11-01/old-0.parquet"
    older = {"repo_id": ["org/old"], "sha": ["s"], "read_version": [1], "method_version": [1], "status": ["ok"]}
    pq.write_table(pa.table(older), store.place.local_path(name))
    merge_night(store, NIGHT)
    [row] = [row for row in rows_of(store)["audits"] if row["repo_id"] == "org/old"]
    assert (row["status"], row["shared_from"]) == ("ok", None)


def test_the_metadata_of_a_merged_file_names_all_versions(store):
    write_part(store, "audits", NIGHT, "newer", 0, [audit("org/new")], {"read_version": 1, "method_version": 2})
    merge_night(store, NIGHT)
    [name] = live_parts(store, "audits")
    with pq.ParquetFile(store.place.local_path(name)) as part:
        assert part.schema_arrow.metadata[b"method_version"] == b"1,2"
        assert part.schema_arrow.metadata[b"read_version"] == b"1"


def test_rows_that_overlap_are_served_once_after_a_merge_too(store):
    write_batch(store, NIGHT, "run", 9, model("org/0"))
    write_batch(store, NIGHT, "again", 0, model("org/1", audited_at=AUDITED_AT + timedelta(hours=1)))
    merge_night(store, NIGHT)
    report = build(store)
    assert report.rows == {"listings": 4, "audits": 4, "norms": 8, "kernels": 4, "evidence": 4, "probes": 8}
    with open_database(store) as database:
        for table, count in report.rows.items():
            assert database.execute(f"SELECT count(*) FROM {table}").fetchall() == [(count,)]


def test_nights_are_merged_one_by_one(store):
    write_batch(store, night_after(1), "run", 0, model("org/0", "s2"))
    merge_night(store, NIGHT)
    assert len(live_parts(store, "audits")) == 2
    assert live_parts(store, "audits", night_after(1)) == ["parts/audits/night=2026-11-02/run-0.parquet"]


DAMAGED_RECORDS = [b"", b"{", b"{}", b"[]", b"7", b'{"generation": 1, "live": "x", "replaced": []}']


def damage_record(store, content):
    path = store.place.local_path("nights/2026-11-01/merged.json")
    path.unlink() if content is None else path.write_bytes(content)


@pytest.mark.parametrize("content", [None, *DAMAGED_RECORDS])
def test_a_night_whose_record_of_merges_is_lost_keeps_every_row_and_can_be_merged_again(store, content):
    before = rows_of(store)
    merge_night(store, NIGHT)
    damage_record(store, content)
    assert rows_of(store) == before
    assert merge_night(store, NIGHT).parts_before == 6
    assert rows_of(store) == before
    write_batch(store, NIGHT, "later", 0, model("org/later"))
    both = rows_of(store)
    assert merge_night(store, NIGHT).parts_after == 6
    assert rows_of(store) == both
    assert len(store.place.names("parts/audits")) == 1


@pytest.mark.parametrize("content", DAMAGED_RECORDS)
def test_a_record_of_merges_that_cannot_be_read_is_set_aside_with_a_message(store, content, caplog):
    merge_night(store, NIGHT)
    damage_record(store, content)
    assert len(live_parts(store, "audits")) == 1
    assert finished_batches(store, NIGHT, "run") == set()
    assert store.place.read("parts/_set_aside/nights/2026-11-01/merged.json") == content
    assert "nights/2026-11-01/merged.json cannot be read" in caplog.text


@pytest.mark.parametrize("changes", range(0, 16, 3))
def test_a_merge_killed_after_the_record_was_lost_loses_no_row(store, changes):
    merge_night(store, NIGHT)
    write_batch(store, NIGHT, "later", 0, model("org/later"))
    before = rows_of(store)
    damage_record(store, None)
    with pytest.raises(PowerCut):
        merge_night(Store(MortalPlace(store.location, itertools.count(changes, -1))), NIGHT)
    assert rows_of(store) == before
    merge_night(store, NIGHT)
    assert rows_of(store) == before


def test_an_older_record_of_merges_hides_and_removes_no_later_merged_file(store):
    merge_night(store, NIGHT)
    older = store.place.read("nights/2026-11-01/merged.json")
    write_batch(store, NIGHT, "later", 0, model("org/later"))
    merge_night(store, NIGHT)
    before = rows_of(store)
    damage_record(store, older)
    assert rows_of(store) == before
    merge_night(store, NIGHT)
    assert rows_of(store) == before


def test_a_merge_leaves_files_that_are_not_the_stores_alone(store):
    foreign = ["parts/audits/night=2026-11-01/notes.txt", "parts/audits/night=2026-11-01/backup/run-9.parquet"]
    for name in foreign:
        with store.place.writing(name) as file:
            file.write(b"mine")
    merge_night(store, NIGHT)
    assert [store.place.read(name) for name in foreign] == [b"mine", b"mine"]
