"""The projector's trace: the gauge share's laws, and which matrices can be asked for theirs."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from tasks.core.gauge import CONTROLS, gauge, gauge_evidence, gauge_share
from tasks.core.names import survey
from tasks.core.records import Tensor
from tasks.core.writers import quantised_writer, writers_of
from tests.checkpoints import gpt2, llama

matrices = arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.integers(-9, 9)).filter(
    np.any
)


@given(matrices, st.integers(-150, 150))
def test_the_share_does_not_depend_on_the_matrices_scale(matrix, exponent):
    assert gauge_share(matrix * 10.0**exponent) == pytest.approx(gauge_share(matrix), abs=1e-12)


@given(matrices)
def test_over_all_directions_of_signs_the_share_is_one_in_the_mean_whatever_the_matrix(matrix):
    signs = np.array(list(itertools.product((-1, 1), repeat=len(matrix))))
    # the share of s ⊙ W along 1 is that of W along s
    assert np.mean([gauge_share(s[:, None] * matrix) for s in signs]) == pytest.approx(1, abs=1e-12)


@given(matrices.filter(lambda matrix: np.ptp(matrix, axis=0).any()))
def test_a_matrix_with_centred_columns_has_no_share(matrix):
    assert gauge_share(matrix - matrix.mean(0)) == pytest.approx(0, abs=1e-12)


def test_a_matrix_of_independent_entries_has_a_share_near_one():
    shares = [gauge_share(np.random.default_rng(seed).normal(size=(32, 48))) for seed in range(200)]
    assert np.mean(shares) == pytest.approx(1, abs=4 * np.sqrt(2 / 48 / 200))


@pytest.mark.parametrize("matrix", [np.zeros((4, 4)), np.full((4, 4), np.nan), np.full((4, 4), np.inf)])
def test_a_matrix_of_zeros_or_with_no_finite_values_has_no_share_and_speaks_for_nothing(matrix):
    assert np.isnan(gauge_share(matrix))
    fact = gauge_evidence(gauge([matrix], 4), ["h.0.out_proj.weight"])
    assert (fact.source, fact.says, fact.strength) == ("weights", "unknown", 0.0)


def test_what_a_writer_adds_along_one_is_seen_by_an_rmsnorm_and_not_by_a_layernorm():
    rng = np.random.default_rng(0)
    stream, writer, inputs = rng.normal(size=8), rng.normal(size=(8, 5)), rng.normal(size=5)
    before, after = stream + writer @ inputs, stream + (writer + np.outer(np.ones(8), rng.normal(size=5))) @ inputs
    np.testing.assert_allclose(layernorm(after), layernorm(before), atol=1e-12)
    assert np.abs(rmsnorm(after) - rmsnorm(before)).max() > 0.1


def layernorm(x):
    return (x - x.mean()) / x.std()


def rmsnorm(x):
    return x / np.sqrt((x**2).mean())


@pytest.mark.parametrize(("norm", "place"), [("layernorm", "pre"), ("layernorm", "post"), ("rmsnorm", "pre")])
def test_gradient_descent_moves_what_a_writer_has_along_one_under_rmsnorm_alone(norm, place):
    pytest.importorskip("torch")
    from benchmarks.gauge_models import Cell, train
    from deployments.demo.training import one_thread

    cell = Cell(norm, place, tied=True, decay=False, optimizer="sgd", init="torch", seed=0)
    with one_thread():
        before, after = ({name: value.copy() for name, value in tensors.items()} for *_, tensors in train(cell, (0, 6)))
    for writer in ("layers.0.self_attn.o_proj.weight", "layers.2.mlp.down_proj.weight"):
        moved = np.abs(after[writer] - before[writer]).max()
        along_one = np.abs((after[writer] - before[writer]).mean(0)).max()
        assert (along_one < 1e-3 * moved) == (norm == "layernorm")


def test_one_stands_below_all_controls_by_chance_in_one_generic_matrix_of_128():
    found = [gauge([np.random.default_rng(seed).normal(size=(16, 8))], 16) for seed in range(640)]
    assert len(found[0].controls) == CONTROLS
    assert sum(each.is_special for each in found) <= 15  # 5 are expected; more than 15 come once in 10,000 times


def test_of_several_matrices_the_median_counts():
    rng = np.random.default_rng(0)
    centred = rng.normal(size=(16, 8))
    centred -= centred.mean(0)
    generic = [rng.normal(size=(16, 8)) for _ in range(2)]
    assert gauge([centred, *generic], 16).share == pytest.approx(min(map(gauge_share, generic)))


def found_writers(tensors, width, dtype="F32"):
    found = survey([Tensor(name, "m", dtype, np.shape(values)) for name, values in tensors.items()])
    return writers_of(found, found.main.label, width)


def test_the_writers_of_a_llama_are_its_output_and_down_projections():
    found = found_writers(llama(), 8, "BF16")
    assert {(writer.tensor.name, writer.stream_axis, writer.size_bytes) for writer in found} == {
        (f"model.layers.{i}.{name}.weight", 0, 2 * size)
        for i in (0, 1)
        for name, size in (("self_attn.o_proj", 64), ("mlp.down_proj", 128))
    }


def test_the_single_letters_of_t5_are_known():
    block = {"SelfAttention.q": (8, 8), "SelfAttention.o": (8, 8), "layer_norm": (8,)}
    shapes = {f"block.{i}.layer.0.{part}.weight": shape for i in (0, 1) for part, shape in block.items()}
    found = found_writers({name: np.ones(shape) for name, shape in shapes.items()}, 8)
    assert [writer.tensor.name for writer in found] == [f"block.{i}.layer.0.SelfAttention.o.weight" for i in (0, 1)]


def test_gpt2_stores_its_writers_the_other_way_round_even_the_square_ones():
    found = found_writers(gpt2(), 8)
    assert [(writer.tensor.name, writer.stream_axis) for writer in found] == [
        (f"h.{i}.{part}.c_proj.weight", 1) for part in ("attn", "mlp") for i in (0, 1)
    ]
    linear = {name: values.T if values.ndim == 2 else values for name, values in gpt2().items()}
    assert {writer.stream_axis for writer in found_writers(linear, 8)} == {0}


def test_a_square_c_proj_among_square_matrices_could_be_stored_either_way_and_is_not_asked():
    square = {name: values[:8, :8] if values.ndim == 2 else values for name, values in gpt2().items()}
    assert found_writers(square, 8) == ()


def test_a_quantised_matrix_is_no_witness_but_is_known():
    tensors = [
        Tensor(name.replace("proj.weight", "proj.qweight"), "m", "I32" if "proj" in name else "F16", np.shape(values))
        for name, values in llama().items()
    ]
    found = survey(tensors)
    assert writers_of(found, found.main.label, 8) == ()
    assert quantised_writer(found, found.main.label).name == "model.layers.0.self_attn.o_proj.qweight"
