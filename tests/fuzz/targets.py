"""What is fuzzed: each target feeds bytes to one parser, and lets no error pass but those of `core/errors.py`.

A target that returns has also seen that what came of the bytes makes sense. `tests/test_fuzz.py` runs the targets under
Hypothesis, `make fuzz` under atheris, which looks for bytes that lead down new paths.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date
from itertools import pairwise
from pathlib import Path

from storage.rows import rows_to_table
from storage.schema import TABLES
from tasks.core.claims import parse_claims
from tasks.core.configfile import parse_config
from tasks.core.dtypes import BITS
from tasks.core.errors import AuditError, NotFound
from tasks.core.header import parse_header, parse_index
from tasks.core.reading import ReadOptions, read_checkpoint, unreadable
from tasks.core.records import Audit, Chunk, Fetch, Listing, Reading, RepoFile
from tasks.core.rows import audit_json, listing_row
from tasks.hub.entries import listing_of
from tests.checkpoints import GPT2_CONFIG, LLAMA_CONFIG, gpt2, llama, raw_file, safetensors_file

CACHE = Path(".cache/fuzz")  # what fuzzing has found so far
MAX_BYTES = 65_536  # of one input: longer ones only repeat what shorter ones show
TIME_LIMIT_S = 5  # for one input, on a loaded machine; the longest sound header takes a few milliseconds
MEMORY_LIMIT_MB = 1_024  # of the fuzzing process, its libraries and its corpus included
MEMORY_PER_BYTE = 200  # that a parser may take at its peak: a list within a list is 88 bytes for two characters

WHERE = "org/name/file"
WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
SHARD = "model-00001-of-00001.safetensors"
NIGHT = date(2026, 11, 1)


@dataclass(frozen=True, slots=True)
class Target:
    """A parser under test.

    Attributes:
        run: takes the bytes.
        seeds: from which mutation starts: sound inputs, and one that is nested too deeply.
    """

    run: Callable[[bytes], object]
    seeds: tuple[bytes, ...]


def header(data: bytes) -> None:
    """Parse bytes as a whole file; then as a header of the right length, of a file as long as its tensors want."""
    with suppress(AuditError):
        _check_header(data, len(data))
    framed = raw_file(data)
    with suppress(AuditError):
        _check_header(framed, len(framed) + _described_bytes(data))


def index(data: bytes) -> None:
    """Parse bytes as the index of a sharded checkpoint."""
    with suppress(AuditError):
        found = parse_index(data, WHERE)
        assert found.shards
        assert not any(".." in shard.split("/") or shard.startswith("/") for shard in found.shards.values())


def claims(data: bytes) -> None:
    """Parse bytes as the Hub's one answer with the headers of all shards."""
    with suppress(AuditError):
        found = parse_claims(data, WHERE)
        assert found
        for shard in found.values():
            assert all(before.stop_byte == after.start_byte for before, after in pairwise(shard.tensors))
            assert len(shard.ranges(spec.name for spec in shard.tensors)) == len(shard.tensors)


def config(data: bytes) -> None:
    """Parse bytes as a config.json; what is usable can be written again."""
    if (found := parse_config(data)) is not None:
        json.dumps(found)


def listing(data: bytes) -> None:
    """Parse bytes as a page of the listing, and its entries as rows of the store."""
    try:
        page = json.loads(data)
    except (ValueError, RecursionError):  # a page that is no JSON is left out by the client, with its own tests
        return
    found = (listing_of(entry) for entry in (page if isinstance(page, list) else [page]))
    rows = [listing_row(item, NIGHT) for item in found if item is not None]
    rows_to_table(rows, TABLES["listings"], "listings", {"audit_id": "fuzz"})


def checkpoint(data: bytes) -> None:
    """Audit a repo of which header, index, config and the Hub's claims hold these bytes, each cut at a zero byte.

    The data behind the header are zeros, as many as its tensors want.
    """
    text, index_text, config_text, claims_text, *_ = [*data.split(b"\0", 3), b"", b"", b""]
    weights = SHARD if index_text else WEIGHTS
    files = {weights: raw_file(text), CONFIG: config_text} | ({INDEX: index_text} if index_text else {})
    sizes = {path: len(content) for path, content in files.items()}
    sizes[weights] += _described_bytes(text)
    listed = Listing("org/name", "0" * 40, tuple(map(RepoFile, files)), config=parse_config(config_text))
    audit = Audit(listed, _read(listed, files, sizes, claims_text))
    json.dumps(audit_json(audit, all_norms=True), allow_nan=False)


