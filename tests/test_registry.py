"""Looking up measured architectures: laws on a small registry, and facts that the one that is shipped must hold."""

import json
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.registry import load_registry, parse_registry

LLAMA = [
    {"at": "layers.{i}.input_layernorm", "kind": "rmsnorm", "eps": "rms_norm_eps", "site": "pre_attention"},
    {"at": "norm", "kind": "rmsnorm", "eps": "rms_norm_eps", "final": True, "main": True},
]
BERT = [
    {"at": "embeddings.LayerNorm", "bias": True, "site": "embedding"},
    {"at": "encoder.layer.{i}.output.LayerNorm", "bias": True, "final": "last_layer", "main": True},
]
PLUS = [{"at": "layers.{i}.norm", "kind": "rmsnorm", "scale": "one_plus"}, {"at": "norm", "scale": None, "final": True}]
POST_NORM = {
    "field": "norm_first",
    "value": False,
    "norms": [{"at": "layers.{i}.norm", "kind": "rmsnorm", "scale": "one_plus", "final": "last_layer", "main": True}],
    "gone": ["norm"],
}
LLAVA = [
    {"at": "vision.layers.{i}.norm", "bias": True, "tower": "vision"},
    {"at": "vision.post_norm", "bias": True, "tower": "vision", "final": True},
    {"at": "text.layers.{i}.input_layernorm", "kind": "rmsnorm"},
    {"at": "text.norm", "kind": "rmsnorm", "final": True, "main": True},
]
SMALL = {
    "format": 1,
    "transformers_version": "5.0.0",
    "prefixes": ["bert", "model", "vision_model"],
    "main_classes": {"llama": "LlamaModel", "bert": "BertModel", "plus": "PlusModel", "llava": "LlavaModel"},
    "architectures": {
        "LlamaModel": {"type": "llama", "norms": LLAMA},
        "LlamaForCausalLM": {"type": "llama", "body": "LlamaModel", "prefix": "model"},
        "BertModel": {"type": "bert", "norms": BERT},
        "BertForMaskedLM": {
            "type": "bert",
            "body": "BertModel",
            "prefix": "bert",
            "norms": [{"at": "cls.transform.LayerNorm", "bias": True, "site": "head"}],
        },
        "PlusModel": {"type": "plus", "final_by": "registration", "norms": PLUS, "variants": [POST_NORM]},
        "LlavaModel": {
            "type": "llava",
            "norms": LLAVA,
            "parts": [["text", "text_config", "llama"]],
            "renamed": [["text", "language_model.model"]],
        },
    },
}
INPUT_NORM = "model.layers.{i}.input_layernorm"
WRAPPED = [
    "base_model.model.model.layers.3.input_layernorm",
    "_fsdp_wrapped_module.model.layers.3._fsdp_wrapped_module.input_layernorm",
    "module._orig_mod.model.layers.3.input_layernorm",
    "model.layers.3._checkpoint_wrapped_module.input_layernorm",
    "base_model.model.model.layers.3.input_layernorm.modules_to_save.mine",
    "layers.3.input_layernorm",
    "transformer.layers.3.input_layernorm",
    "language_model.model.layers.3.input_layernorm",
    "model.language_model.layers.3.input_layernorm",
]
# (class, module, kind, parameterisation, final, last layer only): from each model's own paper or code
SHIPPED = [
    ("GPT2LMHeadModel", "transformer.ln_f", "layernorm", "plain", True, False),
    ("GPT2LMHeadModel", "h.11.ln_1", "layernorm", "plain", False, False),
    ("LlamaForCausalLM", "model.norm", "rmsnorm", "plain", True, False),
    ("Gemma2ForCausalLM", "model.norm", "rmsnorm", "one_plus", True, False),
    ("Gemma4ForCausalLM", "model.norm", "rmsnorm", "plain", True, False),
    ("NanoChatForCausalLM", "model.norm", "rmsnorm", None, True, False),
    ("NemotronForCausalLM", "model.norm", "layernorm", "one_plus", True, False),
    ("CohereForCausalLM", "model.norm", "layernorm", "plain", True, False),
    ("OlmoForCausalLM", "model.norm", "layernorm", None, True, False),
    ("BertForMaskedLM", "bert.encoder.layer.11.output.LayerNorm", "layernorm", "plain", True, True),
    ("BertForMaskedLM", "cls.predictions.transform.LayerNorm", "layernorm", "plain", False, False),
    ("T5ForConditionalGeneration", "decoder.final_layer_norm", "rmsnorm", "plain", True, False),
    ("CLIPModel", "vision_model.post_layernorm", "layernorm", "plain", True, False),
    ("ViTForImageClassification", "vit.layernorm", "layernorm", "plain", True, False),
    ("ResNetForImageClassification", "resnet.embedder.embedder.normalization", "batchnorm", "plain", False, False),
    ("LlavaForConditionalGeneration", "language_model.model.norm", "rmsnorm", "plain", True, False),
    ("MoshiDepthDecoder", "layers.5.post_attention_layernorm", "rmsnorm", "plain", True, True),
    ("PI0ForConditionalGeneration", "model.dit.norm", "rmsnorm", "one_plus", True, False),
    ("GraniteDoclingVisionModel", "connector.ln_out", "layernorm", "plain", True, False),
]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def parsed(document=SMALL):
    return parse_registry(json.dumps(document).encode())


