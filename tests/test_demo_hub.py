"""The stand-in speaks the Hub's protocol over real sockets, to plain requests and to huggingface_hub."""

from __future__ import annotations

import gzip
import http.client
import json
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
import safetensors.numpy
from huggingface_hub import HfApi, HfFileSystem, errors, get_hf_file_metadata, hf_hub_url
from huggingface_hub.utils import parse_ratelimit_headers
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.demo.catalogue import (
    BytesContent,
    SparseContent,
    StandInRepo,
    repo_from_folder,
    sparse_7b,
    sparse_70b,
    sparse_llama,
)
from deployments.demo.checkpoint import PlannedTensor, framed, read_header, sparse_checkpoint
from deployments.demo.standin import Fault, StandIn, Switches
from tests.asking import Answer, ask

TOKEN = "hf_demo"
WEIGHTS = bytes(range(256)) * 40
CONFIG = json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "rms_norm_eps": 1e-5}).encode()
INDEX = json.dumps({"weight_map": {f"layer.{i}.weight": "model.safetensors" for i in range(40)}}).encode()


def repo(name: str, **facts: object) -> StandInRepo:
    files = {
        "README.md": BytesContent(b"# A model"),
        "config.json": BytesContent(CONFIG),
        "model.safetensors": BytesContent(WEIGHTS),
        "model.safetensors.index.json": BytesContent(INDEX),
        "onnx/model with space.bin": BytesContent(b"other weights"),
    }
    return StandInRepo(f"org/{name}", files, **facts)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def running_hub() -> Iterator[StandIn]:
    repos = [
        repo("plain", downloads=5, likes=9, tags=("license:mit",), created_at="2024-03-01T00:00:00.000Z"),
        repo("popular", downloads=900, likes=1, pipeline_tag="text-generation"),
        repo("gated", gated="manual", readable_by_token=False),
        repo("granted", gated="auto"),
        repo("disabled", disabled=True),
        repo("private", private=True),
        repo("locked", private=True, readable_by_token=False),
        StandInRepo("other/model", {}, downloads=50),
    ]
    with StandIn(repos, token=TOKEN) as running:
        yield running


@pytest.fixture
def hub(running_hub: StandIn) -> Iterator[StandIn]:
    yield running_hub
    running_hub.switches.faults.clear()
    running_hub.clear()


def resolve(hub: StandIn, name: str, path: str = "model.safetensors", method: str = "GET", **headers: str) -> Answer:
    return ask(f"{hub.endpoint}/org/{name}/resolve/main/{path}", method, **headers)


def cdn_url(hub: StandIn, **headers: str) -> str:
    return resolve(hub, "plain", **headers).headers["location"]


def ids(answer: Answer) -> list[str]:
    return [entry["id"] for entry in answer.json()]


