"""The stand-in's listing and API, over real sockets."""

from __future__ import annotations

import gzip
import json
from urllib.parse import parse_qsl, urlsplit

import pytest

from deployments.demo.catalogue import (
    BytesContent,
    StandInRepo,
)
from deployments.demo.checkpoint import framed
from deployments.demo.standin import StandIn
from tests.asking import ask
from tests.demo_tools import CONFIG, TOKEN, ids, stock

REPOS = stock()


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
            ("gated=true&sort=createdAt", ["org/gated", "org/granted"]),
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

    def test_what_cannot_be_expanded_or_sorted_by_is_refused(self, hub: StandIn) -> None:
        assert ask(f"{hub.endpoint}/api/models?expand=sha&expand=epsilon").status == 400
        assert ask(f"{hub.endpoint}/api/models/org/plain?expand=epsilon").status == 400
        assert ask(f"{hub.endpoint}/api/models?sort=epsilon").status == 400


class TestTree:
    def test_pages_of_the_tree_keep_every_parameter(self, hub: StandIn) -> None:
        hub.switches.page_size = 2
        url, seen = f"{hub.endpoint}/api/models/org/plain/tree/main?recursive=true&expand=true", []
        while url:
            page = ask(url)
            seen += page.json()
            url = page.headers.get("link", "").partition(">")[0].removeprefix("<")
        assert [entry["path"] for entry in seen] == sorted([*hub.repos["org/plain"].files, "onnx"])
        assert all("lastCommit" in entry for entry in seen)

    def test_a_folder_that_is_not_there_is_no_entry(self, hub: StandIn) -> None:
        answer = ask(f"{hub.endpoint}/api/models/org/plain/tree/main/absent")
        assert (answer.status, answer.headers["x-error-code"]) == (404, "EntryNotFound")

    @pytest.mark.parametrize(
        ("kind", "body"),
        [
            ("application/x-www-form-urlencoded", "paths=config.json&paths=absent&expand=True"),
            ("application/json", '{"paths": ["config.json", "absent"], "expand": true}'),
        ],
    )
    def test_paths_are_named_by_a_form_or_in_json(self, hub: StandIn, kind: str, body: str) -> None:
        url = f"{hub.endpoint}/api/models/org/plain/paths-info/main"
        [entry] = ask(url, "POST", body, Content_Type=kind).json()
        assert (entry["path"], entry["size"], "lastCommit" in entry) == ("config.json", len(CONFIG), True)
