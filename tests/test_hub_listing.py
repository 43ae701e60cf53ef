"""The listing: page by page, whatever a page holds, and never for ever."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice

import orjson
import pytest
from huggingface_hub import close_session
from hypothesis import given
from hypothesis import strategies as st

from deployments.demo.standin import Fault, StandIn
from tasks.core.errors import Failed
from tasks.core.records import Listing, RepoFile
from tasks.hub import HubOptions, Learned, ListingQuery, Pace, list_models
from tasks.hub.entries import is_repo_id, listing_of
from tests.hub_tools import TOKEN, Answer, Clock, scripted, tiny

PUBLIC = [tiny(f"acme/m{n}", downloads=100 - n, likes=n, tags=(f"t{n % 2}",)) for n in range(5)]
REPOS = [*PUBLIC, tiny("other/hidden", private=True, downloads=1_000)]
SHA = "a" * 40


@pytest.fixture(autouse=True, scope="module")
def session() -> Iterator[None]:
    """Leave no connection of huggingface_hub's own session behind."""
    yield
    close_session()


@pytest.fixture
def hub(hub: StandIn) -> StandIn:
    """The module's Hub, with pages of two repos."""
    hub.switches.page_size = 2
    return hub


def listing(
    endpoint: str, query: ListingQuery | None = None, token: str | None = None, **options: object
) -> Iterator[Listing]:
    clock = Clock()
    chosen = HubOptions(endpoint, token, **options)
    learned = Learned(Pace(clock=clock))
    return list_models(chosen, query or ListingQuery(), learned, sleep=clock.wait, rng=random.Random(0))


def ids(found: Iterator[Listing]) -> list[str]:
    return [repo.repo_id for repo in found]


def page(*entries: object, next_url: str | None = None) -> Answer:
    headers = {} if next_url is None else {"Link": f'<{next_url}>; rel="next"'}
    return Answer(200, headers, json.dumps(entries).encode())


def test_all_pages_are_walked_in_order(hub: StandIn) -> None:
    assert ids(listing(hub.endpoint)) == [repo.repo_id for repo in PUBLIC]
    assert len(hub.requests) == 3


def test_a_page_is_asked_for_when_the_one_before_is_used_up(hub: StandIn) -> None:
    repos = listing(hub.endpoint)
    assert hub.requests == []
    assert len(list(islice(repos, 2))) == 2
    assert len(hub.requests) == 1


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (ListingQuery(top=3), ["acme/m0", "acme/m1", "acme/m2"]),
        (ListingQuery(top=1, sort="likes"), ["acme/m4"]),
        (ListingQuery(filters=("safetensors", "t1")), ["acme/m1", "acme/m3"]),
        (ListingQuery(author="acme", search="M2"), ["acme/m2"]),
        (ListingQuery(author="nobody"), []),
    ],
)
def test_a_query_chooses_and_sorts(hub: StandIn, query: ListingQuery, expected: list[str]) -> None:
    assert ids(listing(hub.endpoint, query)) == expected


def test_a_query_for_nothing_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="top is 0"):
        ListingQuery(top=0)


def test_one_page_tells_all_that_a_crawl_needs_to_know(hub: StandIn) -> None:
    repo = next(listing(hub.endpoint, ListingQuery(search="m1")))
    assert repo == Listing(
        repo_id="acme/m1",
        sha=PUBLIC[1].sha,
        files=(RepoFile("model.safetensors"), RepoFile("config.json")),
        config={"model_type": "tiny"},
        author="acme",
        created_at="2024-01-01T00:00:00+00:00",
        last_modified="2024-01-02T00:00:00+00:00",
        downloads=99,
        likes=1,
        library_name="transformers",
        tags=("transformers", "safetensors", "t1"),
        private=False,
        disabled=False,
    )


def test_the_token_shows_what_is_private(hub: StandIn) -> None:
    assert ids(listing(hub.endpoint, ListingQuery(top=1), TOKEN)) == ["other/hidden"]
    assert hub.requests[0].authorized


