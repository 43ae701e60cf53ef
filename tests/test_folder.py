import json

import pytest

from tasks.core.reading import ReadOptions
from tasks.folder import audit_folder
from tests.checkpoints import GPT2_CONFIG, gpt2, safetensors_file


@pytest.fixture
def gpt2_folder(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(safetensors_file(gpt2()))
    (tmp_path / "config.json").write_text(json.dumps(GPT2_CONFIG))
    return tmp_path


def test_a_folder_is_audited_without_a_request(gpt2_folder):
    audit = audit_folder(str(gpt2_folder), ReadOptions())
    assert (audit.reading.status, audit.reading.norm_kind) == ("ok", "layernorm")
    assert audit.listing.repo_id == str(gpt2_folder)
    assert (audit.cost.hub_requests, audit.cost.cdn_requests) == (0, 0)
    assert audit.cost.bytes_read > 0


def test_a_single_file_is_audited_with_the_config_beside_it(gpt2_folder):
    audit = audit_folder(str(gpt2_folder / "model.safetensors"), ReadOptions())
    assert audit.reading.norm_kind == "layernorm"
    assert audit.reading.config == GPT2_CONFIG


def test_the_sha_of_a_folder_changes_with_its_config_and_its_headers_and_not_with_its_place(gpt2_folder, tmp_path):
    first = audit_folder(str(gpt2_folder), ReadOptions()).listing.sha
    assert audit_folder(str(gpt2_folder), ReadOptions()).listing.sha == first
    (gpt2_folder / "config.json").write_text(json.dumps({**GPT2_CONFIG, "n_layer": 3}))
    second = audit_folder(str(gpt2_folder), ReadOptions()).listing.sha
    (gpt2_folder / "model.safetensors").write_bytes(safetensors_file(gpt2(layers=3)))
    third = audit_folder(str(gpt2_folder), ReadOptions()).listing.sha
    assert len({first, second, third}) == 3


def test_a_path_that_is_not_there_is_not_found():
    audit = audit_folder("/nowhere/at/all", ReadOptions())
    assert audit.reading.status == "not_found"
    assert "/nowhere/at/all" in audit.reading.reason


def test_a_truncated_file_and_a_broken_config_are_bad_files(gpt2_folder):
    file = gpt2_folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert audit_folder(str(gpt2_folder), ReadOptions()).reading.status == "bad_file"
    (gpt2_folder / "config.json").write_text("{")
    audit = audit_folder(str(gpt2_folder), ReadOptions())
    assert audit.reading.status == "bad_file"
    assert "config.json" in audit.reading.reason


def test_an_index_cannot_lead_out_of_the_folder(gpt2_folder):
    (gpt2_folder / "model.safetensors").unlink()
    index = {"weight_map": {"ln_f.weight": "../secret.safetensors"}}
    (gpt2_folder / "model.safetensors.index.json").write_text(json.dumps(index))
    audit = audit_folder(str(gpt2_folder), ReadOptions())
    assert audit.reading.status == "bad_file"


def test_a_file_that_is_no_safetensors_file_at_all_has_a_reason(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    audit = audit_folder(str(tmp_path), ReadOptions())
    assert (audit.reading.status, audit.reading.norm_kind) == ("no_safetensors", None)
