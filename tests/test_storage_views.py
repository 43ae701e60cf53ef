from datetime import date, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from storage.database import build, open_database
from storage.parts import write_batch
from storage.scan import sql_file
from storage.store import open_store
from tests.stores import AUDITED_AT, NIGHT, audit, conclusions, listing, model, night_after, probe

SCALES = st.floats(-(2.0**127), 2.0**127, width=32, allow_subnormal=True)


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "store")


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    with open_database(open_store(tmp_path_factory.mktemp("empty") / "store")) as connection:
        yield connection


def ask(store, query):
    build(store)
    with open_database(store) as database:
        return database.execute(query).fetchall()


def direction(database, gamma):
    [(found,)] = database.execute("SELECT kernel_direction(?::FLOAT[])", [gamma]).fetchall()
    return found


@settings(max_examples=60, deadline=None)
@given(arrays(np.float32, array_shapes(max_dims=1, max_side=40), elements=SCALES.filter(bool)))
def test_the_macro_is_the_normalised_inverse_of_the_scale(database, gamma):
    inverse = np.abs(gamma.astype(float)).min() / gamma.astype(float)
    expected = inverse / np.linalg.norm(inverse)
    np.testing.assert_allclose(direction(database, gamma.tolist()), expected, rtol=1e-14, atol=0)


@settings(max_examples=30, deadline=None)
@given(arrays(np.float32, array_shapes(max_dims=1, max_side=40), elements=SCALES), st.data())
def test_with_zeros_the_macro_is_the_normalised_indicator_of_the_zeros(database, gamma, data):
    gamma[data.draw(st.integers(0, len(gamma) - 1))] = 0
    expected = (gamma == 0) / np.sqrt((gamma == 0).sum())
    np.testing.assert_allclose(direction(database, gamma.tolist()), expected, rtol=1e-15)


def test_near_dead_coordinates_carry_the_whole_direction(database):
    gamma = [0.79] * 382 + [4.8e-33, 6.0e-33]
    found = direction(database, gamma)
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-15)
    assert np.linalg.norm(found[-2:]) == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize("gamma", [None, [], [1.0, None], [1.0, float("nan")], [float("inf"), 0.0]])
def test_a_scale_without_a_direction_gives_null(database, gamma):
    assert direction(database, gamma) is None


def test_latest_has_one_row_per_repo(store):
    for nights in range(3):
        write_batch(store, night_after(nights), "run", 0, model("org/a", f"s{nights}"))
    write_batch(store, NIGHT, "run", 1, model("org/b"))
    write_batch(store, NIGHT, "run", 2, {"listings": [listing("org/only-listed")]})
    write_batch(store, NIGHT, "adhoc", 0, {"audits": [audit("./folder")], **conclusions("./folder")})
    rows = ask(store, "SELECT repo_id, sha, listed_night, status, kind, probe_weights FROM latest ORDER BY ALL")
    assert rows == [
        ("./folder", "s1", None, "ok", "layernorm", None),
        ("org/a", "s2", night_after(2), "ok", "layernorm", "trained"),
        ("org/b", "s1", NIGHT, "ok", "layernorm", "trained"),
        ("org/only-listed", "s1", NIGHT, None, None, None),
    ]


def test_latest_shows_the_listed_revision_even_when_an_older_one_was_audited_later(store):
    write_batch(store, NIGHT, "run", 0, model("org/a", "head"))
    old = audit("org/a", "old", audited_at=AUDITED_AT + timedelta(days=1))
    write_batch(store, night_after(1), "adhoc", 0, {"audits": [old]})
    assert ask(store, "SELECT sha FROM latest") == [("head",)]


def test_latest_takes_the_main_final_norm_and_the_kernel_of_its_tower(store):
    rows = conclusions("org/a")
    vision = {"tower": "vision", "is_main": False, "module": "vision.ln"}
    rows["norms"].append({**rows["norms"][0], **vision})
    rows["kernels"].append({**rows["kernels"][0], "tower": "vision", "predicted_dead_dim": 99})
    write_batch(store, NIGHT, "run", 0, {"audits": [audit("org/a")], **rows})
    assert ask(store, "SELECT tower, module, predicted_dead_dim FROM latest") == [("text", "ln_f", 1)]


