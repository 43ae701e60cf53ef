"""The client over real sockets: guesses, the Hub's digest of headers, and the requests that whole models cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from deployments.demo.catalogue import sparse_7b, sparse_70b
from deployments.demo.standin import Fault, StandIn
from tasks.core.errors import AuditError, Failed, NotFound
from tasks.core.memory import Memory
from tasks.core.reading import ReadOptions, read_checkpoint
from tasks.core.records import Chunk, Fetch, Listing, Reading, RepoFile
from tasks.hub import Learned, Pace
from tests.hub_tools import DATA, WEIGHTS, Client, at_once, healthy, listed, tiny

TINY, ONE, MANY = tiny(), sparse_7b("acme/7b"), sparse_70b("acme/70b")
HEAD, GUESS, END = Fetch(WEIGHTS, 0, 1_000), Fetch(WEIGHTS, 100_000, 100_512, is_guess=True), Fetch(WEIGHTS, -700)
INDEX = "model.safetensors.index.json"
CLAIMS = Fetch(INDEX, of="claims")


@pytest.fixture(scope="module")
def running() -> Iterator[StandIn]:
    with StandIn([TINY, ONE, MANY]) as hub:
        yield hub


@pytest.fixture
def hub(running: StandIn) -> StandIn:
    return healthy(running)


def paths(hub: StandIn, origin: str) -> list[str]:
    return [request.path for request in hub.requests if request.origin == origin]


def ask(client: Client, *fetches: Fetch, listing: Listing | None = None) -> tuple[Chunk | AuditError, ...]:
    return client.follow(listing or listed(TINY), at_once(*fetches))


def test_a_guess_goes_out_with_the_head_and_costs_the_hub_nothing(hub: StandIn) -> None:
    head, guess = ask(Client(hub.endpoint), HEAD, GUESS)
    assert isinstance(head, Chunk)
    assert isinstance(guess, Chunk)
    assert (head.data, guess.data) == (DATA[:1_000], DATA[100_000:100_512])
    assert (len(paths(hub, "hub")), len(paths(hub, "cdn"))) == (1, 2)


@pytest.mark.parametrize("length", [1, 700, 300_000, 900_000])
def test_the_last_bytes_of_a_file_are_had_without_knowing_its_size(hub: StandIn, length: int) -> None:
    chunk = Client(hub.endpoint).fetch(listed(TINY), Fetch(WEIGHTS, -length))
    assert (chunk.data, chunk.file_bytes) == (DATA[-length:], len(DATA))


def test_where_addresses_are_bound_to_their_range_a_guess_fails_once_and_is_left_out_from_then_on(hub: StandIn) -> None:
    hub.switches.range_bound_urls = True
    client = Client(hub.endpoint)
    for requests_to_the_cdn in (2, 3):
        head, guess = ask(client, HEAD, GUESS)
        assert isinstance(head, Chunk)
        assert isinstance(guess, Failed)
        assert len(paths(hub, "cdn")) == requests_to_the_cdn
    assert len(paths(hub, "hub")) == 2
    assert client.clock.slept == []


def test_a_guess_is_tried_once(hub: StandIn) -> None:
    client = Client(hub.endpoint)

    def plan() -> Iterator[tuple[Fetch, ...]]:
        yield (HEAD,)
        hub.switches.faults.append(Fault("http_503"))
        [guess] = yield (GUESS,)
        assert isinstance(guess, Failed)
        hub.switches.faults.clear()
        yield (replace(GUESS, is_guess=False),)

    client.follow(listed(TINY), plan())
    assert client.clock.slept == []
    assert len(paths(hub, "hub")) == 1  # what a guess met with says nothing of the address


def test_a_server_that_ignores_ranges_answers_no_guess_at_a_files_end(hub: StandIn) -> None:
    hub.switches.faults.append(Fault("range_ignored"))
    head, guess = ask(Client(hub.endpoint), HEAD, replace(END, is_guess=True))
    assert isinstance(head, Chunk)
    assert isinstance(guess, Failed)
    assert "asked for the last 700 bytes, got the whole file" in str(guess)


def test_of_a_known_file_the_hub_is_asked_and_the_cdn_is_not(hub: StandIn) -> None:
    known = frozenset({TINY.sha256_of(WEIGHTS)})
    answers = ask(Client(hub.endpoint), replace(HEAD, unless=known), replace(GUESS, unless=known))
    assert answers == (Chunk(b"", len(DATA), TINY.sha256_of(WEIGHTS)),) * 2
    assert (len(paths(hub, "hub")), paths(hub, "cdn")) == (1, [])


# The digest of all headers


def test_a_hub_without_a_digest_of_headers_is_asked_for_one_once(hub: StandIn) -> None:
    hub.switches.sharded_endpoint = False
    client = Client(hub.endpoint)
    [first] = ask(client, CLAIMS, listing=listed(MANY))
    [second] = ask(client, CLAIMS, listing=listed(MANY))
    assert isinstance(first, NotFound)
    assert isinstance(second, Failed)
    assert "this Hub has no digest of headers" in str(second)
    assert len(hub.requests) == 1


@pytest.mark.parametrize(
    ("options", "facts", "says"),
    [
        ({"shard_headers": "index"}, {}, "the settings say to read indexes"),
        ({}, {"is_head": False}, "of the main branch alone"),
    ],
)
def test_a_digest_is_not_asked_for_where_it_may_not_be(
    hub: StandIn, options: dict[str, str], facts: dict[str, bool], says: str
) -> None:
    [answer] = ask(Client(hub.endpoint, options=options), CLAIMS, listing=listed(MANY, **facts))
    assert isinstance(answer, Failed)
    assert says in str(answer)
    assert hub.requests == []


@pytest.mark.parametrize(("choice", "is_asked"), [("auto", False), ("api", True)])
def test_a_digest_is_left_to_the_quota_that_has_more_left(hub: StandIn, choice: str, is_asked: bool) -> None:
    hub.switches.limits = {"api": (10, 300), "resolvers": (1_000, 300)}
    client = Client(hub.endpoint, options={"shard_headers": choice})
    ask(client, HEAD)
    for _ in range(3):  # of ten requests to the API, while of a thousand others hardly one was made
        client.run(lambda it: it.describe("acme/tiny"))
    [answer] = ask(client, CLAIMS, listing=listed(MANY))
    assert isinstance(answer, Chunk) is is_asked
    if not is_asked:
        assert "the quota of the API is scarcer" in str(answer)


def test_a_digest_that_does_not_come_is_tried_once(hub: StandIn) -> None:
    hub.switches.faults.append(Fault("hub_503"))
    client = Client(hub.endpoint)
    [answer] = ask(client, CLAIMS, listing=listed(MANY))
    assert isinstance(answer, Failed)
    assert (len(hub.requests), client.clock.slept) == (1, [])


# What whole models cost


def audited(hub: StandIn, client: Client, repo: object, memory: Memory | None = None, **options: object) -> list[int]:
    """Return the requests to API, resolve addresses and CDN that one model took."""
    hub.clear()
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    listing = Listing(repo.repo_id, repo.sha, tuple(map(RepoFile, repo.files)), config, parameter_count=7)
    reading: Reading = client.follow(listing, read_checkpoint(listing, ReadOptions(**options), memory))
    assert reading.status == "ok"
    kinds = [
        "cdn" if request.origin == "cdn" else "resolve" if "/resolve" in request.path else "api"
        for request in hub.requests
    ]
    return [kinds.count(kind) for kind in ("api", "resolve", "cdn")]


@pytest.mark.parametrize(
    ("repo", "is_bound", "choice", "requests"),
    [
        (ONE, False, "auto", [0, 1, 2]),
        (ONE, True, "auto", [0, 2, 2]),
        (MANY, False, "auto", [1, 1, 2]),
        (MANY, True, "auto", [1, 2, 2]),
        (MANY, False, "index", [0, 3, 2]),
        (MANY, True, "index", [0, 4, 2]),
    ],
)
def test_a_final_norm_costs_the_fewest_requests_there_can_be(
    hub: StandIn, repo: object, is_bound: bool, choice: str, requests: list[int]
) -> None:
    hub.switches.range_bound_urls = is_bound
    learned = Learned(Pace())
    client = Client(hub.endpoint, options={"shard_headers": choice}, learned=learned)
    audited(hub, client, ONE)  # teaches whether addresses are bound, at the cost of one request to the CDN
    assert audited(hub, client, repo) == requests


def test_a_model_like_one_seen_before_costs_no_more_requests_though_it_takes_fewer_rounds(hub: StandIn) -> None:
    client, memory = Client(hub.endpoint), Memory()
    assert audited(hub, client, ONE, memory) == audited(hub, client, ONE, memory) == [0, 1, 2]


def test_all_norms_cost_one_address_a_file(hub: StandIn) -> None:
    client = Client(hub.endpoint)
    assert audited(hub, client, ONE, norms="all") == [0, 1, 1 + 65]
    assert audited(hub, client, MANY, norms="all")[:2] == [1, 30]
