"""The safetensors header and the index of a sharded checkpoint, parsed from bytes and validated in full.

As strict as the reference reader about the layout (lengths, offsets, overlaps), and stricter about duplicate names, of
which the reference silently keeps the last.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

import orjson

from tasks.core.dtypes import BITS
from tasks.core.errors import BadFile, TooLarge, shown
from tasks.core.records import Header, Index, TensorSpec
from tasks.core.verdicts import SHARD_TRUNCATED

LENGTH_BYTES = 8  # little-endian unsigned length of the JSON that follows
MAX_FORMAT_BYTES = 100_000_000  # the reference reader refuses longer headers
MAX_HEADER_BYTES = 32_000_000  # 90,000 tensors take 10 MB; what is longer costs a reader more memory than it tells
MAX_ELEMENTS = 2**63 - 1  # element counts are machine words in every reader
MAX_FILE_BYTES = 2**63 - 1  # no file system has longer files, and no store a column for them
FIRST_READ_BYTES = 65_536  # the header of a single-file model of 7 B parameters takes 34 kB
HEADER_BYTES_PER_TENSOR = 160  # 117 on average; a second request costs more than the difference
METADATA_BYTES = 4_096  # of a header besides its tensors: {"format": "pt"} takes 30, merge recipes take more
_SHORT_SHAPE = 16  # axes: the product of very many lengths takes long
_ENTRY_KEYS = {"dtype", "shape", "data_offsets"}
_SAFE_SHARD = re.compile(r"(?!/)(?!.*(?:^|/)\.\.?(?:/|$))[^\\:\x00-\x1f]+\.safetensors")


def first_read_bytes(tensor_count: int) -> int:
    """Return how much of a file to read so as to have its header; tensor_count is what the index puts there, or 0."""
    by_index = LENGTH_BYTES + METADATA_BYTES + tensor_count * HEADER_BYTES_PER_TENSOR
    return by_index if tensor_count else FIRST_READ_BYTES


def header_bytes(head: bytes, file_bytes: int, where: str) -> int:
    """Return how many bytes the length field and the JSON header take together.

    Args:
        head: the first bytes of the file, at least 8 unless the file is shorter.
        file_bytes: size of the whole file.
        where: repo and file, for messages.

    Raises:
        BadFile: the length cannot be right for a safetensors file of this size.
        TooLarge: the header is legal but longer than MAX_HEADER_BYTES.
    """
    if len(head) < LENGTH_BYTES:
        raise BadFile(f"{where}: a safetensors file has at least {LENGTH_BYTES} bytes, this one has {file_bytes:,}")
    length: int = struct.unpack_from("<Q", head)[0]
    if head[:1] in (b"<", b"v") and length > MAX_FORMAT_BYTES:
        raise BadFile(f"{where}: not a safetensors file; it begins with {shown(head[:40].decode(errors='replace'))!r}")
    if length > MAX_FORMAT_BYTES:
        raise BadFile(f"{where}: header length {length:,} is over the format's limit of {MAX_FORMAT_BYTES:,}")
    if length < 2:
        raise BadFile(f"{where}: header length {length} is too short for a JSON object")
    if LENGTH_BYTES + length > file_bytes:
        begins_right = head[LENGTH_BYTES : LENGTH_BYTES + 1] == b"{"  # else it may be a file of any other sort
        raise BadFile(
            f"{where}: header of {length:,} bytes does not fit into a file of {file_bytes:,} bytes",
            SHARD_TRUNCATED if begins_right else None,
        )
    _require_brace(head[LENGTH_BYTES:], where)  # before the rest of a long header is asked for
    if length > MAX_HEADER_BYTES:
        raise TooLarge(f"{where}: header of {length:,} bytes is over this reader's limit of {MAX_HEADER_BYTES:,}")
    return LENGTH_BYTES + length


def parse_header(head: bytes, file_bytes: int, where: str) -> Header:
    """Return the validated header of a safetensors file.

    Args:
        head: the file's first bytes, the whole header among them.
        file_bytes: size of the whole file.
        where: repo and file, for messages.

    Raises:
        BadFile: the header breaks a rule of the format; the message names the rule, the tensor and the numbers.
        TooLarge: the header is longer than MAX_HEADER_BYTES.
    """
    data_start = header_bytes(head, file_bytes, where)
    raw = head[LENGTH_BYTES:data_start]
    entries = json_object(raw, where)
    metadata = string_map(entries.pop("__metadata__", {}), where)
    _refuse_duplicates(raw, len(entries), where)
    specs = sorted_specs(entries, data_start, where)
    check_layout(specs, data_start, file_bytes, where)
    return Header(tuple(specs), metadata, data_start, file_bytes)


def parse_index(data: bytes, where: str) -> Index:
    """Return what a `*.safetensors.index.json` says.

    Raises:
        BadFile: not a JSON object with a weight_map of names to safetensors files inside the index's own folder.
    """
    content = json_object(data, where)
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadFile(f"{where}: no weight_map of tensors to shards")
    for name, shard in weight_map.items():
        if not is_shard_name(shard):
            raise BadFile(
                f"{where}: {shown(name)} is said to be in {shown(shard)!r}, which is no shard beside the index"
            )
    metadata = content.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    is_size = type(total) is int and 0 < total <= MAX_FILE_BYTES
    return Index(weight_map, total if is_size else None)


def is_shard_name(name: object) -> bool:
    """Return whether this is the name of a safetensors file inside the index's own folder."""
    return isinstance(name, str) and _SAFE_SHARD.fullmatch(name) is not None