def test_a_failed_probe_hides_no_good_one(store):
    good = probe("org/a", weights="random")
    bad = probe("org/a", status="failed", verdict=None, probed_at=AUDITED_AT)
    write_batch(store, NIGHT, "run", 0, {"audits": [audit("org/a")], "probes": [good, bad]})
    assert ask(store, "SELECT probe_weights, probe_verdict FROM latest") == [("random", "present")]


def test_a_probe_of_another_revision_is_not_shown(store):
    write_batch(store, NIGHT, "run", 0, model("org/a", "s1"))
    write_batch(store, night_after(1), "run", 0, {**model("org/a", "s2"), "probes": []})
    assert ask(store, "SELECT sha, probe_verdict FROM latest") == [("s2", None)]
    probes = [probe("org/a", "s1", probed_at=AUDITED_AT), probe("org/a", "s2", "random")]
    write_batch(store, NIGHT, "later", 0, {"probes": probes})
    assert ask(store, "SELECT sha, probe_weights FROM latest") == [("s2", "random")]


def unread(repo_id, created_at="2026-01-09T00:00:00Z", downloads=10, **facts):
    """A listed model whose audit found nothing to conclude from."""
    listed = listing(repo_id, created_at=created_at, downloads=downloads)
    return {"listings": [listed], "audits": [audit(repo_id, **facts)]}


def publish_cases(store):
    """A public model, a private one, one never listed, one public once, one without a norm, and unsaid ones."""
    write_batch(store, NIGHT, "run", 0, model("org/public"))
    write_batch(store, NIGHT, "run", 1, {**model("org/private"), "listings": [listing("org/private", private=True)]})
    write_batch(store, NIGHT, "run", 2, {**model("folder"), "listings": []})
    write_batch(store, NIGHT, "run", 3, model("org/was-public"))
    write_batch(store, night_after(1), "run", 3, {"listings": [listing("org/was-public", private=True)]})
    write_batch(store, NIGHT, "run", 4, unread("org/none", status="no_norms", norm_kind="none"))
    write_batch(store, NIGHT, "run", 5, {"listings": [listing("org/unread")]})
    write_batch(store, NIGHT, "run", 6, {**model("org/unsaid"), "listings": [listing("org/unsaid", private=None)]})


def test_what_is_published_holds_only_models_that_the_hub_said_are_public(store):
    publish_cases(store)
    assert ask(store, "SELECT repo_id FROM leaderboard") == [("org/public",)]
    assert ask(store, "SELECT norm_kind, models FROM norm_share ORDER BY ALL") == [("layernorm", 1), ("none", 1)]
    coverage = ask(store, sql_file("queries/coverage.sql"))
    assert sorted(coverage) == [("no_norms", 1, 10, 1 / 3), ("ok", 1, 10, 1 / 3), ("waiting", 1, 10, 1 / 3)]


def test_the_leaderboard_has_the_promised_columns_by_downloads(store):
    for batch, downloads in enumerate([5, None, 50]):
        rows = {**model(f"org/{batch}"), "listings": [listing(f"org/{batch}", downloads=downloads)]}
        write_batch(store, NIGHT, "run", batch, rows)
    assert ask(store, "SELECT repo_id, downloads FROM leaderboard") == [("org/2", 50), ("org/0", 5), ("org/1", None)]
    with open_database(store) as database:
        columns = [column[0] for column in database.execute("FROM leaderboard").description]
    assert columns == [
        "repo_id", "downloads", "kind", "parameterisation", "hidden_size", "predicted_dead_dim",
        "participation_fraction", "top_share", "condition_number", "confidence", "probe_verdict", "alignment",
        "preserved", "audited_at"]  # fmt: skip


