"""The client over real sockets: limits kept, signed addresses shared and replaced."""

from __future__ import annotations

import asyncio
import threading

import pytest

from deployments.demo.standin import Fault, StandIn, Switches
from tasks.core.errors import AuditError, BadFile, Failed
from tasks.core.reading import Plan
from tasks.core.records import Chunk, Fetch
from tasks.hub import Hub, HubOptions, Learned, Meter, Pace
from tests.hub_tools import (
    COMMIT,
    DATA,
    HEAD,
    MIDDLE,
    ODD,
    ODD_PATH,
    TAIL,
    Answer,
    Client,
    Clock,
    asked,
    at_once,
    listed,
    read,
    scripted,
    tiny,
)

TINY = tiny()
REPOS = [TINY]


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
