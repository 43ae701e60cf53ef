"""How often the classifier is right on labelled checkpoints. The thresholds are what it reached: they may only rise.

No rule knows a model by its name, so that these figures are of unseen code. A wrong answer is worse than an unknown.
"""

from pathlib import Path

import pytest

from tasks.core.registry import load_registry
from tests.corpus import blind, digest, read, score

ARCHITECTURES = Path(__file__).parent / "data" / "architectures.jsonl.gz"
REAL = Path(__file__).parents[2] / "shared" / "corpus" / "real-checkpoints.jsonl.gz"


@pytest.fixture(scope="module")
def architectures():
    return read(ARCHITECTURES)


@pytest.fixture(scope="module")
def real_checkpoints():
    if not REAL.exists():
        pytest.skip(f"the corpus of published checkpoints is not at {REAL}")
    return read(REAL)


def test_architectures_are_read_without_their_names(architectures):
    result = score(architectures, blind)
    assert result.final >= 0.96, result.wrong
    assert result.kind >= 0.94, result.wrong
    assert result.counts["kind WRONG"] == 0, result.wrong
    assert result.parameterisation >= 0.99, result.wrong


def test_architectures_are_read_from_a_digest_without_a_registry(architectures):
    result = score(architectures, digest)
    assert result.final >= 0.95, result.wrong
    assert result.kind >= 0.89, result.wrong
    assert result.counts["kind WRONG"] == 0, result.wrong


def test_the_registry_only_makes_answers_better(architectures):
    blindly, knowing = score(architectures), score(architectures, registry=load_registry())
    assert knowing.final >= blindly.final
    assert knowing.kind >= blindly.kind


@pytest.mark.parametrize("see", [dict, digest])
def test_architectures_that_were_measured_are_known_from_a_config_or_its_digest(architectures, see):
    result = score(architectures, see, load_registry())
    assert result.final >= 0.985, result.wrong
    assert result.kind >= 0.985, result.wrong
    assert result.counts["kind WRONG"] == 0, result.wrong
    assert result.parameterisation >= 0.99, result.wrong
    assert (result.sites, result.counts["site WRONG"]) == (1, 0)


def test_nearly_every_norm_of_an_architecture_is_found_and_right(architectures):
    result = score(architectures, blind)
    assert result.sites >= 0.99
    assert result.counts["site WRONG"] == 0


def test_published_checkpoints_are_read_from_their_configs(real_checkpoints):
    result = score(real_checkpoints)
    assert (result.final, result.kind, result.counts["kind WRONG"]) == (1, 1, 0), result.wrong
    assert result.parameterisation >= 0.97
    assert result.sites >= 0.99


def test_published_checkpoints_are_read_from_what_the_hub_lists(real_checkpoints):
    result = score(real_checkpoints, digest)
    assert result.final == 1, result.wrong
    assert result.kind >= 0.95, result.wrong
    assert result.counts["kind WRONG"] == 0, result.wrong
