import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.choose import LONGEST_GAP_NIGHTS, RETRY_NIGHTS, choosing
from storage.errors import StoreError
from storage.merge import merge_night
from storage.nights import (
    finish_night,
    night_summaries,
    plan_facts,
    planned_batches,
    read_plan,
    unfinished_nights,
    writing_plan,
)
from storage.parts import write_batch, write_part
from storage.rows import rows_to_table
from storage.schema import CANDIDATES, PLAN
from storage.store import open_store
from tests.stores import NIGHT, audit, night_after, write_plan

FOR_GOOD = ["ok", "no_norms", "no_safetensors", "bad_file", "too_large", "disabled"]
REFUSED = ["gated", "private", "not_found"]


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "store")


def listed(*repos):
    return pa.table({"repo_id": [repo for repo, _ in repos], "sha": pa.array([sha for _, sha in repos], pa.string())})


def choose(store, hub, night, read_version):
    with choosing(store, night, read_version) as chooser:
        return chooser.choose(hub)


def why(store, repo_id, sha, nights, read_version=1):
    """What a night does about one repo: new, changed, retry, unchanged or waiting."""
    choice = choose(store, listed((repo_id, sha)), night_after(nights), read_version)
    counts = {"unchanged": choice.unchanged, "waiting": choice.waiting}
    [decision] = choice.audit["why"].to_pylist() or [name for name, count in counts.items() if count]
    return decision


def put(store, nights, status, repo_id="org/m", sha="s1", **facts):
    write_batch(store, night_after(nights), "run", 0, {"audits": [audit(repo_id, sha, status=status, **facts)]})


def test_an_empty_store_has_an_answer_for_no_repo(store):
    choice = choose(store, listed(("b", "s"), ("a", None)), NIGHT, 1)
    assert choice.audit.to_pylist() == [
        {"repo_id": "b", "sha": "s", "why": "new"},
        {"repo_id": "a", "sha": None, "why": "new"},
    ]
    assert (choice.unchanged, choice.waiting) == (0, 0)
    assert choose(store, listed(), NIGHT, 1).audit.num_rows == 0


@pytest.mark.parametrize("status", FOR_GOOD)
def test_an_answer_holds_until_the_revision_or_the_reader_changes(store, status):
    put(store, 0, status)
    assert why(store, "org/m", "s1", 1) == "unchanged"
    assert why(store, "org/m", "s1", 10_000) == "unchanged"
    assert why(store, "org/m", "s2", 1) == "changed"
    assert why(store, "org/m", None, 1) == "changed"
    assert why(store, "org/m", "s1", 1, read_version=2) == "changed"
    assert why(store, "org/other", "s1", 1) == "new"


@pytest.mark.parametrize("status", REFUSED)
@pytest.mark.parametrize("sha", ["s1", None])
def test_a_refusal_is_tried_again_after_thirty_nights(store, status, sha):
    put(store, 0, status, sha=sha)
    assert why(store, "org/m", sha, RETRY_NIGHTS - 1) == "waiting"
    assert why(store, "org/m", sha, RETRY_NIGHTS) == "retry"
    assert RETRY_NIGHTS == 30


def test_the_gaps_between_failures_double_up_to_a_month(store):
    tried = 0
    for gap in (1, 2, 4, 8, 16, 32, 32, 32):
        put(store, tried, "failed")
        assert why(store, "org/m", "s1", tried + gap - 1) == "waiting"
        assert why(store, "org/m", "s1", tried + gap) == "retry"
        tried += gap
    assert LONGEST_GAP_NIGHTS == 32


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from(["failed", "gated", "ok"]), min_size=1, max_size=9), st.integers(0, 40))
def test_what_is_due_follows_from_the_failures_in_a_row(tmp_path_factory, statuses, wait):
    store = open_store(tmp_path_factory.mktemp("store"))
    for nights, status in enumerate(statuses):
        put(store, nights, status)
    failures = next((n for n, status in enumerate(reversed(statuses)) if status != "failed"), len(statuses))
    gap = min(2 ** (failures - 1), LONGEST_GAP_NIGHTS) if failures else RETRY_NIGHTS
    due = "unchanged" if "ok" in statuses else "retry" if wait >= gap else "waiting"
    assert why(store, "org/m", "s1", len(statuses) - 1 + wait) == due


def test_failures_of_one_night_count_once(store):
    for batch in range(5):
        write_batch(store, NIGHT, "run", batch, {"audits": [audit("org/m", status="failed")]})
    assert why(store, "org/m", "s1", 1) == "retry"


