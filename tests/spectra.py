"""Matrices whose spectrum is known, norms written down plainly, and the reference that every figure is held against."""

import numpy as np
import pytest


def centred(rows):
    """Take each column's mean off, twice: the first mean is itself rounded, which a large mean shows."""
    once = rows - rows.mean(axis=0)
    return once - once.mean(axis=0)


def reference_sigma(rows):
    return np.linalg.svd(centred(rows), compute_uv=False)


def with_spectrum(rng, count, sigma):
    """A matrix, shape (count, d), whose centred singular values are sigma to rounding."""
    d = len(sigma)
    left, _ = np.linalg.qr(centred(rng.normal(size=(count, d))))
    right, _ = np.linalg.qr(rng.normal(size=(d, d)))
    return left * sigma @ right.T


def layernorm(x, gamma, beta=0.0, eps=1e-5):
    off_mean = x - x.mean(axis=-1, keepdims=True)
    return gamma * off_mean / np.sqrt((off_mean**2).mean(axis=-1, keepdims=True) + eps) + beta


def rmsnorm(x, gamma, eps=1e-6):
    return gamma * x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps)


def factor_of(accumulator, *blocks):
    """The R factor after some blocks, in an accumulator that has had none."""
    for block in blocks:
        accumulator.add(block)
    return accumulator.factor


@pytest.fixture(scope="module")
def one_torch_thread():
    """A second thread costs matrices of this size more than it brings."""
    torch = pytest.importorskip("torch", reason="the probe needs the extra `probe`")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