class TestListing:
    def test_most_downloaded_comes_first(self, hub: StandIn) -> None:
        answer = ask(f"{hub.endpoint}/api/models?sort=downloads&limit=3")
        assert ids(answer) == ["org/popular", "other/model", "org/plain"]

    def test_the_link_to_the_next_page_keeps_every_parameter(self, hub: StandIn) -> None:
        query = "filter=safetensors&filter=transformers&sort=downloads&expand=sha&expand=siblings&limit=2"
        link = ask(f"{hub.endpoint}/api/models?{query}").headers["link"]
        url = link.removeprefix("<").removesuffix('>; rel="next"')
        assert [pair for pair in parse_qsl(urlsplit(url).query) if pair[0] != "cursor"] == parse_qsl(query)

    def test_pages_together_hold_each_public_repo_once(self, hub: StandIn) -> None:
        url, seen = f"{hub.endpoint}/api/models?limit=2", []
        while url:
            page = ask(url)
            seen += ids(page)
            url = page.headers.get("link", "").partition(">")[0].removeprefix("<")
        assert sorted(seen) == sorted(key for key, stored in hub.repos.items() if not stored.private)

    def test_expand_returns_those_fields_and_no_others(self, hub: StandIn) -> None:
        (entry,) = ask(f"{hub.endpoint}/api/models?search=PLAIN&expand=sha&expand=config&expand=gated").json()
        assert entry.keys() == {"_id", "id", "sha", "config", "gated"}

    def test_config_is_a_digest_without_epsilons(self, hub: StandIn) -> None:
        (entry,) = ask(f"{hub.endpoint}/api/models?search=plain&expand=config").json()
        assert entry["config"] == {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("author=other", ["other/model"]),
            ("filter=license:mit", ["org/plain"]),
            ("filter=text-generation,safetensors", ["org/popular"]),
            ("pipeline_tag=text-generation", ["org/popular"]),
        ],
    )
    def test_filters_choose(self, hub: StandIn, query: str, expected: list[str]) -> None:
        assert ids(ask(f"{hub.endpoint}/api/models?{query}")) == expected

    def test_private_repos_are_listed_for_the_token_alone(self, hub: StandIn) -> None:
        url = f"{hub.endpoint}/api/models?author=org"
        stranger, owner = set(ids(ask(url))), set(ids(ask(url, Authorization=f"Bearer {TOKEN}")))
        assert owner - stranger == {"org/private", "org/locked"}

    def test_a_wrong_token_is_refused(self, hub: StandIn) -> None:
        answer = ask(f"{hub.endpoint}/api/models", Authorization="Bearer hf_other")
        assert (answer.status, answer.headers["x-error-message"]) == (
            401,
            "Invalid credentials in Authorization header",
        )

    def test_json_is_compressed_for_those_who_accept_that(self, hub: StandIn) -> None:
        url = f"{hub.endpoint}/api/models?full=true"
        answer = ask(url, Accept_Encoding="gzip, br")
        assert answer.headers["content-encoding"] == "gzip"
        assert json.loads(gzip.decompress(answer.body)) == ask(url).json()

    @pytest.mark.parametrize(
        "tensor", [3, [], {"dtype": None}, {"dtype": "F32", "shape": "ab"}, {"dtype": [], "shape": 1}]
    )
    def test_a_header_that_is_wrong_on_purpose_does_not_stop_it(self, hub: StandIn, tensor: object) -> None:
        wrong = framed(json.dumps({"a": tensor, "b": {"dtype": "F32", "shape": [2, 3]}}).encode())
        hub.repos["bad/header"] = StandInRepo("bad/header", {"model.safetensors": BytesContent(wrong)})
        (entry,) = ask(f"{hub.endpoint}/api/models?author=bad&expand=safetensors").json()
        del hub.repos["bad/header"]
        assert entry["safetensors"]["total"] == 6


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
        assert answer.headers["location"] == f"/api/resolve-cache/models/org/plain/{sha}/config.json"
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