def test_a_new_revision_is_tried_at_once_whatever_became_of_the_old(store):
    for nights in range(6):
        put(store, nights, "failed")
    assert why(store, "org/m", "s1", 6) == "waiting"
    assert why(store, "org/m", "s2", 6) == "changed"


def test_a_merge_forgets_no_failure(store):
    put(store, 0, "failed")
    put(store, 1, "failed")
    for nights in (0, 1):
        write_batch(store, night_after(nights), "other", 0, {"audits": [audit("org/x")]})
        merge_night(store, night_after(nights))
    assert [why(store, "org/m", "s1", nights) for nights in (2, 3)] == ["waiting", "retry"]


def test_an_unreadable_part_is_set_aside_and_its_repos_are_audited_again(store):
    put(store, 0, "ok")
    put(store, 1, "ok", repo_id="org/n")
    store.place.local_path("parts/audits/night=2026-11-01/run-0.parquet").write_bytes(b"PAR1 no PAR1")
    with choosing(store, night_after(2), 1) as chooser:
        choice = chooser.choose(listed(("org/m", "s1"), ("org/n", "s1")))
    assert (choice.audit["repo_id"].to_pylist(), choice.unchanged) == (["org/m"], 1)
    [message] = chooser.set_aside
    assert "run-0.parquet cannot be read" in message


def test_a_hundred_thousand_repos_are_chosen_from_in_the_order_of_the_listing(store):
    rows = [audit(f"org/{n}", status="failed" if n % 10 == 0 else "ok") for n in range(100_000)]
    write_part(store, "audits", NIGHT, "run", 0, rows, {})
    hub = listed(*((f"org/{n}", "s1" if n % 4 else "s2") for n in reversed(range(100_010))))
    choice = choose(store, hub, night_after(1), 1)
    chosen = [n for n in reversed(range(100_010)) if n % 4 == 0 or n % 10 == 0 or n >= 100_000]
    assert choice.audit["repo_id"].to_pylist() == [f"org/{n}" for n in chosen]
    assert (choice.unchanged, choice.waiting) == (100_010 - len(chosen), 0)


def test_a_listing_may_come_in_pieces(store):
    put(store, 0, "ok")
    with choosing(store, night_after(1), 1) as chooser:
        first, second = (chooser.choose(listed((repo, "s1"))) for repo in ("org/m", "org/n"))
    assert (first.audit.num_rows, first.unchanged) == (0, 1)
    assert second.audit["why"].to_pylist() == ["new"]


def test_a_plan_comes_back_as_it_was_written_batch_by_batch(store):
    files = [{"path": "model.safetensors", "size_bytes": 3, "sha256": None}]
    rows = [{"repo_id": f"org/{n}", "sha": None, "files": files, "config": None} for n in range(7)]
    with writing_plan(store, NIGHT, 3, {"audit_id": "run"}) as plan:
        for piece in (rows[:2], rows[2:]):
            plan.add(rows_to_table(piece, CANDIDATES, "plan"))
        plan.facts["listed"] = 9
    assert read_plan(store, NIGHT).schema.names == PLAN.names
    assert read_plan(store, NIGHT)["batch"].to_pylist() == [0, 0, 0, 1, 1, 1, 2]
    assert planned_batches(store, NIGHT) == {0, 1, 2}
    second = read_plan(store, NIGHT, 1).to_pylist()
    assert [(row["repo_id"], row["files"], row["config"]) for row in second] == [
        (f"org/{n}", files, None) for n in (3, 4, 5)
    ]
    assert plan_facts(store, NIGHT) == {"audit_id": "run", "listed": 9, "night": "2026-11-01"}


def test_a_plan_that_was_not_written_to_its_end_is_no_plan(store):
    with pytest.raises(ZeroDivisionError), writing_plan(store, NIGHT, 500, {"audit_id": "run"}) as plan:
        plan.add(rows_to_table([{"repo_id": f"org/{1 / 0}"}], CANDIDATES, "plan"))
    assert unfinished_nights(store) == []
    assert store.place.names("") == []


def test_a_plan_of_many_batches_is_read_without_all_of_it(store):
    write_plan(store, NIGHT, [{"repo_id": f"org/{n}"} for n in range(5_000)], {"audit_id": "run"})
    plan = pq.ParquetFile(store.place.local_path("nights/2026-11-01/plan.parquet"))
    with plan:
        assert plan.num_row_groups == 3
    assert planned_batches(store, NIGHT) == set(range(10))
    assert read_plan(store, NIGHT, 9)["repo_id"].to_pylist() == [f"org/{n}" for n in range(4_500, 5_000)]


