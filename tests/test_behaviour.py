"""Architectures that no registry knows, built from their configs and run: what that says, and what it may cost."""

import json
import os
import socket
import subprocess
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from flows.cli import app
from tasks.core.kinds import classify
from tasks.core.measured import Architecture, NormFacts
from tasks.core.registry import load_registry, measuring
from tasks.model.behaviour.limits import Limits, limited
from tasks.model.behaviour.ondemand import OnDemand
from tests.checkpoints import llama, safetensors_file
from tests.layers import COHERE, DIGEST, checkpoint

ROOMY = Limits(seconds=60, memory_bytes=1 << 30)
SIZES = {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 8, "intermediate_size": 512}
KNOWN = {  # configs of classes that the registry knows too
    "gemma2": {"architectures": ["Gemma2ForCausalLM"], "num_key_value_heads": 4, "head_dim": 32},
    "olmo": {"architectures": ["OlmoForCausalLM"]},
    "bert": {"architectures": ["BertForMaskedLM"]},
    "opt": {"architectures": ["OPTForCausalLM"], "do_layer_norm_before": False, "word_embed_proj_dim": 256},
    "cohere": {"architectures": ["NeverSeenForCausalLM"]},
}
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
HOSTILE = {
    "more layers than atoms": {**LLAMA, "architectures": ["Qwen2ForCausalLM"], "num_hidden_layers": 10**12},
    "wide": {**LLAMA, "hidden_size": 10**15, "vocab_size": 10**15, "head_dim": 10**9},
    "nonsense": {**LLAMA, "hidden_size": "many", "num_hidden_layers": [1, {"a": None}], "rms_norm_eps": {}},
    "negative": {**LLAMA, "hidden_size": -5, "num_attention_heads": 0, "vocab_size": -1},
    "a vision tower of 10**27 patches": {
        "model_type": "vit",
        "image_size": 10**9,
        "patch_size": 1,
        "num_channels": 10**9,
    },
    "kernels from elsewhere": {**LLAMA, "attn_implementation": "someone/kernel", "_attn_implementation": "a/b"},
}


def nested(depth):
    config = {"model_type": "llama"}
    for _ in range(depth):
        config = {"model_type": "llava", "text_config": config}
    return config


def on_demand(told, **limits):
    return OnDemand(tell=told.append, limits=Limits(**{"seconds": 120, "memory_bytes": 4 << 30, **limits}))


def whole_config(model_type):
    return {"model_type": model_type, **SIZES, **KNOWN[model_type]}


def hang():
    while True:
        pass


def devour():
    kept = []
    while True:
        kept.append(bytearray(64 << 20))


def call_home():
    socket.create_connection(("127.0.0.1", 9))


def start_a_program():
    subprocess.run(["true"], check=True)


def test_work_within_its_limits_gives_its_result():
    assert limited(lambda: {"answer": 42}, limits=ROOMY) == {"answer": 42}


def test_work_that_hangs_is_ended():
    assert limited(hang, limits=replace(ROOMY, seconds=0.5)) == {"failed": "time"}


def test_work_that_takes_more_memory_than_it_may_fails_alone():
    assert limited(devour, limits=replace(ROOMY, memory_bytes=256 << 20))["failed"] == "MemoryError"


def test_work_whose_process_is_killed_is_a_result():
    assert limited(lambda: os.kill(os.getpid(), 9), limits=ROOMY) == {"failed": "died"}


@pytest.mark.parametrize("work", [call_home, start_a_program])
def test_work_has_no_network_and_starts_no_programs(work):
    assert limited(work, limits=ROOMY)["failed"] == "PermissionError"


def test_a_known_architecture_is_not_built():
    told = []
    registry = measuring(load_registry(), OnDemand(tell=told.append, needed=("no_such_library",)))
    assert registry.find(whole_config("gemma2")) == load_registry().find(whole_config("gemma2"))
    assert told == []


def test_a_config_that_names_nothing_is_not_built():
    told = []
    assert OnDemand(tell=told.append, needed=("no_such_library",))({"hidden_size": 8}) is None
    assert told == []


def test_of_the_hubs_digest_the_rest_of_the_config_is_asked_for():
    found = classify(checkpoint(*COHERE), DIGEST, measuring(None, OnDemand(tell=pytest.fail)))
    assert found.needs_config
    assert all(fact.source != "behaviour" for norm in found.norms for fact in norm.evidence)


