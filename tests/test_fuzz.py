"""Whatever bytes strangers wrote: no error but those of the tree, memory in proportion. `make fuzz` looks harder."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.core.claims import parse_claims
from tasks.core.errors import BadFile
from tasks.core.header import parse_header, parse_index
from tests.bad_files import entry
from tests.checkpoints import raw_file
from tests.fuzz.targets import MEMORY_PER_BYTE, TARGETS, WHERE

SHARD = b"m.safetensors"


@st.composite
def damaged(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """Return a sound input of which some pieces were replaced, and perhaps the end was lost."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        stop = draw(st.integers(start, min(len(data), start + 12)))
        piece = draw(
            st.binary(max_size=6) | st.sampled_from([b"{", b"}", b"[", b'"', b"-", b"1e400", b"null", b"\\u0000"])
        )
        data = data[:start] + piece + data[stop:]
    return data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data


@pytest.mark.parametrize("name", TARGETS)
def test_what_mutation_starts_from_passes(name: str) -> None:
    for seed in TARGETS[name].seeds:
        TARGETS[name].run(seed)


@pytest.mark.parametrize("name", TARGETS)
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_damaged_input_is_an_error_of_the_tree_or_none(name: str, data: st.DataObject) -> None:
    target = TARGETS[name]
    target.run(data.draw(damaged(target.seeds)))


@pytest.mark.parametrize("name", TARGETS)
@settings(deadline=None, max_examples=100)
@given(data=st.binary(max_size=200))
def test_bytes_of_no_shape_are_an_error_of_the_tree_or_none(name: str, data: bytes) -> None:
    TARGETS[name].run(data)


def tensors(count: int) -> bytes:
    """Return the text of a header of so many tensors without elements."""
    return b",".join(b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % i for i in range(count))


LARGE: dict[str, tuple[Callable[[bytes, int, str], object], bytes]] = {
    "a header of 20,000 tensors": (parse_header, raw_file(b"{" + tensors(20_000) + b"}")),
    "a header of lists in lists": (parse_header, raw_file(b'{"a":' + b"[[],[]," * 300_000)),
    "a header of one shape": (parse_header, raw_file({"a": entry([1] * 500_000, (0, 4))}, bytes(4))),
    "a header of one name": (parse_header, raw_file({"a" * 2_000_000: entry()}, bytes(8))),
    "an index of 20,000 tensors": (
        lambda data, _, where: parse_index(data, where),
        b'{"weight_map":{' + b",".join(b'"%d":"%s"' % (i, SHARD) for i in range(20_000)) + b"}}",
    ),
    "claims of 20,000 tensors": (
        lambda data, _, where: parse_claims(data, where),
        b'{"headers":{"%s":{' % SHARD + tensors(20_000) + b"}}}",
    ),
}


@pytest.mark.parametrize("what", LARGE)
def test_parsing_takes_memory_in_proportion_to_the_input(what: str) -> None:
    parse, data = LARGE[what]
    tracemalloc.start()
    try:
        with suppress(BadFile):
            parse(data, len(data), WHERE)
        assert tracemalloc.get_traced_memory()[1] <= MEMORY_PER_BYTE * len(data)
    finally:
        tracemalloc.stop()
