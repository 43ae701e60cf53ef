import json
import math
from datetime import UTC, date, datetime

import numpy as np

from storage.rows import rows_to_table
from storage.schema import TABLES
from tasks.core.errors import Gated
from tasks.core.packing import pack_tensors, unpack_tensors
from tasks.core.reading import unreadable
from tasks.core.records import Audit, Listing, Tensor
from tasks.core.rows import Stamp, audit_json, audit_rows, listing_row, merge_rows
from tests.checkpoints import GPT2_CONFIG, gpt2, safetensors_file
from tests.test_reading import follow

STAMP = Stamp("run", date(2026, 1, 2), datetime(2026, 1, 2, 3, tzinfo=UTC))
LISTING = Listing(
    "org/name",
    "0" * 40,
    config={"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]},
    tags=("license:mit", "base_model:org/base", "base_model:finetune:org/base", "base_model:org/other"),
    downloads=7,
)


def audit_of(tensors, **options):
    return Audit(LISTING, follow({"model.safetensors": safetensors_file(tensors)}, GPT2_CONFIG, **options)[0])


def test_the_rows_of_an_audit_fit_the_tables():
    rows = audit_rows(audit_of(gpt2(), norms="all"), STAMP)
    assert {table: len(found) for table, found in rows.items() if table != "evidence"} == {
        "audits": 1,
        "norms": 5,
        "kernels": 1,
    }
    for table, found in rows.items():
        assert rows_to_table(found, TABLES[table], table).num_rows == len(found)
    assert rows_to_table([listing_row(LISTING, STAMP.night)], TABLES["listings"], "listings").num_rows == 1


def test_the_rows_of_scales_with_nan_fit_the_tables_too():
    rows = audit_rows(audit_of(gpt2(weight=np.full(8, np.nan), bias=np.full(8, np.inf)), norms="all"), STAMP)
    for table, found in rows.items():
        assert rows_to_table(found, TABLES[table], table).num_rows == len(found)


def test_a_model_that_cannot_be_read_is_one_row_with_its_reason():
    audit = Audit(LISTING, unreadable(Gated("org/name: ask for access"), LISTING))
    rows = audit_rows(audit, STAMP)
    assert [(row["status"], row["reason"]) for row in rows["audits"]] == [("gated", "org/name: ask for access")]
    assert rows["norms"] == rows["kernels"] == rows["evidence"] == []
    assert audit_json(audit)["final_norms"] == []


def test_the_json_of_an_audit_has_every_promised_key_and_no_number_that_json_lacks():
    audit = audit_of(gpt2(weight=np.array([0, np.nan, 1, 1, 1, 1, 1, 1.0])), norms="all")
    line = audit_json(audit, all_norms=True)
    text = json.dumps(line, allow_nan=False)
    assert math.inf not in json.loads(text).values()
    assert line.keys() >= {
        "repo_id",
        "sha",
        "status",
        "reason",
        "norm_kind",
        "final_norms",
        "norms",
        "integrity",
        "hub_requests",
        "cdn_requests",
        "bytes_read",
        "checkpoint_bytes",
        "seconds",
        "norm_sites",
    }
    [final] = line["final_norms"]
    assert final.keys() >= {
        "tower",
        "main",
        "tensor",
        "bias_tensor",
        "kind",
        "parameterisation",
        "dim",
        "dtype",
        "confidence",
        "decided_by",
    }
    assert final["kernel"].keys() == {
        "predicted_dead_dim",
        "dead_coordinate_count",
        "dead_coordinates",
        "participation_ratio",
        "participation_fraction",
        "top_share",
        "top_coordinate",
        "cos_uniform",
        "condition_number",
        "u_dot_beta",
        "kernel_degenerate",
    }
    assert line["norms"] == {"layernorm": 5, "rmsnorm": 0, "unknown": 0}


def test_tags_say_licence_and_base_models_each_once():
    row = listing_row(LISTING, STAMP.night)
    assert (row["license"], row["base_models"]) == ("mit", ["org/base", "org/other"])
    assert (row["model_type"], row["architectures"]) == ("gpt2", ["GPT2LMHeadModel"])


def test_a_config_with_values_of_any_type_is_no_trap():
    strange = Listing("org/name", config={"model_type": ["x"], "architectures": "y"})
    row = listing_row(strange, STAMP.night)
    assert (row["model_type"], row["architectures"]) == (None, None)


def test_packed_tensors_come_back_as_they_were():
    tensors = (
        Tensor("a", "m.safetensors", "F32", (2, 3)),
        Tensor("b\n", "m.safetensors"),
        Tensor("é", "x", "BF16", ()),
    )
    assert unpack_tensors(pack_tensors(tensors)) == tensors


def test_rows_of_many_audits_are_put_together_table_by_table():
    assert merge_rows([{"a": [{"x": 1}]}, {"a": [{"x": 2}], "b": []}]) == {"a": [{"x": 1}, {"x": 2}], "b": []}
