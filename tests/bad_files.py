"""Files that break the safetensors format, each in one way, by what is wrong with it."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from deployments.demo.catalogue import SparseContent
from deployments.demo.content import Content
from tests.checkpoints import raw_file


def entry(shape: Sequence[int] = (2,), offsets: Sequence[object] = (0, 8), dtype: object = "F32") -> dict[str, Any]:
    """Return what a header says of one tensor."""
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


BAD: dict[str, bytes] = {
    "no elements, one dimension of 2^63": raw_file({"a": entry((0, 2**63), (0, 0))}),
    "one dimension of 2^63, no elements": raw_file({"a": entry((2**63, 0), (0, 0))}),
    "empty file": b"",
    "seven bytes": b"\x08\0\0\0\0\0\0",
    "length 0": struct.pack("<Q", 0) + b"{}",
    "length beyond the file": struct.pack("<Q", 1000) + b"{}",
    "length 10^8 + 1": struct.pack("<Q", 10**8 + 1) + b"{}",
    "length 2^63": struct.pack("<Q", 2**63) + b"{}",
    "length 2^64 - 1": struct.pack("<Q", 2**64 - 1) + b"{}",
    "an HTML page": b"<!DOCTYPE html><html><body>Not found</body></html>",
    "an LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
    "a byte order mark": raw_file(b"\xef\xbb\xbf{}"),
    "bad UTF-8": raw_file(b'{"a\xff":{}}'),
    "a lone surrogate": raw_file(b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', b"\0" * 8),
    "JSON nested 2,000 deep": raw_file(b'{"a":' + b"[" * 2000 + b"]" * 2000 + b"}"),
    "JSON nested 200,000 deep": raw_file(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "JSON cut short": raw_file(b'{"a":'),
    "a list": raw_file([]),
    "not an object first": raw_file(b' {"a":1}'),
    "a name twice": raw_file(
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        b"\0" * 8,
    ),
    "a name twice, once escaped": raw_file(
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"\\u0061":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        b"\0" * 8,
    ),
    "a key twice within a tensor": raw_file(
        b'{"a":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}}', b"\0" * 8
    ),
    "overlap": raw_file({"a": entry(), "b": entry(offsets=(4, 12))}, b"\0" * 12),
    "hole": raw_file({"a": entry(), "b": entry(offsets=(12, 20))}, b"\0" * 20),
    "hole before the first": raw_file({"a": entry(offsets=(8, 16))}, b"\0" * 16),
    "end before begin": raw_file({"a": entry(offsets=(8, 0))}, b"\0" * 8),
    "negative offset": raw_file({"a": entry(offsets=(-8, 0))}, b"\0" * 8),
    "float offset": raw_file(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0.0,8.0]}}', b"\0" * 8),
    "string offset": raw_file({"a": entry(offsets=("0", "8"))}, b"\0" * 8),
    "bool offset": raw_file({"a": entry(shape=(), offsets=(False, 4))}, b"\0" * 4),
    "offset 2^64": raw_file({"a": entry(offsets=(0, 2**64))}, b"\0" * 8),
    "three offsets": raw_file({"a": entry(offsets=(0, 8, 8))}, b"\0" * 8),
    "offset past the end": raw_file({"a": entry(shape=(4,), offsets=(0, 16))}, b"\0" * 8),
    "bytes behind the last": raw_file({"a": entry()}, b"\0" * 9),
    "overflowing shape": raw_file({"a": entry(shape=(2**32, 2**32), offsets=(0, 0))}),
    "overflowing shape, times zero": raw_file({"a": entry(shape=(2**40, 2**40, 0), offsets=(0, 0))}),
    "negative dimension": raw_file({"a": entry(shape=(-2,))}, b"\0" * 8),
    "shape no list": raw_file({"a": {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}}, b"\0" * 8),
    "wrong size": raw_file({"a": entry(shape=(3,))}, b"\0" * 8),
    "half a byte": raw_file({"a": entry(shape=(3,), offsets=(0, 1), dtype="F4")}, b"\0"),
    "unknown dtype": raw_file({"a": entry(dtype="F33")}, b"\0" * 8),
    "lower-case dtype": raw_file({"a": entry(dtype="f32")}, b"\0" * 8),
    "dtype no string": raw_file({"a": entry(dtype=32)}, b"\0" * 8),
    "metadata of numbers": raw_file({"__metadata__": {"a": 1}, "a": entry()}, b"\0" * 8),
    "metadata no object": raw_file({"__metadata__": [], "a": entry()}, b"\0" * 8),
    "a tensor that is no object": raw_file({"a": 7}),
    "a field missing": raw_file({"a": {"dtype": "F32", "shape": [2]}}),
    "a field too many": raw_file({"a": {**entry(), "x": 1}}, b"\0" * 8),
}

MILLION = b"{" + b",".join(b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % i for i in range(10**6)) + b"}"
# Files that no test holds whole: a length field that fits, for what it is worth, into the size behind it.
VAST: dict[str, Content] = {
    "length 10^8 + 1, in a file that is long enough": SparseContent(2 * 10**8, {0: struct.pack("<Q", 10**8 + 1)}),
    "length 2^62, in a file that is long enough": SparseContent(2**63 - 1, {0: struct.pack("<Q", 2**62)}),
    "zeros behind a length of 10^7": SparseContent(10**9, {0: struct.pack("<Q", 10**7)}),
    "truncated by a gigabyte": SparseContent(10**9, {0: raw_file({"a": entry((10**9 // 2,), (0, 2 * 10**9))})}),
}
# Files that are sound, and more than a reader of a few bytes should take.
COSTLY: dict[str, Content] = {
    "10^6 tensors": SparseContent(len(MILLION) + 8, {0: raw_file(MILLION)}),
    "a norm of 10 GB": SparseContent(
        10**10 + 200,
        {
            0: raw_file(
                b'{"norm.weight":{"dtype":"F32","shape":[2500000000],"data_offsets":[0,10000000000]}}'.ljust(192)
            )
        },
    ),
}