class TestFaults:
    @pytest.mark.parametrize(
        ("kind", "status", "content_range", "length"),
        [
            ("range_ignored", 200, None, len(WEIGHTS)),
            ("short_206", 206, f"bytes 100-199/{len(WEIGHTS)}", 50),
            ("short_honest", 206, f"bytes 100-149/{len(WEIGHTS)}", 50),
            ("wrong_content_range", 206, f"bytes 101-200/{len(WEIGHTS)}", 100),
            ("wrong_total", 206, f"bytes 100-199/{len(WEIGHTS) + 1}", 100),
            ("missing_content_range", 206, None, 100),
        ],
    )
    def test_a_range_goes_wrong(
        self, hub: StandIn, kind: str, status: int, content_range: str | None, length: int
    ) -> None:
        hub.switches.faults.append(Fault(kind))
        answer = ask(cdn_url(hub), Range="bytes=100-199")
        assert (answer.status, answer.headers.get("content-range")) == (status, content_range)
        assert len(answer.body) == length

    @pytest.mark.parametrize(("kind", "status"), [("http_503", 503), ("http_500", 500), ("url_expired", 403)])
    def test_the_cdn_refuses(self, hub: StandIn, kind: str, status: int) -> None:
        hub.switches.faults.append(Fault(kind))
        assert ask(cdn_url(hub), Range="bytes=100-199").status == status

    def test_the_etag_changes_from_range_to_range(self, hub: StandIn) -> None:
        hub.switches.faults.append(Fault("etag_changes"))
        assert len({ask(cdn_url(hub), Range="bytes=0-9").headers["etag"] for _ in range(3)}) == 3

    def test_a_page_comes_instead_of_the_file(self, hub: StandIn) -> None:
        hub.switches.faults.append(Fault("html_200"))
        assert ask(cdn_url(hub), Range="bytes=0-9").body.startswith(b"<!DOCTYPE html>")

    def test_a_range_is_compressed_unasked(self, hub: StandIn) -> None:
        hub.switches.faults.append(Fault("gzip_body"))
        answer = ask(cdn_url(hub), Range="bytes=0-99", Accept_Encoding="identity")
        assert (answer.headers["content-encoding"], gzip.decompress(answer.body)) == ("gzip", WEIGHTS[:100])

    def test_a_connection_breaks_half_way(self, hub: StandIn) -> None:
        hub.switches.faults.append(Fault("reset"))
        with pytest.raises(http.client.IncompleteRead) as broken:
            ask(cdn_url(hub), Range="bytes=0-99")
        assert broken.value.partial == WEIGHTS[:50]

    @pytest.mark.parametrize(
        ("kind", "status", "header", "value"),
        [
            ("hub_503", 503, "x-error-code", None),
            ("hub_429", 429, "ratelimit", '"resolvers";r=0;t=1'),
            ("deleted", 404, "x-error-code", "RepoNotFound"),
            ("gated_meanwhile", 403, "x-error-code", "GatedRepo"),
            ("commit_moved", 302, "x-repo-commit", "f" * 40),
            ("linked_size_wrong", 302, "x-linked-size", str(len(WEIGHTS) + 1)),
            ("redirect_loop", 302, "location", "/org/plain/resolve/main/model.safetensors"),
        ],
    )
    def test_resolving_goes_wrong(self, hub: StandIn, kind: str, status: int, header: str, value: str | None) -> None:
        hub.switches.faults.append(Fault(kind, repo_id="org/plain"))
        answer = resolve(hub, "plain")
        assert (answer.status, answer.headers.get(header)) == (status, value)
        assert resolve(hub, "popular").status == 302

    def test_a_relative_redirect_leads_to_the_same_bytes(self, hub: StandIn) -> None:
        hub.switches.faults.append(Fault("redirect_relative"))
        location = resolve(hub, "plain").headers["location"]
        assert location.startswith("/")
        assert ask(hub.endpoint + location, Range="bytes=5-9").body == WEIGHTS[5:10]

    def test_the_listing_fails_or_hides_its_next_page(self, hub: StandIn) -> None:
        hub.switches.faults += [Fault("listing_503", times=1), Fault("no_link_header")]
        first, second = (ask(f"{hub.endpoint}/api/models?limit=1") for _ in range(2))
        assert (first.status, second.status, "link" in second.headers) == (503, 200, False)

    @pytest.mark.parametrize("kind", ["stall", "listing_stalls"])
    def test_an_answer_never_comes(self, hub: StandIn, kind: str) -> None:
        url = cdn_url(hub) if kind == "stall" else f"{hub.endpoint}/api/models"
        hub.switches.faults.append(Fault(kind))
        with pytest.raises(TimeoutError):
            ask(url, timeout_s=0.1)

    def test_a_fault_strikes_as_often_as_it_is_told_to(self, hub: StandIn) -> None:
        hub.switches.faults.append(Fault("http_503", path="model.safetensors", times=2))
        assert [ask(cdn_url(hub)).status for _ in range(4)] == [503, 503, 200, 200]

    def test_a_small_file_is_struck_only_by_name(self, hub: StandIn) -> None:
        url = hub.endpoint + resolve(hub, "plain", "config.json").headers["location"]
        hub.switches.faults.append(Fault("http_503"))
        assert ask(url).status == 200
        hub.switches.faults.append(Fault("http_503", path="config.json"))
        assert ask(url).status == 503

    def test_an_unknown_kind_is_refused_with_the_known_ones(self) -> None:
        with pytest.raises(ValueError, match=r"no fault is called 'htp_503'; there are .*http_503"):
            Fault("htp_503")