def test_a_page_that_stalls_ends_the_listing(hub: StandIn) -> None:
    hub.switches.faults.append(Fault("listing_stalls"))
    with pytest.raises(Failed, match=r"listing: 127\.0\.0\.1 gave no whole page: ReadTimeout \(tried 2 times\)"):
        next(listing(hub.endpoint, read_timeout_s=0.1, retries=1))


def test_a_page_that_drips_ends_the_listing(hub: StandIn) -> None:
    with pytest.raises(Failed, match=r"listing: a page took more than 0 s"):
        next(listing(hub.endpoint, total_timeout_s=0.0, retries=0))


def test_a_page_that_was_refused_for_a_moment_is_asked_for_again(hub: StandIn) -> None:
    hub.switches.faults.append(Fault("listing_503", times=2))
    assert len(ids(listing(hub.endpoint))) == 5


def test_a_page_that_is_always_refused_ends_the_listing(hub: StandIn) -> None:
    hub.switches.faults.append(Fault("listing_503"))
    with pytest.raises(Failed, match=r"listing: the Hub answered 503 \(tried 5 times\)"):
        next(listing(hub.endpoint))


def test_a_spent_quota_is_waited_for() -> None:
    answers = [Answer(429, {"RateLimit": '"api";r=0;t=42'}), page({"id": "acme/a", "sha": SHA})]
    clock = Clock()
    with scripted(answers={"/api/models": lambda: answers.pop(0)}) as server:
        found = list_models(HubOptions(server.endpoint), ListingQuery(), Learned(Pace(clock=clock)), sleep=clock.wait)
        assert ids(found) == ["acme/a"]
    assert clock.slept[0] == 42.0


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Answer(401, {"X-Error-Message": "Invalid credentials"}), "answered 401, Invalid credentials; check the query"),
        (Answer(302, {"Location": "http://elsewhere/"}), "redirects elsewhere; set HF_ENDPOINT"),
        (Answer(200, {}, b"<html>"), "a page of 6 bytes is no JSON"),
        (Answer(200, {}, b'{"error": "x"}'), "a page is no list of repos"),
        (page(next_url="ftp://host/x"), "redirects to ftp:, which is not HTTP"),
    ],
)
def test_an_answer_that_is_no_listing_ends_it(answer: Answer, says: str) -> None:
    with scripted(answers={"/api/models": answer}) as server, pytest.raises(Failed, match=says):
        ids(listing(server.endpoint, retries=0))


def test_a_next_page_elsewhere_gets_no_token() -> None:
    with scripted() as hub, scripted() as elsewhere:
        elsewhere.answers["/page2"] = page({"id": "acme/b"})
        hub.answers["/api/models"] = page({"id": "acme/a"}, next_url=f"{elsewhere.endpoint}/page2")
        assert ids(listing(hub.endpoint, token=TOKEN)) == ["acme/a", "acme/b"]
        assert hub.requests[0][1]["authorization"] == f"Bearer {TOKEN}"
        assert "authorization" not in elsewhere.requests[0][1]
        assert elsewhere.requests[0][1]["user-agent"].startswith("normaudit/")


def test_a_link_is_followed_as_it_is_spelt() -> None:
    with scripted() as hub:
        hub.answers |= {"/api/models": page(next_url="/api/next?cursor=a%3D%3D&expand=sha"), "/api/next": page()}
        assert ids(listing(hub.endpoint)) == []
        assert hub.requests[1][0] == "/api/next?cursor=a%3D%3D&expand=sha"


def test_pages_that_go_in_a_circle_end() -> None:
    with scripted() as hub:
        hub.answers |= {"/api/models": page(next_url="/api/next"), "/api/next": page(next_url="/api/next")}
        with pytest.raises(Failed, match="page 3 is one that came before"):
            ids(listing(hub.endpoint))


