"""The number types of the safetensors format: their widths, and how stored values become float64."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import ml_dtypes
import numpy as np
import orjson
import safetensors
from numpy.typing import NDArray

from tasks.core.errors import BadFile, shown
from tasks.core.records import TensorSpec

BITS: Mapping[str, int] = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("C64", "F64", "I64", "U64"), 64),
}

FLOATS: Mapping[str, np.dtype[np.generic]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
}


def decode(spec: TensorSpec, data: bytes, where: str) -> NDArray[np.float64]:
    """Return the values of one tensor as float64, exactly (every float type of the format fits into float64).

    The safetensors library itself checks and decodes the bytes, as the only tensor of a file made up for it.

    Args:
        spec: the tensor's name, dtype and shape.
        data: its bytes, stop_byte - start_byte of them.
        where: repo and file, for messages.

    Returns:
        Shape spec.shape.

    Raises:
        BadFile: the dtype holds no floating-point numbers, or data's length contradicts dtype and shape.
    """
    if spec.dtype not in FLOATS:
        raise BadFile(f"{where}: {shown(spec.name)} is stored as {shown(spec.dtype)}, which holds no scale values")
    entry = {"dtype": spec.dtype, "shape": spec.shape, "data_offsets": [0, len(data)]}
    header = orjson.dumps({"x": entry})
    try:
        [(_, tensor)] = safetensors.deserialize(struct.pack("<Q", len(header)) + header + data)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise BadFile(f"{where}: {shown(spec.name)}: {shown(error)}") from error
    with np.errstate(invalid="ignore"):  # a signalling NaN in a file is its own affair; it comes out as NaN
        return np.frombuffer(tensor["data"], FLOATS[spec.dtype]).astype(np.float64).reshape(spec.shape)