REGISTRY = parsed()


def found(module, **config):
    architecture = REGISTRY.find(config)
    return None if architecture is None else REGISTRY.facts(architecture, module)


@given(st.integers(min_value=0, max_value=10**6))
def test_a_layer_of_any_index_has_the_facts_of_its_pattern(layer):
    facts = found(f"model.layers.{layer}.input_layernorm", architectures=["LlamaForCausalLM"])
    assert (facts.pattern, facts.kind, facts.eps_field) == (INPUT_NORM, "rmsnorm", "rms_norm_eps")


@pytest.mark.parametrize("module", WRAPPED)
def test_wrappers_and_other_containers_do_not_hide_a_norm(module):
    assert found(module, architectures=["LlamaForCausalLM"]).pattern == INPUT_NORM


def test_the_final_norm_is_final_below_a_neutral_container_alone():
    causal = {"architectures": ["LlamaForCausalLM"]}
    assert found("language_model.model.norm", **causal).is_main
    assert found("norm", **causal).is_main
    assert found("vision_tower.norm", **causal) is None
    assert found("model.mtp.norm", **causal) is None
    assert found("model.projector.norm", **causal) is None


def test_a_layer_below_an_unknown_container_keeps_its_kind():
    assert found("reader.model.layers.0.input_layernorm", architectures=["LlamaForCausalLM"]).kind == "rmsnorm"
    assert found("vision_tower.layers.0.input_layernorm", architectures=["LlamaForCausalLM"]) is None
    assert not found("reader.encode.layer.3.output.LayerNorm", model_type="bert")


def test_a_final_norm_of_each_layer_says_so_and_a_head_is_not_final():
    last = found("bert.encoder.layer.3.output.LayerNorm", architectures=["BertForMaskedLM"])
    assert (last.is_final, last.is_main, last.last_layer_only) == (True, True, True)
    assert found("cls.transform.LayerNorm", architectures=["BertForMaskedLM"]).site == "head"


def test_a_norm_without_scale_is_a_fact():
    blank = REGISTRY.architecture("PlusModel").norms[-1]
    assert (blank.kind, blank.has_scale, blank.parameterisation, blank.is_final) == ("layernorm", False, None, True)


def test_where_the_fitting_patterns_disagree_nothing_is_said():
    towers = [{"at": "vision.layers.{i}.norm"}, {"at": "text.layers.{i}.norm", "kind": "rmsnorm"}]
    document = {**SMALL, "architectures": {"TwoModel": {"type": "two", "norms": towers}}}
    registry = parsed(document)
    assert registry.facts(registry.architecture("TwoModel"), "layers.0.norm") is None
    assert registry.facts(registry.architecture("TwoModel"), "text.layers.0.norm").kind == "rmsnorm"


def test_the_class_decides_before_the_model_type():
    assert REGISTRY.find({"architectures": ["BertForMaskedLM"], "model_type": "llama"}).model_type == "bert"
    assert REGISTRY.find({"architectures": ["OurLlama"], "model_type": "llama"}).class_name == "LlamaModel"
    assert REGISTRY.find({"model_type": "never_seen"}) is None
    assert REGISTRY.find(None) is None


def test_code_of_the_repo_is_believed_only_where_class_and_type_belong_together():
    own = {"auto_map": {"AutoModel": "modeling.Mine"}}
    assert REGISTRY.find({**own, "architectures": ["Mine"], "model_type": "llama"}) is None
    assert REGISTRY.find({**own, "architectures": ["LlamaForCausalLM"], "model_type": "mine"}) is None
    assert REGISTRY.find({**own, "architectures": ["LlamaForCausalLM"], "model_type": "llama"}) is not None


def test_an_unknown_model_is_known_by_its_text_config():
    nested = {"architectures": ["Mine"], "auto_map": {"AutoModel": "m.Mine"}, "text_config": {"model_type": "llama"}}
    assert REGISTRY.find(nested).class_name == "LlamaModel"


def test_an_answer_that_a_hidden_field_would_change_depends_on_it():
    digest, whole = {"model_type": "plus"}, {"model_type": "plus", "hidden_size": 8}
    assert REGISTRY.find(digest).depends_on == ("norm_first",)
    assert REGISTRY.find(whole).depends_on == ()
    assert [norm.is_main for norm in REGISTRY.find({**whole, "norm_first": False}).norms] == [True]
    assert [norm.is_final for norm in REGISTRY.find({**whole, "norm_first": True}).norms] == [False, True]
    assert REGISTRY.find(digest).final_by == "registration"


