"""What `normaudit explain` says: why the answer is what it is, and what would change it, found by asking again."""

import json
import math

import pytest
from typer.testing import CliRunner

from deployments.demo.catalogue import BytesContent, StandInRepo
from deployments.demo.standin import StandIn
from flows.cli import app
from tasks.core.evidence import ANSWER_ABOVE, weigh
from tasks.core.explain import Case, explain
from tasks.core.kinds import classify, reweighed
from tasks.core.records import Evidence
from tests.checkpoints import GPT2_CONFIG, gpt2, llama, safetensors_file
from tests.layers import COHERE, DIGEST, EPS, STABLELM, checkpoint, registry_of
from tests.layers import llama as llama_lines

OURS = registry_of({"at": "model.norm", "kind": "layernorm", "scale": "one_plus", "final": True, "main": True})
VALUES = Evidence("values", "plain", 0.9, "median 1")


def case_of(lines, config=None, registry=None, later=()):
    """What an audit of these lines leaves; `later` is the evidence of values and weights on the final norms."""
    tensors = checkpoint(*lines)
    norms = classify(tensors, config, registry).norms
    return Case([reweighed(n, (*n.evidence, *later)) if n.is_final else n for n in norms], tensors, config, registry)


def without(why, word):
    """The answer without the evidence whose name holds a word."""
    [found] = [rerun for rerun in why.without if word in rerun.what]
    return found


@pytest.fixture
def folder(tmp_path):
    def write(tensors, config=None):
        (tmp_path / "model.safetensors").write_bytes(safetensors_file(tensors))
        (tmp_path / "config.json").write_text(json.dumps(config or {}))
        return str(tmp_path)

    return write


def run(*arguments):
    return CliRunner().invoke(app, ["explain", *arguments])


class TestCounterfactuals:
    def test_without_its_biases_a_layernorm_is_called_something_else(self):
        lost = without(explain(case_of(STABLELM)), "biases")
        assert lost.changes[0] == "kind: rmsnorm, not layernorm"
        assert lost.kinds_changed == 5

    def test_without_its_config_a_norm_that_only_the_config_settles_is_unknown(self):
        why = explain(case_of(COHERE, {"norm_type": "layernorm", "hidden_size": 8}))
        assert (why.main.kind, without(why, "any config").main.kind) == ("layernorm", "unknown")
        assert without(why, "but for the architecture").changes == without(why, "any config").changes

    def test_without_the_registry_only_what_it_settled_changes(self):
        why = explain(case_of(COHERE, DIGEST, OURS))
        assert (why.main.kind, why.main.parameterisation) == ("layernorm", "one_plus")
        assert without(why, "registry of").changes[:2] == (
            "kind: unknown, not layernorm",
            "scale: unknown, not one_plus",
        )

    def test_a_final_norm_that_only_the_registry_knows_is_another_one_without_it(self):
        last = {"at": "model.layers.{i}.post_attention_layernorm", "kind": "rmsnorm", "final": "last_layer"}
        why = explain(case_of(llama_lines(), DIGEST, registry_of({**last, "main": True})))
        assert without(why, "registry of").changes[0] == (
            "final norm: model.norm.weight, not model.layers.1.post_attention_layernorm.weight"
        )

    def test_without_the_values_the_parameterisation_is_open(self):
        why = explain(case_of(llama_lines(), EPS, later=[VALUES]))
        assert without(why, "values").changes == ("scale: unknown, not plain",)

    def test_what_was_read_of_a_norm_stays_known_in_every_other_answer(self):
        why = explain(case_of(llama_lines(), EPS, later=[VALUES]))
        assert without(why, "any config").main.parameterisation == "plain"

    def test_the_trace_in_the_weights_is_a_source_like_any_other(self):
        testimony = Evidence("weights", "layernorm", 0.95, "gauge share 0.1")
        why = explain(case_of(COHERE, later=[testimony]))
        assert (why.main.kind, without(why, "weight matrices").main.kind) == ("layernorm", "unknown")
        assert not why.weights_may_tell

    def test_evidence_that_was_not_there_is_not_taken_away(self):
        assert [rerun.what for rerun in explain(case_of(COHERE)).without] == []

    def test_a_change_of_confidence_alone_counts_where_the_chance_of_error_doubles(self):
        why = explain(case_of(llama_lines(), EPS))
        assert without(why, "any config").changes == ("confidence: 0.988, not 0.995",)


