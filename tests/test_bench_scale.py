"""The nights of the scale benchmark, on a few models: what they ask for and what they find; nothing is timed."""

import argparse

import pytest

from benchmarks.scale import NIGHTS, results_of, table
from benchmarks.scale_night import STAGES

pytestmark = pytest.mark.slow  # three nights, each in a process of its own


def options(store, **changes):
    defaults = {"nights": NIGHTS, "shape": "tiny", "latency_ms": 0.0, "fill": False, "store": store}
    return argparse.Namespace(**{**defaults, "without_prefect": True, "compare": False, **changes})


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return {result.night: result for result in results_of(300, options(tmp_path_factory.mktemp("scale")))}


def test_a_new_model_costs_one_request_to_the_hub(results):
    assert results["new"].sample["summary"]["statuses"] == {"ok": 300}
    assert results["new"].requests["resolve"] == 300
    assert results["new"].requests["listing"] == 1


def test_a_night_over_models_that_are_unchanged_asks_for_the_listing_alone(results):
    assert dict(results["unchanged"].requests) == {"listing": 1}
    assert results["unchanged"].sample["summary"]["unchanged"] == 300


def test_a_night_reads_what_has_changed_and_nothing_else(results):
    assert results["changed"].sample["summary"]["audited"] == 3
    assert results["changed"].requests["resolve"] == 3


def test_each_stage_of_each_night_is_in_the_table(results):
    head, _, *rows = [line for line in table([*results.values()]).splitlines() if line.startswith("|")]
    assert len(rows) == len(NIGHTS)
    assert all(f"{stage}: s, MB" in head for stage in STAGES)
    assert {stage for result in results.values() for stage in result.sample["seconds"]} == {*STAGES}


def test_models_that_were_made_up_are_unchanged_like_those_that_were_read(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.scale.FILLED_FROM", 20)
    found = {result.night: result for result in results_of(2_100, options(tmp_path, fill=True))}
    assert found["unchanged"].sample["summary"]["unchanged"] == 2_100
    assert dict(found["unchanged"].requests) == {"listing": 3}
    assert found["changed"].sample["summary"]["statuses"] == {"ok": 21}
