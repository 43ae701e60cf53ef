"""A new method concludes the whole store anew, from what the store keeps."""

from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.database import build, open_database
from storage.parts import live_parts
from storage.schema import TABLES
from storage.store import open_store
from tasks.core.records import METHOD_VERSION
from tasks.renewal import renew
from tests.nights import TODAY, TOMORROW, audited, crawl_with, run_night

CONCLUSIONS = {
    "norms": "repo_id, tower, module, kind, parameterisation, confidence, is_final, gamma_rms, dead_coordinate_count",
    "kernels": "repo_id, tower, predicted_dead_dim, participation_ratio, u_dot_beta, gamma, beta, gamma_sha256",
    "evidence": "repo_id, module, source, says, strength, detail",
    "audits": "repo_id, status, norm_kind, final_tensor, integrity, bytes_read, hub_requests, method_version",
}


@pytest.fixture
def night(own_hub, location):
    return run_night(location, crawl_with(own_hub, sources=({"top": 100},), norms="all"))


def conclusions(location):
    build(open_store(location))
    with open_database(open_store(location)) as database:
        return {
            table: database.execute(
                f"SELECT {columns} FROM {table} WHERE method_version = {METHOD_VERSION} ORDER BY ALL"
            ).fetchall()
            for table, columns in CONCLUSIONS.items()
        }


def age(location, **wrong):
    """Make the location one that an older method has left: its version, and its wrong conclusions."""
    place = open_store(location).place
    for table in ("audits", "norms", "kernels", "evidence"):
        for name in live_parts(open_store(location), table):
            rows = pq.read_table(place.local_path(name), partitioning=None)
            for column, value in {"method_version": METHOD_VERSION - 1, **wrong}.items():
                if column in rows.column_names:
                    index, field = rows.column_names.index(column), TABLES[table].field(column)
                    rows = rows.set_column(index, field, pa.array([value] * len(rows), field.type))
            pq.write_table(rows, place.local_path(name))


def test_an_older_methods_conclusions_are_drawn_anew_without_a_request(own_hub, location, night):
    before = conclusions(location)
    age(
        location,
        integrity=["scale_not_finite", "layer_gaps"],
        kind="unknown",
        norm_kind="unknown",
        confidence=0.1,
        predicted_dead_dim=99,
        participation_ratio=1.0,
    )
    assert conclusions(location) != before
    own_hub.clear()
    assert renew(night) == 6
    after = conclusions(location)
    assert [row[4] for row in after["audits"]] == [["scale_not_finite"]] * 6  # seen in the bytes; names showed no gap
    assert [row[:4] + row[5:] for row in after["audits"]] == [row[:4] + row[5:] for row in before["audits"]]
    assert all(after[table] == before[table] for table in after if table != "audits")
    assert own_hub.requests == []


def test_what_is_up_to_date_is_left_alone(location, night):
    assert renew(night) == 0


def test_renewed_twice_leaves_no_duplicate(location, night):
    before = conclusions(location)
    age(location)
    conclusions(location)
    renew(night)
    renew(night)
    assert conclusions(location) == before


def test_a_renewed_store_has_nothing_to_read(own_hub, location, night):
    age(location)
    build(open_store(location))
    renew(night)
    own_hub.clear()
    later = run_night(location, crawl_with(own_hub, sources=({"top": 100},)), TOMORROW)
    assert audited(location, later) == []


def test_a_final_norm_whose_scale_was_never_kept_is_read_again(own_hub, location, night):
    age(location, is_final=False, is_main=False, tower="elsewhere")
    build(open_store(location))
    assert renew(night) == 0
    later = run_night(location, crawl_with(own_hub, sources=({"top": 100},)), TOMORROW)
    assert len(audited(location, later)) == 6
    assert night.night == TODAY == date(2026, 3, 1)
