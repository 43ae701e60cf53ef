"""maths.md, section 3: a head moved along u gives the same logits behind a LayerNorm, and no other move does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.kernel import kernel_direction
from tests.spectra import layernorm, one_torch_thread, rmsnorm  # noqa: F401

torch = pytest.importorskip("torch", reason="the probe needs the extra `probe`")

from tasks.model import invariance, tables  # noqa: E402
from tasks.model.invariance import logit_invariance  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_torch_thread")

WIDTH, VOCABULARY, TOKENS = 48, 300, 64


def case(norm, dead=(), with_beta=True, seed=0):
    """Outputs in float32, u and β of one norm, as tensors."""
    rng = np.random.default_rng(seed)
    gamma, beta = rng.lognormal(0, 0.3, WIDTH), rng.normal(size=WIDTH) * with_beta
    gamma[: len(dead)] = dead
    x = rng.normal(1, 2, (TOKENS, WIDTH)).astype(np.float32)
    outputs = norm(x, gamma.astype(np.float32)) + beta.astype(np.float32)
    assert outputs.dtype == np.float32
    return torch.from_numpy(outputs), torch.from_numpy(kernel_direction(gamma)), torch.from_numpy(beta)


def random(*shape, seed=1, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def change_share(outputs, u, beta, seed=0):
    """The figure by the identity: the change of the logits is t·a·r·(y - β), so the head cancels."""
    directions = torch.cat([u[None], invariance._random_directions(WIDTH, seed)])
    changes = (((outputs.double() - beta) @ directions.T) ** 2).sum(dim=0)
    return float(torch.sqrt(changes[0] / changes[1:].mean()))


def plain_invariance(outputs, head, bias, u, beta):
    """The figure from whole matrices of logits, for u and for every random direction alike."""
    y, weight, offset = outputs.double(), head.double(), bias.double()
    amounts = random(len(head), seed=9, dtype=torch.float64)
    amounts *= weight.norm() / len(head) ** 0.5 / amounts.norm()

    def change(r):
        moved = y @ (weight + torch.outer(amounts, r)).T + offset - (r @ beta) * amounts
        return float((moved - (y @ weight.T + offset)).norm())

    changes = [change(r) for r in invariance._random_directions(WIDTH, 0)]
    return change(u) / float(np.sqrt(np.mean(np.square(changes))))


@pytest.mark.parametrize("norm", [layernorm, rmsnorm])
def test_the_figure_is_that_of_whole_matrices_of_logits(norm):
    outputs, u, beta = case(norm)
    head, bias = random(VOCABULARY, WIDTH, dtype=torch.bfloat16), random(VOCABULARY, seed=2)
    found = logit_invariance(outputs, head, bias, u, beta)
    assert found == pytest.approx(plain_invariance(outputs, head, bias, u, beta), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("with_beta", [False, True])
def test_a_head_behind_a_layernorm_may_move_along_u(dtype, with_bias, with_beta):
    outputs, u, beta = case(layernorm, with_beta=with_beta)
    head, bias = random(VOCABULARY, WIDTH, dtype=dtype), random(VOCABULARY) if with_bias else None
    found = logit_invariance(outputs, head, bias, u, beta if with_beta else None)
    assert 1e-9 < found < 1e-6
    assert found == pytest.approx(change_share(outputs, u, beta), rel=1e-6)


def test_a_head_behind_an_rmsnorm_may_not():
    outputs, u, beta = case(rmsnorm)
    found = logit_invariance(outputs, random(VOCABULARY, WIDTH), None, u, beta)
    assert 0.1 < found < 10
    assert found == pytest.approx(change_share(outputs, u, beta), rel=1e-9)


@pytest.mark.parametrize("norm", [layernorm, rmsnorm])
@pytest.mark.parametrize("dead", [(0.0,), (1e-9,), (0.0, 0.0, 0.0)])
def test_along_a_dead_coordinate_both_kinds_are_invariant(norm, dead):
    outputs, u, beta = case(norm, dead)
    assert logit_invariance(outputs, random(VOCABULARY, WIDTH), None, u, beta) <= 1e-6


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 50), st.floats(-6, 6), st.integers(0, 2**31))
def test_the_head_cancels(vocabulary, size, seed):
    outputs, u, beta = case(rmsnorm)
    head = 10**size * random(vocabulary, WIDTH, seed=seed, dtype=torch.float64)
    assert logit_invariance(outputs, head, None, u, beta) == pytest.approx(change_share(outputs, u, beta), rel=1e-6)


def test_blocks_of_the_head_make_no_difference(monkeypatch):
    outputs, u, beta = case(rmsnorm)
    whole = logit_invariance(outputs, random(VOCABULARY, WIDTH), random(VOCABULARY), u, beta)
    monkeypatch.setattr(tables, "BLOCK_ENTRIES", 7 * WIDTH)
    blocks = logit_invariance(outputs, random(VOCABULARY, WIDTH), random(VOCABULARY), u, beta)
    assert blocks == pytest.approx(whole, rel=1e-12)


def test_a_seed_gives_the_same_figure_and_another_seed_another():
    outputs, u, beta = case(rmsnorm)
    figures = [logit_invariance(outputs, random(VOCABULARY, WIDTH), None, u, beta, seed) for seed in (0, 0, 1)]
    assert figures[0] == figures[1] != figures[2]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_head_or_outputs_that_are_not_finite_have_no_figure(bad):
    outputs, u, beta = case(layernorm)
    head = random(VOCABULARY, WIDTH)
    assert logit_invariance(torch.full_like(outputs, bad), head, None, u, beta) is None
    head[3, 3] = bad
    assert logit_invariance(outputs, head, None, u, beta) is None


def test_a_head_of_zeros_has_no_figure():
    outputs, u, beta = case(layernorm)
    assert logit_invariance(outputs, torch.zeros(VOCABULARY, WIDTH), None, u, beta) is None