class TestPieces:
    def test_each_piece_is_weighed_away_alone(self):
        why = explain(case_of(COHERE, {"norm_type": "layernorm"}))
        fates = {piece.evidence.detail: piece.kind_without for piece in why.pieces if piece.evidence.says != "final"}
        assert fates["norm_type: layernorm"] == "unknown"
        assert [kind for detail, kind in fates.items() if "parallel" in detail] == ["layernorm"]

    def test_a_fact_of_the_strength_named_makes_the_answer_unknown_and_a_weaker_one_does_not(self):
        why = explain(case_of(COHERE, {"norm_type": "layernorm"}))
        facts = [fact for fact in why.main.evidence if fact.says != "final"]
        for strength, kind in ((why.upset_by + 1e-6, "unknown"), (why.upset_by - 1e-6, "layernorm")):
            assert weigh([*facts, Evidence("config", "rmsnorm", strength, "")])[0] == kind

    def test_an_unknown_answer_cannot_be_upset(self):
        assert explain(case_of(COHERE)).upset_by is None


class TestWhatCouldSettle:
    def test_an_open_answer_names_what_a_config_could_say_and_what_that_would_make_of_it(self):
        why = explain(case_of(COHERE))
        assert (why.main.kind, why.likelier) == ("unknown", "layernorm")
        kinds = {rerun.what: rerun.main.kind for rerun in why.with_more}
        assert kinds["norm_type: rmsnorm in config.json"] == "rmsnorm"
        assert kinds["norm_type: layernorm in config.json"] == "layernorm"
        assert all(rerun.main.confidence >= ANSWER_ABOVE for rerun in why.with_more if rerun.main.kind != "unknown")

    def test_a_whole_config_has_been_heard(self):
        assert explain(case_of(COHERE, {"hidden_size": 8})).with_more == ()

    def test_a_registry_that_was_left_out_is_asked_what_it_would_have_said(self):
        [could] = [rerun for rerun in explain(case_of(COHERE, DIGEST), OURS).with_more if "registry" in rerun.what]
        assert could.main.kind == "layernorm"

    def test_a_settled_answer_asks_for_nothing(self):
        assert explain(case_of(llama_lines(), EPS, later=[VALUES])).with_more == ()

    def test_the_weights_may_tell_of_a_norm_without_bias_that_is_unknown(self):
        assert explain(case_of(COHERE)).weights_may_tell
        assert not explain(case_of(STABLELM)).weights_may_tell


class TestGroups:
    def test_norms_of_one_pattern_are_one_line_and_their_counts_add_up(self):
        case = case_of(llama_lines(), EPS)
        groups = explain(case).groups
        assert [(group.pattern, group.count) for group in groups] == [
            ("model.layers.{i}.input_layernorm", 2),
            ("model.layers.{i}.post_attention_layernorm", 2),
            ("model.norm", 1),
        ]
        assert sum(group.count for group in groups) == len(case.norms)

    def test_a_tower_without_a_final_norm_is_listed_as_well(self):
        lines = (*llama_lines(), "vision.layers.#.norm1.weight 8", "vision.layers.#.attn.weight 8 8")
        towers = dict(explain(case_of(lines, EPS)).towers)
        assert towers["text"].scale_tensor == "model.norm.weight"
        assert "vision" in towers

    def test_a_checkpoint_without_norms_has_nothing_to_explain(self):
        why = explain(case_of(["embed.weight 8 8"]))
        assert (why.main, why.groups, why.pieces, why.upset_by, why.weights_may_tell) == (None, (), (), None, False)