class TestRunning:
    def test_it_ends_although_an_answer_stalls(self) -> None:
        with ExitStack() as after:
            with StandIn([repo("plain")], switches=Switches(faults=[Fault("stall")])) as hub:
                parts = urlsplit(cdn_url(hub))
                waiting = after.enter_context(closing(http.client.HTTPConnection(parts.netloc)))
                waiting.request("GET", f"{parts.path}?{parts.query}")
            with pytest.raises(ConnectionRefusedError):
                ask(hub.endpoint)

    def test_a_whole_checkpoint_stops_flowing_when_the_client_hangs_up(self) -> None:
        with StandIn([sparse_7b("org/plain")]) as hub:
            parts = urlsplit(cdn_url(hub))
            with closing(http.client.HTTPConnection(parts.netloc)) as leaving:
                leaving.request("GET", f"{parts.path}?{parts.query}")
                assert leaving.getresponse().read(8) == (34_000 - 8).to_bytes(8, "little")
        assert hub.requests[-1].bytes_sent < 100_000_000

    def test_requests_are_logged_with_what_they_carried(self, hub: StandIn) -> None:
        resolve(hub, "plain", Range="bytes=0-9", User_Agent="normaudit/1", Authorization=f"Bearer {TOKEN}")
        (seen,) = hub.requests
        assert (seen.origin, seen.method, seen.repo_id, seen.status) == ("hub", "GET", "org/plain", 302)
        assert (seen.range, seen.user_agent, seen.authorized) == ("bytes=0-9", "normaudit/1", True)
        hub.clear()
        assert hub.requests == []

    def test_bytes_sent_are_those_of_bodies(self, hub: StandIn) -> None:
        ask(cdn_url(hub), Range="bytes=0-999")
        ask(cdn_url(hub), "HEAD")
        assert [seen.bytes_sent for seen in hub.requests if seen.origin == "cdn"] == [1000, 0]

    def test_a_repo_added_while_it_runs_is_served(self, hub: StandIn) -> None:
        hub.repos["org/new"] = repo("new")
        assert resolve(hub, "new").status == 302
        del hub.repos["org/new"]
        assert resolve(hub, "new").status == 401

    def test_a_fault_of_its_own_is_not_hidden(self) -> None:
        running = StandIn([repo("plain", created_at="no date")])
        with pytest.raises(ExceptionGroup, match="the stand-in Hub itself failed"), running as hub:
            ask(f"{hub.endpoint}/api/models?sort=createdAt")


@pytest.fixture(scope="module")
def llamas() -> Iterator[StandIn]:
    repos = [sparse_7b("meta/llama-7b"), sparse_70b("meta/llama-70b")]
    with StandIn(repos) as running:
        yield running


@pytest.fixture
def big(llamas: StandIn) -> Iterator[StandIn]:
    yield llamas
    llamas.clear()


