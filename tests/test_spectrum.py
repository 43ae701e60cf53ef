"""maths.md, section 4, as laws: the streaming centred QR and what is taken from its factor."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core import spectrum
from tasks.core.kernel import kernel_direction
from tasks.core.spectrum import (
    SIGMA_TOLERANCE,
    CentredQR,
    largest_singular_value,
    sigma_min_max,
    singular_values,
)
from tests.spectra import centred, factor_of, layernorm, reference_sigma, rmsnorm, with_spectrum

ACCURACY = 1e-13  # of σ_max

seeds = st.integers(0, 2**32 - 1)
widths = st.integers(1, 12)


def spread(rng, count, d):
    return with_spectrum(rng, count, np.logspace(0, -12, d))


def assert_same_sigma(factor, rows):
    found, wanted = np.zeros((2, rows.shape[1]))
    found[: len(factor)] = singular_values(factor)[0]
    wanted[: min(rows.shape)] = reference_sigma(rows)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=ACCURACY * wanted[0])


@settings(deadline=None)
@given(widths, st.integers(1, 60), st.sampled_from([0.0, 1.0, 1e6]), seeds)
def test_the_factor_has_the_singular_values_of_the_centred_matrix(d, count, mean, seed):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, d)) + mean * rng.normal(size=d)
    assert_same_sigma(factor_of(CentredQR(d), rows), rows)


@settings(deadline=None)
@given(st.integers(2, 12), st.lists(st.integers(0, 40), min_size=1, max_size=8), st.sampled_from([0.0, 1e6]), seeds)
def test_the_answer_does_not_know_how_the_rows_were_split(d, sizes, mean, seed):
    rng = np.random.default_rng(seed)
    rows = spread(rng, sum(sizes) + 3 * d, d) + mean * rng.normal(size=d)
    blocks = np.split(rows, np.cumsum(sizes))
    accumulator = CentredQR(d)
    assert_same_sigma(factor_of(accumulator, *blocks), rows)
    assert accumulator.count == len(rows)
    np.testing.assert_allclose(accumulator.mean, rows.mean(axis=0), rtol=1e-14, atol=1e-14)


@settings(deadline=None)
@given(st.integers(2, 12), st.integers(0, 60), st.sampled_from([0.0, 1e6]), seeds)
def test_two_accumulators_merged_are_one_that_saw_all_rows(d, first, mean, seed):
    rng = np.random.default_rng(seed)
    rows = spread(rng, 60, d) + mean * rng.normal(size=d)
    one, other = CentredQR(d), CentredQR(d)
    one.add(rows[:first])
    other.add(rows[first:])
    one.merge(other)
    assert_same_sigma(one.factor, rows)
    assert one.count == 60
    if first < 60:
        assert_same_sigma(other.factor, rows[first:])


@settings(deadline=None)
@given(widths, st.integers(1, 40), seeds)
def test_the_factor_is_triangular_and_its_gram_is_the_scatter(d, count, seed):
    rows = np.random.default_rng(seed).normal(2, 1, (count, d))
    factor = factor_of(CentredQR(d), rows)
    assert np.array_equal(factor, np.triu(factor))
    np.testing.assert_allclose(factor.T @ factor, centred(rows).T @ centred(rows), atol=1e-12 * count)


def test_eigenvalues_spread_over_24_decades_are_found_where_a_covariance_fails():
    rows = spread(np.random.default_rng(1), 400, 40)
    assert_same_sigma(factor_of(CentredQR(40), rows), rows)
    covariance = centred(rows).T @ centred(rows)
    from_covariance = np.sqrt(np.abs(np.linalg.eigvalsh(covariance)))[::-1]
    assert np.abs(from_covariance - reference_sigma(rows)).max() > 1e4 * ACCURACY


def test_a_mean_a_million_times_the_spread_costs_no_digits_where_centring_once_by_sums_does():
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(300, 20)) + 1e6 * rng.normal(size=20)
    factor = factor_of(CentredQR(20), rows)
    np.testing.assert_allclose(singular_values(factor)[0], reference_sigma(rows), rtol=1e-13)
    by_sums = rows.T @ rows - np.outer(rows.sum(axis=0), rows.sum(axis=0)) / 300
    assert np.abs(by_sums / (factor.T @ factor) - 1).max() > 1e-6


def test_right_singular_vectors_are_those_of_the_centred_matrix():
    rows = with_spectrum(np.random.default_rng(3), 100, np.logspace(0, -6, 8)) + 5
    sigma, vectors = singular_values(factor_of(CentredQR(8), rows))
    np.testing.assert_allclose(np.linalg.norm(centred(rows) @ vectors.T, axis=0), sigma, atol=1e-14)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(8), atol=1e-14)


@settings(deadline=None, max_examples=30)
@given(st.integers(3, 12), seeds)
def test_the_kernel_direction_is_dead_in_outputs_of_a_layernorm_and_alive_in_those_of_an_rmsnorm(d, seed):
    rng = np.random.default_rng(seed)
    x, gamma, beta = rng.normal(1, 2, (20 * d, d)), rng.lognormal(0, 0.5, d), rng.normal(size=d)
    u = kernel_direction(gamma)
    dead = factor_of(CentredQR(d), layernorm(x, gamma, beta))
    alive = factor_of(CentredQR(d), rmsnorm(x, gamma))
    assert np.linalg.norm(dead @ u) <= 1e-13 * np.linalg.norm(dead)
    assert np.linalg.norm(alive @ u) >= 1e-3 * np.linalg.norm(alive)


@settings(deadline=None, max_examples=30)
@given(widths, st.integers(1, 40), st.floats(-1e3, 1e3), seeds)
def test_the_root_mean_square_is_that_of_the_rows_as_they_came(d, count, mean, seed):
    rows = np.random.default_rng(seed).normal(mean, 1, (count, d))
    accumulator = CentredQR(d)
    accumulator.add(rows)
    assert accumulator.second_moment_rms == pytest.approx(math.sqrt((rows**2).mean()), rel=1e-12)


def test_rows_may_change_after_they_were_added():
    rows = np.random.default_rng(4).normal(size=(10, 3))
    accumulator, kept = CentredQR(3), rows.copy()
    accumulator.add(rows)
    rows[:] = 0
    assert_same_sigma(accumulator.factor, kept)


def test_memory_does_not_grow_with_the_rows():
    accumulator, block = CentredQR(4, fold_rows=10), np.ones((3, 4))
    for _ in range(100):
        accumulator.add(block)
        assert accumulator._waiting_rows < 10
    assert accumulator._triangle.shape == (5, 5)


def test_fewer_rows_than_columns_leave_zeros():
    sigma, _ = singular_values(factor_of(CentredQR(6), np.random.default_rng(5).normal(size=(3, 6))))
    assert np.count_nonzero(sigma > 1e-12) == 2  # three rows less their mean
    assert np.count_nonzero(singular_values(factor_of(CentredQR(6), np.ones((1, 6))))[0]) == 0


def test_rows_of_another_width_and_no_rows_at_all_are_refused():
    accumulator = CentredQR(3)
    with pytest.raises(ValueError, match=r"width 3, got shape \(2, 4\)"):
        accumulator.add(np.ones((2, 4)))
    with pytest.raises(ValueError, match="width 3, got 2"):
        accumulator.merge(CentredQR(2))
    with pytest.raises(ValueError, match="got no rows"):
        _ = accumulator.factor


@pytest.mark.parametrize("bad", [[np.nan], [np.inf], [-np.inf, np.inf]])
def test_a_row_that_is_not_finite_makes_a_factor_that_says_so(bad):
    rows = np.ones((20, 3))
    rows[12 : 12 + len(bad), 1] = bad
    factor = factor_of(CentredQR(3), rows)
    assert not np.isfinite(factor).all()
    assert np.isnan(sigma_min_max(factor)).all()


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.floats(0, 12), st.floats(-150, 150), seeds)
def test_the_extremes_without_an_svd_are_those_of_the_svd(d, decades, size, seed):
    rng = np.random.default_rng(seed)
    factor = 10**size * np.linalg.qr(with_spectrum(rng, 2 * d + 2, np.logspace(0, -decades, d)), mode="r")
    sigma = np.linalg.svd(factor, compute_uv=False)
    smallest, largest = sigma_min_max(factor)
    assert largest == pytest.approx(sigma[0], rel=SIGMA_TOLERANCE)
    assert smallest == pytest.approx(sigma[-1], rel=SIGMA_TOLERANCE, abs=1e-14 * sigma[0])


def test_the_extremes_of_a_random_matrix_with_no_gap_at_its_edges_are_found():
    factor = np.linalg.qr(np.random.default_rng(6).normal(size=(480, 120)), mode="r")
    sigma = np.linalg.svd(factor, compute_uv=False)
    assert sigma_min_max(factor) == pytest.approx((sigma[-1], sigma[0]), rel=1e-11)


def test_the_iteration_takes_a_fraction_of_the_steps_that_would_exhaust_the_space():
    matrix = np.random.default_rng(8).normal(size=(200, 200))
    lefts, rights = np.empty((60, 200)), np.empty((61, 200))
    rights[0] = 200**-0.5
    found = largest_singular_value(matrix, lefts, rights, SIGMA_TOLERANCE)
    assert found == pytest.approx(np.linalg.norm(matrix, 2), rel=1e-11)
    assert largest_singular_value(matrix, lefts[:8], rights, SIGMA_TOLERANCE) is None


@pytest.mark.parametrize(
    ("factor", "wanted"),
    [
        (np.zeros((3, 3)), (0, 0)),
        (np.eye(400), (1, 1)),
        (np.diag([1.0, 0, 2]), (0, 2)),
        (np.diag([1.0, 1e-300]), (0, 1)),  # the inverse's square overflows
        (np.diag([1e-200, 3e-200]), (1e-200, 3e-200)),
        (np.array([[-5.0]]), (5, 5)),
        (np.array([[1.0, 1], [0, 0]]), (0, math.sqrt(2))),
    ],
)
def test_the_extremes_of_odd_factors(factor, wanted):
    assert sigma_min_max(factor) == pytest.approx(wanted, rel=1e-14, abs=0)


def test_an_iteration_that_runs_out_of_steps_gives_way_to_the_svd(monkeypatch):
    monkeypatch.setattr(spectrum, "MAX_STEPS", 10)
    factor = np.diag(np.linspace(1, 2, 60))  # ten steps are far from resolving its edges
    assert sigma_min_max(factor) == pytest.approx((1, 2), rel=1e-14)
