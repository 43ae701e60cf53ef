"""Guesses at where tensors lie: what they save, and that they never change an answer."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.errors import BadFile, Failed, Gated
from tasks.core.guesses import MAX_GUESS_BYTES, affordable, by_index
from tasks.core.header import FIRST_READ_BYTES
from tasks.core.memory import Memory, Recent
from tasks.core.reading import ReadOptions, read_checkpoint
from tasks.core.records import Fetch, Listing, RepoFile
from tests.checkpoints import GPT2_CONFIG, LLAMA_CONFIG, gpt2, llama, safetensors_file
from tests.plans import INDEX, answer, claims_of, follow, main_norm, run, sharded

LAST = "model-00002-of-00002.safetensors"
WIDE = gpt2(dim=128, layers=4)  # its final norm lies far beyond the first read
DIGEST = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}


def single(seed=0, dim=128, layers=4, **finals):
    return {"model.safetensors": safetensors_file(gpt2(dim=dim, layers=layers, seed=seed, **finals))}


def same(one, other):
    """Whether two readings found the same norms with the same values."""
    assert [read.norm for read in one.norms] == [read.norm for read in other.norms]
    np.testing.assert_array_equal(main_norm(one).gamma, main_norm(other).gamma)
    assert (one.status, one.norm_kind, one.integrity, one.checkpoint_bytes) == (
        other.status,
        other.norm_kind,
        other.integrity,
        other.checkpoint_bytes,
    )


def test_a_model_like_one_seen_before_takes_one_round():
    memory = Memory()
    follow(single(0), DIGEST, memory, parameter_count=1)
    files = single(1)
    reading, rounds = follow(files, DIGEST, memory, parameter_count=1)
    assert len(rounds) == 1
    same(reading, follow(files, DIGEST)[0])


def test_of_a_family_seen_before_the_files_end_is_asked_along_with_its_head():
    memory = Memory()
    follow(single(0, layers=3), DIGEST, memory, parameter_count=1)
    files = single(1, layers=5)
    reading, rounds = follow(files, DIGEST, memory, parameter_count=2)
    assert [fetch.start < 0 for fetch in rounds[0]] == [False, True]
    assert len(rounds) == 1
    same(reading, follow(files, DIGEST)[0])


def test_a_guess_that_misses_costs_a_range_and_is_not_made_again():
    memory = Memory()
    follow(single(0, dim=128), DIGEST, memory, parameter_count=1)
    files = single(1, dim=160)  # of the same family and count, yet laid out otherwise
    reading, rounds = follow(files, DIGEST, memory, parameter_count=1)
    assert [len(fetches) for fetches in rounds] == [2, 1]
    same(reading, follow(files, DIGEST)[0])
    assert len(follow(files, DIGEST, memory, parameter_count=1)[1]) == 1


def test_a_guess_that_fails_is_as_if_it_had_not_been_made():
    memory, files = Memory(), single(1)
    follow(single(0), DIGEST, memory, parameter_count=1)
    listing = Listing("org/name", "0" * 40, (RepoFile("model.safetensors"),), DIGEST, parameter_count=1)
    plan = read_checkpoint(listing, ReadOptions(), memory)
    reading, rounds = run(plan, lambda fetch: Failed("no") if fetch.is_guess else answer(files, fetch))
    assert len(rounds) == 2
    same(reading, follow(files, DIGEST)[0])


def test_what_lies_within_the_first_read_is_not_asked_for_beside_it():
    memory, files = Memory(), single(dim=8, layers=2)
    for _ in range(2):
        _, rounds = follow(files, DIGEST, memory, parameter_count=1)
        assert [len(fetches) for fetches in rounds] == [1]


def test_models_of_which_the_listing_tells_nothing_are_not_guessed_at():
    memory = Memory()
    follow(single(0), None, memory, parameter_count=1)
    _, rounds = follow(single(1), None, memory, parameter_count=1)
    assert not any(fetch.is_guess for fetches in rounds for fetch in fetches)


def test_of_a_family_with_long_headers_the_first_read_is_longer_and_of_another_it_is_never_shorter():
    names = {f"h.{i}.attn.a_rather_long_name_of_a_matrix_{j}.weight": np.ones(1) for i in range(20) for j in range(40)}
    memory = Memory()
    follow({"model.safetensors": safetensors_file({**names, **gpt2()})}, DIGEST, memory, parameter_count=1)
    _, rounds = follow(single(1), DIGEST, memory, parameter_count=2)
    assert rounds[0][0].stop > FIRST_READ_BYTES
    memory = Memory()
    follow(single(0), DIGEST, memory, parameter_count=1)
    _, rounds = follow(single(1, layers=6), DIGEST, memory, parameter_count=2)
    assert rounds[0][0].stop == FIRST_READ_BYTES


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.sampled_from([8, 96, 128]), st.booleans()), min_size=2, max_size=5))
def test_whatever_was_seen_before_no_answer_changes(seen):
    memory = Memory()
    for layers, dim, is_sharded in seen:
        tensors = gpt2(dim=dim, layers=layers, seed=layers)
        files = sharded(tensors, at=6) if is_sharded else {"model.safetensors": safetensors_file(tensors)}
        for norms in ("final", "all"):
            reading, _ = follow(files, DIGEST, memory, parameter_count=7, norms=norms)
            same(reading, follow(files, DIGEST, norms=norms)[0])


def test_of_a_shard_whose_last_names_are_wanted_the_end_is_asked_along_with_the_head():
    tensors = dict(sorted(llama(dim=64).items()))
    reading, rounds = follow(sharded(tensors, at=10), LLAMA_CONFIG)
    assert [(fetch.path, fetch.start < 0) for fetch in rounds[-1]] == [(LAST, False), (LAST, True)]
    assert main_norm(reading).gamma is not None


def test_an_index_promises_the_end_only_of_what_sorts_last():
    names = ["a.weight", "m.weight", "z.weight"]
    assert by_index(names, ["z.weight"]).tail_bytes > 0
    assert by_index(names, ["m.weight", "z.weight"]).tail_bytes > 0
    assert by_index(names, ["m.weight"]).tail_bytes == 0
    assert by_index(names, []).tail_bytes == 0


def test_guesses_of_one_model_that_might_take_too_much_are_not_made():
    fetch = Fetch("x", 0, MAX_GUESS_BYTES // 2, is_guess=True)
    assert affordable((fetch, fetch)) == (fetch, fetch)
    assert affordable((fetch, fetch, Fetch("x", -1, is_guess=True))) == ()


# What the Hub claims of the headers of all shards


@pytest.fixture
def files():
    return sharded(WIDE, at=10)


@pytest.fixture
def by_the_index(files):
    return follow(files, GPT2_CONFIG)[0]


def paths(rounds):
    return [[fetch.path for fetch in fetches] for fetches in rounds]


def test_an_honest_claim_stands_for_the_index_and_tells_where_the_norm_lies(files, by_the_index):
    reading, rounds = follow(files, GPT2_CONFIG, claims=json.dumps(claims_of(files)).encode())
    assert rounds[0][0].of == "claims"
    assert [set(asked) for asked in paths(rounds)] == [{INDEX}, {LAST}]
    assert rounds[1][0].start == 0
    assert main_norm(reading).norm == main_norm(by_the_index).norm
    np.testing.assert_array_equal(main_norm(reading).gamma, main_norm(by_the_index).gamma)


@pytest.mark.parametrize("without", ["__metadata__", None])
def test_all_norms_take_two_rounds_by_a_claim(files, without):
    claims = claims_of(files)
    for header in claims["headers"].values():
        header.pop(without, None)
    reading, rounds = follow(files, GPT2_CONFIG, claims=json.dumps(claims).encode(), norms="all")
    assert len(rounds) == 2
    assert all(read.scale for read in reading.norms)


@pytest.mark.parametrize(
    "claims",
    [
        b"",
        b"[]",
        b"<html>",
        b'{"headers": {}}',
        b'{"headers": []}',
        b'{"headers": {"../x.safetensors": {}}}',
        b'{"headers": {"http://x/y.safetensors": {}}}',
        b'{"headers": {"a.safetensors": []}}',
        b'{"headers": {"a.safetensors": {"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}}}}',
        b'{"headers": {"a.safetensors": {"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}}}',
        b'{"headers": {"a.safetensors": {"x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}},'
        b' "b.safetensors": {"x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}}}',
        b'{"a":' * 3_000 + b"1" + b"}" * 3_000,
    ],
)
def test_a_claim_that_makes_no_sense_is_dropped_for_the_index(files, by_the_index, claims):
    reading, rounds = follow(files, GPT2_CONFIG, claims=claims)
    assert paths(rounds)[1] == [INDEX]
    same(reading, by_the_index)


def lie(files, change):
    """Change what is claimed of the shard with the final norm."""
    claims = claims_of(files)
    change(claims["headers"], claims["headers"][LAST])
    return json.dumps(claims).encode()


def renamed(headers, last):
    last["ln_f.scale"] = last.pop("ln_f.weight")


def misplaced(headers, last):
    last["ln_f.weight"], last["ln_f.bias"] = (
        {**last["ln_f.weight"], "data_offsets": last["ln_f.bias"]["data_offsets"]},
        {**last["ln_f.bias"], "data_offsets": last["ln_f.weight"]["data_offsets"]},
    )


def retyped(headers, last):
    for entry in last.values():
        entry["dtype"] = "I32"


def moved(headers, last):
    headers["model-00003-of-00003.safetensors"] = headers.pop(LAST)


@pytest.mark.parametrize("change", [renamed, misplaced, retyped, moved])
def test_a_claim_that_lies_changes_no_figure(files, by_the_index, change):
    reading, _ = follow(files, GPT2_CONFIG, claims=lie(files, change))
    assert main_norm(reading).norm == main_norm(by_the_index).norm
    np.testing.assert_array_equal(main_norm(reading).gamma, main_norm(by_the_index).gamma)


@pytest.mark.parametrize("change", [renamed, retyped, moved])
def test_a_claim_that_the_shard_refutes_is_dropped_for_the_index(files, by_the_index, change):
    reading, rounds = follow(files, GPT2_CONFIG, claims=lie(files, change))
    assert [INDEX] in paths(rounds)[1:]
    same(reading, by_the_index)


def test_a_shard_that_breaks_the_format_is_a_bad_file_by_a_claim_too(files):
    claims = json.dumps(claims_of(files)).encode()
    files[LAST] = files[LAST][:-10]
    with pytest.raises(BadFile, match="truncated"):
        follow(files, GPT2_CONFIG, claims=claims)


def test_a_gated_repo_is_not_asked_for_its_index_too(files):
    plan = read_checkpoint(Listing("org/name", "0" * 40, (RepoFile(INDEX),)), ReadOptions())
    with pytest.raises(Gated):
        run(plan, lambda fetch: Gated("terms"))


def test_recent_entries_stay_and_the_one_not_used_for_longest_goes():
    recent = Recent(2)
    recent.put("a", 1)
    recent.put("b", 2)
    assert recent.get("a") == 1
    recent.put("c", 3)
    assert [name for name in "abc" if name in recent] == ["a", "c"]
