"""The client over real sockets: refusals, redirects, shared addresses, requests spent, secrets kept."""

from __future__ import annotations

import asyncio
import logging
import threading
import traceback
from collections.abc import Iterator
from dataclasses import replace

import pytest
from yarl import URL

from deployments.demo.catalogue import StandInRepo
from deployments.demo.faults import KINDS
from deployments.demo.standin import Fault, StandIn, Switches
from tasks.core.errors import AuditError, BadFile, Disabled, Failed, Gated, NotFound, Private
from tasks.core.reading import Plan
from tasks.core.records import Chunk, Fetch, Listing
from tasks.hub import Hub, HubOptions, Learned, Meter, Pace
from tasks.hub.answers import redirect_target
from tests.hub_tools import DATA, TOKEN, WEIGHTS, Answer, Client, Clock, at_once, healthy, listed, read, scripted, tiny

TINY = tiny()
PRIVATE, CLOSED = tiny("acme/private", private=True), tiny("acme/closed", private=True, readable_by_token=False)
GATED, BARRED = tiny("acme/gated", gated="manual"), tiny("acme/barred", gated="auto", readable_by_token=False)
DISABLED = tiny("acme/disabled", disabled=True)
ODD, ODD_PATH, COMMIT = Listing("acme/odd", "a" * 40), f"/acme/odd/resolve/{'a' * 40}/x", {"X-Repo-Commit": "a" * 40}
HEAD, MIDDLE, TAIL = Fetch(WEIGHTS, 0, 1_000), Fetch(WEIGHTS, 100_000, 100_512), Fetch(WEIGHTS, 299_000, 300_000)


@pytest.fixture(scope="module")
def running() -> Iterator[StandIn]:
    with StandIn([TINY, PRIVATE, CLOSED, GATED, BARRED, DISABLED], token=TOKEN) as hub:
        yield hub


@pytest.fixture
def hub(running: StandIn) -> StandIn:
    return healthy(running)


def asked(hub: StandIn) -> list[tuple[str, int]]:
    """Return (origin, status) of each request so far."""
    return [(request.origin, request.status) for request in hub.requests]


# Refusals


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
        (404, {}, NotFound, "answered 404"),
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


# Limits


def test_a_429_is_waited_out_to_the_second(hub: StandIn) -> None:
    hub.switches.faults.append(Fault("hub_429", times=1))
    client = Client(hub.endpoint)
    assert client.fetch(listed(TINY), HEAD).data == DATA[:1_000]
    assert client.clock.slept[0] == 1.0  # as its t says; what follows is the limiter's own margin


def test_a_quota_is_kept_and_not_run_into() -> None:
    async def crawl() -> None:
        async with Hub(HubOptions(hub.endpoint)) as client:
            await asyncio.gather(*(client.fetch(listed(TINY), HEAD, Meter()) for _ in range(10)))

    with StandIn([TINY], switches=Switches(limits={"api": (6, 1), "resolvers": (6, 1)})) as hub:
        asyncio.run(crawl())  # in real time: the quota's window is
        assert [status for origin, status in asked(hub) if origin == "hub"] == [302] * 10


def test_a_wait_of_hours_is_left_to_another_night() -> None:
    with scripted(answers={ODD_PATH: Answer(429, {"Retry-After": "86400"})}) as server:
        client = Client(server.endpoint)
        with pytest.raises(Failed, match=r"acme/odd/x: the Hub answered 429 \(tried 1 time\)"):
            client.fetch(ODD, Fetch("x"))
    assert client.clock.slept == []


def test_the_waits_between_tries_grow_and_are_drawn_at_random(hub: StandIn) -> None:
    hub.switches.faults.append(Fault("hub_503"))
    client = Client(hub.endpoint)
    with pytest.raises(Failed):
        client.fetch(listed(TINY), HEAD)
    assert len(client.clock.slept) == 4
    assert all(0 <= wait_s <= 2**tries for tries, wait_s in enumerate(client.clock.slept))
    assert len(set(client.clock.slept)) == 4


# Addresses


def test_further_ranges_of_a_file_cost_one_request_each(hub: StandIn) -> None:
    client = Client(hub.endpoint)
    head, tail = client.follow(listed(TINY), read(HEAD, TAIL))
    assert (head.data, tail.data) == (DATA[:1_000], DATA[299_000:])
    assert asked(hub) == [("hub", 302), ("cdn", 206), ("cdn", 206)]
    assert (client.meter.hub_requests, client.meter.cdn_requests) == (1, 2)


def test_ranges_wanted_at_once_share_one_address(hub: StandIn) -> None:
    client = Client(hub.endpoint)
    chunks = client.follow(listed(TINY), at_once(HEAD, MIDDLE, TAIL))
    assert [chunk.data for chunk in chunks if isinstance(chunk, Chunk)] == [
        DATA[:1_000],
        DATA[100_000:100_512],
        DATA[299_000:],
    ]
    assert (client.meter.hub_requests, client.meter.cdn_requests) == (1, 3)


