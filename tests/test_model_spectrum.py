"""The torch twin: the laws of test_spectrum.py, and that both find the same."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core import spectrum as plain
from tests.spectra import factor_of, one_torch_thread, reference_sigma, with_spectrum  # noqa: F401

torch = pytest.importorskip("torch", reason="the probe needs the extra `probe`")

from tasks.core.probing import DirectionShare, mean_share, spectrum_figures  # noqa: E402
from tasks.model.spectrum import CentredQR, sigma_min_max, singular_values  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_torch_thread")

ACCURACY = 1e-13  # of σ_max

seeds = st.integers(0, 2**32 - 1)


def tensors(rows, *cuts):
    return [torch.from_numpy(block) for block in np.split(rows, cuts)]


def assert_same_sigma(factor, rows):
    wanted = reference_sigma(rows)
    np.testing.assert_allclose(singular_values(factor)[0].numpy(), wanted, rtol=0, atol=ACCURACY * wanted[0])


@settings(deadline=None)
@given(st.integers(2, 12), st.lists(st.integers(0, 60), max_size=6), st.sampled_from([0.0, 1e6]), seeds)
def test_the_singular_values_are_those_of_the_centred_matrix_however_it_was_split(d, cuts, mean, seed):
    rng = np.random.default_rng(seed)
    rows = with_spectrum(rng, 60, np.logspace(0, -12, d)) + mean * rng.normal(size=d)
    assert_same_sigma(factor_of(CentredQR(d), *tensors(rows, *sorted(cuts))), rows)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 60), st.sampled_from([0.0, 1e6]), seeds)
def test_two_accumulators_merged_are_one_that_saw_all_rows(first, mean, seed):
    rng = np.random.default_rng(seed)
    rows = with_spectrum(rng, 60, np.logspace(0, -12, 7)) + mean * rng.normal(size=7)
    one, other = CentredQR(7), CentredQR(7)
    one.add(torch.from_numpy(rows[:first]))
    other.add(torch.from_numpy(rows[first:]))
    one.merge(other)
    assert_same_sigma(one.factor, rows)
    assert one.count == 60


def test_both_twins_find_the_same():
    rows = np.random.default_rng(1).normal(3, 1, (200, 16))
    ours, theirs = CentredQR(16), plain.CentredQR(16)
    np.testing.assert_allclose(
        np.abs(factor_of(ours, *tensors(rows, 20, 90)).numpy()), np.abs(factor_of(theirs, rows)), atol=1e-13
    )
    np.testing.assert_allclose(ours.mean.numpy(), theirs.mean, rtol=1e-14)
    assert ours.second_moment_rms == pytest.approx(theirs.second_moment_rms, rel=1e-14)
    assert sigma_min_max(ours.factor) == pytest.approx(plain.sigma_min_max(theirs.factor), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_rows_of_a_narrow_type_are_widened_and_not_computed_with(dtype):
    rows = torch.randn(150, 12, generator=torch.Generator().manual_seed(0)).add(7).to(dtype)
    accumulator = CentredQR(12)
    factor = factor_of(accumulator, rows[:5], rows[5:])
    assert factor.dtype == torch.float64
    assert_same_sigma(factor, rows.double().numpy())
    assert accumulator.second_moment_rms == pytest.approx(float(rows.double().square().mean().sqrt()), rel=1e-13)


def test_rows_with_a_gradient_leave_none_and_may_change_after_they_were_added():
    rows = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    kept, accumulator = rows.double().numpy(), CentredQR(4)
    accumulator.add(rows.clone().requires_grad_()[:2])
    accumulator.add(rows[2:5])
    rows[2:5] = 0
    accumulator.add(torch.from_numpy(kept[5:]))
    assert not accumulator.factor.requires_grad
    assert_same_sigma(accumulator.factor, kept)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.floats(0, 12), st.floats(-150, 150), seeds)
def test_the_extremes_without_an_svd_are_those_of_the_svd(d, decades, size, seed):
    rng = np.random.default_rng(seed)
    factor = 10**size * np.linalg.qr(with_spectrum(rng, 2 * d + 2, np.logspace(0, -decades, d)), mode="r")
    sigma = np.linalg.svd(factor, compute_uv=False)
    smallest, largest = sigma_min_max(torch.from_numpy(factor))
    assert largest == pytest.approx(sigma[0], rel=plain.SIGMA_TOLERANCE)
    assert smallest == pytest.approx(sigma[-1], rel=plain.SIGMA_TOLERANCE, abs=1e-14 * sigma[0])


@pytest.mark.parametrize(
    ("factor", "wanted"),
    [
        (np.zeros((3, 3)), (0, 0)),
        (np.eye(400), (1, 1)),
        (np.diag([1.0, 0, 2]), (0, 2)),
        (np.diag([1.0, 1e-300]), (0, 1)),
        (np.array([[1.0, 1], [0, 0]]), (0, 2**0.5)),
        (np.full((2, 2), np.inf), (np.nan, np.nan)),
    ],
)
def test_the_extremes_of_odd_factors(factor, wanted):
    assert sigma_min_max(torch.from_numpy(np.triu(factor))) == pytest.approx(wanted, rel=1e-14, abs=0, nan_ok=True)


@pytest.mark.parametrize("count", [1, 2, 7, 12])
def test_with_no_more_rows_than_columns_the_factor_is_as_low_as_its_rank_and_has_the_largest_alone(count):
    rows = np.random.default_rng(4).normal(2, 1, (count, 12))
    factor = factor_of(CentredQR(12), *tensors(rows))
    assert factor.shape == (count - 1, 12)
    assert sigma_min_max(factor) == pytest.approx((0, reference_sigma(rows)[0]), rel=1e-7, abs=1e-14)


def test_an_iteration_that_runs_out_of_steps_gives_way_to_the_svd(monkeypatch):
    monkeypatch.setattr("tasks.model.spectrum.MAX_STEPS", 10)
    factor = torch.diag(torch.linspace(1, 2, 60, dtype=torch.float64))
    assert sigma_min_max(factor) == pytest.approx((1, 2), rel=1e-14)


def test_the_shares_take_tensors_as_they_take_arrays():
    rows = np.random.default_rng(2).normal(1, 2, (40, 6))
    u = np.full(6, 6**-0.5)
    ours, theirs = DirectionShare(torch.from_numpy(u)), DirectionShare(u)
    for block in np.split(rows, [3, 20]):
        ours.add(torch.from_numpy(block))
        theirs.add(block)
    assert ours.value == pytest.approx(theirs.value, rel=1e-13)
    assert mean_share(torch.from_numpy(rows)) == pytest.approx(mean_share(rows), rel=1e-13)


def test_torchs_own_layernorm_has_the_figures_of_a_layernorm():
    norm = torch.nn.LayerNorm(32, dtype=torch.float64)
    torch.nn.init.normal_(norm.weight, 1, 0.2, generator=torch.Generator().manual_seed(0))
    outputs = norm(torch.randn(200, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 5)
    factor = factor_of(CentredQR(32), outputs)
    gamma, decomposition = norm.weight.detach().numpy(), tuple(part.numpy() for part in singular_values(factor))
    figures = spectrum_figures(factor.numpy(), 200, gamma, "layernorm", decomposition=decomposition)
    assert figures.alignment == figures.subspace_overlap == pytest.approx(1, abs=1e-12)
    assert figures.dead_counts == {"1e-04": 1, "1e-06": 1, "1e-08": 1, "1e-10": 1, "1e-12": 1}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
def test_an_accelerator_finds_what_the_processor_finds():
    rng = np.random.default_rng(3)
    rows = with_spectrum(rng, 2000, np.logspace(0, -12, 256)) + 1e3
    on_cpu, on_gpu = CentredQR(256), CentredQR(256)
    on_cpu.add(torch.from_numpy(rows))
    on_gpu.add(torch.from_numpy(rows).cuda())
    sigma = singular_values(on_gpu.factor)[0].cpu().numpy()
    np.testing.assert_allclose(sigma, singular_values(on_cpu.factor)[0].numpy(), rtol=0, atol=ACCURACY * sigma[0])
    assert sigma_min_max(on_gpu.factor) == pytest.approx((sigma[-1], sigma[0]), rel=1e-6, abs=1e-14)