class TestStockClient:
    """huggingface_hub works against it unchanged."""

    def test_list_models_follows_the_pages(self, hub: StandIn) -> None:
        models = HfApi(hub.endpoint, token=TOKEN).list_models(limit=2, author="org", expand=["sha", "siblings"])
        assert [len(model.siblings) for model in models] == [5, 5]
        assert len(list(HfApi(hub.endpoint, token=False).list_models())) == 6

    def test_model_info_tells_sizes_and_hashes(self, hub: StandIn) -> None:
        info = HfApi(hub.endpoint, token=False).model_info("org/plain", files_metadata=True)
        weights = next(sibling for sibling in info.siblings or [] if sibling.rfilename == "model.safetensors")
        assert weights.size == len(WEIGHTS)
        assert weights.lfs is not None
        assert weights.lfs.sha256 == hub.repos["org/plain"].sha256_of("model.safetensors")

    @pytest.mark.parametrize("path", ["config.json", "model.safetensors"])
    def test_a_download_is_the_file(self, hub: StandIn, tmp_path: Path, path: str) -> None:
        api = HfApi(hub.endpoint, token=False)
        file = api.hf_hub_download("org/plain", path, cache_dir=tmp_path)
        content = hub.repos["org/plain"].files[path]
        assert Path(file).read_bytes() == content.read(0, content.size)

    def test_tree_and_paths_info_agree(self, hub: StandIn) -> None:
        api = HfApi(hub.endpoint, token=False)
        tree = {entry.path: entry for entry in api.list_repo_tree("org/plain", recursive=True)}
        assert set(tree) == {*hub.repos["org/plain"].files, "onnx"}
        named = api.get_paths_info("org/plain", ["onnx", "model.safetensors", "absent"])
        assert named == [tree["onnx"], tree["model.safetensors"]]

    def test_a_file_system_reads_ranges(self, big: StandIn) -> None:
        fs = HfFileSystem(endpoint=big.endpoint, token=False, skip_instance_cache=True)
        with fs.open("meta/llama-7b/model.safetensors", cache_type="none") as file:
            file.seek(8)
            assert file.read(16) == b'{"__metadata__":'
        assert fs.ls("meta/llama-7b", detail=False) == ["meta/llama-7b/config.json", "meta/llama-7b/model.safetensors"]

    @pytest.mark.parametrize(("model", "tensors", "requests"), [("7b", 291, 3), ("70b", 723, 66)])
    def test_reading_all_headers_takes_the_known_number_of_requests(
        self, big: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, tensors: int, requests: int
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
        metadata = HfApi(big.endpoint, token=False).get_safetensors_metadata(f"meta/llama-{model}")
        assert (len(metadata.weight_map), len(big.requests)) == (tensors, requests)

    def test_one_request_has_all_headers_of_the_shards(self, big: StandIn) -> None:
        metadata = HfApi(big.endpoint, token=False).get_sharded_safetensors_metadata("meta/llama-70b")
        assert (len(metadata.files_metadata), len(metadata.weight_map), len(big.requests)) == (30, 723, 1)
        big.switches.sharded_endpoint = False
        with pytest.raises(errors.HfHubHTTPError, match="404"):
            HfApi(big.endpoint, token=False).get_sharded_safetensors_metadata("meta/llama-70b")
        big.switches.sharded_endpoint = True

    @pytest.mark.parametrize(
        ("name", "path", "revision", "error"),
        [
            ("gated", "config.json", "main", errors.GatedRepoError),
            ("disabled", "config.json", "main", errors.DisabledRepoError),
            ("absent", "config.json", "main", errors.RepositoryNotFoundError),
            ("plain", "absent.json", "main", errors.EntryNotFoundError),
            ("plain", "config.json", "0" * 40, errors.RevisionNotFoundError),
        ],
    )
    def test_errors_are_told_apart(
        self, hub: StandIn, name: str, path: str, revision: str, error: type[Exception]
    ) -> None:
        url = hf_hub_url(f"org/{name}", path, revision=revision, endpoint=hub.endpoint)
        with pytest.raises(error):
            get_hf_file_metadata(url, token=TOKEN)


class TestContents:
    @given(
        pieces=st.dictionaries(st.sampled_from(range(0, 60, 6)), st.binary(max_size=6)),
        size=st.integers(0, 70),
        start=st.integers(0, 80),
        length=st.integers(0, 80),
    )
    def test_a_sparse_file_is_zeros_with_its_pieces(
        self, pieces: dict[int, bytes], size: int, start: int, length: int
    ) -> None:
        whole = bytearray(80)
        for offset, piece in pieces.items():
            whole[offset : offset + len(piece)] = piece
        assert SparseContent(size, pieces).read(start, start + length) == whole[:size][start : start + length]

    def test_the_reference_reader_reads_a_checkpoint_made_by_hand(self) -> None:
        scale = np.linspace(0.5, 2, 8, dtype=np.float32)
        planned = [PlannedTensor("z.weight", "F32", (8,)), PlannedTensor("a.weight", "F16", (3, 5))]
        made = sparse_checkpoint(planned, {"z.weight": scale.tobytes()})
        tensors = safetensors.numpy.load(made.read(0, made.size))
        assert tensors["z.weight"].tolist() == scale.tolist()
        assert tensors["a.weight"].shape == (3, 5)
        assert not tensors["a.weight"].any()

    def test_shards_hold_together_what_the_index_says(self) -> None:
        stored = sparse_llama("a/b", layers=3, hidden_size=128, intermediate_size=256, vocabulary_size=100, shards=4)
        index = json.loads(stored.files["model.safetensors.index.json"].read(0, 10**6))
        held = {
            name: path
            for path, content in stored.files.items()
            for name in (read_header(content) or {} if path.endswith(".safetensors") else {})
        }
        assert len(set(held.values())) == 4
        assert {name: path for name, path in held.items() if name != "__metadata__"} == index["weight_map"]

    def test_a_folder_becomes_a_repo(self, tmp_path: Path) -> None:
        (tmp_path / "unet").mkdir()
        (tmp_path / "unet" / "config.json").write_bytes(CONFIG)
        stored = repo_from_folder("a/b", tmp_path, downloads=7)
        assert list(stored.files) == ["unet/config.json"]
        assert (stored.files["unet/config.json"].read(0, 5), stored.downloads) == (CONFIG[:5], 7)
