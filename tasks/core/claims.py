"""What the Hub itself says of a sharded checkpoint's headers: one answer in place of an index and many reads.

It is a claim, not the file: it may be of another revision, or wrong. So it only tells where to look; whatever is read
is read by the shard's own header, and a claim that this header contradicts is dropped for the index.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import orjson

from tasks.core.errors import BadFile, shown
from tasks.core.header import LENGTH_BYTES, check_layout, is_shard_name, json_object, sorted_specs, string_map
from tasks.core.ranges import ByteRange
from tasks.core.records import Tensor, TensorSpec

ALIGNMENT_BYTES = 8  # writers pad a header with blanks, so that the data starts aligned
USUAL_METADATA = {"format": "pt"}  # what a claim leaves out is most often this
SLACK_BYTES = 2_048  # by which a header's real length may differ from what its JSON takes; metadata mostly


@dataclass(frozen=True, slots=True)
class ClaimedShard:
    """What is claimed of one shard.

    Attributes:
        tensors: in the order of their bytes, which count from the first byte behind the header.
        header_bytes: what a header that says so takes, length field included.
    """

    tensors: tuple[TensorSpec, ...]
    header_bytes: int

    def ranges(self, names: Iterable[str]) -> tuple[ByteRange, ...]:
        """Return where in the file these tensors should lie, with room for a header of somewhat other length."""
        wanted, first = set(names), self.header_bytes
        return tuple(
            ByteRange(max(0, first + spec.start_byte - SLACK_BYTES), first + spec.stop_byte + SLACK_BYTES)
            for spec in self.tensors
            if spec.name in wanted
        )

    def is_borne_out(self, tensors: Mapping[str, Tensor]) -> bool:
        """Return whether the shard's own header, as tensors by name, says the same of every tensor."""
        claimed = {spec.name: (spec.dtype, spec.shape) for spec in self.tensors}
        return claimed == {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}


def parse_claims(data: bytes, where: str) -> dict[str, ClaimedShard]:
    """Return what is claimed of each shard, by its file's name.

    Raises:
        BadFile: this is not what the Hub answers, or it contradicts itself.
    """
    headers = json_object(data, where).get("headers")
    if not isinstance(headers, dict) or not headers:
        raise BadFile(f"{where}: no headers of shards")
    shards = {name: _shard(name, header, where) for name, header in headers.items()}
    names = [spec.name for shard in shards.values() for spec in shard.tensors]
    if len(set(names)) < len(names):
        raise BadFile(f"{where}: {len(names) - len(set(names)):,} tensors are said to be in two shards")
    return shards


def _shard(name: str, header: object, where: str) -> ClaimedShard:
    if not is_shard_name(name) or not isinstance(header, dict):
        raise BadFile(f"{where}: {shown(name)!r} is no shard beside the index, or has no header")
    entries = dict(header)
    metadata = string_map(entries.pop("__metadata__", USUAL_METADATA), where)
    specs = sorted_specs(entries, 0, where)
    check_layout(specs, 0, specs[-1].stop_byte if specs else 0, where)
    text_bytes = len(orjson.dumps({"__metadata__": metadata, **entries}))
    padded_bytes = -(-text_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return ClaimedShard(tuple(specs), LENGTH_BYTES + padded_bytes)
