"""maths.md, section 2, as facts."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tasks.core.errors import DegenerateKernel
from tasks.core.figures import with_scale
from tasks.core.kernel import (
    DEAD_TAU,
    dead_subspace,
    effective_scale,
    kernel_direction,
    kernel_figures,
    near_dead,
    scale_figures,
)
from tasks.core.records import Norm

sizes = st.integers(2, 40)
seeds = st.integers(0, 2**32 - 1)
moderate = st.floats(1e-3, 1e3).flatmap(lambda size: st.sampled_from([size, -size]))
scales = sizes.flatmap(lambda d: hnp.arrays(np.float64, d, elements=moderate))
any_scale = hnp.arrays(np.float64, st.integers(0, 12), elements=st.floats(width=64))


EXTREMES = [0.0, 5e-324, 1.0, -1.7e308, 1.7e308, np.inf, -np.inf, np.nan]


@given(hnp.arrays(np.float64, (2, 6), elements=st.sampled_from(EXTREMES)))
def test_extremes_give_finite_figures_or_none_and_no_warning(values):  # a warning fails the tests
    gamma, beta = values
    norm = Norm("ln_f", "text", None, "final", "layernorm", "plain", 1.0, "tensors", is_final=True)
    read = with_scale(norm, gamma, beta, None, DEAD_TAU)
    for figures in (read.scale, read.kernel):
        numbers = [value for value in dataclasses.astuple(figures) if isinstance(value, float)]
        assert np.isfinite(numbers).all()


def test_an_infinite_bias_at_a_zero_of_the_direction_has_no_product():
    figures = kernel_figures(np.array([0.0, 1, 1]), np.array([1.0, np.inf, 1]), "layernorm")
    assert figures.u_dot_beta is None


def layernorm(x, gamma, beta, eps=1e-5):
    centred = x - x.mean(axis=-1, keepdims=True)
    return gamma * centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps) + beta


def rmsnorm(x, gamma, eps=1e-6):
    return gamma * x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps)


def covariance_kernel_dimension(y):
    centred = y - y.mean(axis=0)
    values = np.linalg.svd(centred, compute_uv=False)
    return int(np.sum(values <= 1e-9 * values[0]))


@given(scales, seeds)
def test_output_of_a_layernorm_never_leaves_the_hyperplane(gamma, seed):
    rng = np.random.default_rng(seed)
    x, beta = rng.normal(3, 5, (50, gamma.size)), rng.normal(size=gamma.size)
    y = layernorm(x, gamma, beta)
    u = kernel_direction(gamma)
    np.testing.assert_allclose((y - beta) @ u, 0, atol=1e-12 * np.abs(y - beta).max())
    np.testing.assert_allclose(y @ u, u @ beta, atol=1e-12 * np.abs(y).max())


@given(scales)
def test_the_direction_is_a_unit_vector_that_does_not_know_how_the_scale_is_scaled(gamma):
    u = kernel_direction(gamma)
    assert math.isclose(np.linalg.norm(u), 1, rel_tol=1e-14)
    np.testing.assert_allclose(kernel_direction(gamma * 1e-200), u, rtol=1e-12, atol=0)
    np.testing.assert_allclose(np.abs(u * gamma), np.abs(u * gamma)[0], rtol=1e-12)


@given(st.integers(3, 12), st.data(), seeds)
def test_the_kernel_of_a_layernorm_with_k_zero_scales_has_dimension_max_1_k(d, data, seed):
    k = data.draw(st.integers(0, d - 2))
    rng = np.random.default_rng(seed)
    gamma = rng.lognormal(0, 0.3, d)
    gamma[rng.permutation(d)[:k]] = 0
    x = rng.normal(size=(20 * d, d))
    assert covariance_kernel_dimension(layernorm(x, gamma, 0)) == max(1, k)
    assert covariance_kernel_dimension(rmsnorm(x, gamma)) == k
    assert kernel_figures(gamma, None, "layernorm").predicted_dead_dim == max(1, k)
    assert kernel_figures(gamma, None, "rmsnorm").predicted_dead_dim == k


@given(st.integers(3, 12), st.data(), seeds)
def test_the_predicted_subspace_is_the_kernel_of_the_covariance(d, data, seed):
    k = data.draw(st.integers(0, d - 2))
    rng = np.random.default_rng(seed)
    gamma = rng.lognormal(0, 0.3, d)
    gamma[:k] = 0
    y = layernorm(rng.normal(size=(20 * d, d)), gamma, rng.normal(size=d))
    basis = dead_subspace(gamma, "layernorm")
    assert basis.shape == (d, max(1, k))
    np.testing.assert_allclose(basis.T @ basis, np.eye(max(1, k)), atol=1e-14)
    np.testing.assert_allclose((y - y.mean(axis=0)) @ basis, 0, atol=1e-12)


def test_an_rmsnorm_without_near_dead_coordinates_has_no_dead_subspace():
    assert dead_subspace(np.ones(5), "rmsnorm").shape == (5, 0)


def test_the_scales_of_a_real_checkpoint_that_come_close_to_zero_are_counted_as_dead():
    gamma = np.full(384, 0.7)
    gamma[[223, 127, 90]] = [4.8e-33, 6.0e-33, 1.5e-9]  # the sizes found in all-MiniLM-L6-v2
    figures = kernel_figures(gamma, None, "layernorm")
    assert figures.predicted_dead_dim == figures.dead_coordinate_count == 3
    assert figures.dead_coordinates == (90, 127, 223)
    assert figures.top_coordinate == 223
    assert figures.participation_ratio == pytest.approx((4.8**-2 + 6.0**-2) ** 2 / (4.8**-4 + 6.0**-4), rel=1e-12)


def test_a_uniform_scale_points_along_the_mean():
    figures = kernel_figures(np.full(64, 0.25), np.ones(64), "layernorm")
    assert figures.participation_ratio == pytest.approx(64)
    assert figures.participation_fraction == pytest.approx(1)
    assert figures.cos_uniform == pytest.approx(1)
    assert figures.condition_number == 1
    assert figures.u_dot_beta == pytest.approx(8)
    assert figures.kernel_degenerate is False


def test_exact_zeros_make_the_kernel_degenerate_and_share_it_evenly():
    gamma = np.array([1.0, 0.0, -2.0, -0.0])
    np.testing.assert_allclose(kernel_direction(gamma), [0, 0.5**0.5, 0, 0.5**0.5])
    figures = kernel_figures(gamma, None, "layernorm")
    assert figures.kernel_degenerate is True
    assert figures.condition_number is None
    assert figures.participation_ratio == pytest.approx(2)


def test_negative_scales_keep_their_sign_in_the_direction():
    np.testing.assert_allclose(kernel_direction(np.array([1.0, -1.0])), [0.5**0.5, -(0.5**0.5)])


@pytest.mark.parametrize("bad", [[1.0, np.nan], [np.inf, 1.0], [-np.inf], []])
def test_a_scale_that_is_not_finite_has_no_direction_and_no_figures(bad):
    gamma = np.array(bad)
    with pytest.raises(DegenerateKernel):
        kernel_direction(gamma)
    figures = kernel_figures(gamma, None, "layernorm")
    assert {value for value in dataclasses.astuple(figures)} == {None, (), DEAD_TAU}
    assert scale_figures(np.sort(gamma)).nonfinite_count == np.count_nonzero(~np.isfinite(gamma))


@given(any_scale, st.sampled_from(["layernorm", "rmsnorm", "unknown"]))
def test_no_scale_yields_nan_or_infinity_in_any_figure(gamma, kind):
    for figures in (kernel_figures(gamma, gamma, kind), scale_figures(np.sort(gamma))):
        numbers = [value for value in dataclasses.astuple(figures) if isinstance(value, float)]
        assert all(map(math.isfinite, numbers)), figures


@given(scales)
def test_figures_agree_with_the_plain_formulas(gamma):
    assume(np.abs(gamma).max() / np.abs(gamma).min() < 1e6)
    u = (1 / gamma) / np.linalg.norm(1 / gamma)
    figures = kernel_figures(gamma, gamma, "rmsnorm")
    assert figures.participation_ratio == pytest.approx(1 / np.sum(u**4), rel=1e-9)
    assert figures.top_share == pytest.approx((u**2).max(), rel=1e-9)
    assert figures.cos_uniform == pytest.approx(abs(u.sum()) / np.sqrt(u.size), rel=1e-9, abs=1e-12)
    assert figures.condition_number == pytest.approx(np.abs(gamma).max() / np.abs(gamma).min(), rel=1e-9)
    assert figures.u_dot_beta == pytest.approx(u @ gamma, rel=1e-9)
    stats = scale_figures(np.sort(gamma))
    assert stats.gamma_rms == pytest.approx(np.sqrt(np.mean(gamma**2)), rel=1e-9)
    assert stats.gamma_std == pytest.approx(gamma.std(), rel=1e-9, abs=1e-9 * np.abs(gamma).max())
    assert stats.negative_count == np.sum(gamma < 0)


@given(scales, st.floats(1e-6, 0.5))
def test_near_dead_coordinates_are_those_within_tau_of_the_rms(gamma, tau):
    found = near_dead(gamma, tau)
    limit = tau * np.sqrt(np.mean(gamma**2))
    assert (np.abs(gamma[found]) <= limit * (1 + 1e-12)).all()
    assert (np.abs(np.delete(gamma, found)) > limit * (1 - 1e-12)).all()


def test_a_stored_w_minus_1_is_read_as_one_plus_w():
    np.testing.assert_array_equal(effective_scale(np.array([-0.5, 0.25]), "one_plus"), [0.5, 1.25])
    np.testing.assert_array_equal(effective_scale(np.array([-0.5, 0.25]), "plain"), [-0.5, 0.25])