def test_a_tower_of_another_type_has_that_types_norms():
    llava = {"architectures": ["LlavaModel"], "model_type": "llava", "text_config": {"model_type": "bert"}}
    architecture = REGISTRY.find(llava)
    assert [norm.pattern for norm in architecture.norms if norm.is_main] == ["text.encoder.layer.{i}.output.LayerNorm"]
    assert REGISTRY.facts(architecture, "vision.post_norm").is_final
    assert REGISTRY.facts(architecture, "text.norm") is None


def test_a_tower_of_a_type_that_was_not_measured_is_left_open():
    unknown = REGISTRY.find({"model_type": "llava", "text_config": {"model_type": "never_seen"}})
    assert [norm.tower for norm in unknown.norms] == ["vision", "vision"]
    assert REGISTRY.find({"model_type": "llava"}).depends_on == ("text_config.model_type",)


def test_older_naming_is_an_alias():
    assert found("language_model.model.layers.4.input_layernorm", model_type="llava").pattern.startswith("text.")


@given(st.text(max_size=60) | st.from_regex(r"(model|layers|[0-9]+|norm|module|\.|text){1,12}", fullmatch=True))
def test_no_module_path_is_an_error(module):
    for name in REGISTRY:
        facts = REGISTRY.facts(REGISTRY.architecture(name), module)
        assert facts is None or facts in REGISTRY.architecture(name).norms or not facts.is_final


@given(
    st.dictionaries(
        st.sampled_from(["architectures", "model_type", "auto_map", "text_config", "norm_first", "x"]),
        json_values | st.sampled_from(["llama", "llava", "plus", ["LlavaModel"], {"model_type": "llava"}]),
    )
)
def test_no_config_is_an_error(config):
    architecture = REGISTRY.find(config)
    assert architecture is None or architecture.class_name in list(REGISTRY)


def test_a_config_nested_without_end_is_no_error():
    config = {"model_type": "llava"}
    for _ in range(5_000):
        config = {"model_type": "llava", "text_config": config}
    assert REGISTRY.find(config).class_name == "LlavaModel"
    assert REGISTRY.find({"text_config": {"text_config": {"text_config": {"text_config": config}}}}) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        json.dumps({**SMALL, "format": 2}).encode(),
        json.dumps({**SMALL, "architectures": {"A": {}}}).encode(),
        json.dumps({**SMALL, "architectures": {"A": {"type": None}}}).encode(),
        json.dumps({**SMALL, "architectures": []}).encode(),
        json.dumps({**SMALL, "transformers_version": 5}).encode(),
        json.dumps({**SMALL, "prefixes": [1]}).encode(),
        json.dumps({key: value for key, value in SMALL.items() if key != "main_classes"}).encode(),
    ],
)
def test_a_file_of_another_form_is_refused_with_what_to_do(data):
    with pytest.raises(ValueError, match="make registry"):
        parse_registry(data)


def test_every_line_that_is_shipped_parses_and_names_at_most_one_main_norm():
    registry = load_registry()
    for name in registry:
        norms = registry.architecture(name).norms
        assert norms
        assert sum(norm.is_main for norm in norms) <= 1, name
        assert all(norm.is_final for norm in norms if norm.is_main), name


def test_the_shipped_file_has_one_line_per_architecture():
    text = resources.files("tasks.core").joinpath("registry.json").read_text()
    starts = [line.partition('"')[2].partition('"')[0] for line in text.splitlines() if '": {"type": ' in line]
    assert starts == list(load_registry())


@pytest.mark.parametrize(
    ("name", "module"),
    [  # what a head, or a user, reads: of an action expert, of an encoder behind another one, of an image's tokens
        ("PI0ForConditionalGeneration", "model.dit.norm"),
        ("UnlimitedOcrVisionModel", "vision_encoder.encoder.layers.23.layer_norm2"),
        ("VJEPA2Model", "encoder.layernorm"),
        ("LiltModel", "encoder.layer.11.output.LayerNorm"),
        ("ReformerModel", "encoder.layer_norm"),
    ],
)
def test_the_shipped_file_knows_the_main_norm_of_several(name, module):
    registry = load_registry()
    assert registry.facts(registry.find({"architectures": [name]}), module).is_main


@pytest.mark.parametrize(("name", "module", "kind", "scale", "final", "last"), SHIPPED)
def test_the_shipped_file_knows(name, module, kind, scale, final, last):
    registry = load_registry()
    facts = registry.facts(registry.find({"architectures": [name]}), module)
    said = (facts.kind, facts.parameterisation, facts.is_final, facts.last_layer_only)
    assert said == (kind, scale, final, last)
