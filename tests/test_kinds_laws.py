"""What holds for the kinds of any norms: more evidence never hurts, and every checkpoint has an answer."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.evidence import weigh
from tasks.core.kinds import classify
from tasks.core.records import Evidence, Tensor
from tests.layers import registry_of


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_more_evidence_for_a_kind_never_makes_it_less_sure(strengths):
    facts = [Evidence("tensors", "rmsnorm", strength, "") for strength in strengths]
    assert weigh(facts)[1] >= weigh(facts[1:])[1]


def test_evidence_of_equal_weight_for_both_kinds_decides_nothing():
    facts = [Evidence("tensors", kind, 0.9, "") for kind in ("rmsnorm", "layernorm")]
    assert weigh(facts)[:2] == ("unknown", 0.5)


PARTS = [
    "model",
    "layers",
    "0",
    "1",
    "12",
    "norm",
    "ln_f",
    "weight",
    "bias",
    "running_mean",
    "gamma",
    "lm_head",
    "experts",
    "visual",
    "decoder",
    "q_norm",
    "attn",
    "mlp",
    "",
    "#",
    "/",
    "modules_to_save",
    "A_log",
    "linear",
    "\x00",
    "²",
    "9" * 30,
]
NAMES = st.one_of(st.text(max_size=30), st.lists(st.sampled_from(PARTS), min_size=1, max_size=7).map(".".join))
SHAPES = st.one_of(st.none(), st.lists(st.integers(0, 9), max_size=4).map(tuple))
TENSORS = st.lists(st.builds(Tensor, NAMES, st.just("f"), st.none(), SHAPES), max_size=30)
VALUES = st.one_of(
    st.none(), st.booleans(), st.floats(), st.text(max_size=9), st.lists(st.text(max_size=3), max_size=2)
)
KEYS = st.one_of(
    st.text(max_size=9), st.sampled_from(["rms_norm_eps", "norm_type", "text_config", "model_type", "hidden_size"])
)
CONFIGS = st.one_of(
    st.none(),
    st.recursive(st.dictionaries(KEYS, VALUES, max_size=4), lambda inner: st.dictionaries(KEYS, inner, max_size=3)),
)


@settings(max_examples=300)
@given(TENSORS, CONFIGS)
def test_any_names_and_any_config_give_an_answer_with_one_main_norm_if_any_is_final(tensors, config):
    answer = classify(tensors, config, registry_of({"at": "model.layers.{i}.input_layernorm", "kind": "layernorm"}))
    finals = [norm for norm in answer.norms if norm.is_final]
    assert sum(norm.is_main for norm in finals) == bool(finals)
    assert len({norm.tower for norm in finals}) == len(finals)
    assert all(norm.scale_tensor is None or norm.scale_tensor in {t.name for t in tensors} for norm in answer.norms)


def test_ten_thousand_unlike_names_are_sorted_as_fast_as_like_ones():
    names = [f"a{i}.layers.{j}.norm.weight" for i in range(5_000) for j in (0, 1)]
    answer = classify([Tensor(name, "f", None, (8,)) for name in names], None)
    assert len(answer.norms) == 10_000
    assert sum(norm.is_main for norm in answer.norms) == 1
