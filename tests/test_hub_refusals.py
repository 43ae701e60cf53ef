"""The client over real sockets: what it makes of the Hub's refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deployments.demo.catalogue import StandInRepo
from deployments.demo.standin import Fault, StandIn
from tasks.core.errors import AuditError, Disabled, Failed, Gated, NotFound, Private
from tasks.core.reading import Plan
from tasks.core.records import Chunk, Fetch, Listing
from tasks.hub.answers import UnknownAddress
from tests.hub_tools import (
    DATA,
    HEAD,
    MIDDLE,
    ODD,
    ODD_PATH,
    TOKEN,
    WEIGHTS,
    Answer,
    Client,
    at_once,
    listed,
    read,
    scripted,
    tiny,
)

TINY = tiny()
PRIVATE, CLOSED = tiny("acme/private", private=True), tiny("acme/closed", private=True, readable_by_token=False)
GATED, BARRED = tiny("acme/gated", gated="manual"), tiny("acme/barred", gated="auto", readable_by_token=False)
DISABLED = tiny("acme/disabled", disabled=True)
REPOS = [TINY, PRIVATE, CLOSED, GATED, BARRED, DISABLED]


@pytest.mark.parametrize(
    ("repo", "token", "kind", "says"),
    [
        (GATED, None, Gated, "the Hub answered 401, GatedRepo"),
        (BARRED, TOKEN, Gated, "the Hub answered 403, GatedRepo"),
        (CLOSED, TOKEN, Private, "the Hub answered 403, Forbidden: your token does not open this repo; it is private"),
        (PRIVATE, None, Private, "the Hub answered 401, RepoNotFound"),
        (DISABLED, TOKEN, Disabled, "the Hub answered 403, Access to this resource is disabled."),
        (TINY, "hf_wrong", Failed, "Invalid credentials in Authorization header; correct HF_TOKEN, or unset it"),
    ],
)
def test_a_closed_repo_says_why(
    hub: StandIn, repo: StandInRepo, token: str | None, kind: type[AuditError], says: str
) -> None:
    with pytest.raises(AuditError) as caught:
        Client(hub.endpoint, token).fetch(listed(repo), HEAD)
    assert type(caught.value) is kind
    assert f"{repo.repo_id}/model.safetensors: " in str(caught.value)
    assert says in str(caught.value)
    assert len(hub.requests) == 1


@pytest.mark.parametrize("repo", [GATED, PRIVATE, TINY])
def test_the_token_opens_what_it_may(hub: StandIn, repo: StandInRepo) -> None:
    assert Client(hub.endpoint, TOKEN).fetch(listed(repo), MIDDLE).data == DATA[100_000:100_512]


@pytest.mark.parametrize(
    ("listing", "path", "code"),
    [
        (Listing("acme/none", "0" * 40), WEIGHTS, "RepoNotFound"),
        (Listing("acme/tiny", "0" * 40), WEIGHTS, "RevisionNotFound"),
        (listed(TINY), "other.safetensors", "EntryNotFound"),
    ],
)
def test_what_is_not_there_is_not_found(hub: StandIn, listing: Listing, path: str, code: str) -> None:
    with pytest.raises(NotFound, match=rf"{listing.repo_id}/{path}: the Hub answered 40[14], {code}"):
        Client(hub.endpoint, TOKEN).fetch(listing, Fetch(path, 0, 8))


@pytest.mark.parametrize(("fault", "kind"), [("deleted", NotFound), ("gated_meanwhile", Gated)])
def test_a_repo_may_go_while_it_is_read(hub: StandIn, fault: str, kind: type[AuditError]) -> None:
    def plan() -> Plan[type[AuditError] | None]:
        yield (Fetch("config.json"),)
        hub.switches.faults.append(Fault(fault))
        [answer] = yield (HEAD,)
        return type(answer)

    assert Client(hub.endpoint).follow(listed(TINY), plan()) is kind


@pytest.mark.parametrize(
    ("status", "facts", "kind", "says"),
    [
        (401, {"gated": "auto"}, Gated, r"listed as gated \(auto\)"),
        (401, {"private": True}, Private, "HF_TOKEN does not open it"),
        (401, {"private": False}, NotFound, "it was public when it was listed"),
        (401, {}, Private, "private, gated or missing: the Hub does not say which"),
        (403, {"private": False}, Failed, "not listed as gated or private"),
        (404, {}, UnknownAddress, "answered 404"),
        (451, {}, Disabled, "answered 451"),
        (400, {}, Failed, "answered 400"),
        (204, {}, Failed, "answered 204"),
    ],
)
def test_a_refusal_without_a_code_is_read_by_the_listing(
    status: int, facts: dict[str, object], kind: type[AuditError], says: str
) -> None:
    with scripted(answers={ODD_PATH: Answer(status)}) as server, pytest.raises(AuditError, match=says) as caught:
        Client(server.endpoint).fetch(replace(ODD, **facts), Fetch("x"))
    assert type(caught.value) is kind


def test_an_optional_file_that_is_missing_does_not_end_a_plan(hub: StandIn) -> None:
    missing, head = Client(hub.endpoint).follow(listed(TINY), at_once(Fetch("generation_config.json"), HEAD))
    assert isinstance(missing, NotFound)
    assert isinstance(head, Chunk)
    assert head.data == DATA[:1_000]


def test_a_plan_that_wants_nothing_costs_nothing(hub: StandIn) -> None:
    assert Client(hub.endpoint).follow(listed(TINY), read()) == []
    assert hub.requests == []