def test_an_older_plan_lacks_columns_that_came_later(store):
    write_foreign_plan(store, {"batch": [0], "repo_id": ["org/m"]}, {"night": '{"audit_id": "run"}'})
    assert read_plan(store, NIGHT).to_pylist() == [dict.fromkeys(PLAN.names) | {"repo_id": "org/m", "batch": 0}]


def test_a_night_is_unfinished_from_its_plan_to_its_marker(store):
    for nights in (2, 0, 1):
        write_plan(store, night_after(nights), [], {"audit_id": f"run-{nights}"})
    assert unfinished_nights(store) == [night_after(nights) for nights in range(3)]
    finish_night(store, night_after(1), {"audit_id": "run-1", "audited": 5})
    assert unfinished_nights(store) == [NIGHT, night_after(2)]
    assert night_summaries(store) == [{"audit_id": "run-1", "audited": 5, "night": "2026-11-02"}]


def test_a_second_run_of_a_night_is_unfinished_until_it_ends_too(store):
    for run in ("first", "second"):
        write_plan(store, NIGHT, [], {"audit_id": run})
        assert unfinished_nights(store) == [NIGHT]
        finish_night(store, NIGHT, {"audit_id": run, "ended_at": "2026-11-01T04:00:00Z" + run})
        assert unfinished_nights(store) == []
    assert [summary["audit_id"] for summary in night_summaries(store)] == ["first", "second"]


def test_a_summary_holds_no_nan(store):
    with pytest.raises(ValueError, match="not JSON compliant"):
        finish_night(store, NIGHT, {"audit_id": "run", "seconds": float("nan")})
    assert store.place.names("") == []


def test_a_night_without_a_plan_and_a_plan_that_cannot_be_read_are_errors(store):
    with pytest.raises(StoreError, match="night 2026-11-01 has no plan"):
        read_plan(store, NIGHT)
    with store.place.writing("nights/2026-11-01/plan.parquet") as file:
        file.write(b"PAR1 no PAR1")
    for ask in (read_plan, plan_facts):
        with pytest.raises(StoreError, match=r"plan\.parquet cannot be read"):
            ask(store, NIGHT)


def write_foreign_plan(store, columns, facts):
    with store.place.writing("nights/2026-11-01/plan.parquet") as file:
        pq.write_table(pa.table(columns).replace_schema_metadata(facts), file)


@pytest.mark.parametrize("facts", [None, "{}", '{"audit_id": 7}', "[]", "{"])
def test_a_plan_without_the_facts_of_its_run_is_an_unfinished_night_that_says_what_to_do(store, facts):
    write_foreign_plan(store, {"repo_id": ["a"], "batch": [0]}, {} if facts is None else {"night": facts})
    assert unfinished_nights(store) == [NIGHT]
    with pytest.raises(StoreError, match=r"plan\.parquet cannot be read .+ remove it, and the night is planned anew"):
        plan_facts(store, NIGHT)


@pytest.mark.parametrize("columns", [{"repo_id": ["a"], "batch": ["first"]}, {"repo_id": ["a"]}, {"batch": [0]}])
def test_a_plan_with_other_columns_says_what_to_do(store, columns):
    write_foreign_plan(store, columns, {"night": '{"audit_id": "run"}'})
    for batch in (None, 0):
        with pytest.raises(StoreError, match=r"plan\.parquet cannot be read .+ remove it, and the night"):
            read_plan(store, NIGHT, batch)


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[]", b"null", b"\xff", b'{"night": 7}'])
def test_a_marker_that_holds_no_summary_is_left_out_and_still_ends_its_night(store, content):
    write_plan(store, NIGHT, [], {"audit_id": "run"})
    finish_night(store, NIGHT, {"audit_id": "other"})
    with store.place.writing("nights/2026-11-01/done-run.json") as file:
        file.write(content)
    assert [summary["audit_id"] for summary in night_summaries(store)] == ["other"]
    assert unfinished_nights(store) == []


@pytest.mark.parametrize("folder", ["2026-13-45", "backup", "2026-11-01/backup", "2026-11-01 copy"])
def test_files_of_other_names_beside_the_nights_are_left_alone(store, folder):
    for name in ("plan.parquet", "done-run.json", "merged.json"):
        with store.place.writing(f"nights/{folder}/{name}") as file:
            file.write(b"{}")
    put(store, 0, "ok")
    assert (unfinished_nights(store), night_summaries(store)) == ([], [])
    assert why(store, "org/m", "s1", 1) == "unchanged"
