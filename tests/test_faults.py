"""Every fault that the stand-in can show of one repo, through the real client over real sockets, all in one batch.

Which test holds what may go wrong:

| what may go wrong | the test |
| --- | --- |
| an answer to a range that is short, shifted, whole, unlabelled, compressed, a web page, of another size, or of
  another commit; an ETag that changes; a server that refuses, breaks off or stalls; an address that has expired | here,
  and one by one in test_hub_ranges.py |
| each code of a refusal, and refusals without one | test_hub_refusals.py |
| the token at another origin, redirects (relative, circular, to nowhere, to http), `Link` | test_hub_redirects.py,
  test_hub_headers.py, test_hub_listing.py |
| a token or a signed address in a message or a log | test_hub_headers.py |
| headers of 99,994 to 99,999 bytes, and every kind of bad file and bad index | test_faults_files.py |
| a listing that stalls, breaks off, goes in a circle or is no listing | test_hub_listing.py, test_faults_night.py |
| a Hub that changes between listing and reading, a full disk, a clock that jumps | test_faults_night.py |
| two nights at once; kill -9 | test_nightly.py, `make torture` |
"""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from huggingface_hub import close_session

from deployments.demo.catalogue import BytesContent, StandInRepo
from deployments.demo.faults import KINDS
from deployments.demo.standin import Fault, StandIn
from tasks.batch import audit_models
from tasks.core.reading import ReadOptions
from tasks.core.records import Audit
from tasks.hub import HubOptions, Learned, ListingQuery, list_models
from tests.checkpoints import GPT2_CONFIG, gpt2, safetensors_file

ANSWERS = {  # what the Hub says of a repo: no fault that passes, so nothing is tried again
    "bare_401": "not_found",  # it was public when it was listed
    "deleted": "not_found",
    "disabled_meanwhile": "disabled",
    "gated_meanwhile": "gated",
    "redirect_nowhere": "failed",
    "revision_gone": "not_found",
}
STAYING = {  # what becomes of a model whose fault does not pass
    **ANSWERS,
    "commit_moved": "failed",
    "commit_unsaid": "failed",
    "etag_changes": "bad_file",
    "gzip_body": "failed",
    "html_200": "failed",
    "http_429": "failed",
    "http_500": "failed",
    "http_503": "failed",
    "hub_429": "failed",
    "hub_503": "failed",
    "linked_size_wrong": "bad_file",
    "metadata_cut": "ok",  # the index tells the same
    "metadata_html": "ok",
    "metadata_lacks_a_shard": "ok",
    "metadata_lacks_a_tensor": "ok",
    "metadata_shifted": "ok",
    "missing_content_range": "failed",
    "object_gone": "failed",
    "range_ignored": "ok",  # the file is short enough to skip to the range
    "range_widened": "failed",
    "redirect_loop": "failed",
    "redirect_relative": "ok",
    "reset": "failed",
    "resolve_html": "failed",
    "short_206": "failed",
    "short_honest": "failed",
    "stall": "failed",
    "stall_half_way": "failed",
    "url_expired": "failed",
    "wrong_content_range": "failed",
    "wrong_total": "bad_file",
}
PASSING = {fault: ANSWERS.get(fault, "ok") for fault in STAYING}
PASSING["etag_changes"] = "bad_file"  # nothing tells which of two answers was of the file that is there


def sharded(tensors: dict[str, np.ndarray]) -> dict[str, bytes]:
    """Return the files of a checkpoint in two shards."""
    names = list(tensors)
    halves = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
    index = {"metadata": {}, "weight_map": {name: shard for shard, half in halves.items() for name in half}}
    files = {shard: safetensors_file({name: tensors[name] for name in half}) for shard, half in halves.items()}
    return {"model.safetensors.index.json": json.dumps(index).encode(), **files}


def tensors_of(fault: str) -> dict[str, np.ndarray]:
    """Return weights that no other model here has; the final norm lies behind the first read."""
    return gpt2(dim=64, seed=[*STAYING].index(fault))


def faulty(fault: str) -> StandInRepo:
    """Return the repo that is to show a fault: in two shards if the fault is of the shards' headers."""
    tensors = tensors_of(fault)
    is_sharded = KINDS[fault].stage == "metadata"
    files = sharded(tensors) if is_sharded else {"model.safetensors": safetensors_file(tensors)}
    files["config.json"] = json.dumps(GPT2_CONFIG).encode()
    return StandInRepo(f"org/{fault}", {path: BytesContent(data) for path, data in files.items()})


REPOS = [faulty(fault) for fault in STAYING]


def audited(hub: StandIn, times: int | None) -> dict[str, Audit]:
    """Return the audits of all repos, each of which shows its fault so many times, or always."""
    options = HubOptions(hub.endpoint, retries=1, first_wait_s=0.01, read_timeout_s=1.0)
    learned = Learned()
    listings = list(list_models(options, ListingQuery(), learned))
    hub.switches.faults = [Fault(fault, repo_id=f"org/{fault}", times=times) for fault in STAYING]

    async def batch() -> list[Audit]:
        audits = audit_models(listings, options, ReadOptions(), concurrency=8, learned=learned)
        return [audit async for audit in audits]

    found = {audit.listing.repo_id.removeprefix("org/"): audit for audit in asyncio.run(batch())}
    hub.switches.faults = []
    close_session()
    return found


@pytest.fixture(scope="module")
def staying(running_hub: StandIn) -> dict[str, Audit]:
    """What becomes of each model when its fault does not pass."""
    return audited(running_hub, None)


@pytest.fixture(scope="module")
def passing(running_hub: StandIn) -> dict[str, Audit]:
    """What becomes of each model when its fault shows once."""
    return audited(running_hub, 1)


def test_each_fault_of_a_repo_that_can_be_shown_is_tried_here() -> None:
    assert STAYING.keys() == {name for name, kind in KINDS.items() if kind.stage != "listing"}


def check(audit: Audit, fault: str, status: str) -> None:
    """Hold an audit against what it should be: the right values, or a clear reason and none."""
    reading = audit.reading
    assert (reading.status, reading.reason if status == "ok" else None) == (status, None)
    if status == "ok":
        [main] = [read for read in reading.norms if read.norm.is_main]
        np.testing.assert_array_equal(main.gamma, tensors_of(fault)["ln_f.weight"].astype("f4").astype("f8"))
        return
    assert reading.norms == ()
    assert reading.reason is not None
    assert reading.reason.startswith(f"org/{fault}/")
    assert reading.reason.isprintable()
    assert "defect" not in reading.reason


@pytest.mark.parametrize(("fault", "status"), STAYING.items())
def test_a_fault_that_stays_gives_no_wrong_figure_and_costs_one_model(
    staying: dict[str, Audit], fault: str, status: str
) -> None:
    check(staying[fault], fault, status)


@pytest.mark.parametrize(("fault", "status"), PASSING.items())
def test_a_fault_that_passes_costs_nothing_but_a_request(passing: dict[str, Audit], fault: str, status: str) -> None:
    check(passing[fault], fault, status)
    assert passing[fault].cost.hub_requests + passing[fault].cost.cdn_requests <= 12
