"""Safetensors files made by hand: any shapes, with only the values that matter written, and headers read back."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

from deployments.demo.content import BytesContent, Content, SparseContent

BYTES_PER_ELEMENT = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I64": 8, "I32": 4, "U8": 1}
NUMPY_DTYPES: dict[str, DTypeLike] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
}
MAX_HEADER_BYTES = 10_000_000  # that the stand-in itself looks into; tests serve files that claim 2^62
ALIGNMENT_BYTES = 8  # the format's writers pad the header with spaces, so that the data starts aligned


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """A tensor to be written: its name, dtype as safetensors spells it, and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Return the bytes that its values take."""
        return math.prod(self.shape) * BYTES_PER_ELEMENT[self.dtype]


def encoded(values: NDArray[np.float64], dtype: str) -> bytes:
    """Return values as the bytes of a tensor of that dtype (rounded to nearest)."""
    return values.astype(NUMPY_DTYPES[dtype]).tobytes()


def sparse_checkpoint(
    tensors: Iterable[PlannedTensor], values: Mapping[str, bytes], metadata: Mapping[str, str] | None = None
) -> SparseContent:
    """Return a whole safetensors file with these tensors in order of name; those without values are zero.

    Args:
        tensors: the file's tensors, each name once.
        values: bytes by tensor name, as long as the tensor.
        metadata: the header's `__metadata__`; that of a PyTorch checkpoint unless given.
    """
    ordered = sorted(tensors, key=lambda tensor: tensor.name)
    offsets = list(accumulate((tensor.size_bytes for tensor in ordered), initial=0))
    head = header_bytes(ordered, offsets, metadata or {"format": "pt"})
    pieces = {0: head}
    for tensor, offset in zip(ordered, offsets, strict=False):
        if tensor.name in values:
            pieces[len(head) + offset] = values[tensor.name]
    return SparseContent(len(head) + offsets[-1], pieces)


def dense_checkpoint(tensors: Iterable[PlannedTensor], values: Mapping[str, bytes]) -> BytesContent:
    """Return the same file as `sparse_checkpoint`, in memory as a whole."""
    sparse = sparse_checkpoint(tensors, values)
    return BytesContent(sparse.read(0, sparse.size))


def header_bytes(tensors: Iterable[PlannedTensor], offsets: list[int], metadata: Mapping[str, str]) -> bytes:
    """Return the length field and the JSON header of tensors that lie between consecutive offsets."""
    fields: dict[str, Any] = {"__metadata__": dict(metadata)}
    for tensor, data_offsets in zip(tensors, pairwise(offsets), strict=True):
        fields[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": data_offsets}
    return framed(json.dumps(fields, separators=(",", ":")).encode())


def framed(header: bytes) -> bytes:
    """Return a header's JSON, padded, behind its 8-byte little-endian length."""
    padded = header + b" " * (-len(header) % ALIGNMENT_BYTES)
    return len(padded).to_bytes(8, "little") + padded


def read_tensors(contents: Iterable[Content]) -> dict[PlannedTensor, bytes]:
    """Return every tensor of some safetensors files, with its bytes."""
    tensors = {}
    for content in contents:
        header = read_header(content) or {}
        first = 8 + int.from_bytes(content.read(0, 8), "little")
        for name, about in header.items():
            if name != "__metadata__":
                start, stop = about["data_offsets"]
                planned = PlannedTensor(name, about["dtype"], tuple(about["shape"]))
                tensors[planned] = content.read(first + start, first + stop)
    return tensors


def decoded(data: bytes, dtype: str) -> NDArray[np.float64]:
    """Return the values of a tensor's bytes, shape (elements,)."""
    return np.frombuffer(data, NUMPY_DTYPES[dtype]).astype(np.float64)


def read_header(content: Content) -> dict[str, Any] | None:
    """Return a safetensors header as JSON, `__metadata__` included; None where there is none to read."""
    length = int.from_bytes(content.read(0, 8), "little")
    if content.size < 8 or length > min(content.size - 8, MAX_HEADER_BYTES):
        return None
    try:
        header = json.loads(content.read(8, 8 + length))
    except (ValueError, RecursionError):
        return None
    return header if isinstance(header, dict) else None
