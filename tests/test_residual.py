"""maths.md, section 5: what counts of the smallest singular value from block to block."""

import math

import numpy as np
import pytest

from tasks.core.residual import StreamSigma, block_figures, rounding_floor
from tasks.core.spectrum import CentredQR, sigma_min_max

COUNT, WIDTH = 400, 20


def stream(sigma_min, rms=1.0, sigma_max=50.0, name="block"):
    return StreamSigma(name, sigma_min, sigma_max, rms)


def figures(*smallest, count=COUNT, dtype="float32"):
    return block_figures([stream(value) for value in smallest], count, WIDTH, dtype)


def measured(rows, name="block"):
    accumulator = CentredQR(rows.shape[1])
    accumulator.add(rows)
    return StreamSigma(name, *sigma_min_max(accumulator.factor), accumulator.second_moment_rms)


def test_ratios_run_from_block_to_block():
    found = figures(2.0, 1.0, 3.0)
    assert found.block_sigma_min == (2, 1, 3)
    assert found.block_sigma_max == (50, 50, 50)
    assert found.block_sigma_ratio == (0.5, 3)
    assert (found.flagged, found.preserved, found.reason) == ((), True, None)


def test_a_block_that_shrinks_the_stream_tenfold_is_flagged():
    found = figures(2.0, 1.0, 0.099, 0.02)
    assert found.flagged == (1,)
    assert found.preserved is False


def test_a_tenth_exactly_is_not_flagged():
    assert figures(1.0, 1.0, 0.1).preserved is True


def test_the_step_from_the_embeddings_is_stored_and_does_not_count():
    found = figures(1.0, 0.001, 0.001)
    assert found.block_sigma_ratio[0] == 0.001
    assert found.preserved is True


def test_a_ratio_with_rounding_in_it_is_null_on_both_sides():
    floor = rounding_floor(1.0, COUNT, "bfloat16")
    found = figures(1.0, 1.0, floor, 1.0, 1.0, dtype="bfloat16")
    assert found.block_sigma_min == (1, 1, floor, 1, 1)
    assert found.block_sigma_ratio == (1, None, None, 1)
    assert found.preserved is True


def test_each_stream_is_judged_by_its_own_size():
    floor = rounding_floor(1.0, COUNT, "float16")
    streams = [stream(1.0), stream(1.0), stream(2 * floor, rms=1), stream(2 * floor, rms=3)]
    assert [ratio is None for ratio in block_figures(streams, COUNT, WIDTH, "float16").block_sigma_ratio] == [0, 0, 1]


def test_the_floor_is_four_roundings_of_the_stream():
    assert rounding_floor(3.0, 100, "float32") == 4 * np.finfo(np.float32).eps * 3 * 10
    assert rounding_floor(3.0, 100, "float64") == 4 * np.finfo(np.float64).eps * 3 * 10
    assert rounding_floor(3.0, 100, "float16") == 4 * float(np.finfo(np.float16).eps) * 3 * 10
    assert rounding_floor(1.0, 1, "bfloat16") == 4 * 2.0**-7


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_stream_of_low_rank_rounded_to_a_type_lies_below_its_floor(dtype):
    rng = np.random.default_rng(0)
    low = rng.normal(size=(COUNT, WIDTH - 1)) @ rng.normal(size=(WIDTH - 1, WIDTH)) + 10
    full = low + rng.normal(size=(COUNT, WIDTH))
    found = [measured(rows.astype(dtype).astype(np.float64)) for rows in (full, low, full, full)]
    ratios = block_figures(found, COUNT, WIDTH, np.dtype(dtype).name).block_sigma_ratio
    assert ratios[:2] == (None, None)
    assert ratios[2] == pytest.approx(1)


def test_nothing_counts_where_all_is_rounding():
    found = figures(0.0, 0.0, 0.0)
    assert found.block_sigma_ratio == (None, None)
    assert found.preserved is None
    assert "rounding" in found.reason


def test_no_more_tokens_than_the_width_leave_the_largest_values_alone():
    found = figures(1.0, 1.0, 1.0, count=WIDTH)
    assert found.block_sigma_min == (None, None, None)
    assert found.block_sigma_max == (50, 50, 50)
    assert found.preserved is None
    assert f"{WIDTH} tokens for a width of {WIDTH}" in found.reason


def test_a_single_block_has_no_ratio_that_counts():
    found = figures(1.0, 0.01)
    assert found.block_sigma_ratio == (0.01,)
    assert found.preserved is None
    assert "2 streams" in found.reason


def test_values_that_are_not_finite_are_null():
    streams = [stream(1.0), stream(math.nan, rms=math.nan, sigma_max=math.nan), stream(1.0), stream(1.0)]
    found = block_figures(streams, COUNT, WIDTH, "float32")
    assert found.block_sigma_min == (1, None, 1, 1)
    assert found.block_sigma_max == (50, None, 50, 50)
    assert found.block_sigma_ratio == (None, None, 1)
    assert found.preserved is True


def test_a_type_that_has_no_rounding_unit_is_refused():
    with pytest.raises(ValueError, match="int8, known are float64, float32"):
        figures(1.0, dtype="int8")
