from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from storage.errors import StoreError
from storage.rows import rows_to_table, with_all_columns
from storage.schema import KEYS, PLAN, SAYS, TABLES, described, stays_in_parquet
from tests.stores import audit, conclusions, listing, probe


def column(table, rows, name):
    return rows_to_table(rows, TABLES[table], table)[name].to_pylist()


def kernel(**facts):
    return {**conclusions("org/m")["kernels"][0], **facts}


@pytest.mark.parametrize("schema", [*TABLES.values(), PLAN], ids=[*TABLES, "plan"])
def test_every_column_states_unit_source_and_description(schema):
    for field in schema:
        facts = described(field)
        assert facts.keys() >= {"unit", "source", "description"}, field.name
        assert facts["source"], field.name
        assert facts["description"], field.name


def test_every_key_is_a_column_that_stays_in_the_database():
    assert KEYS.keys() == TABLES.keys() == SAYS.keys()
    for table, key in KEYS.items():
        assert set(key) <= set(TABLES[table].names) - set(stays_in_parquet(table))


def test_vectors_and_blobs_stay_in_parquet():
    assert stays_in_parquet("kernels") == ("gamma", "beta")
    assert stays_in_parquet("audits") == ("tensors", "config")
    assert set(stays_in_parquet("probes")) >= {"spectrum", "block_sigma_min", "block_sigma_max", "block_sigma_ratio"}


def test_a_column_that_a_row_lacks_is_null():
    assert column("listings", [{"repo_id": "a", "night": date(2026, 1, 1)}], "downloads") == [None]


def test_a_column_that_the_table_lacks_is_an_error_that_names_it():
    with pytest.raises(StoreError, match="audits has no column colour"):
        rows_to_table([audit("org/m", colour="red")], TABLES["audits"], "audits")


@pytest.mark.parametrize("name", ["repo_id", "read_version", "method_version"])
def test_a_missing_key_is_an_error_that_names_it(name):
    with pytest.raises(StoreError, match=rf"audits\.{name}"):
        rows_to_table([audit("org/m") | {name: None}], TABLES["audits"], "audits")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), np.float64("nan")])
def test_nan_and_infinity_are_refused_wherever_they_stand(bad):
    for table, row in (
        ("audits", audit("org/m", seconds=bad)),
        ("kernels", kernel(top_share=bad)),
        ("kernels", kernel(gamma=np.array([1.0, bad]))),
        ("kernels", kernel(beta=[1.0, bad])),
        ("probes", probe("org/m", spectrum=np.array([bad]))),
        ("probes", probe("org/m", block_sigma_ratio=[None, bad])),
    ):
        with pytest.raises(StoreError, match="NaN or infinite"):
            rows_to_table([{**row, "night": date(2026, 1, 1)}], TABLES[table], table)


@pytest.mark.parametrize(
    ("table", "facts"),
    [
        ("audits", {"seconds": "soon"}),
        ("audits", {"bytes_read": 2**63}),
        ("audits", {"audited_at": "yesterday"}),
        ("listings", {"tags": 3}),
        ("listings", {"tags": "pytorch"}),
        ("listings", {"downloads": "many"}),
    ],
)
def test_a_value_of_another_type_is_an_error_that_names_its_column(table, facts):
    row = {"audits": audit, "listings": listing}[table]("org/m", **facts, night=date(2026, 1, 1))
    with pytest.raises(StoreError, match=rf"{table}\.{next(iter(facts))} "):
        rows_to_table([row], TABLES[table], table)


def test_times_are_stored_in_utc_whatever_form_they_come_in():
    noon = datetime(2026, 1, 2, 12, tzinfo=UTC)
    forms = [noon, noon.replace(tzinfo=None), "2026-01-02T12:00:00.000Z", "2026-01-02T13:00:00+01:00", None]
    rows = [audit(f"org/{number}", audited_at=form) for number, form in enumerate(forms)]
    assert column("audits", rows, "audited_at") == [noon] * 4 + [None]


@given(arrays(np.float64, array_shapes(max_dims=1), elements=st.floats(-(2**100), 2**100, width=32)))
def test_a_scale_keeps_every_float32_value(gamma):
    assert column("kernels", [kernel(gamma=gamma, beta=None)], "gamma") == [gamma.tolist()]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False)))
def test_a_spectrum_keeps_every_float64_value(spectrum):
    assert column("probes", [probe("a", spectrum=np.array(spectrum))], "spectrum") == [spectrum]


def test_a_scale_beyond_float32_is_null_there_and_kept_elsewhere():
    assert column("kernels", [kernel(gamma=np.array([1.0, 1e39, -1e300]))], "gamma") == [[1.0, None, None]]


def test_absent_vectors_and_absent_entries_are_null():
    rows = [kernel(beta=None), kernel(beta=np.array([])), kernel(beta=(1, 2))]
    assert column("kernels", rows, "beta") == [None, [], [1.0, 2.0]]
    assert column("probes", [probe("a", block_sigma_ratio=[None, 0.5])], "block_sigma_ratio") == [[None, 0.5]]


def test_an_older_table_gets_the_columns_that_it_lacks():
    older = pa.table({"repo_id": ["a"], "downloads": pa.array([3], pa.int32())})
    whole = with_all_columns(older, TABLES["listings"])
    assert whole.schema == TABLES["listings"]
    assert (whole["downloads"].to_pylist(), whole["likes"].to_pylist()) == ([3], [None])
