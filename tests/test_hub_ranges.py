"""Ranges over real sockets: what a server may get wrong, and what becomes of it."""

from __future__ import annotations

import gzip

import pytest

from deployments.demo.catalogue import BytesContent, StandInRepo
from deployments.demo.standin import Fault, StandIn
from tasks.core.errors import AuditError, BadFile, Failed, TooLarge
from tasks.core.reading import Plan
from tasks.core.records import Chunk, Fetch, Listing
from tests.hub_tools import CONFIG, DATA, WEIGHTS, Answer, Client, huge, listed, read, scripted, tiny

TINY, HUGE, EMPTY = tiny(), huge(), StandInRepo("acme/empty", {WEIGHTS: BytesContent(b"")})
SPELT = StandInRepo("acme/spelt", {"a b/c#d?é.safetensors": BytesContent(DATA)})
REPOS = [TINY, HUGE, EMPTY, SPELT]
HEAD, MIDDLE = Fetch(WEIGHTS, 0, 65_536), Fetch(WEIGHTS, 100_000, 100_512)
SIZE = len(DATA)
PASSING = [
    "hub_503",
    "commit_moved",
    "linked_size_wrong",
    "short_206",
    "short_honest",
    "wrong_content_range",
    "wrong_total",
    "missing_content_range",
    "http_503",
    "http_500",
    "reset",
    "html_200",
    "gzip_body",
    "url_expired",
]


def failure(hub: StandIn, fault: str, fetch: Fetch = MIDDLE, times: int | None = None, **options: object) -> AuditError:
    """Return the error that a fault amounts to when it does not pass."""
    hub.switches.faults.append(Fault(fault, times=times))
    with pytest.raises(AuditError) as caught:
        Client(hub.endpoint, options=options).fetch(listed(TINY), fetch)
    assert "acme/tiny/model.safetensors: " in str(caught.value)
    return caught.value


@pytest.mark.parametrize("fetch", [HEAD, MIDDLE, Fetch(WEIGHTS, 299_000, 400_000)])
def test_a_range_is_the_bytes_of_the_file(hub: StandIn, fetch: Fetch) -> None:
    chunk = Client(hub.endpoint).fetch(listed(TINY), fetch)
    assert chunk == Chunk(DATA[fetch.start : fetch.stop], SIZE, TINY.sha256_of(WEIGHTS))


@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_passes_leaves_no_trace(hub: StandIn, fault: str) -> None:
    hub.switches.faults.append(Fault(fault, times=1))
    client = Client(hub.endpoint)
    chunk = client.fetch(listed(TINY), MIDDLE)
    assert chunk.data == DATA[MIDDLE.start : MIDDLE.stop]
    assert len(client.clock.slept) == 1


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("hub_503", "the Hub answered 503"),
        ("http_503", "127.0.0.1 answered 503"),
        ("http_500", "127.0.0.1 answered 500"),
        ("short_206", "asked for 512 bytes, got 256"),
        ("short_honest", "asked for bytes [100,000, 100,512), got [100,000, 100,256) of 300,000"),
        ("wrong_content_range", "asked for bytes [100,000, 100,512), got [100,001, 100,513) of 300,000"),
        ("missing_content_range", "got a part with Content-Range ''"),
        ("reset", "127.0.0.1 gave no whole answer: ClientPayloadError"),
        ("html_200", "got an HTML page with status 200"),
        ("gzip_body", "asked for encoding identity, got gzip"),
        ("url_expired", "127.0.0.1 answered 403"),
        ("commit_moved", "got " + "f" * 40),
    ],
)
def test_a_fault_that_stays_is_no_answer(hub: StandIn, fault: str, says: str) -> None:
    error = failure(hub, fault)
    assert type(error) is Failed
    assert says in str(error)
    assert str(error).endswith("(tried 5 times)")


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("wrong_total", "X-Linked-Size is 300,000, this answer is of a file of 300,001 bytes"),
        ("linked_size_wrong", "X-Linked-Size is 300,001, this answer is of a file of 300,000 bytes"),
    ],
)
def test_a_size_that_keeps_contradicting_the_hub_is_a_bad_file(hub: StandIn, fault: str, says: str) -> None:
    error = failure(hub, fault)
    assert type(error) is BadFile
    assert says in str(error)


