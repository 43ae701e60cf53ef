"""The client over real sockets: which redirects it follows."""

from __future__ import annotations

import pytest
from yarl import URL

from deployments.demo.standin import Fault, StandIn
from tasks.core.errors import Failed
from tasks.core.reading import Plan
from tasks.core.records import Fetch
from tasks.hub.answers import redirect_target
from tests.hub_tools import (
    COMMIT,
    DATA,
    HEAD,
    MIDDLE,
    ODD,
    ODD_PATH,
    TOKEN,
    Answer,
    Client,
    asked,
    listed,
    scripted,
    tiny,
)

TINY = tiny()
REPOS = [TINY]


def test_a_relative_redirect_is_followed(hub: StandIn) -> None:
    hub.switches.faults.append(Fault("redirect_relative"))
    assert Client(hub.endpoint).fetch(listed(TINY), MIDDLE).data == DATA[100_000:100_512]
    assert asked(hub) == [("hub", 302), ("hub", 206)]


def test_a_redirect_loop_ends(hub: StandIn) -> None:
    hub.switches.faults.append(Fault("redirect_loop"))
    with pytest.raises(Failed, match=r"acme/tiny/model\.safetensors: more than 5 redirects"):
        Client(hub.endpoint).fetch(listed(TINY), HEAD)
    assert len(hub.requests) == 6


@pytest.mark.parametrize(
    ("location", "says"),
    [
        (None, "redirects to no address"),
        ("http://a b/", "redirects to no address"),
        ("http://host\\@127.0.0.1/", "redirects to no address"),
        ("http://host:port/", "something that is no address"),
        ("http://[::1/", "something that is no address"),
        ("ftp://host/file", "redirects to ftp:, which is not HTTP"),
    ],
)
def test_a_redirect_to_no_address_is_not_followed(location: str | None, says: str) -> None:
    answer = Answer(302, COMMIT | ({} if location is None else {"Location": location}))
    with scripted(answers={ODD_PATH: answer}) as server, pytest.raises(Failed, match=says):
        Client(server.endpoint).fetch(ODD, Fetch("x"))


def test_a_host_of_files_that_redirects_back_to_the_hub_is_not_followed() -> None:
    with scripted() as hub, scripted() as cdn:
        hub.answers[ODD_PATH] = Answer(302, COMMIT | {"Location": f"{cdn.endpoint}/x"})
        cdn.answers["/x"] = Answer(302, {"Location": f"{hub.endpoint}/x"})
        with pytest.raises(Failed, match="redirects back to the Hub"):
            Client(hub.endpoint, TOKEN).fetch(ODD, Fetch("x"))
        assert "authorization" not in cdn.requests[0][1]


def test_a_redirect_from_https_to_http_is_not_followed() -> None:
    with pytest.raises(Failed, match="acme/x: hub redirects from https to http at hub; not followed"):
        redirect_target(URL("https://hub/x"), "http://hub/x", "acme/x")


def test_a_redirect_keeps_every_character_of_a_signature() -> None:
    location = "https://cdn/a%2Fb/%7E~?X-Amz-Date=1%3a2&Signature=a+b%2B/=__~-.&Key-Pair-Id=K"
    assert str(redirect_target(URL("https://hub/x"), location, "acme/x")) == location


def test_a_redirect_elsewhere_that_names_no_commit_is_not_believed() -> None:
    with scripted() as hub, scripted() as cdn:
        hub.answers[ODD_PATH] = Answer(302, {"Location": f"{cdn.endpoint}/x"})
        with pytest.raises(Failed, match="the answer has no X-Repo-Commit"):
            Client(hub.endpoint).fetch(ODD, Fetch("x"))
        assert cdn.requests == []


def test_redirects_and_small_errors_keep_the_connection() -> None:
    def twice() -> Plan[None]:
        yield (Fetch("x"),)
        yield (Fetch("x"),)

    headers = {"Location": "/cache", "Content-Length": "5"}
    answers = {
        ODD_PATH: Answer(307, COMMIT | headers, b"Found"),
        "/cache": Answer(404, {"Content-Length": "7"}, b"Nothing"),
    }
    with scripted(answers=answers) as hub:
        Client(hub.endpoint).follow(ODD, twice())
        assert (len(hub.requests), hub.connections) == (4, 1)
