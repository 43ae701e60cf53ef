import ml_dtypes
import numpy as np
import pytest

from tasks.core.dtypes import BITS, FLOATS, decode
from tasks.core.errors import BadFile
from tasks.core.records import TensorSpec


def spec(dtype, shape, size):
    return TensorSpec("norm.weight", dtype, shape, 100, 100 + size)


@pytest.mark.parametrize("dtype", FLOATS)
def test_every_bit_pattern_of_the_small_float_types_widens_exactly(dtype):
    number = FLOATS[dtype]
    if number.itemsize > 2:
        stored = np.array([0, 1, -1, 1 / 3, 1e-30], number).tobytes()
    else:
        stored = np.arange(2 ** (8 * number.itemsize), dtype=f"<u{number.itemsize}").tobytes()
    count = len(stored) // number.itemsize
    values = decode(spec(dtype, (count,), len(stored)), stored, "org/name")
    assert values.dtype == np.float64
    original = np.frombuffer(stored, number)
    with np.errstate(invalid="ignore"):  # signalling NaNs are among the patterns
        nan = original != original
    np.testing.assert_array_equal(np.isnan(values), nan)
    assert values[~nan].astype(number).tobytes() == original[~nan].tobytes()


def test_golden_bytes():
    assert decode(spec("BF16", (2,), 4), b"\x80\x3f\x00\xc0", "w").tolist() == [1.0, -2.0]
    assert decode(spec("F16", (1,), 2), b"\x00\x3c", "w").tolist() == [1.0]
    assert decode(spec("F8_E4M3", (2,), 2), b"\x38\x7e", "w").tolist() == [1.0, 448.0]
    assert decode(spec("F8_E5M2", (1,), 1), b"\x3c", "w").tolist() == [1.0]
    assert decode(spec("F8_E8M0", (1,), 1), b"\x80", "w").tolist() == [2.0]
    assert decode(spec("F64", (), 8), b"\0\0\0\0\0\0\xf0\x3f", "w").tolist() == 1.0


@pytest.mark.parametrize("dtype", sorted(BITS.keys() - FLOATS.keys()))
def test_types_that_hold_no_scale_are_refused_by_name(dtype):
    with pytest.raises(BadFile, match=rf"org/name: norm\.weight is stored as {dtype}"):
        decode(spec(dtype, (2,), 2), b"\0\0", "org/name")


def test_bytes_that_contradict_the_shape_are_refused():
    with pytest.raises(BadFile, match=r"org/name: norm\.weight"):
        decode(spec("F32", (3,), 8), b"\0" * 8, "org/name")


def test_widths_are_those_of_the_number_types():
    for name, number in FLOATS.items():
        assert BITS[name] == 8 * number.itemsize
    assert ml_dtypes.finfo(ml_dtypes.float4_e2m1fn).bits == BITS["F4"]
