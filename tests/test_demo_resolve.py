"""The stand-in's redirects, ranges, signed URLs and limits, over real sockets."""

from __future__ import annotations

import pytest
from huggingface_hub.utils import parse_ratelimit_headers
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.demo.catalogue import BytesContent
from deployments.demo.standin import StandIn, Switches
from tests.asking import ask
from tests.demo_tools import CONFIG, TOKEN, WEIGHTS, cdn_url, repo, resolve, stock

REPOS = stock()


class TestResolve:
    def test_a_large_file_is_a_signed_redirect_to_the_other_origin(self, hub: StandIn) -> None:
        answer, stored = resolve(hub, "plain"), hub.repos["org/plain"]
        assert answer.status == 302
        assert answer.headers["location"].startswith(hub.cdn_origin)
        assert answer.headers["x-repo-commit"] == stored.sha
        assert answer.headers["x-linked-size"] == str(len(WEIGHTS))
        assert answer.headers["x-linked-etag"] == f'"{stored.sha256_of("model.safetensors")}"'
        assert ask(answer.headers["location"]).body == WEIGHTS

    def test_a_small_file_is_a_relative_redirect_to_the_resolve_cache(self, hub: StandIn) -> None:
        answer, sha = resolve(hub, "plain", "config.json"), hub.repos["org/plain"].sha
        assert (answer.status, answer.headers["x-repo-commit"]) == (307, sha)
        assert answer.headers["location"].startswith(
            f"/api/resolve-cache/models/org/plain/{sha}/config.json?%2Forg%2Fplain"
        )
        served = ask(hub.endpoint + answer.headers["location"])
        assert (served.status, served.body) == (200, CONFIG)
        assert served.headers["etag"].startswith('"')
        assert served.headers["etag"].endswith('"')

    @pytest.mark.parametrize("path", ["model.safetensors", "config.json"])
    def test_a_private_file_comes_at_once(self, hub: StandIn, path: str) -> None:
        token = {"Authorization": f"Bearer {TOKEN}"}
        assert resolve(hub, "private", path, **token).status == 200
        part = resolve(hub, "private", path, Range="bytes=3-9", **token)
        stored = hub.repos["org/private"].files[path]
        assert (part.status, part.body) == (206, stored.read(3, 10))
        assert part.headers["x-repo-commit"] == hub.repos["org/private"].sha

    @pytest.mark.parametrize("path", ["model.safetensors", "config.json", "absent.json"])
    def test_head_has_the_headers_of_get_and_no_body(self, hub: StandIn, path: str) -> None:
        got, head = resolve(hub, "plain", path), resolve(hub, "plain", path, "HEAD")
        changing = {"date", "ratelimit", "location", "content-length"}  # a signed URL holds its own expiry
        assert {k: v for k, v in head.headers.items() if k not in changing} == {
            k: v for k, v in got.headers.items() if k not in changing
        }
        assert (head.status, head.body) == (got.status, b"")

    def test_head_on_the_cdn_has_the_headers_of_get(self, hub: StandIn) -> None:
        url = cdn_url(hub)
        got, head = ask(url, Range="bytes=5-9"), ask(url, "HEAD", Range="bytes=5-9")
        assert head.headers.items() - got.headers.items() <= {("date", head.headers["date"])}
        assert (head.status, head.headers["content-length"], head.body) == (206, "5", b"")

    def test_a_name_with_a_space_and_a_folder_is_found(self, hub: StandIn) -> None:
        answer = resolve(hub, "plain", "onnx/model%20with%20space.bin")
        assert ask(answer.headers["location"]).body == b"other weights"

    def test_the_cdn_names_a_file_by_something_other_than_its_sha256(self, hub: StandIn) -> None:
        first, second = ask(cdn_url(hub), Range="bytes=0-0"), ask(cdn_url(hub), Range="bytes=9-9")
        assert first.headers["etag"] == second.headers["etag"]
        assert first.headers["etag"].strip('"') != hub.repos["org/plain"].sha256_of("model.safetensors")

    @pytest.mark.parametrize(
        ("name", "token", "status", "code"),
        [
            ("absent", None, 401, "RepoNotFound"),
            ("absent", TOKEN, 404, "RepoNotFound"),
            ("private", None, 401, "RepoNotFound"),
            ("locked", TOKEN, 403, None),
            ("gated", None, 401, "GatedRepo"),
            ("gated", TOKEN, 403, "GatedRepo"),
            ("granted", TOKEN, 302, None),
            ("disabled", TOKEN, 403, None),
        ],
    )
    def test_who_may_read_what(self, hub: StandIn, name: str, token: str | None, status: int, code: str | None) -> None:
        answer = resolve(hub, name, **({"Authorization": f"Bearer {token}"} if token else {}))
        assert (answer.status, answer.headers.get("x-error-code")) == (status, code)

    def test_a_disabled_repo_is_known_by_its_message(self, hub: StandIn) -> None:
        assert resolve(hub, "disabled").headers["x-error-message"] == "Access to this resource is disabled."

    def test_an_unknown_revision_is_404(self, hub: StandIn) -> None:
        answer = ask(f"{hub.endpoint}/org/plain/resolve/{'0' * 40}/config.json")
        assert (answer.status, answer.headers["x-error-code"]) == (404, "RevisionNotFound")

    def test_a_commit_that_was_replaced_can_still_be_read_by_its_sha(self, hub: StandIn) -> None:
        changing = repo("changing")
        hub.repos["org/changing"] = changing
        old, new = changing.sha, "f" * 40
        changing.commit(new, {"model.safetensors": BytesContent(b"new")})
        for revision, expected in ((old, WEIGHTS), (new, b"new"), ("main", b"new")):
            answer = ask(f"{hub.endpoint}/org/changing/resolve/{revision}/model.safetensors")
            assert answer.headers["x-repo-commit"] == (old if revision == old else new)
            assert ask(answer.headers["location"]).body == expected
        assert ask(f"{hub.endpoint}/api/models/org/changing/revision/{old}?expand=siblings").json()["siblings"][1:]
        del hub.repos["org/changing"]

    def test_chunks_are_offered_where_that_is_switched_on(self, hub: StandIn) -> None:
        assert "x-xet-hash" not in resolve(hub, "plain").headers
        hub.switches.xet = True
        answer = resolve(hub, "plain")
        assert answer.headers["x-xet-hash"] == hub.repos["org/plain"].xet_hash_of("model.safetensors")
        assert 'rel="xet-auth"' in answer.headers["link"]
        assert ask(answer.headers["location"]).body == WEIGHTS


