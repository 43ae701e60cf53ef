"""Every kind of bad file through the real client over real sockets, in one batch with sound ones: each costs itself."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Iterator
from pathlib import PurePosixPath

import numpy as np
import pytest
from huggingface_hub import close_session

from deployments.demo.catalogue import BytesContent, StandInRepo
from deployments.demo.content import Content
from deployments.demo.standin import Fault, StandIn
from tasks.batch import audit_models
from tasks.core.reading import ReadOptions
from tasks.core.records import Audit
from tasks.hub import HubOptions, Learned, ListingQuery, list_models
from tests.bad_files import BAD, COSTLY, VAST, entry
from tests.checkpoints import GPT2_CONFIG, gpt2, raw_file, safetensors_file

WEIGHTS, INDEX, SHARD = "model.safetensors", "model.safetensors.index.json", "model-00001-of-00001.safetensors"
CONFIG = BytesContent(json.dumps(GPT2_CONFIG).encode())
SOUND = safetensors_file(gpt2())
EVIL = "../\x1b[2J\n.norm.weight"
FAULTY = ("linked_size_wrong", "wrong_total")  # what the Hub says of a file's size, and what the file's host says
MAX_BYTES_READ = 600_000  # of one bad file: a first read for each try; whole files have gigabytes


def indexed(weight_map: dict[str, str]) -> dict[str, Content]:
    """Return an index that says this, and one sound shard."""
    index = json.dumps({"metadata": {}, "weight_map": weight_map}).encode()
    return {INDEX: BytesContent(index), SHARD: BytesContent(SOUND)}


def padded(header_bytes: int) -> bytes:
    """Return a sound file whose header has this length, and weights that no other file has."""
    file = safetensors_file(gpt2(seed=header_bytes))
    length = int.from_bytes(file[:8], "little")
    return struct.pack("<Q", header_bytes) + file[8 : 8 + length].ljust(header_bytes) + file[8 + length :]


TRUE_MAP = dict.fromkeys(gpt2(), SHARD)
FILES: dict[str, dict[str, Content]] = {
    **{what: {WEIGHTS: BytesContent(data)} for what, data in BAD.items()},
    **{what: {WEIGHTS: content} for what, content in {**VAST, **COSTLY}.items()},
    "an index that names a missing shard": indexed(TRUE_MAP | {"ln_f.weight": "model-00002-of-00002.safetensors"}),
    "an index that names ../x": indexed(TRUE_MAP | {"ln_f.weight": "../x.safetensors"}),
    "an index that names an address": indexed(TRUE_MAP | {"ln_f.weight": "http://127.0.0.1:9/x.safetensors"}),
    "an index that names a tensor which its shard lacks": indexed(TRUE_MAP | {"ln_f.more": SHARD}),
    "an index that is a web page": {INDEX: BytesContent(b"<html></html>"), SHARD: BytesContent(SOUND)},
    "an index nested 200,000 deep": {INDEX: BytesContent(b"[" * 200_000), SHARD: BytesContent(SOUND)},
    **{fault: {WEIGHTS: BytesContent(safetensors_file(gpt2(64, seed=i)))} for i, fault in enumerate(FAULTY, 1)},
}
NAMES = {what: f"bad/no-{number}" for number, what in enumerate(FILES)}
LENGTHS = (99_993, 99_994, 99_995, 99_996, 99_997, 99_998, 99_999, 100_000, 100_001)
GOOD = {f"good/header-of-{length}": length for length in LENGTHS}
REPOS = [
    *(StandInRepo(NAMES[what], {**files, "config.json": CONFIG}) for what, files in FILES.items()),
    *(StandInRepo(name, {WEIGHTS: BytesContent(padded(GOOD[name])), "config.json": CONFIG}) for name in GOOD),
    StandInRepo("odd/names", {WEIGHTS: BytesContent(raw_file({EVIL: entry()}, bytes(8)))}),
]


@pytest.fixture(scope="module")
def audits(running_hub: StandIn) -> Iterator[dict[str, Audit]]:
    """Audits of all repos, good and bad, as one batch gives them."""
    running_hub.switches.sharded_endpoint = False  # its answer would spare the index, and with it what is wrong there
    running_hub.switches.faults += [Fault(fault, repo_id=NAMES[fault]) for fault in FAULTY]
    options, learned = HubOptions(running_hub.endpoint, retries=1, first_wait_s=0.01), Learned()
    listings = list(list_models(options, ListingQuery(), learned))

    async def audited() -> list[Audit]:
        batch = audit_models(listings, options, ReadOptions(norms="all"), concurrency=8, learned=learned)
        return [audit async for audit in batch]

    yield {audit.listing.repo_id: audit for audit in asyncio.run(audited())}
    close_session()


def test_every_listed_repo_has_an_answer(audits: dict[str, Audit]) -> None:
    assert audits.keys() == {repo.repo_id for repo in REPOS}


@pytest.mark.parametrize("what", FILES)
def test_a_bad_file_is_an_answer_with_a_clear_reason_at_little_cost(audits: dict[str, Audit], what: str) -> None:
    audit = audits[NAMES[what]]
    reading, cost = audit.reading, audit.cost
    assert reading.status == ("too_large" if what in COSTLY else "bad_file")
    assert reading.reason is not None
    assert reading.reason.startswith((f"{NAMES[what]}/", f"{NAMES[what]}: "))
    assert reading.reason.isprintable()
    assert "defect" not in reading.reason
    assert reading.norms == ()
    assert cost.bytes_read <= MAX_BYTES_READ
    assert cost.hub_requests + cost.cdn_requests <= 12


@pytest.mark.parametrize("name", GOOD)
def test_a_sound_file_beside_bad_ones_is_read_to_the_bit(audits: dict[str, Audit], name: str) -> None:
    [main] = [read for read in audits[name].reading.norms if read.norm.is_main]
    assert main.gamma is not None
    np.testing.assert_array_equal(main.gamma, gpt2(seed=GOOD[name])["ln_f.weight"].astype("f4").astype("f8"))


def test_a_name_of_escape_codes_and_paths_is_a_name(audits: dict[str, Audit]) -> None:
    reading = audits["odd/names"].reading
    assert [tensor.name for tensor in reading.tensors] == [EVIL]
    assert reading.reason is None or reading.reason.isprintable()


def test_nothing_outside_the_repos_was_asked_for(audits: dict[str, Audit], running_hub: StandIn) -> None:
    paths = [PurePosixPath(request.path) for request in running_hub.requests]
    assert not [path for path in paths if ".." in path.parts or "x.safetensors" in path.name]
