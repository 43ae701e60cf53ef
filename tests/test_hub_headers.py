"""The client over real sockets: what a request carries, and what gets out."""

from __future__ import annotations

import logging
import traceback

import pytest

from deployments.demo.faults import KINDS
from deployments.demo.standin import Fault, StandIn
from tasks.core.errors import AuditError, Failed
from tasks.core.records import Fetch
from tests.hub_tools import (
    COMMIT,
    HEAD,
    ODD,
    ODD_PATH,
    TAIL,
    TOKEN,
    Answer,
    Client,
    listed,
    read,
    scripted,
    tiny,
)

TINY = tiny()
REPOS = [TINY]


def test_the_token_goes_to_the_hub_and_to_nobody_else(hub: StandIn) -> None:
    Client(hub.endpoint, TOKEN).follow(listed(TINY), read(HEAD, TAIL, Fetch("config.json")))
    assert {(request.origin, request.authorized) for request in hub.requests} == {("hub", True), ("cdn", False)}


def test_each_request_names_the_project_and_whom_to_ask(hub: StandIn) -> None:
    Client(hub.endpoint, options={"contact": "mailto:ops@example.org"}).fetch(listed(TINY), HEAD)
    for request in hub.requests:
        assert request.user_agent.startswith("normaudit/")
        assert request.user_agent.endswith(" (+mailto:ops@example.org)")


def test_only_get_is_used(hub: StandIn) -> None:
    Client(hub.endpoint).follow(listed(TINY), read(HEAD, TAIL, Fetch("config.json")))
    assert {request.method for request in hub.requests} == {"GET"}


@pytest.mark.parametrize("fault", sorted(KINDS))
def test_no_token_and_no_signature_gets_out(hub: StandIn, fault: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    hub.switches.faults.append(Fault(fault))
    client = Client(hub.endpoint, TOKEN, options={"retries": 1, "read_timeout_s": 0.1})
    told = repr(client.options)
    try:
        client.follow(listed(TINY), read(HEAD, TAIL))
    except AuditError as error:
        told += "".join(traceback.format_exception(error))
    told += caplog.text
    assert TOKEN not in told
    assert "Signature" not in told
    assert "Expires" not in told


def test_an_answer_that_breaks_http_does_not_show_the_signature_either() -> None:
    with scripted() as hub, scripted() as cdn:
        hub.answers[ODD_PATH] = Answer(302, COMMIT | {"Location": f"{cdn.endpoint}/x?Signature=secret"})
        cdn.answers["/x"] = Answer(200, {"Content-Length": "many"})
        with pytest.raises(
            Failed, match=r"acme/odd/x: 127\.0\.0\.1 gave no whole answer: ClientResponseError"
        ) as caught:
            Client(hub.endpoint).fetch(ODD, Fetch("x"))
        assert cdn.requests[0][0] == "/x?Signature=secret"
    assert "secret" not in "".join(traceback.format_exception(caught.value))