def json_object(data: bytes, where: str) -> dict[str, Any]:
    """Return bytes as a JSON object.

    Raises:
        BadFile: they are none.
    """
    try:
        value = orjson.loads(data)
    except (orjson.JSONDecodeError, RecursionError) as error:
        raise BadFile(f"{where}: not valid JSON: {shown(error)}") from error
    if not isinstance(value, dict):
        raise BadFile(f"{where}: a JSON object is needed, this is a {type(value).__name__}")
    return value


def _require_brace(text: bytes, where: str) -> None:
    if text[:1] not in (b"{", b""):
        raise BadFile(
            f"{where}: the header must begin with '{{', it begins with {shown(text[:20].decode(errors='replace'))!r}"
        )


def string_map(value: object, where: str) -> Mapping[str, str]:
    """Return a header's `__metadata__`.

    Raises:
        BadFile: it does not map strings to strings.
    """
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise BadFile(f"{where}: __metadata__ must map strings to strings")
    return value


def _refuse_duplicates(raw: bytes, tensor_count: int, where: str) -> None:
    """Refuse names given twice, of which JSON parsers keep the last.

    Each tensor spells each of its keys once: equal counts prove that nothing was dropped, unless an escape hides a key.
    Only when they do not prove it is the header parsed again, by a slower parser that shows every pair.
    """
    counts = {raw.count(b'"%s"' % key.encode()) for key in _ENTRY_KEYS}
    if counts == {tensor_count} and raw.count(b'"__metadata__"') <= 1 and b"\\u" not in raw:
        return
    try:
        json.loads(raw, object_pairs_hook=lambda pairs: _unique(pairs, where))
    except RecursionError as error:
        raise BadFile(f"{where}: the header's JSON is nested too deeply") from error