def test_history_shows_each_night_with_the_revision_listed_then(store):
    write_batch(store, NIGHT, "run", 0, model("org/a", "s1"))
    write_batch(store, night_after(1), "run", 0, {"listings": [listing("org/a", "s1", downloads=20)]})
    write_batch(store, night_after(2), "run", 0, model("org/a", "s2", norm_kind="rmsnorm"))
    assert ask(store, "SELECT night, sha, downloads, norm_kind FROM history ORDER BY night") == [
        (NIGHT, "s1", 10, "layernorm"),
        (night_after(1), "s1", 20, "layernorm"),
        (night_after(2), "s2", 10, "rmsnorm"),
    ]


def test_changes_compare_each_repo_with_its_own_last_listing(store):
    write_batch(store, NIGHT, "run", 0, model("org/a"))
    write_batch(store, NIGHT, "run", 1, model("org/b"))
    write_batch(store, night_after(1), "run", 0, {"listings": [listing("org/b", gated="auto")]})
    write_batch(store, night_after(2), "run", 0, {"listings": [listing("org/a"), listing("org/new")]})
    write_batch(store, night_after(3), "run", 0, model("org/a", "s2", norm_kind="rmsnorm"))
    assert ask(store, "FROM changes ORDER BY night, what") == [
        (night_after(1), NIGHT, "org/b", "gated", None, "auto"),
        (night_after(2), None, "org/new", "listed", None, "s1"),
        (night_after(3), night_after(2), "org/a", "norm_kind", "layernorm", "rmsnorm"),
        (night_after(3), night_after(2), "org/a", "sha", "s1", "s2"),
    ]


def test_failures_are_the_repos_without_an_answer(store):
    for batch, status in enumerate(["ok", "failed", "gated", "no_norms", "bad_file"]):
        write_batch(store, NIGHT, "run", batch, model(f"org/{batch}", status=status, reason=f"why {status}"))
    rows = ask(store, "SELECT status, reason FROM failures ORDER BY ALL")
    assert rows == [("bad_file", "why bad_file"), ("failed", "why failed"), ("gated", "why gated")]


def test_norm_share_adds_up_to_one_in_every_month(store):
    kinds = ["layernorm", "rmsnorm", "rmsnorm", "none"]
    for batch, (kind, month) in enumerate((kind, month) for kind in kinds for month in (1, 2)):
        facts = {"norm_kind": kind, "status": "no_norms" if kind == "none" else "ok"}
        rows = unread(f"org/{batch}", f"2026-0{month}-09T00:00:00Z", batch * (month - 1), **facts)
        write_batch(store, NIGHT, "run", batch, rows)
    months = """
        SELECT created_month, sum(models), sum(share_of_models), sum(share_of_downloads)
        FROM norm_share GROUP BY ALL ORDER BY ALL
    """
    assert ask(store, months) == [(date(2026, 1, 1), 4, 1.0, None), (date(2026, 2, 1), 4, 1.0, 1.0)]


def test_deepening_sets_random_beside_trained(store):
    random = probe("org/a", weights="random", dead_counts={"1e-08": 1}, alignment=0.5)
    trained = probe("org/a", weights="trained", dead_counts={"1e-08": 3}, alignment=0.9, log10_deepening=2.5)
    only_random = probe("org/b", weights="random")
    write_batch(store, NIGHT, "probes", 0, {"probes": [random, trained, only_random]})
    query = "SELECT repo_id, random_alignment, trained_alignment, new_dead_directions, log10_deepening FROM deepening"
    assert ask(store, query) == [("org/a", 0.5, 0.9, 2, 2.5)]


def test_downloads_beyond_the_range_of_an_integer_are_counted_as_its_largest(store):
    most = 2**63 - 1
    for batch in range(2):
        rows = {**model(f"org/{batch}"), "listings": [listing(f"org/{batch}", downloads=most)]}
        write_batch(store, NIGHT, "run", batch, rows)
    assert ask(store, sql_file("queries/coverage.sql")) == [("ok", 2, most, 1.0)]
    assert ask(store, "SELECT downloads, share_of_downloads FROM norm_share") == [(most, 1.0)]
