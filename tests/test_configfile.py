"""What of a config.json can be used."""

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.configfile import parse_config


def nested(depth):
    return b'{"a":' * depth + b"1" + b"}" * depth


def test_what_python_writes_and_json_lacks_becomes_none():
    config = {"time_step_limit": [0.0, float("inf")], "x": float("nan"), "large": 10**30}
    assert parse_config(json.dumps(config).encode()) == {"time_step_limit": [0.0, None], "x": None, "large": 1e30}


def test_a_byte_order_mark_is_passed_over():
    assert parse_config(b'\xef\xbb\xbf{"model_type": "llama"}') == {"model_type": "llama"}


def test_an_empty_object_is_a_config():
    assert parse_config(b"{}") == {}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"<html>",
        b'{"a": "\xff"}',
        b'{"a": NaN, "b": "\\ud800"}',
        nested(300),
        nested(200_000),
    ],
    ids=["empty", "list", "null", "cut short", "HTML", "not UTF-8", "lone surrogate", "300 deep", "200,000 deep"],
)
def test_what_is_no_object_that_can_be_written_again_is_no_config(data):
    assert parse_config(data) is None


@given(
    st.binary() | st.recursive(st.none() | st.floats() | st.integers() | st.text(), st.lists).map(repr).map(str.encode)
)
def test_whatever_is_a_config_can_be_written_again(data):
    config = parse_config(b'{"key": ' + data + b"}")
    assert config is None or orjson.loads(orjson.dumps(config)) == config