def test_an_etag_that_keeps_changing_between_ranges_is_a_bad_file(hub: StandIn) -> None:
    hub.switches.faults.append(Fault("etag_changes"))
    with pytest.raises(BadFile, match=r"acme/tiny/model\.safetensors: its ETag was .*, now it is "):
        Client(hub.endpoint).follow(listed(TINY), read(HEAD, MIDDLE))


def test_an_etag_that_changed_once_is_asked_for_again(hub: StandIn) -> None:
    def plan() -> Plan[bytes]:
        yield (HEAD,)
        hub.switches.faults.append(Fault("etag_changes", times=1))
        [middle] = yield (MIDDLE,)
        assert isinstance(middle, Chunk)
        return middle.data

    assert Client(hub.endpoint).follow(listed(TINY), plan()) == DATA[100_000:100_512]


def test_a_server_that_says_nothing_is_given_up(hub: StandIn) -> None:
    error = failure(hub, "stall", read_timeout_s=0.1, retries=1)
    assert type(error) is Failed
    assert "127.0.0.1 gave no whole answer: timed out (tried 2 times)" in str(error)


def test_a_host_that_is_down_is_given_up() -> None:
    with pytest.raises(Failed, match="ClientConnectorError: Connect"):
        Client("http://127.0.0.1:9", options={"retries": 1}).fetch(listed(TINY), HEAD)


def test_the_start_of_a_file_is_had_even_from_a_server_that_ignores_ranges(hub: StandIn) -> None:
    hub.switches.faults.append(Fault("range_ignored"))
    client = Client(hub.endpoint)
    chunk = client.fetch(listed(HUGE), HEAD)
    assert chunk.data == b"first".ljust(65_536, b"\0")
    assert chunk.file_bytes == 20_000_000_000
    assert client.meter.bytes_read < 70_000


def test_a_range_deep_in_a_file_is_not_had_by_reading_the_whole_file(hub: StandIn) -> None:
    hub.switches.faults.append(Fault("range_ignored"))
    client = Client(hub.endpoint)
    with pytest.raises(Failed, match=r"the whole file of 20,000,000,000 bytes; at most 1,000,000 are read to skip"):
        client.fetch(listed(HUGE), Fetch(WEIGHTS, 19_999_999_000, 20_000_000_000))
    assert client.meter.bytes_read < 10_000


def test_a_range_near_the_start_is_had_by_skipping_to_it(hub: StandIn) -> None:
    hub.switches.faults.append(Fault("range_ignored"))
    assert Client(hub.endpoint).fetch(listed(TINY), MIDDLE).data == DATA[100_000:100_512]


@pytest.mark.parametrize("start", [300_000, 400_000])
def test_a_range_past_the_end_is_empty_and_tells_the_size(hub: StandIn, start: int) -> None:
    chunk = Client(hub.endpoint).fetch(listed(TINY), Fetch(WEIGHTS, start, start + 10))
    assert (chunk.data, chunk.file_bytes) == (b"", SIZE)


def test_an_empty_file_is_empty(hub: StandIn) -> None:
    chunk = Client(hub.endpoint).fetch(listed(EMPTY), HEAD)
    assert (chunk.data, chunk.file_bytes) == (b"", 0)


def test_a_small_file_is_read_whole(hub: StandIn) -> None:
    client = Client(hub.endpoint)
    chunk = client.fetch(listed(TINY), Fetch("config.json"))
    assert (chunk.data, chunk.file_bytes) == (CONFIG, len(CONFIG))
    assert (client.meter.hub_requests, client.meter.cdn_requests) == (2, 0)


def test_a_fetch_may_set_a_lower_limit_for_a_whole_file(hub: StandIn) -> None:
    client = Client(hub.endpoint)
    whole = client.fetch(listed(TINY), Fetch("config.json", limit_bytes=len(CONFIG)))
    assert whole.data == CONFIG
    with pytest.raises(TooLarge, match="at most 5"):
        client.fetch(listed(TINY), Fetch("config.json", limit_bytes=5))


def test_a_file_too_long_to_be_read_whole_is_refused_before_it_is_read(hub: StandIn) -> None:
    client = Client(hub.endpoint)
    with pytest.raises(TooLarge, match=r"has 20,000,000,000 bytes; .* at most 64,000,000"):
        client.fetch(listed(HUGE), Fetch(WEIGHTS))
    assert client.meter.bytes_read < 10_000