def _check_header(file: bytes, file_bytes: int) -> None:
    found = parse_header(file, file_bytes, WHERE)
    assert all(before.stop_byte == after.start_byte for before, after in pairwise(found.tensors))
    for spec in found.tensors:
        elements = 1
        for length in spec.shape:
            elements *= length
        assert (spec.stop_byte - spec.start_byte) * 8 == elements * BITS[spec.dtype]
    assert not found.tensors or found.tensors[-1].stop_byte == found.file_bytes


def _described_bytes(text: bytes) -> int:
    """Return the largest end offset that a header's JSON names, 0 where it names none."""
    with suppress(ValueError, RecursionError, TypeError, AttributeError, KeyError, IndexError):
        ends = [entry["data_offsets"][1] for name, entry in json.loads(text).items() if name != "__metadata__"]
        return max((end for end in ends if isinstance(end, int) and 0 <= end < 2**60), default=0)
    return 0


def _read(listed: Listing, files: dict[str, bytes], sizes: dict[str, int], claimed: bytes) -> Reading:
    def answer(fetch: Fetch) -> Chunk | AuditError:
        if fetch.of == "claims" and claimed:
            return Chunk(claimed, len(claimed))
        if fetch.path not in files or fetch.of == "claims":
            return NotFound(f"{WHERE}: none")
        start, stop, _ = slice(fetch.start, fetch.stop).indices(sizes[fetch.path])
        content = files[fetch.path][start:stop]
        return Chunk(content.ljust(max(0, stop - start), b"\0"), sizes[fetch.path])

    plan = read_checkpoint(listed, ReadOptions(norms="all", max_model_bytes=1_000_000))
    try:
        fetches = next(plan)
        while True:
            fetches = plan.send(tuple(map(answer, fetches)))
    except StopIteration as done:
        return replace(done.value)
    except AuditError as error:
        return unreadable(error, listed)


def _header_of(file: bytes) -> bytes:
    return file[8 : 8 + int.from_bytes(file[:8], "little")]


DEEP = b"[" * 400 + b"]" * 400  # deeper than the JSON writer goes, not as deep as its reader
HEADERS = tuple(_header_of(safetensors_file(tensors)) for tensors in (gpt2(layers=1), llama(layers=1)))
CONFIGS = tuple(json.dumps(value).encode() for value in (GPT2_CONFIG, LLAMA_CONFIG))
ENTRY = {
    "id": "org/name",
    "sha": "a" * 40,
    "author": "org",
    "createdAt": "2024-05-01T12:00:00.000Z",
    "lastModified": "2024-05-02T12:00:00.000Z",
    "downloads": 7,
    "likes": 1,
    "gated": "manual",
    "private": False,
    "disabled": False,
    "tags": ["license:mit", "base_model:quantized:org/other"],
    "library_name": "transformers",
    "pipeline_tag": "text-generation",
    "siblings": [{"rfilename": WEIGHTS, "size": 9, "lfs": {"sha256": "b" * 64}}],
    "config": {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]},
    "safetensors": {"parameters": {"F32": 9}, "total": 9},
}
INDEXES = tuple(
    json.dumps({"metadata": {"total_size": 64}, "weight_map": {name: shard for name in gpt2(layers=1)}}).encode()
    for shard in (SHARD, "folder/model-00001-of-00002.safetensors")
)
CLAIMS = tuple(b'{"index":{},"headers":{"%s":%s}}' % (SHARD.encode(), header) for header in HEADERS)
TARGETS = {
    "header": Target(header, (*HEADERS, b'{"a":%s}' % DEEP, safetensors_file(gpt2(dim=2, layers=0)))),
    "index": Target(index, (*INDEXES, b'{"weight_map":{"a":%s}}' % DEEP)),
    "claims": Target(claims, (*CLAIMS, b'{"headers":{"a.safetensors":{"__metadata__":%s}}}' % DEEP)),
    "config": Target(config, (*CONFIGS, b'{"a":%s}' % DEEP)),
    "listing": Target(listing, (json.dumps([ENTRY]).encode(), json.dumps([{"id": "a/b"}, None, []]).encode(), DEEP)),
    "checkpoint": Target(
        checkpoint,
        (
            b"\0".join((HEADERS[0], b"", CONFIGS[0])),
            b"\0".join((HEADERS[0], INDEXES[0], CONFIGS[0])),
            b"\0".join((HEADERS[1], INDEXES[0], CONFIGS[1], CLAIMS[1])),
        ),
    ),
}
