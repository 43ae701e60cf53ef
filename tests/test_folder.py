import json
import os

import pytest

from tasks.core.configfile import MAX_CONFIG_BYTES
from tasks.core.reading import ReadOptions
from tasks.folder import HEADLESS_BYTES, audit_folder
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


def test_a_truncated_file_is_a_bad_file(gpt2_folder):
    file = gpt2_folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert audit_folder(str(gpt2_folder), ReadOptions()).reading.status == "bad_file"


@pytest.mark.parametrize("config", [b"", b"{", b"[]", b" " * (MAX_CONFIG_BYTES + 1)])
def test_an_unreadable_config_leaves_sound_weights_their_audit(gpt2_folder, config):
    (gpt2_folder / "config.json").write_bytes(config)
    audit = audit_folder(str(gpt2_folder), ReadOptions())
    assert (audit.reading.status, audit.reading.norm_kind, audit.reading.config) == ("ok", "layernorm", None)
    assert "config_unreadable" in audit.reading.integrity


def test_a_readable_config_has_no_verdict(gpt2_folder):
    assert audit_folder(str(gpt2_folder), ReadOptions()).reading.integrity == ()


def test_of_a_config_that_is_too_large_nothing_is_read(gpt2_folder):
    (gpt2_folder / "config.json").unlink()
    without = audit_folder(str(gpt2_folder), ReadOptions()).cost.bytes_read
    (gpt2_folder / "config.json").write_bytes(b" " * (MAX_CONFIG_BYTES + 1))
    assert audit_folder(str(gpt2_folder), ReadOptions()).cost.bytes_read == without


def test_an_index_that_names_a_pipe_is_a_bad_file_and_nobody_waits_at_the_pipe(gpt2_folder):
    (gpt2_folder / "model.safetensors").unlink()
    os.mkfifo(gpt2_folder / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"ln_f.weight": "model-00001-of-00001.safetensors"}}
    (gpt2_folder / "model.safetensors.index.json").write_text(json.dumps(index))
    audit = audit_folder(str(gpt2_folder), ReadOptions())
    assert audit.reading.status == "bad_file"
    assert "not a regular file" in audit.reading.reason


def test_a_link_to_a_file_elsewhere_is_read_and_one_to_nowhere_is_passed_over(gpt2_folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("blobs") / "blob"
    (gpt2_folder / "model.safetensors").rename(elsewhere)
    (gpt2_folder / "model.safetensors").symlink_to(elsewhere)
    (gpt2_folder / "another.safetensors").symlink_to(gpt2_folder / "another.safetensors")
    audit = audit_folder(str(gpt2_folder), ReadOptions())
    assert audit.reading.norm_kind == "layernorm"
    assert {file.path for file in audit.listing.files} == {"config.json", "model.safetensors"}


def test_of_a_file_without_a_header_only_the_beginning_is_read(tmp_path):
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write((99_000_000).to_bytes(8, "little"))
        file.truncate(100_000_000)
    audit = audit_folder(str(tmp_path), ReadOptions())
    assert audit.reading.status == "bad_file"
    assert audit.cost.bytes_read <= 2 * HEADLESS_BYTES


def test_hidden_folders_and_names_that_are_not_utf_8_are_passed_over(gpt2_folder):
    (gpt2_folder / ".git").mkdir()
    (gpt2_folder / ".git" / "model.safetensors").write_bytes(b"")
    (gpt2_folder / os.fsdecode(b"\xff.safetensors")).touch()
    audit = audit_folder(str(gpt2_folder), ReadOptions())
    assert {file.path for file in audit.listing.files} == {"config.json", "model.safetensors"}


def test_a_folder_of_too_many_files_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.folder.MAX_FILES", 10)
    for name in range(11):
        (tmp_path / str(name)).touch()
    audit = audit_folder(str(tmp_path), ReadOptions())
    assert audit.reading.status == "bad_file"
    assert "more than 10 files" in audit.reading.reason


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
@pytest.mark.parametrize("forbidden", [".", "model.safetensors", "config.json", "part"])
def test_what_may_not_be_read_is_told(gpt2_folder, forbidden):
    (gpt2_folder / "part").mkdir()
    mode = (gpt2_folder / forbidden).stat().st_mode
    (gpt2_folder / forbidden).chmod(0)
    try:
        audit = audit_folder(str(gpt2_folder), ReadOptions())
    finally:
        (gpt2_folder / forbidden).chmod(mode)
    assert audit.reading.status == "failed"
    assert "Permission denied" in audit.reading.reason


@pytest.mark.parametrize("given", ["a\0b", "x" * 5_000])
def test_what_is_no_path_at_all_is_not_found(given):
    assert audit_folder(given, ReadOptions()).reading.status == "not_found"


def test_a_defect_costs_one_audit_and_is_named(gpt2_folder):
    audit = audit_folder(str(gpt2_folder), ReadOptions(registry="no registry"))
    assert audit.reading.status == "failed"
    assert "defect in normaudit, please report it: TypeError" in audit.reading.reason


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