class TestRanges:
    @settings(deadline=None, max_examples=60)
    @given(start=st.integers(0, len(WEIGHTS) - 1), length=st.integers(1, len(WEIGHTS) + 5))
    def test_a_range_is_exactly_the_bytes_asked_for(self, running_hub: StandIn, start: int, length: int) -> None:
        answer = ask(cdn_url(running_hub), Range=f"bytes={start}-{start + length - 1}")
        last = min(start + length, len(WEIGHTS)) - 1
        assert (answer.status, answer.body) == (206, WEIGHTS[start : start + length])
        assert answer.headers["content-range"] == f"bytes {start}-{last}/{len(WEIGHTS)}"

    @pytest.mark.parametrize(("asked", "expected"), [("bytes=-7", WEIGHTS[-7:]), ("bytes=10000-", WEIGHTS[10000:])])
    def test_a_range_may_be_open_at_one_end(self, hub: StandIn, asked: str, expected: bytes) -> None:
        assert ask(cdn_url(hub), Range=asked).body == expected

    def test_a_range_beyond_the_end_is_416(self, hub: StandIn) -> None:
        answer = ask(cdn_url(hub), Range=f"bytes={len(WEIGHTS)}-")
        assert (answer.status, answer.headers["content-range"]) == (416, f"bytes */{len(WEIGHTS)}")


class TestSignedUrls:
    def test_a_token_on_the_cdn_is_an_error(self, hub: StandIn) -> None:
        assert ask(cdn_url(hub), Authorization=f"Bearer {TOKEN}").status == 400
        assert hub.requests[-1].authorized

    def test_a_url_signed_for_one_file_opens_no_other(self, hub: StandIn) -> None:
        assert ask(cdn_url(hub).replace("org/plain", "org/private")).status in (403, 404)
        assert ask(cdn_url(hub).replace("Expires=1", "Expires=2")).status == 403
        assert ask(cdn_url(hub).partition("?")[0]).status == 403

    def test_a_url_that_is_spelt_in_another_way_is_refused(self, hub: StandIn) -> None:
        url = cdn_url(hub)
        assert "%27%27model.safetensors" in url
        assert ask(url).status == 200
        assert ask(url.replace("%27", "'")).status == 403

    def test_a_url_holds_until_it_expires(self) -> None:
        with StandIn([repo("plain")], switches=Switches(url_lifetime_s=-1)) as hub:
            assert ask(cdn_url(hub)).status == 403

    def test_a_bound_url_serves_its_own_range_alone(self) -> None:
        with StandIn([repo("plain")], switches=Switches(range_bound_urls=True)) as hub:
            url = cdn_url(hub, Range="bytes=0-9")
            assert ask(url, Range="bytes=0-9").body == WEIGHTS[:10]
            assert ask(url, Range="bytes=10-19").status == 403
            assert ask(url).status == 403

    def test_any_other_url_serves_a_second_range(self, hub: StandIn) -> None:
        url = cdn_url(hub, Range="bytes=0-9")
        assert ask(url, Range="bytes=10-19").body == WEIGHTS[10:20]


class TestLimits:
    def test_a_used_up_quota_is_a_429_that_says_when_to_come_back(self) -> None:
        with StandIn([repo("plain")], switches=Switches(limits={"api": (9, 300), "resolvers": (2, 300)})) as hub:
            answers = [resolve(hub, "plain") for _ in range(3)]
            assert [answer.status for answer in answers] == [302, 302, 429]
            left = [parse_ratelimit_headers(answer.headers) for answer in answers]
            assert [(info.resource_type, info.remaining, info.limit, info.window_seconds) for info in left if info] == [
                ("resolvers", 1, 2, 300),
                ("resolvers", 0, 2, 300),
                ("resolvers", 0, 2, 300),
            ]
            assert left[2] is not None
            assert 0 < left[2].reset_in_seconds <= 300
            assert ask(f"{hub.endpoint}/api/models").status == 200

    def test_a_new_window_opens_when_the_old_one_ends(self) -> None:
        with StandIn([repo("plain")], switches=Switches(limits={"api": (1, 0), "resolvers": (1, 0)})) as hub:
            assert [resolve(hub, "plain").status for _ in range(3)] == [302, 302, 302]

    def test_the_resolve_cache_counts_as_a_resolver(self, hub: StandIn) -> None:
        served = ask(hub.endpoint + resolve(hub, "plain", "config.json").headers["location"])
        assert served.headers["ratelimit"].startswith('"resolvers";')
