"""maths.md, section 4: the figures of the final norm's outputs, held against plain whole-matrix computations."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.kernel import DEAD_TAU, effective_scale, kernel_direction, kernel_figures
from tasks.core.probing import (
    DirectionShare,
    MeanShare,
    SpectrumFigures,
    log10_deepening,
    mean_share,
    spectrum_figures,
    verdict,
)
from tasks.core.spectrum import CentredQR, singular_values
from tests.spectra import centred, factor_of, layernorm, rmsnorm

WIDTH, TOKENS = 24, 400
NEAR = (4.8e-33, 6.0e-33, 1.5e-9)  # the sizes found in all-MiniLM-L6-v2, beside scales of about 0.7

seeds = st.integers(0, 2**32 - 1)


def some_scale(rng, *dead):
    gamma = rng.lognormal(0, 0.3, WIDTH) * rng.choice([-1, 1], WIDTH)
    gamma[: len(dead)] = dead
    return gamma


def some_inputs(rng, mean=0.0):
    return rng.normal(size=(TOKENS, WIDTH)) * rng.lognormal(0, 0.5, WIDTH) + mean


NORMS = {
    "layernorm": ("layernorm", lambda x, gamma: layernorm(x, gamma, 0.5), ()),
    "layernorm, a zero": ("layernorm", layernorm, (0.0,)),
    "layernorm, three zeros": ("layernorm", layernorm, (0.0, 0.0, 0.0)),
    "layernorm, three near zero": ("layernorm", layernorm, NEAR),
    "layernorm, a zero and one near": ("layernorm", layernorm, (0.0, 1e-6)),
    "rmsnorm": ("rmsnorm", rmsnorm, ()),
    "rmsnorm, two zeros": ("rmsnorm", rmsnorm, (0.0, 0.0)),
    "rmsnorm, three near zero": ("rmsnorm", rmsnorm, NEAR),
}


def figures_of(name, seed=0, mean=0.0):
    """Figures, outputs, scale and kind of one of NORMS."""
    kind, norm, dead = NORMS[name]
    rng = np.random.default_rng(seed)
    gamma = some_scale(rng, *dead)
    outputs = norm(some_inputs(rng, mean), gamma)
    return spectrum_figures(factor_of(CentredQR(WIDTH), outputs), TOKENS, gamma, kind), outputs, gamma, kind


@pytest.mark.parametrize("mean", [0.0, 30.0])
@pytest.mark.parametrize("name", NORMS)
def test_every_figure_agrees_with_a_plain_computation_on_the_whole_matrix(name, mean):
    figures, outputs, gamma, _ = figures_of(name, mean=mean)
    _, sigma, vectors = np.linalg.svd(centred(outputs))
    eigenvalues = sigma**2 / TOKENS
    scaled = eigenvalues / (np.trace(np.cov(outputs.T, bias=True)) / WIDTH)
    u = kernel_direction(gamma)
    dead = vectors[scaled <= 1e-8]
    assert np.array(figures.spectrum) == pytest.approx(scaled, rel=1e-6, abs=1e-26)
    assert figures.lambda_u_rel == pytest.approx(np.var(outputs @ u) / eigenvalues.mean(), rel=1e-6, abs=1e-26)
    assert figures.subspace_alignment == pytest.approx(np.linalg.norm(dead @ u), rel=1e-6, abs=1e-12)
    assert figures.dead_counts == {f"1e-{n:02}": np.sum(scaled <= 10.0**-n) for n in (4, 6, 8, 10, 12)}
    if len(dead) < 2:  # else the bottom vector is not unique
        assert figures.alignment == pytest.approx(abs(vectors[-1] @ u), rel=1e-6)


@pytest.mark.parametrize("name", NORMS)
def test_what_the_scale_predicts_is_what_the_outputs_show(name):
    figures, _, gamma, kind = figures_of(name)
    predicted = kernel_figures(gamma, None, kind).predicted_dead_dim
    assert figures.dead_counts["1e-08"] == predicted
    assert figures.subspace_overlap == (pytest.approx(1, abs=1e-12) if predicted else None)


def test_the_bottom_vector_is_u_for_a_layernorm_and_not_for_an_rmsnorm():
    dead, alive = figures_of("layernorm")[0], figures_of("rmsnorm")[0]
    assert dead.alignment == pytest.approx(1, abs=1e-12)
    assert dead.lambda_u_rel <= 1e-28
    assert alive.alignment < 0.9
    assert alive.lambda_u_rel > 0.1
    assert alive.subspace_alignment == 0


def test_among_three_dead_directions_the_bottom_vector_may_miss_u_and_the_subspace_does_not():
    for seed in range(5):
        figures = figures_of("layernorm, three near zero", seed)[0]
        assert figures.subspace_alignment == pytest.approx(1, abs=1e-12)
    misses = [figures_of("layernorm, three zeros", seed)[0].alignment for seed in range(5)]
    assert min(misses) < 0.9


def test_a_scale_stored_less_one_is_dead_where_the_weight_is_minus_one():
    rng = np.random.default_rng(1)
    weight = rng.normal(0, 0.1, WIDTH)
    weight[[3, 7]] = [-1, -1 + 1e-9]
    gamma = effective_scale(weight, "one_plus")
    outputs = rmsnorm(some_inputs(rng), gamma)
    figures = spectrum_figures(factor_of(CentredQR(WIDTH), outputs), TOKENS, gamma, "rmsnorm")
    assert figures.dead_counts["1e-08"] == 2
    assert figures.subspace_overlap == pytest.approx(1, abs=1e-12)


def test_the_mean_of_the_eigenvalues_is_one_and_they_descend():
    spectrum = np.array(figures_of("layernorm")[0].spectrum)
    assert spectrum.mean() == pytest.approx(1, rel=1e-14)
    assert (np.diff(spectrum) <= 0).all()


@pytest.mark.parametrize("count", [1, WIDTH - 1, WIDTH])
def test_no_more_tokens_than_the_width_give_a_reason_and_no_figures(count):
    factor = factor_of(CentredQR(WIDTH), np.random.default_rng(2).normal(size=(count, WIDTH)))
    figures = spectrum_figures(factor, count, np.ones(WIDTH), "layernorm", lambda_u_rel_float32=0.5)
    assert figures == SpectrumFigures(reason=figures.reason)
    assert f"{count:,} tokens for a width of {WIDTH}" in figures.reason


def test_one_token_more_than_the_width_gives_figures():
    rng = np.random.default_rng(3)
    outputs = layernorm(rng.normal(size=(WIDTH + 1, WIDTH)), np.ones(WIDTH))
    figures = spectrum_figures(factor_of(CentredQR(WIDTH), outputs), WIDTH + 1, np.ones(WIDTH), "layernorm")
    assert figures.reason is None
    assert figures.dead_counts["1e-08"] == 1
    assert figures.alignment == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("row", "gamma", "reason"),
    [
        ([np.nan] * WIDTH, np.ones(WIDTH), "the norm's outputs hold NaN or Inf"),
        ([np.inf] * WIDTH, np.ones(WIDTH), "the norm's outputs hold NaN or Inf"),
        ([2.0] * WIDTH, np.ones(WIDTH), "all outputs of the norm are equal"),
        (range(WIDTH), np.full(WIDTH, np.inf), "24 of them NaN or Inf, has no kernel"),
    ],
)
def test_outputs_and_scales_without_a_meaning_give_a_reason(row, gamma, reason):
    rows = np.full((30, WIDTH), 2.0)
    rows[20] = row
    figures = spectrum_figures(factor_of(CentredQR(WIDTH), rows), 30, gamma, "layernorm")
    assert reason in figures.reason
    assert figures == SpectrumFigures(reason=figures.reason)


def test_a_decomposition_from_elsewhere_is_taken_as_it_is():
    figures, outputs, gamma, kind = figures_of("layernorm")
    factor = factor_of(CentredQR(WIDTH), outputs)
    again = spectrum_figures(
        factor, TOKENS, gamma, kind, lambda_u_rel_float32=0.25, decomposition=singular_values(factor)
    )
    assert again.spectrum == figures.spectrum
    assert again.lambda_u_rel_float32 == 0.25


@settings(deadline=None)
@given(st.integers(2, 30), st.floats(-1e3, 1e3), seeds)
def test_a_norm_that_centres_is_present_and_one_that_does_not_is_absent_with_eight_tokens(d, mean, seed):
    x = np.random.default_rng(seed).normal(mean, 1, (8, d))
    assert mean_share(layernorm(x, 1)) <= 1e-20
    assert verdict(mean_share(layernorm(x, 1))) == "present"
    assert verdict(mean_share(rmsnorm(x, 1))) == "absent"


def test_a_mean_far_above_the_spread_does_not_make_an_rmsnorm_look_dead():
    normalised = rmsnorm(np.random.default_rng(4).normal(1e4, 1, (100, WIDTH)), 1)
    assert mean_share(normalised) == pytest.approx(WIDTH, rel=1e-6)
    along = normalised.sum(axis=1)
    assert np.var(along) / np.mean(along**2) < 1e-9  # what centring would have judged by


def test_mean_share_is_what_its_words_say_whatever_the_blocks():
    normalised = np.random.default_rng(5).normal(0.2, 1, (50, WIDTH))
    uniform = np.full(WIDTH, WIDTH**-0.5)
    share = MeanShare()
    for block in np.split(normalised, [1, 7, 7, 30]):
        share.add(block)
    wanted = np.mean((normalised @ uniform) ** 2) / (np.mean(np.sum(normalised**2, axis=1)) / WIDTH)
    assert share.value == pytest.approx(wanted, rel=1e-13)


@pytest.mark.parametrize(
    "rows", [np.empty((0, 3)), np.zeros((4, 3)), np.full((4, 3), np.nan), np.array([[np.inf, -np.inf]])]
)
def test_outputs_without_a_size_have_no_share_and_no_verdict(rows):
    assert mean_share(rows) is None
    assert verdict(mean_share(rows)) is None


@pytest.mark.parametrize(
    ("share", "wanted"),
    [(0.0, "present"), (1e-8, "present"), (1.1e-8, "unclear"), (9e-5, "unclear"), (1e-4, "absent"), (3.0, "absent")],
)
def test_the_verdict_is_clear_only_well_away_from_the_middle(share, wanted):
    assert verdict(share) == wanted


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.sampled_from([0.0, 1e6]), seeds)
def test_the_share_of_a_direction_is_its_variance_over_the_mean_variance(sizes, mean, seed):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(sum(sizes) + 2, 5)) * rng.lognormal(0, 1, 5) + mean * rng.normal(size=5)
    u = kernel_direction(rng.lognormal(0, 1, 5))
    share = DirectionShare(u)
    for block in np.split(rows, np.cumsum(sizes)):
        share.add(block)
    assert share.value == pytest.approx(np.var(centred(rows) @ u) / np.var(centred(rows), axis=0).mean(), rel=1e-8)


def test_float32_leaves_more_along_u_than_float64_and_the_more_the_larger_the_mean():
    rng = np.random.default_rng(6)
    gamma = rng.lognormal(0, 0.3, 512)
    shares = []
    for mean, dtype in ((0, np.float64), (0, np.float32), (30, np.float32)):
        x, scale = rng.normal(mean, 1, (200, 512)).astype(dtype), gamma.astype(dtype)
        share = DirectionShare(kernel_direction(gamma))
        share.add(layernorm(x, scale, dtype(0), dtype(1e-5)).astype(np.float64))
        shares.append(share.value)
    assert shares[0] < 1e-28
    assert 1e-16 < shares[1] < 1e-12
    assert shares[2] > 10 * shares[1]


def test_rows_that_do_not_vary_have_no_share_along_a_direction():
    for rows in (
        np.ones((3, 2)),
        np.ones((1, 2)),
        np.array([[1.0, np.nan], [1, 2]]),
        np.array([[np.inf, 1], [-np.inf, 2]]),
    ):
        share = DirectionShare(np.array([1.0, 0]))
        share.add(rows)
        assert share.value is None


@pytest.mark.parametrize(
    ("at_random", "trained", "near_dead", "wanted"),
    [
        (1e-11, 1e-14, 0, pytest.approx(3)),
        (1e-11, 1e-14, 1, None),
        (0.0, 1e-14, 0, None),
        (1e-11, 0.0, 0, None),
        (None, 1e-14, 0, None),
        (1e-11, None, 0, None),
    ],
)
def test_the_deepening_is_told_only_where_it_means_something(at_random, trained, near_dead, wanted):
    assert log10_deepening(at_random, trained, near_dead) == wanted


def test_the_thresholds_of_scale_and_eigenvalue_match():
    gamma = np.ones(WIDTH)
    gamma[:2] = 0.9 * DEAD_TAU, 1.2 * DEAD_TAU
    outputs = gamma * np.random.default_rng(7).choice([-1.0, 1], (TOKENS, WIDTH))  # each coordinate varies alike
    figures = spectrum_figures(factor_of(CentredQR(WIDTH), outputs), TOKENS, gamma, "rmsnorm")
    assert figures.dead_counts["1e-08"] == kernel_figures(gamma, None, "rmsnorm").predicted_dead_dim == 1
    assert figures.dead_counts["1e-06"] == 2
    assert figures.subspace_alignment < 0.95  # a third of u lies on the coordinate that is small, yet not dead
    assert figures.subspace_overlap > 0.9


def test_the_figures_need_numpy_alone():
    statement = "import sys, tasks.core.probing, tasks.core.residual; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"ml_dtypes", "torch", "scipy", "pyarrow", "pydantic", "safetensors"}