class TestCommand:
    def test_it_says_the_answer_first_and_then_why(self, folder):
        result = run(folder(gpt2(), GPT2_CONFIG))
        assert result.exit_code == 0
        first, *rest = result.stdout.splitlines()
        assert "ln_f.weight, is a LayerNorm, its scale stored as it is (confidence 0.995" in first
        said = "\n".join(rest)
        for fact in ("h.{i}.ln_1", "measured on GPT2LMHeadModel", "a bias is stored beside the scale", "the biases of"):
            assert fact in said

    def test_an_unknown_kind_is_said_to_be_open(self, folder):
        tensors = {name: values for name, values in llama().items() if "post_attention" not in name}
        said = run(folder(tensors, {"model_type": "never_heard_of"})).stdout
        assert "is of unknown kind: likelier a LayerNorm, with confidence 0.800, and an answer takes 0.9" in said
        assert "What could settle it:" in said
        assert "--weights-evidence" in said

    def test_its_json_is_one_object_of_finite_numbers(self, folder):
        result = run(folder(gpt2(), GPT2_CONFIG), "--json")
        [line] = result.stdout.splitlines()
        found = json.loads(line, parse_constant=pytest.fail)
        assert found["main"]["scale_tensor"] == "ln_f.weight"
        assert {rerun["what"] for rerun in found["without"]} >= {"the biases of norms", "the values of the scales"}
        assert all(math.isfinite(piece["confidence_without"]) for piece in found["evidence"])

    def test_without_the_registry_nothing_is_known_from_it(self, folder):
        path = folder(gpt2(), GPT2_CONFIG)
        sources = [
            {piece["evidence"]["source"] for piece in json.loads(run(path, "--json", *flags).stdout)["evidence"]}
            for flags in ((), ("--no-registry",))
        ]
        assert ["registry" in found for found in sources] == [True, False]

    def test_it_writes_nothing(self, folder, tmp_path, monkeypatch):
        path = folder(gpt2(), GPT2_CONFIG)
        before = sorted(tmp_path.rglob("*"))
        monkeypatch.chdir(tmp_path)
        assert run(path).exit_code == 0
        assert sorted(tmp_path.rglob("*")) == before

    def test_a_file_that_cannot_be_read_is_explained_by_its_fault_and_exits_with_1(self, tmp_path):
        (tmp_path / "model.safetensors").write_bytes(safetensors_file(gpt2())[:-8])
        result = run(str(tmp_path))
        assert result.exit_code == 1
        assert "bad_file" in result.stdout
        assert "Integrity: shard_truncated" in result.stdout

    def test_what_is_not_there_exits_with_1(self, tmp_path):
        result = run(str(tmp_path / "nothing"))
        assert result.exit_code == 1
        assert "not_found" in result.stdout

    def test_hostile_names_reach_no_terminal(self, folder):
        hostile = {f"\x1b[2J{name}": values for name, values in gpt2().items()}
        said = run(folder(hostile, {**GPT2_CONFIG, "norm_type": "layer\x1b]0;owned\x07"})).stdout
        assert "\x1b" not in said
        assert "\x07" not in said
        assert "\\x1b[2J" in said

    def test_a_repo_on_the_hub_is_explained_like_a_folder(self, own_home, monkeypatch):
        files = {"model.safetensors": safetensors_file(gpt2()), "config.json": json.dumps(GPT2_CONFIG).encode()}
        repo = StandInRepo("org/small", {path: BytesContent(data) for path, data in files.items()})
        with StandIn([repo]) as hub:
            monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
            result = run("org/small")
        assert result.exit_code == 0
        assert result.stdout.startswith("org/small: the text tower's final norm, ln_f.weight, is a LayerNorm")
