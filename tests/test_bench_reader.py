"""The benchmark's readers on checkpoints small enough for a test: same values, known requests; nothing is timed."""

import pytest

pytest.importorskip("fsspec", reason="HfFileSystem is built on it")

from benchmarks import reader_night
from benchmarks.reader_bounds import bounds_table
from benchmarks.reader_cells import READERS, Bench, Case, Result, check_values
from benchmarks.reader_child import digest_of_audit
from benchmarks.reader_process import Child
from benchmarks.reader_tables import models_an_hour, night_table, quota_table, read_table, readers_table
from tasks.core.records import Audit, Listing, Reading

REQUESTS = ("api", "resolvers", "cdn")


def result(reader="ours", digests=("a",), row="tiny/final", latency_ms=0, **counts):
    sample = {"digests": digests, "api": 0, "resolvers": 1, "cdn": 2, "wall_s": 0.15, **counts}
    return Result(Case(*row.split("/"), latency_ms), reader, 10**6, alone=[sample])


@pytest.fixture(scope="module")
def hub():
    with Child("benchmarks.reader_standin") as running:
        yield running


@pytest.fixture(scope="module")
def bench(hub, tmp_path_factory):
    return Bench(hub, str(tmp_path_factory.mktemp("hub")), models_a_run=(2, 2))


@pytest.fixture(scope="module")
def single(bench):
    return {found.reader: found for found in bench.run_case(Case("tiny", "final", 0), list(READERS), rounds=1)}


@pytest.fixture(scope="module")
def sharded(bench):
    readers = ["ours", "ours by the index", "told", "headers", "plain loop"]
    return {found.reader: found for found in bench.run_case(Case("tiny-sharded", "all", 0), readers, rounds=1)}


def requests_of(found):
    return tuple(found.each(kind) for kind in REQUESTS)


def digests_of(found):
    return {digest for sample in (*found.alone, *found.at_once) for digest in sample["digests"]}


def test_every_reader_comes_to_the_same_values_of_the_final_norm(single):
    [value] = digests_of(single["ours"])
    assert {name: digests_of(found) for name, found in single.items()} == {
        name: set() if name.startswith("headers") else {value} for name in READERS
    }


def test_every_reader_comes_to_the_same_values_of_all_norms_of_a_sharded_model(single, sharded):
    assert digests_of(sharded["ours"]) == digests_of(sharded["told"]) == digests_of(sharded["plain loop"])
    assert digests_of(sharded["ours"]).isdisjoint(digests_of(single["ours"]))


def test_requests_for_the_final_norm_of_one_file_are_those_that_each_reader_needs(single):
    assert {name: requests_of(found) for name, found in single.items()} == {
        "ours": (0, 1, 2),  # one address, two ranges of it
        "ours again": (0, 1, 2),
        "ours by the index": (0, 1, 2),
        "told": (0, 1, 2),
        "headers": (0, 2, 1),
        "headers in threads": (0, 2, 1),
        "files in sequence": (2, 1, 1),  # the readahead takes in the whole of so small a file
        "files in threads": (2, 3, 3),
        "plain loop": (0, 2, 2),
    }


def test_many_models_at_once_cost_each_what_one_costs_alone(single):
    for found in (single["ours"], single["plain loop"]):
        [at_once] = found.at_once
        assert (at_once["models"], *(at_once[kind] for kind in REQUESTS)) == (2, *requests_of(found))


def test_all_norms_of_a_sharded_model_take_one_address_a_file_and_the_loop_one_a_range(sharded):
    assert requests_of(sharded["ours"])[:2] == (1, 2)  # the digest of headers, two shards with norms
    assert requests_of(sharded["ours by the index"])[:2] == (0, 2 + 2)  # the index by way of the Hub's cache
    assert requests_of(sharded["plain loop"])[1] == 2 + requests_of(sharded["plain loop"])[2]


def test_the_tables_name_every_reader_and_what_was_read(single):
    found = list(single.values())
    for name in READERS.values():
        assert name in readers_table(found)
        assert name in quota_table(found)
    assert f"{single['ours'].each('bytes'):,.0f}" in read_table(found)


def test_the_bounds_judge_what_was_measured():
    bounds = bounds_table(
        [result("ours", row="7B/final", latency_ms=50), result("files in sequence", row="7B/all", latency_ms=50),
         result("ours", row="7B/all", latency_ms=50, wall_s=0.3)],
        {"final": [{"models": 100, "wall_s": 1.0, "cpu_s": 0.3}]},
    )  # fmt: skip
    met = {cells[1].strip(): cells[-2].strip() for line in bounds.splitlines()[2:] if (cells := line.split("|"))}
    assert met == {
        "Hub requests, final norm, 7B": "yes",
        "one 7B, final norm: wall time by latency": "yes",
        "one 7B, all 65 norms: wall time by latency": "no",
        "against HfFileSystem in sequence, 7B, all norms: faster": "no",
        "against HfFileSystem in sequence, 7B, all norms: fewer Hub requests": "no",
        "whole pipeline, 7B, final: models/s": "no",
        "whole pipeline, 7B, final: CPU ms a model": "yes",
    }


def test_a_night_audits_what_the_hub_lists_at_the_cost_of_the_reader_alone(hub, own_home, monkeypatch):
    stocked = hub.ask(stock=("tiny", "night", 3))
    monkeypatch.setenv("HF_ENDPOINT", stocked["endpoint"])
    night = reader_night.measured(0, "night", "final")
    assert night["models"] == 3
    served = hub.ask()
    assert tuple(served[kind] for kind in REQUESTS) == (1, 3 * 1, 3 * 2)
    assert "final" in night_table({"final": [night | {"hub_busy": 0.5}]})


def test_readers_that_differ_are_refused():
    check_values({"ours": result(), "headers": result("headers", digests=())})
    with pytest.raises(RuntimeError, match="different values"):
        check_values({"ours": result(), "plain loop": result("plain loop", digests=("b",))})


def test_models_an_hour_follow_from_the_scarcer_quota():
    assert models_an_hour(result(), "free") == 12 * 5_000
    assert models_an_hour(result(api=2), "free") == pytest.approx(12 * 1_000 / 2.001)


def test_an_audit_that_failed_fails_the_benchmark():
    audit = Audit(Listing("org/name"), Reading("failed", "no answer", "unknown"))
    with pytest.raises(RuntimeError, match="org/name: failed: no answer"):
        digest_of_audit(audit)