WHOLE = Fetch("config.json")
LISTING = Listing("acme/odd", "a" * 40)
COMMIT = {"X-Repo-Commit": "a" * 40}
ODD = f"/acme/odd/resolve/{'a' * 40}/config.json"


def odd(answer: Answer, fetch: Fetch = WHOLE, **options: object) -> Chunk:
    """Return what a client makes of an answer given word for word."""
    with scripted(answers={ODD: answer}) as server:
        return Client(server.endpoint, options={"retries": 0, **options}).fetch(LISTING, fetch)


def test_a_compressed_small_file_is_decompressed() -> None:
    assert odd(Answer(200, COMMIT | {"Content-Encoding": "gzip"}, gzip.compress(CONFIG))).data == CONFIG


def test_a_small_file_that_decompresses_to_a_large_one_is_too_large() -> None:
    bomb = gzip.compress(bytes(1_000_000))
    with pytest.raises(TooLarge, match=rf"{len(bomb):,} bytes of gzip hold more than 5,000 bytes"):
        odd(Answer(200, COMMIT | {"Content-Encoding": "gzip"}, bomb), max_whole_file_bytes=5_000)


def test_a_compressed_file_that_breaks_off_is_no_answer() -> None:
    with pytest.raises(Failed, match="end before their end mark"):
        odd(Answer(200, COMMIT | {"Content-Encoding": "gzip"}, gzip.compress(DATA)[:-9]))


def test_what_is_called_gzip_and_is_not_is_no_answer() -> None:
    with pytest.raises(Failed, match="22 bytes came as gzip and are not"):
        odd(Answer(200, COMMIT | {"Content-Encoding": "gzip"}, CONFIG))


def test_a_file_without_end_is_left_at_the_limit() -> None:
    with pytest.raises(TooLarge, match="at most 5,000"):
        odd(
            Answer(200, COMMIT, bytes(1_000_000)), max_whole_file_bytes=5_000
        )  # no Content-Length: ends with the connection


def test_an_answer_that_names_no_commit_is_not_believed() -> None:
    with pytest.raises(Failed, match=f"asked for revision {'a' * 40}, the answer has no X-Repo-Commit"):
        odd(Answer(200, {}, CONFIG))


def test_a_part_that_goes_on_after_its_end_is_no_answer() -> None:
    with pytest.raises(Failed, match="asked for 10 bytes, got more"):
        odd(Answer(206, COMMIT | {"Content-Range": "bytes 0-9/22"}, CONFIG), Fetch("config.json", 0, 10))


def test_a_range_refused_as_past_the_end_that_is_not_past_it_is_no_answer() -> None:
    with pytest.raises(
        Failed, match=r"bytes \[0, 10\) were refused as past the end, yet Content-Range is 'bytes \*/22'"
    ):
        odd(Answer(416, COMMIT | {"Content-Range": "bytes */22"}), Fetch("config.json", 0, 10))


def test_a_whole_file_of_unknown_size_is_no_answer_to_a_range() -> None:
    with pytest.raises(Failed, match="got the whole file and no word of its size"):
        odd(Answer(200, COMMIT, CONFIG), Fetch("config.json", 0, 10))


@pytest.mark.parametrize("path", ["../x", "a/../b", "./x", "/etc/passwd", "http://evil/x", "a//b", ""])
def test_a_path_out_of_the_repo_is_a_bad_file_and_is_never_asked_for(path: str) -> None:
    with scripted() as server:
        with pytest.raises(BadFile, match="this path does not lead to a file of the repo"):
            Client(server.endpoint).fetch(LISTING, Fetch(path, 0, 8))
        assert server.requests == []


def test_a_path_with_odd_characters_is_asked_for_as_it_is_spelt(hub: StandIn) -> None:
    assert Client(hub.endpoint).fetch(listed(SPELT), Fetch("a b/c#d?é.safetensors", 0, 8)).data == DATA[:8]


def test_a_repo_without_a_revision_is_not_read() -> None:
    with pytest.raises(Failed, match=r"acme/tiny/model\.safetensors: the listing names no revision"):
        Client("http://127.0.0.1:9").fetch(Listing("acme/tiny"), HEAD)


@pytest.mark.parametrize(("start", "stop"), [(5, 5), (5, 4), (-1, 4)])
def test_a_range_without_bytes_is_a_mistake_of_the_caller(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match="is no range of bytes"):
        Client("http://127.0.0.1:9").fetch(LISTING, Fetch(WEIGHTS, start, stop))
