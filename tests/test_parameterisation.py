"""How a scale is stored: as it is, or less one."""

import numpy as np
import pytest

from tasks.core.kinds import with_values
from tests.layers import DIGEST, EPS, STABLELM, llama, main_norm, registry_of


def scaled(median: float, spread: float = 0.3) -> np.ndarray:
    return np.sort(median + np.random.default_rng(0).normal(0, spread, 512))


def test_values_around_zero_are_stored_less_one():
    norm = with_values(main_norm(llama(), EPS), scaled(0.0))
    assert norm.parameterisation == "one_plus"
    assert norm.evidence[-1].source == "values"


@pytest.mark.parametrize("median", [1.0, 3.0, 40.0])
def test_positive_values_are_the_scale_itself(median):
    assert with_values(main_norm(llama(), EPS), scaled(median, 0.1)).parameterisation == "plain"


def test_small_positive_values_are_a_small_scale():
    weight = np.sort(np.random.default_rng(0).uniform(0.01, 0.1, 512))
    assert with_values(main_norm(llama(), EPS), weight).parameterisation == "plain"


def test_a_layernorm_with_values_around_zero_is_stored_less_one_too():
    norm = main_norm(STABLELM)
    assert norm.parameterisation == "plain"
    assert with_values(norm, scaled(0.0)).parameterisation == "one_plus"


def test_folded_scales_are_told_from_learnt_ones():
    assert "folded" in with_values(main_norm(llama(), EPS), np.ones(8)).evidence[-1].detail


@pytest.mark.parametrize("weight", [np.array([]), np.array([-np.inf, np.inf, np.nan])])
def test_values_that_say_nothing_change_nothing(weight):
    norm = main_norm(llama(), EPS)
    assert with_values(norm, weight) == norm


def test_a_config_says_how_scales_are_stored():
    assert main_norm(STABLELM, {"apply_layernorm_1p": True}).parameterisation == "one_plus"


def test_a_copy_with_shifted_scales_is_told_by_its_values():
    registry = registry_of({"at": "model.norm", "kind": "rmsnorm", "scale": "one_plus", "final": True, "main": True})
    quantised = ("model.layers.#.mlp.up_proj.scales 8 1", "model.layers.#.mlp.up_proj.biases 8 1")
    norm = main_norm((*llama(), *quantised), DIGEST, registry)
    assert norm.parameterisation == "one_plus"
    assert with_values(norm, scaled(1.0, 0.1)).parameterisation == "plain"