def test_a_host_that_binds_addresses_to_ranges_is_tried_once(hub: StandIn) -> None:
    hub.switches.range_bound_urls = True
    client = Client(hub.endpoint)

    async def two_models(it: Hub) -> None:
        for _ in range(2):
            [_, tail] = await it.follow(listed(TINY), read(HEAD, TAIL), client.meter)
            assert tail.data == DATA[299_000:]

    client.run(two_models)
    first = [("hub", 302), ("cdn", 206), ("cdn", 403), ("hub", 302), ("cdn", 206)]
    assert asked(hub) == [*first, ("hub", 302), ("cdn", 206), ("hub", 302), ("cdn", 206)]


def test_what_one_batch_learned_of_a_host_the_next_one_knows(hub: StandIn) -> None:
    hub.switches.range_bound_urls = True
    learned = Learned(Pace(clock=Clock()))
    for _ in range(2):
        Client(hub.endpoint, learned=learned).follow(listed(TINY), read(HEAD, TAIL))
    assert [status for _, status in asked(hub)].count(403) == 1


def test_an_address_that_expired_is_replaced_and_its_host_not_blamed(hub: StandIn) -> None:
    def plan() -> Plan[list[bytes]]:
        yield (HEAD,)
        yield (MIDDLE,)
        hub.switches.faults.append(Fault("url_expired", times=1))
        answers = yield (TAIL,)
        answers += yield (HEAD,)
        return [answer.data for answer in answers if isinstance(answer, Chunk)]

    client = Client(hub.endpoint)
    assert client.follow(listed(TINY), plan()) == [DATA[299_000:], DATA[:1_000]]
    assert client.clock.slept == [0.0]
    expired = [("cdn", 403), ("hub", 302), ("cdn", 206), ("cdn", 206)]
    assert asked(hub) == [("hub", 302), ("cdn", 206), ("cdn", 206), *expired]


def test_ranges_that_the_hub_serves_itself_do_not_queue_for_an_address() -> None:
    both_are_asked_for = threading.Barrier(2, timeout=10)

    def at_once_or_never() -> Answer:
        both_are_asked_for.wait()
        return Answer(206, COMMIT | {"Content-Range": "bytes 0-0/9", "Content-Length": "1"}, b"x")

    with scripted(answers={ODD_PATH: Answer(200, COMMIT, b"xxxxxxxxx")}) as hub:

        def plan() -> Plan[tuple[Chunk | AuditError, ...]]:
            first = yield (Fetch("x"),)
            assert isinstance(first[0], Chunk)
            hub.answers[ODD_PATH] = at_once_or_never
            return (yield (Fetch("x", 0, 1), Fetch("x", 0, 1)))

        assert Client(hub.endpoint).follow(ODD, plan()) == (Chunk(b"x", 9), Chunk(b"x", 9))


def test_a_size_that_changes_between_answers_is_a_bad_file() -> None:
    with scripted() as hub:

        def plan() -> Plan[AuditError | Chunk]:
            for size in (9, 8):
                hub.answers[ODD_PATH] = Answer(206, COMMIT | {"Content-Range": f"bytes 0-0/{size}"}, b"x")
                [answer] = yield (Fetch("x", 0, 1),)
            return answer

        error = Client(hub.endpoint, options={"retries": 0}).follow(ODD, plan())
    assert type(error) is BadFile
    assert "acme/odd/x: an earlier answer was of a file of 9 bytes, this answer is of a file of 8 bytes" in str(error)


def test_an_end_that_contradicts_the_size_is_a_bad_file() -> None:
    answer = Answer(416, COMMIT | {"X-Linked-Size": "9", "Content-Range": "bytes */5"})
    with (
        scripted(answers={ODD_PATH: answer}) as hub,
        pytest.raises(BadFile, match="X-Linked-Size is 9, this answer is of"),
    ):
        Client(hub.endpoint).fetch(ODD, Fetch("x", 6, 9))


# Redirects


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


# What a request carries, and what gets out


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


# Describing one repo


def test_a_repo_is_described_at_its_head_and_at_a_revision(hub: StandIn) -> None:
    client = Client(hub.endpoint)
    head = client.run(lambda it: it.describe("acme/tiny", meter=client.meter))
    assert (head.repo_id, head.sha, head.private, head.gated) == ("acme/tiny", TINY.sha, False, None)
    assert {file.path for file in head.files} == {WEIGHTS, "config.json"}
    assert client.meter.hub_requests == 1
    assert client.run(lambda it: it.describe("acme/tiny", TINY.sha)) == head


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
