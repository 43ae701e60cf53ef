"""The classifier's benchmark: that its figures are what they are said to be, on judgements of known outcome."""

import pytest

from benchmarks.classifier import (
    BINS,
    TESTED,
    VIEWS,
    Accuracy,
    Cost,
    Judgement,
    accuracy,
    cost,
    llama,
    mixture_of_experts,
    of_view,
    reliability,
    report,
)
from tests.corpus import Model
from tests.layers import COHERE, STABLELM, checkpoint


def model(lines, kind, config=None):
    tensors = checkpoint(*lines)
    scales = {t.name: kind for t in tensors if t.name.endswith("norm.weight")}
    return Model("model", config or {}, tensors, {"model.norm.weight": (kind, "plain")}, scales)


def judged(confidence, right, wrong):
    return [Judgement(confidence, True, False)] * right + [Judgement(confidence, False, False)] * wrong


def test_answers_that_are_right_as_often_as_they_say_have_no_calibration_error():
    found = reliability("c", "v", "all", judged(0.92, 23, 2) + judged(0.6, 3, 2))
    assert found.error == pytest.approx(0)
    assert found.brier == pytest.approx((25 * 0.92 * 0.08 + 5 * 0.6 * 0.4) / 30)


def test_the_calibration_error_is_the_mean_distance_of_confidence_and_share_right():
    found = reliability("c", "v", "all", judged(0.99, 1, 1) + judged(0.6, 2, 0))
    assert found.error == pytest.approx((2 * 0.49 + 2 * 0.4) / 4)


def test_each_judgement_is_in_one_bin_also_at_the_edges():
    found = reliability("c", "v", "all", [Judgement(edge, True, False) for edge in BINS])
    assert [held.count for held in found.bins] == [1] * (len(BINS) - 2) + [2]


def test_no_judgements_have_no_shares_and_no_error():
    found = reliability("c", "v", "all", [])
    assert (found.count, found.brier, found.error) == (0, 0, 0)
    assert {held.right for held in found.bins} == {None}


def test_norms_of_one_pattern_are_judged_once():
    everything, finals, _ = of_view("c", [model(STABLELM, "layernorm")], VIEWS[1])
    assert (everything.count, finals.count) == (3, 1)
    assert everything.bins[-1].right == 1


def test_an_unknown_kind_is_judged_by_the_likelier_one():
    for kind, right in (("layernorm", 1.0), ("rmsnorm", 0.0)):
        _, finals, _ = of_view("c", [model(COHERE, kind)], VIEWS[-1])
        assert [held.right for held in finals.bins if held.count] == [right]


def test_thin_evidence_is_less_sure_than_all_of_it():
    everything, _, thin = of_view("c", [model(STABLELM, "layernorm"), model(COHERE, "layernorm")], VIEWS[-1])
    sure, unsure = (held.bins[-1].count / held.count for held in (everything, thin))
    assert unsure < sure


def test_accuracy_counts_an_unknown_kind_as_neither_right_nor_wrong():
    found = accuracy("c", [model(STABLELM, "layernorm"), model(COHERE, "layernorm")], VIEWS[-1])
    assert (found.models, found.final, found.kind, found.kind_wrong, found.kind_unknown) == (2, 1, 0.5, 0, 1)


def test_a_config_is_wanted_where_only_a_digest_leaves_the_kind_open():
    models = [model(lines, "layernorm", {"model_type": "mystery", "hidden_size": 8}) for lines in (STABLELM, COHERE)]
    wanted = {view.name: accuracy("c", models, view).config_wanted for view in VIEWS}
    assert wanted["the Hub's digest"] == 0.5
    assert wanted["config.json"] == 0


def test_what_is_timed_has_the_sizes_that_the_budget_speaks_of():
    assert len(llama()) == 300
    assert len(mixture_of_experts()) > 90_000


def test_the_least_time_is_no_more_than_the_median():
    found = cost("small", llama(2), "llama", "LlamaForCausalLM")
    assert 0 <= found.least_ms <= found.median_ms


def test_the_report_is_three_tables_whose_rows_are_as_long_as_their_headings():
    models = [model(STABLELM, "layernorm")]
    rows = [row for view in TESTED for row in of_view("c", models, view)]
    lines = list(report([accuracy("c", models, VIEWS[0])], rows, [Cost("m", 300, 1.0, 1.1)]))
    tables = "".join(lines).split("\n\n")
    widths = [{line.count("|") for line in table.splitlines() if line.startswith("|")} for table in tables]
    assert [len(found) for found in widths if found] == [1, 1, 1]


def test_every_column_of_the_accuracies_has_a_heading():
    [heading, *_] = "".join(report([], [], [])).splitlines()
    assert heading.count("|") - 1 == len(Accuracy.__dataclass_fields__)
