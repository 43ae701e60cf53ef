import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize

from tasks.core.errors import AuditError, BadFile, TooLarge
from tasks.core.header import MAX_HEADER_BYTES, header_bytes, parse_header, parse_index
from tests.bad_files import BAD, entry
from tests.checkpoints import gpt2, raw_file, safetensors_file

WHERE = "org/name/model.safetensors"


INDEX_MAP = {"a": "model-00001-of-00001.safetensors"}


def parse(file: bytes):
    return parse_header(file, len(file), WHERE)


def test_a_header_gives_each_tensor_with_absolute_offsets_in_the_order_of_its_bytes():
    tensors = gpt2()
    file = safetensors_file(tensors, metadata={"format": "pt"})
    header = parse(file)
    assert [spec.name for spec in header.tensors] == list(tensors)
    assert header.metadata == {"format": "pt"}
    assert header.tensors[0].start_byte == header.header_bytes
    for spec in header.tensors:
        stored = np.frombuffer(file[spec.start_byte : spec.stop_byte], "<f4").reshape(spec.shape)
        np.testing.assert_array_equal(stored, tensors[spec.name].astype("f4"))


def test_tensors_without_elements_and_scalars_are_legal():
    header = parse(raw_file({"empty": entry((0, 3), (0, 0)), "scalar": entry((), (0, 4))}, b"\0" * 4))
    assert {spec.name: spec.shape for spec in header.tensors} == {"empty": (0, 3), "scalar": ()}


def test_a_total_that_no_file_can_have_is_no_total():
    def total(size):
        return parse_index(json.dumps({"metadata": {"total_size": size}, "weight_map": INDEX_MAP}).encode(), WHERE)

    assert total(2**63 - 1).total_bytes == 2**63 - 1
    assert total(2**63).total_bytes is None


def test_metadata_given_twice_is_refused():
    entry = b'"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    raw = b'{"__metadata__":{"format":"pt"},"__metadata__":{},' + entry + b"}"
    with pytest.raises(BadFile, match="'__metadata__' is given twice"):
        parse_header(struct.pack("<Q", len(raw)) + raw, 8 + len(raw) + 4, "org/a model.safetensors")


def test_of_many_names_the_one_that_is_given_twice_is_found_by_looking_at_each_once():
    pair = b'"%s":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    names = [b"%d" % i for i in range(50_000)] + [b"twice", b"twice"]
    with pytest.raises(BadFile, match="'twice' is given twice"):
        parse(raw_file(b"{" + b",".join(pair % name for name in names) + b"}"))


@pytest.mark.parametrize("file", BAD.values(), ids=BAD.keys())
def test_a_bad_file_is_refused_with_a_message_that_names_it(file):
    with pytest.raises(BadFile, match=WHERE) as refused:
        parse(file)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 600


def test_a_legal_header_that_is_absurdly_long_is_too_large():
    head = struct.pack("<Q", MAX_HEADER_BYTES + 1)
    with pytest.raises(TooLarge, match=r"32,000,00\d"):
        header_bytes(head, 10**10, WHERE)


def test_names_with_escape_codes_newlines_and_paths_are_kept_but_never_shown_raw():
    name = "../\x1b[31mred\n"
    header = parse(raw_file({name: entry()}, b"\0" * 8))
    assert header.tensors[0].name == name
    with pytest.raises(BadFile) as refused:
        parse(raw_file({name: entry(shape=(3,))}, b"\0" * 8))
    assert "\x1b" not in str(refused.value)
    assert "\n" not in str(refused.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F64", "BF16", "U8", "F4", "X"]) | json_values,
        "shape": st.lists(st.integers(0, 4), max_size=3) | json_values,
        "data_offsets": st.tuples(st.integers(0, 40), st.integers(0, 40)).map(list) | json_values,
    }
)


@given(st.dictionaries(st.text(max_size=6), entries | json_values, max_size=4), st.binary(max_size=64))
def test_what_the_reference_reader_refuses_is_refused_here_and_nothing_else_but_our_errors_is_raised(header, data):
    file = raw_file(header, data)
    try:
        ours = parse(file)
    except AuditError:
        return
    theirs = dict(deserialize(file))
    assert theirs.keys() == {spec.name for spec in ours.tensors}
    for spec in ours.tensors:
        assert bytes(theirs[spec.name]["data"]) == file[spec.start_byte : spec.stop_byte]


@given(st.lists(st.integers(0, 5), max_size=6), st.data())
def test_what_the_reference_reader_accepts_is_accepted_here(lengths, data):
    file = safetensors_file({f"t{i}": np.zeros(n) for i, n in enumerate(lengths)})
    assert len(parse(file).tensors) == len(deserialize(file)) == len(lengths)


@given(st.binary(max_size=200))
def test_no_bytes_at_all_crash_the_parser(file):
    try:
        parse(file)
    except AuditError:
        with pytest.raises(SafetensorError):
            deserialize(file)


def index(**weight_map):
    return json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}).encode()


def test_an_index_maps_tensors_to_shards():
    found = parse_index(index(a="m-1.safetensors", b="sub/m-2.safetensors"), WHERE)
    assert found.shards == {"a": "m-1.safetensors", "b": "sub/m-2.safetensors"}
    assert found.total_bytes == 1


@pytest.mark.parametrize("total", [None, "7", 7.5, -1, True])
def test_a_total_that_an_index_cannot_mean_is_no_total(total):
    data = json.dumps({"metadata": {"total_size": total}, "weight_map": {"a": "m.safetensors"}}).encode()
    assert parse_index(data, WHERE).total_bytes is None


@pytest.mark.parametrize(
    "shard",
    [
        "../x.safetensors",
        "a/../../x.safetensors",
        "/etc/x.safetensors",
        "http://x/y.safetensors",
        "x.bin",
        "",
        "a\\b.safetensors",
        "./x.safetensors",
        "a\nb.safetensors",
        7,
        None,
        ["x.safetensors"],
    ],
)
def test_an_index_may_only_name_safetensors_files_beside_it(shard):
    with pytest.raises(BadFile, match="no shard"):
        parse_index(index(a=shard), WHERE)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"weight_map":{}}', b'{"weight_map":[]}', b"<html>", b"\xff"])
def test_what_is_no_index_is_refused(data):
    with pytest.raises(BadFile):
        parse_index(data, WHERE)