def test_without_the_extra_one_line_says_so_once_and_the_audit_goes_on():
    told = []
    registry = measuring(load_registry(), OnDemand(tell=told.append, needed=("json", "no_such_library")))
    config = {**DIGEST, "norm_type": "layernorm", "hidden_size": 8}
    for _ in range(2):
        (main,) = [norm for norm in classify(checkpoint(*COHERE), config, registry).norms if norm.is_main]
        assert main.kind == "layernorm"
    assert told == [
        "--behaviour was to build MysteryForCausalLM from its config and run it: no_such_library not installed;"
        " install the extra `probe`; the audit goes on without it"
    ]
    (failure,) = [fact for fact in main.evidence if fact.source == "behaviour"]
    assert (failure.says, failure.strength, failure.detail) == ("unknown", 0.0, told[0])


def test_what_was_built_and_run_is_evidence_of_behaviour_and_places_the_final_norm():
    last = NormFacts("model.layers.{i}.input_layernorm", "layernorm", is_final=True, is_main=True, last_layer_only=True)
    built = Architecture("mystery", "Mystery", (last,), "forward", source="behaviour")
    (main,) = [
        norm for norm in classify(checkpoint(*COHERE), DIGEST, measuring(None, lambda _: built)).norms if norm.is_main
    ]
    assert (main.scale_tensor, main.kind, main.decided_by) == (
        "model.layers.1.input_layernorm.weight",
        "layernorm",
        "behaviour",
    )
    place = next(fact for fact in main.evidence if fact.says == "final")
    assert (place.source, place.detail) == ("behaviour", "built from the config and run: Mystery")


def test_the_command_builds_nothing_that_the_registry_knows(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(safetensors_file(llama()))
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, **SIZES}))
    flags = ("--json", "--no-store", "--behaviour")
    done = CliRunner().invoke(app, ["audit", str(tmp_path), *flags])
    assert (done.exit_code, done.stderr) == (0, "")
    assert json.loads(done.stdout)["final_norms"][0]["decided_by"] == "registry"


class TestBuilt:
    """Each of these starts Python with torch."""

    @pytest.fixture(autouse=True)
    def _with_the_extra(self):
        pytest.importorskip("torch", reason="architectures are built with the extra `probe`")
        pytest.importorskip("transformers", reason="architectures are built with the extra `probe`")

    @pytest.mark.parametrize(
        "model_type", ["gemma2", *(pytest.param(name, marks=pytest.mark.slow) for name in KNOWN if name != "gemma2")]
    )
    def test_a_config_gives_by_behaviour_what_the_registry_knows(self, model_type):
        told = []
        built = on_demand(told)(whole_config(model_type))
        known = load_registry().find(whole_config(model_type))
        assert told == []
        assert (built.source, built.final_by, built.depends_on) == ("behaviour", "forward", ())
        assert answers(built) == answers(known)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", HOSTILE)
    def test_a_hostile_config_ends_within_its_limits(self, name):
        told = []
        built = on_demand(told, seconds=20, memory_bytes=2 << 30)(HOSTILE[name])
        assert bool(built.norms) != bool(told)
        assert all("the audit goes on" in line and line.isprintable() for line in told)

    @pytest.mark.slow
    def test_a_config_nested_without_end_is_a_failure(self):
        told = []
        assert on_demand(told)(nested(800)).norms == ()
        assert len(told) == 1

    @pytest.mark.slow
    def test_code_of_the_repo_is_not_followed(self, tmp_path, monkeypatch):
        (tmp_path / "modeling_mine.py").write_text("open('it_ran', 'w')")
        monkeypatch.chdir(tmp_path)
        told = []
        config = {**LLAMA, **SIZES, "model_type": "mine", "auto_map": {"AutoModel": "modeling_mine.Mine"}}
        assert on_demand(told)(config).norms == ()
        assert not (tmp_path / "it_ran").exists()
        assert "has no such class" in told[0]

    @pytest.mark.slow
    @pytest.mark.parametrize("command", ["audit", "explain"])
    def test_the_command_builds_what_the_registry_is_not_asked_for(self, command, tmp_path):
        (tmp_path / "model.safetensors").write_bytes(safetensors_file(llama()))
        (tmp_path / "config.json").write_text(json.dumps({**LLAMA, **SIZES}))
        flags = ("--no-store",) if command == "audit" else ()
        done = CliRunner().invoke(app, [command, str(tmp_path), "--json", "--no-registry", "--behaviour", *flags])
        answer = json.loads(done.stdout)
        main = answer["final_norms"][0] if command == "audit" else answer["main"]
        assert (done.exit_code, main["kind"], main["decided_by"]) == (0, "rmsnorm", "behaviour")


def answers(architecture):
    """What is known of each norm that ran."""
    return {
        norm.pattern: (norm.kind, norm.parameterisation, norm.is_final, norm.is_main, norm.last_layer_only)
        for norm in architecture.norms
        if norm.runs
    }
