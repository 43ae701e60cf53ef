"""The matrices that write to a tower's residual stream: the output projections of attention and MLP.

Told by structure and name: a matrix in the tower's blocks with one side as long as the stream is wide, called what the
field calls such projections. The embedding and the head are no writers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tasks.core.dtypes import BITS
from tasks.core.names import Survey
from tasks.core.paths import path_of, vocabulary
from tasks.core.records import Tensor

# What the field calls the output projections, in lower case. Readers of these names (BERT's intermediate.dense, w2
# where it is a gate) are told by their shape.
_WRITERS = vocabulary(
    "o_proj out_proj c_proj wo o proj to_out out_lin out attn_out dense",
    "down_proj fc2 w2 w3 lin2 linear2 linear_2 fc_out ff_out dense_4h_to_h output_linear",
)
_INSIDE_READERS = vocabulary("intermediate query key value qkv")  # "query.dense" reads, whatever its shape
_CONV1D = "c_proj"  # GPT-2's writers, which its Conv1D stores as (in, out); others of this name are (out, in)
_CONV1D_READERS = frozenset({"c_attn", "c_fc"})
# Quantised matrices come with scales by block or channel, without which their values compare nothing
READABLE = frozenset({"F64", "F32", "F16", "BF16"})


@dataclass(frozen=True, slots=True)
class Writer:
    """A matrix that writes to the stream.

    Attributes:
        tensor: its name, file, dtype and shape.
        stream_axis: the axis along the stream: 0 where the file stores (out, in), 1 for (in, out).
        size_bytes: what reading it takes.
    """

    tensor: Tensor
    stream_axis: int
    size_bytes: int


def writers_of(found: Survey, tower: str, width: int) -> tuple[Writer, ...]:
    """Return those writers of a tower's stream whose values can be read, pattern by pattern.

    Args:
        found: the checkpoint's survey; of a mixture of experts it holds one expert.
        tower: the tower's label.
        width: of its stream.
    """
    held = [(name, tensor) for name, tensor in _matrices(found, tower) if tensor.dtype in READABLE]
    conv1d_axis = _conv1d_axis(held, width)
    writers = (
        Writer(tensor, axis, math.prod(tensor.shape or ()) * BITS[tensor.dtype or ""] // 8)
        for name, tensor in held
        if name in _WRITERS and (axis := conv1d_axis if name == _CONV1D else 0) is not None
    )
    return tuple(writer for writer in writers if (writer.tensor.shape or ())[writer.stream_axis] == width)


def smallest(writers: Iterable[Writer], limit_bytes: int, count: int) -> tuple[Writer, ...]:
    """Return the smallest writers, at most count of them, that take at most limit_bytes together."""
    chosen: list[Writer] = []
    for writer in sorted(writers, key=lambda writer: writer.size_bytes)[:count]:
        limit_bytes -= writer.size_bytes
        if limit_bytes >= 0:
            chosen.append(writer)
    return tuple(chosen)


def quantised_writer(found: Survey, tower: str) -> Tensor | None:
    """Return a tensor that stands for a writer but holds no plain numbers, or None."""
    named = (tensor for name, tensor in _tensors(found, tower) if name in _WRITERS)
    return next((tensor for tensor in named if tensor.dtype and tensor.dtype not in READABLE), None)


def shard_of_writers(found: Survey, tower: str) -> str | None:
    """Return the file that holds the most of a tower's writers, by their names; None where all shapes are known."""
    files = (tensor.file for name, tensor in _tensors(found, tower) if name in _WRITERS and tensor.shape is None)
    return next((file for file, _ in Counter(files).most_common(1)), None)


def _matrices(found: Survey, tower: str) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in _tensors(found, tower):
        if tensor.name.endswith(".weight") and tensor.shape is not None and len(tensor.shape) == 2:
            yield name, tensor


def _tensors(found: Survey, tower: str) -> Iterator[tuple[str, Tensor]]:
    """Yield (what the module is called, tensor) of all tensors in a tower's blocks that are no norm's."""
    for held_by, patterns in found.layout.matrices.items():
        for pattern in patterns if held_by.label == tower else ():
            path = [part for part in path_of(pattern)[:-1] if part != "#"]
            if path and _INSIDE_READERS.isdisjoint(path[-2:]):
                yield from ((path[-1].lower(), tensor) for tensor in found.inventory.others[pattern])


def _conv1d_axis(held: Iterable[tuple[str, Tensor]], width: int) -> int | None:
    """Return the axis of the stream in matrices called c_proj; None where each that could tell is square."""
    for name, tensor in held:
        rows, columns = tensor.shape or (0, 0)
        if rows != columns and width in (rows, columns) and name in {_CONV1D, *_CONV1D_READERS}:
            first_is_stream = rows == width
            return int(first_is_stream == (name in _CONV1D_READERS))
    return None
