"""Norms told apart by what they do, and whole architectures built tiny, run and followed."""

import inspect
import json

import pytest

from tasks.core.registry import load_registry

torch = pytest.importorskip("torch", reason="the registry is measured with the extra `probe`")
transformers = pytest.importorskip("transformers", reason="the registry is measured with the extra `probe`")

from benchmarks.registry import as_text, assemble, in_process, logged, model_classes, version  # noqa: E402
from tasks.model.behaviour.finals import finals_of, tower_name  # noqa: E402
from tasks.model.behaviour.measure import measure  # noqa: E402
from tasks.model.behaviour.norms import behaviour_of, candidates, guessed_inputs  # noqa: E402
from tasks.model.behaviour.tiny import RECIPES, TINY_LAYERS, tiny_config  # noqa: E402
from tasks.model.behaviour.trace import Trace, watch_norm, watch_tower  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers and torch warn of each other's changes

WIDTH = 16


class OnePlus(torch.nn.Module):
    """An RMSNorm as Gemma stores it: γ = 1 + w."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x):
        return (1 + self.weight) * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class ChannelsFirst(torch.nn.LayerNorm):
    """A LayerNorm over the channels of feature maps."""

    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Gated(OnePlus):
    """An RMSNorm that is gated after it."""

    def forward(self, x, gate):
        return super().forward(x) * torch.sigmoid(gate)


NORMS = [
    (torch.nn.LayerNorm(WIDTH), ("layernorm", "plain", True)),
    (torch.nn.LayerNorm(WIDTH, bias=False), ("layernorm", "plain", False)),
    (torch.nn.LayerNorm(WIDTH, elementwise_affine=False), ("layernorm", None, False)),
    (torch.nn.RMSNorm(WIDTH), ("rmsnorm", "plain", False)),
    (OnePlus(), ("rmsnorm", "one_plus", False)),
    (ChannelsFirst(WIDTH), ("layernorm", "plain", True)),
    (torch.nn.BatchNorm2d(WIDTH), ("batchnorm", "plain", True)),
    (torch.nn.GroupNorm(4, WIDTH), ("groupnorm", "plain", True)),
]


def seen(norm, *inputs):
    return next((found for x in guessed_inputs(norm) if (found := behaviour_of(norm, (x, *inputs), {}))), None)


@pytest.mark.parametrize(("norm", "expected"), NORMS, ids=lambda value: type(value).__name__)
def test_a_norm_is_told_by_what_it_does(norm, expected):
    torch.manual_seed(0)
    found = seen(norm)
    assert (found.kind, found.parameterisation, found.has_bias) == expected


def test_a_gated_norm_is_judged_by_its_first_argument():
    torch.manual_seed(0)
    found = behaviour_of(Gated(), (torch.zeros(2, 6, WIDTH), torch.randn(2, 6, WIDTH)), {})
    assert (found.kind, found.parameterisation) == ("rmsnorm", "one_plus")


def test_judging_a_norm_leaves_it_as_it_was():
    norm = torch.nn.LayerNorm(WIDTH)
    seen(norm)
    assert torch.equal(norm.weight, torch.ones(WIDTH))


def test_what_scales_without_normalising_is_no_norm():
    class LayerScale(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lambda1 = torch.nn.Parameter(torch.ones(WIDTH))

        def forward(self, x):
            return x * self.lambda1

    model = torch.nn.Sequential(LayerScale(), torch.nn.Linear(WIDTH, WIDTH), torch.nn.LayerNorm(WIDTH))
    assert [path for path, norm in candidates(model) if seen(norm)] == ["2"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_tiny_configs_are_tiny_and_whole(recipe):
    config = tiny_config(transformers.LlamaConfig, recipe)
    assert config.num_hidden_layers == (32 if recipe == "narrow" else TINY_LAYERS)
    assert config.hidden_size % config.num_attention_heads == 0
    assert config.num_attention_heads % config.num_key_value_heads == 0
    assert config.hidden_size == (4096 if recipe == "shallow" else config.hidden_size)


@pytest.mark.parametrize(
    "name", ["BertForMaskedLM", "Gemma2ForCausalLM", "OPTModel", "T5ForConditionalGeneration", "CLIPModel"]
)
def test_measuring_an_architecture_again_gives_what_is_shipped(name):
    result = measure(getattr(transformers, name))
    shipped = load_registry().architecture(name)
    assert result["final_by"] == shipped.final_by == "forward"
    known = {norm.pattern: norm for norm in shipped.norms}
    for norm in result["norms"]:
        facts = known[norm["at"]]
        assert (facts.kind, facts.parameterisation) == (norm.get("kind", "layernorm"), norm.get("scale", "plain"))
        assert (facts.is_final, facts.is_main) == (bool(norm.get("final")), norm.get("main", False))


def test_a_switch_that_moves_the_final_norm_is_found():
    moved = [variant for variant in measure(transformers.OPTModel)["variants"] if variant["value"] is False]
    assert [(variant["field"], variant["gone"]) for variant in moved] == [
        ("do_layer_norm_before", ["decoder.final_layer_norm"])
    ]


def test_a_class_is_measured_in_a_process_of_its_own_and_a_failure_is_a_result():
    assert in_process(transformers.GPT2LMHeadModel)["prefix"] == "transformer"
    assert in_process(object)["failed"] == "AttributeError"


def test_a_part_that_is_not_exported_is_told_where_no_exported_class_has_its_config():
    assert "MoshiDepthDecoder" in dict(model_classes(["moshi"]))
    assert "Blip2QFormerModel" in dict(model_classes(["blip_2"]))
    assert "CLIPTextTransformer" not in dict(model_classes(["clip"]))


class Pooling(torch.nn.Module):
    """A tower that hands out its last hidden state, normed, and what it pools from that, normed again."""

    def __init__(self):
        super().__init__()
        self.norm, self.pooler = torch.nn.LayerNorm(WIDTH), torch.nn.LayerNorm(WIDTH)

    def forward(self, hidden_states):
        state = self.norm(hidden_states)
        pooled = self.pooler(state[:, ::2] * 3 + state[:, 1::2])
        return transformers.modeling_outputs.BaseModelOutputWithPooling(state, pooled)


def test_of_the_norms_whose_output_a_tower_hands_out_the_last_one_is_final():
    torch.manual_seed(0)
    model, trace = Pooling(), Trace()
    norms = dict(candidates(model))
    for path, norm in norms.items():
        norm.weight.data.uniform_(0.5, 1.5)
        watch_norm(trace, path, norm)
    watch_tower(trace, "", model)
    model(torch.randn(1, 8, WIDTH))
    assert [final.path for final in finals_of("", {"": model}, set(norms), trace)] == ["pooler"]


@pytest.mark.parametrize(
    ("tower", "reads"), [(transformers.ViTModel, "pixel_values"), (transformers.BertModel, "input_ids")]
)
def test_a_tower_is_named_by_what_it_reads(tower, reads):
    assert reads in inspect.signature(tower.forward).parameters
    with torch.device("meta"):
        model = tower(tower.config_class(num_hidden_layers=1))
    assert tower_name("first", model, has_siblings=False) == ("vision" if reads == "pixel_values" else "text")


def test_norms_that_only_a_switch_brings_in_are_known():
    switched = [norm["at"] for norm in measure(transformers.BertModel)["switched_on"]]
    assert switched == ["encoder.layer.{i}.crossattention.output.LayerNorm"]


def test_an_interrupted_run_goes_on_from_its_log(tmp_path):
    log = tmp_path / "registry.jsonl"
    assert logged(log) == {}
    lines = [{"class": "A", "transformers": version()}, {"class": "B", "transformers": "4.0.0"}]
    log.write_text("".join(f"{json.dumps(line)}\n" for line in lines) + '{"class": "C", "tra')
    assert list(logged(log)) == ["A"]


def test_a_head_is_told_below_its_body():
    classes = (transformers.BertModel, transformers.BertForMaskedLM)
    document = assemble({cls.__name__: measure(cls) for cls in classes})
    line = document["architectures"]["BertForMaskedLM"]
    assert (line["body"], line["prefix"]) == ("BertModel", "bert")
    assert [norm["at"] for norm in line["norms"]] == ["cls.predictions.transform.LayerNorm"]
    starts = [text.partition(":")[0] for text in as_text(document).splitlines()[6:-2]]
    assert starts == ['"BertForMaskedLM"', '"BertModel"']
