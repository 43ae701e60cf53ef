"""Identical weights under several names: read once, shared by all, each classified by its own config."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import numpy as np
import pytest

from deployments.demo.catalogue import BytesContent, StandInRepo
from deployments.demo.standin import StandIn
from storage.database import build, open_database
from storage.shared import KnownWeights
from storage.store import open_store
from tasks.batch import audit_models
from tasks.core.memory import Memory
from tasks.core.reading import ReadOptions, recognise_or_read, share
from tasks.core.records import READ_VERSION, Listing, RepoFile
from tasks.core.sharing import Twin, kept_of
from tasks.hub import HubOptions
from tasks.shelf import Shelf
from tests.checkpoints import GPT2_CONFIG, gpt2, safetensors_file
from tests.plans import answer, follow, main_norm, run

SHA = "a" * 64
OPTIONS = ReadOptions()
# A norm without bias, of which only the config tells the kind
BARE = safetensors_file({name: values for name, values in gpt2().items() if not name.endswith("bias")})
WIDE = safetensors_file(gpt2(dim=128, layers=4))


def listing(name="org/copy", config=None, path="model.safetensors", sha256=None):
    return Listing(name, "0" * 40, (RepoFile(path, sha256=sha256), RepoFile("config.json")), config)


def kept(data=WIDE, config=GPT2_CONFIG, **options):
    reading, _ = follow({"model.safetensors": data}, config, sha256=SHA, **options)
    return kept_of("org/first", reading)


def shared(of, config=GPT2_CONFIG, options=OPTIONS, files=None, path="model.safetensors"):
    return run(share(listing(config=config, path=path), of, options), lambda fetch: answer(files or {}, fetch))


def test_known_weights_cost_one_answer_and_not_a_byte():
    found, rounds = follow({"model.safetensors": WIDE}, GPT2_CONFIG, sha256=SHA, known={SHA})
    assert found == Twin(SHA)
    assert len(rounds) == 1


def test_weights_that_the_listing_itself_names_as_known_cost_no_request():
    plan = recognise_or_read(listing(sha256=SHA), OPTIONS, Memory(), {SHA})
    assert run(plan, pytest.fail) == (Twin(SHA), [])


def test_shared_scales_are_those_that_reading_would_have_found():
    read, _ = follow({"model.safetensors": WIDE}, GPT2_CONFIG)
    reading, rounds = shared(kept())
    assert rounds == []
    assert [norm.norm for norm in reading.norms] == [norm.norm for norm in read.norms]
    np.testing.assert_array_equal(main_norm(reading).gamma, main_norm(read).gamma)
    assert main_norm(reading).kernel == main_norm(read).kernel
    assert (reading.tensors, reading.checkpoint_bytes) == (read.tensors, read.checkpoint_bytes)


def test_the_kind_is_decided_by_each_repos_own_config():
    files = {"model.safetensors": BARE, "config.json": json.dumps({"model_type": "x", "rms_norm_eps": 1e-6}).encode()}
    first, _ = follow(files, {"model_type": "x"})
    files["config.json"] = json.dumps({"model_type": "y", "layer_norm_eps": 1e-5}).encode()
    reading, rounds = shared(kept_of("org/first", first), {"model_type": "y"}, files=files)
    assert [[fetch.path for fetch in fetches] for fetches in rounds] == [["config.json"]]
    assert reading.norm_kind == follow(files, {"model_type": "y"})[0].norm_kind
    assert (main_norm(reading).norm.eps, main_norm(kept_reading(files)).norm.eps) == (1e-5, 1e-5)


def kept_reading(files):
    return follow(files, {"model_type": "y"})[0]


def test_a_shared_file_may_have_another_name():
    reading, _ = shared(kept(), path="pytorch_model.safetensors")
    assert {tensor.file for tensor in reading.tensors} == {"pytorch_model.safetensors"}
    assert main_norm(reading).norm.file == "pytorch_model.safetensors"


def test_where_more_scales_are_wanted_than_were_read_nothing_is_shared():
    options = replace(OPTIONS, norms="all")
    assert shared(kept(), options=options)[0] is None
    assert shared(kept(norms="all"), options=options)[0] is not None


def test_an_unreadable_config_is_that_repos_own_fault():
    files = {"model.safetensors": BARE, "config.json": b"{"}
    first, _ = follow(files, {"model_type": "x"})
    assert "config_unreadable" in first.integrity
    files["config.json"] = b"{}"
    reading, _ = shared(kept_of("org/first", first), {"model_type": "x"}, files=files)
    assert "config_unreadable" not in reading.integrity


# Through the client, over real sockets


def repo(name, **facts):
    return StandInRepo(
        name,
        {"model.safetensors": BytesContent(WIDE), "config.json": BytesContent(json.dumps(GPT2_CONFIG).encode())},
        **facts,
    )


def audits(hub, repos, shelf, **options):
    async def all_of():
        listings = [
            Listing(it.repo_id, it.sha, tuple(map(RepoFile, it.files)), GPT2_CONFIG, private=it.private) for it in repos
        ]
        found = audit_models(listings, HubOptions(hub.endpoint, "hf_t"), OPTIONS, concurrency=1, shelf=shelf)
        return [audit async for audit in found]

    return asyncio.run(all_of())


def test_a_copy_costs_one_request_to_the_hub_and_names_whom_it_shares_with():
    first, copy = repo("org/first"), repo("org/copy")
    with StandIn([first, copy], token="hf_t") as hub:
        one, other = audits(hub, [first, copy], Shelf())
    assert (one.shared_from, other.shared_from) == (None, "org/first")
    assert (other.cost.hub_requests, other.cost.cdn_requests) == (1, 0)
    assert other.reading.weights_sha256 == one.reading.weights_sha256 == first.sha256_of("model.safetensors")
    assert main_norm(other.reading).kernel == main_norm(one.reading).kernel


def test_a_new_commit_with_the_old_weights_shares_with_nobody():
    old, new = repo("org/first", sha="a" * 40), repo("org/first", sha="b" * 40)
    shelf = Shelf()
    with StandIn([old], token="hf_t") as hub:
        [before] = audits(hub, [old], shelf)
        hub.repos["org/first"] = new
        [after] = audits(hub, [new], shelf)
    assert (after.shared_from, after.cost.cdn_requests) == (None, 0)
    assert main_norm(after.reading).kernel == main_norm(before.reading).kernel


def test_a_private_repo_is_never_named_as_the_one_that_was_read():
    first, copy = repo("org/first", private=True), repo("org/copy")
    with StandIn([first, copy], token="hf_t") as hub:
        assert [audit.shared_from for audit in audits(hub, [first, copy], Shelf())] == [None, None]


def test_weights_that_turn_out_unknown_are_read_after_all():
    class Mistaken:
        def __contains__(self, sha256):
            return True

        def find(self, sha256):
            return None

    first = repo("org/first")
    with StandIn([first], token="hf_t") as hub:
        [audit] = audits(hub, [first], Shelf(Mistaken()))
    assert (audit.reading.status, audit.shared_from) == ("ok", None)


def test_a_later_night_shares_what_the_store_has_read(location):
    from tests.nights import TODAY, TOMORROW, crawl_with, run_night

    first, copy = repo("org/first"), repo("org/copy")
    with StandIn([first]) as hub:
        run_night(location, crawl_with(hub, sources=({"top": 100},)), TODAY)
        build(open_store(location))
        hub.repos[copy.repo_id] = copy
        hub.clear()
        run_night(location, crawl_with(hub, sources=({"top": 100},)), TOMORROW)
        assert [request.path for request in hub.requests if request.origin == "cdn"] == []
    build(open_store(location))
    with open_database(open_store(location)) as database:
        rows = database.sql("SELECT repo_id, shared_from, weights_sha256 FROM audits ORDER BY repo_id").fetchall()
        kernels = database.sql("SELECT gamma, predicted_dead_dim FROM kernels ORDER BY repo_id").fetchall()
    sha256 = first.sha256_of("model.safetensors")
    assert rows == [("org/copy", "org/first", sha256), ("org/first", None, sha256)]
    assert kernels[0] == kernels[1]
    with KnownWeights(open_store(location), READ_VERSION) as known:
        assert sha256 in known
        assert "0" * 64 not in known
        assert known.find(sha256).audit["repo_id"] == "org/first"
        assert known.find("0" * 64) is None