@pytest.mark.parametrize("body", [b"[{", b"[" * 100_000, b'{"a": 1}', b"\xff\xfe"])
def test_a_page_that_cannot_be_read_costs_that_page_alone(body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with scripted() as hub:
        hub.answers["/api/models"] = Answer(200, {"Link": '</api/next>; rel="next"'}, body)
        hub.answers["/api/next"] = page({"id": "acme/b"})
        assert ids(listing(hub.endpoint)) == ["acme/b"]
    assert "a page of up to 1000 repos is left out" in caplog.text


def test_an_entry_that_names_no_repo_costs_that_entry_alone(caplog: pytest.LogCaptureFixture) -> None:
    entries = [None, [], {"id": 7}, {"id": "../api"}, {"id": "acme/\x1b[2J"}, {"id": "acme/a"}]
    with scripted(answers={"/api/models": page(*entries)}) as hub:
        assert ids(listing(hub.endpoint)) == ["acme/a"]
    assert caplog.text.count("left out an entry that names no repo") == 5
    assert "\x1b" not in caplog.text


def test_no_request_is_made_where_huggingface_hub_is_told_to_stay_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    close_session()
    with scripted() as hub, pytest.raises(Failed, match="HF_HUB_OFFLINE is set"):
        ids(listing(hub.endpoint))
    assert hub.requests == []


# Entries

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
KEYS = "sha siblings config author createdAt lastModified downloads likes library_name pipeline_tag tags gated private"


@given(st.dictionaries(st.sampled_from([*KEYS.split(), "disabled", "safetensors"]), json_values), json_values)
def test_any_entry_becomes_a_listing_whose_text_can_be_stored(facts: dict[str, object], sibling: object) -> None:
    found = listing_of({"id": "acme/a", "siblings": [sibling, {"rfilename": sibling}]} | facts)
    assert found is not None
    orjson.dumps(asdict(found))


@given(json_values)
def test_whatever_is_no_entry_is_no_listing(value: object) -> None:
    assert listing_of(value) is None


@pytest.mark.parametrize(
    ("facts", "field", "expected"),
    [
        ({"sha": "main"}, "sha", None),
        ({"sha": SHA.upper()}, "sha", None),
        ({"downloads": -1}, "downloads", None),
        ({"downloads": True}, "downloads", None),
        ({"likes": 2**64}, "likes", None),
        ({"gated": True}, "gated", "auto"),
        ({"gated": False}, "gated", None),
        ({"gated": "manual"}, "gated", "manual"),
        ({"private": "no"}, "private", None),
        ({"tags": ["a", 7, "\ud800", "", "x" * 5_000]}, "tags", ("a",)),
        ({"createdAt": "2024-05-01T12:00:00+02:00"}, "created_at", "2024-05-01T10:00:00+00:00"),
        ({"createdAt": "0001-01-01T00:00:00+14:00"}, "created_at", None),
        ({"createdAt": "yesterday"}, "created_at", None),
        ({"config": {"model_type": "\ud800"}}, "config", None),
        ({"config": {"depth": 2**70}}, "config", None),
        ({"config": ["LlamaForCausalLM"]}, "config", None),
        ({"safetensors": {"total": 7}}, "parameter_count", 7),
        ({"safetensors": 7}, "parameter_count", None),
        ({"author": None}, "author", "acme"),
        (
            {"siblings": [{"rfilename": "a", "size": 3, "lfs": {"sha256": "b" * 64}}]},
            "files",
            (RepoFile("a", 3, "b" * 64),),
        ),
        ({"siblings": {"rfilename": "a"}}, "files", ()),
    ],
)
def test_a_fact_is_taken_only_where_it_makes_sense(facts: dict[str, object], field: str, expected: object) -> None:
    assert getattr(listing_of({"id": "acme/a"} | facts), field) == expected


@pytest.mark.parametrize("name", ["gpt2", "acme/a", "acme/a.b-c_D", "0x/1"])
def test_a_repo_has_one_or_two_plain_names(name: str) -> None:
    assert is_repo_id(name)


@pytest.mark.parametrize(
    "name", ["", "/", "a/", "/a", "a/b/c", "..", "a/..b", ".a/b", "a b", "a/b\n", "é/a", "a" * 200, 7, None]
)
def test_anything_else_is_no_repo(name: object) -> None:
    assert not is_repo_id(name)
