"""The client over real sockets: describing one repo, and what that costs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deployments.demo.standin import StandIn
from tasks.core.errors import AuditError, Failed, NotFound
from tasks.hub import Meter
from tests.hub_tools import (
    WEIGHTS,
    Answer,
    Client,
    scripted,
    tiny,
)

TINY = tiny()
REPOS = [TINY]


def test_a_repo_is_described_at_its_head_and_at_a_revision(hub: StandIn) -> None:
    client = Client(hub.endpoint)
    head = client.run(lambda it: it.describe("acme/tiny", meter=client.meter))
    assert (head.repo_id, head.sha, head.private, head.gated) == ("acme/tiny", TINY.sha, False, None)
    assert {file.path for file in head.files} == {WEIGHTS, "config.json"}
    assert client.meter.hub_requests == 1
    assert client.run(lambda it: it.describe("acme/tiny", TINY.sha)) == replace(head, is_head=False)


@pytest.mark.parametrize(
    ("repo_id", "revision", "kind", "says"),
    [
        ("acme/none", None, NotFound, "acme/none: the Hub answered 401, RepoNotFound"),
        ("acme/tiny", "v9", NotFound, "acme/tiny@v9: the Hub answered 404, RevisionNotFound"),
        ("acme/tiny/x", None, NotFound, "acme/tiny/x: this is no repo's name"),
        ("../api", None, NotFound, "this is no repo's name"),
        ("acme/\x1b[2J", None, NotFound, r"acme/\\x1b\[2J: this is no repo's name"),
    ],
)
def test_a_repo_that_is_not_there_cannot_be_described(
    hub: StandIn, repo_id: str, revision: str | None, kind: type[AuditError], says: str
) -> None:
    with pytest.raises(kind, match=says):
        Client(hub.endpoint).run(lambda it: it.describe(repo_id, revision))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"<html>", "asked for JSON, got 6 bytes of something else"),
        (b"[]", "names no repo with a revision"),
        (b'{"id": "acme/odd", "sha": null}', "names no repo with a revision"),
    ],
)
def test_a_description_that_makes_no_sense_is_no_answer(body: bytes, says: str) -> None:
    answers = {"/api/models/acme/odd": Answer(200, {"Content-Length": str(len(body))}, body)}
    with scripted(answers=answers) as server, pytest.raises(Failed, match=says):
        Client(server.endpoint).run(lambda it: it.describe("acme/odd"))


def test_a_repo_that_was_renamed_is_described_under_its_new_name() -> None:
    answers = {
        "/api/models/acme/old": Answer(307, {"Location": "/api/models/acme/new"}),
        "/api/models/acme/new": Answer(200, {}, b'{"id": "acme/new", "sha": "%s"}' % (b"a" * 40)),
    }
    with scripted(answers=answers) as server:
        assert Client(server.endpoint).run(lambda it: it.describe("acme/old")).repo_id == "acme/new"


def test_what_reading_cost_is_a_record() -> None:
    cost = Meter(2, 3, 71_234).cost(0.21)
    assert (cost.hub_requests, cost.cdn_requests, cost.bytes_read, cost.seconds) == (2, 3, 71_234, 0.21)
