"""A checkpoint's tensors and its config in few bytes, as the store and the shelf keep them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import orjson

from tasks.core.records import Tensor


def pack_tensors(tensors: Sequence[Tensor]) -> bytes:
    """Return names, files, dtypes and shapes as compressed JSON; `unpack_tensors` is its inverse."""
    return zlib.compress(orjson.dumps([(t.name, t.file, t.dtype, t.shape) for t in tensors]), level=6)


def unpack_tensors(packed: bytes) -> tuple[Tensor, ...]:
    """Return what `pack_tensors` packed."""
    return tuple(
        Tensor(name, file, dtype, None if shape is None else tuple(shape))
        for name, file, dtype, shape in orjson.loads(zlib.decompress(packed))
    )


def pack_config(config: Mapping[str, object] | None) -> bytes | None:
    """Return a config as compressed JSON; `unpack_config` is its inverse."""
    return zlib.compress(orjson.dumps(config)) if config is not None else None


def unpack_config(packed: bytes | None) -> Mapping[str, object] | None:
    """Return what `pack_config` packed."""
    return orjson.loads(zlib.decompress(packed)) if packed is not None else None