def _unique(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise BadFile(f"{where}: the name {shown(name)!r} is given twice")
        found[name] = value
    return found


def _spec(name: str, entry: Any, data_start: int, where: str) -> TensorSpec:
    """Return one tensor; mostly nothing is wrong with it, which one look shows."""
    try:
        dtype, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if len(entry) == len(_ENTRY_KEYS) and len(shape) <= _SHORT_SHAPE and _is_sound(dtype, shape, start, stop):
            return TensorSpec(name, dtype, tuple(shape), data_start + start, data_start + stop)
    except (TypeError, KeyError, ValueError):
        pass
    return _examined_spec(name, entry, data_start, where)


def _is_sound(dtype: str, shape: list[int], start: int, stop: int) -> bool:
    """Return whether nothing is wrong with a tensor that has elements; of any other it takes a closer look to tell.

    Raises:
        TypeError, KeyError: something is wrong.
    """
    numbers = [*shape, start, stop]
    if type(shape) is not list or set(map(type, numbers)) != {int} or min(numbers) < 0:
        return False
    elements = math.prod(shape)
    return 0 < elements <= MAX_ELEMENTS and elements * BITS[dtype] == 8 * (stop - start)


def _examined_spec(name: str, entry: object, data_start: int, where: str) -> TensorSpec:
    if not isinstance(entry, dict) or entry.keys() != _ENTRY_KEYS:
        raise BadFile(f"{where}: {shown(name)}: dtype, shape and data_offsets are needed, and nothing else")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise BadFile(f"{where}: {shown(name)}: unknown dtype {shown(dtype)!r}")
    if not _naturals(shape):
        raise BadFile(f"{where}: {shown(name)}: shape {shown(shape)} is no list of non-negative integers")
    if not _naturals(offsets) or len(offsets) != 2:
        raise BadFile(f"{where}: {shown(name)}: data_offsets {shown(offsets)} are no two non-negative integers")
    _check_size(name, dtype, shape, offsets, where)
    return TensorSpec(name, dtype, tuple(shape), data_start + offsets[0], data_start + offsets[1])


def _naturals(value: object) -> bool:
    return isinstance(value, list) and set(map(type, value)) <= {int} and min(value, default=0) >= 0


def _check_size(name: str, dtype: str, shape: list[int], offsets: list[int], where: str) -> None:
    elements = 1
    for length in shape:
        elements *= length
        if max(elements, length) > MAX_ELEMENTS:  # of [0, 2**63] there are no elements, but no reader can hold it
            raise BadFile(f"{where}: {shown(name)}: shape {shown(shape)} overflows a 64-bit element count")
    size, odd_bits = divmod(elements * BITS[dtype], 8)
    if odd_bits or size != offsets[1] - offsets[0]:
        raise BadFile(
            f"{where}: {shown(name)}: {dtype} of shape {shown(shape)} takes {size:,} bytes,"
            f" data_offsets {offsets} give {offsets[1] - offsets[0]:,}"
        )


def sorted_specs(entries: Mapping[str, object], data_start: int, where: str) -> list[TensorSpec]:
    """Return the tensors of a header's entries, in the order of their bytes.

    Args:
        entries: by tensor name, without the metadata.
        data_start: where the data begins in the file.
        where: repo and file, for messages.

    Raises:
        BadFile: an entry breaks a rule of the format.
    """
    specs = [_spec(name, entry, data_start, where) for name, entry in entries.items()]
    return sorted(specs, key=attrgetter("start_byte", "stop_byte"))


def check_layout(specs: Sequence[TensorSpec], data_start: int, file_bytes: int, where: str) -> None:
    """Raise BadFile unless tensors, in the order of their bytes, fill a file from data_start to its end."""
    end = data_start
    for spec in specs:
        if spec.start_byte != end:
            fault = "overlaps the tensor before it" if spec.start_byte < end else "leaves a hole before it"
            raise BadFile(f"{where}: {shown(spec.name)} {fault}: it starts at byte {spec.start_byte:,}, not at {end:,}")
        end = spec.stop_byte
    if end > file_bytes:
        raise BadFile(
            f"{where}: truncated: the header describes {end:,} bytes, the file has {file_bytes:,}", SHARD_TRUNCATED
        )
    if end < file_bytes:
        raise BadFile(f"{where}: {file_bytes - end:,} bytes behind the last tensor belong to none")
