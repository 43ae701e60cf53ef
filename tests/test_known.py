"""What the registry of measured architectures decides, and what outweighs it."""

from tests.layers import COHERE, DIGEST, STABLELM, llama, main_norm, registry_of


def test_what_was_measured_decides_where_the_tensors_cannot():
    registry = registry_of({"at": "model.norm", "kind": "layernorm", "scale": "one_plus", "final": True, "main": True})
    norm = main_norm(COHERE, DIGEST, registry)
    assert (norm.kind, norm.parameterisation, norm.decided_by) == ("layernorm", "one_plus", "registry")


def test_a_bias_in_the_file_outweighs_what_was_measured_without_one():
    registry = registry_of({"at": "model.norm", "kind": "rmsnorm", "final": True, "main": True})
    assert main_norm(STABLELM, DIGEST, registry).kind == "layernorm"


def test_a_measured_final_norm_replaces_the_one_that_names_suggest():
    registry = registry_of(
        {"at": "model.norm", "kind": "rmsnorm"},
        {"at": "model.layers.{i}.post_attention_layernorm", "kind": "rmsnorm", "final": "last_layer", "main": True},
    )
    norm = main_norm(llama(), DIGEST, registry)
    assert norm.scale_tensor == "model.layers.1.post_attention_layernorm.weight"


def test_a_measured_norm_without_a_scale_has_its_kind():
    registry = registry_of({"at": "model.norm", "kind": "layernorm", "scale": None, "final": True, "main": True})
    norm = main_norm([line for line in llama() if "norm" not in line], {**DIGEST, "hidden_size": 8}, registry)
    assert (norm.scale_tensor, norm.kind, norm.decided_by) == (None, "layernorm", "registry")


def test_a_file_that_ends_with_a_norm_is_not_of_an_architecture_whose_last_norm_has_no_scale():
    registry = registry_of({"at": "model.norm_f", "kind": "layernorm", "scale": None, "final": True, "main": True})
    assert main_norm(llama(), DIGEST, registry).scale_tensor == "model.norm.weight"


def test_a_measured_final_norm_of_one_tower_leaves_a_main_one():
    registry = registry_of({"at": "model.norm", "kind": "rmsnorm", "final": True})
    assert main_norm(llama(), DIGEST, registry).scale_tensor == "model.norm.weight"


def test_epsilon_comes_from_the_field_that_the_measured_norm_takes_it_from():
    registry = registry_of({"at": "model.norm", "kind": "rmsnorm", "eps": "inner.my_eps", "final": True, "main": True})
    config = {**DIGEST, "inner": {"my_eps": 1e-3}, "rms_norm_eps": 1e-6}
    assert main_norm(llama(), config, registry).eps == 1e-3


def test_tensors_that_no_measured_norm_is_like_are_classified_without_it():
    registry = registry_of({"at": "decoder.ln", "kind": "layernorm", "final": True, "main": True})
    assert main_norm(llama(), {**DIGEST, "rms_norm_eps": 1e-6}, registry).kind == "rmsnorm"
