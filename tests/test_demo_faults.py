"""Each fault of the stand-in, as plain requests see it."""

from __future__ import annotations

import gzip
import http.client
import json
from collections.abc import Iterator

import pytest

from deployments.demo.catalogue import sparse_llama
from deployments.demo.standin import Fault, StandIn
from tests.asking import ask
from tests.demo_tools import WEIGHTS, cdn_url, resolve, stock

REPOS = stock()


class TestFaults:
    @pytest.mark.parametrize(
        ("kind", "status", "content_range", "length"),
        [
            ("range_ignored", 200, None, len(WEIGHTS)),
            ("range_widened", 206, f"bytes 0-{len(WEIGHTS) - 1}/{len(WEIGHTS)}", len(WEIGHTS)),
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

    @pytest.mark.parametrize(
        ("kind", "status"),
        [("http_503", 503), ("http_500", 500), ("http_429", 429), ("url_expired", 403), ("object_gone", 404)],
    )
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
            ("revision_gone", 404, "x-error-code", "RevisionNotFound"),
            ("gated_meanwhile", 403, "x-error-code", "GatedRepo"),
            ("disabled_meanwhile", 403, "x-error-message", "Access to this resource is disabled."),
            ("bare_401", 401, "x-error-code", None),
            ("commit_unsaid", 302, "x-repo-commit", None),
            ("redirect_nowhere", 302, "location", None),
            ("resolve_html", 200, "content-type", "text/html; charset=utf-8"),
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

    @pytest.mark.parametrize(("kind", "status"), [("listing_429", 429), ("listing_html", 200)])
    def test_a_page_is_none(self, hub: StandIn, kind: str, status: int) -> None:
        hub.switches.faults.append(Fault(kind))
        answer = ask(f"{hub.endpoint}/api/models")
        assert (answer.status, answer.body[:1] == b"[") == (status, False)

    def test_the_pages_go_in_a_circle(self, hub: StandIn) -> None:
        hub.switches.faults.append(Fault("link_in_a_circle"))
        first = ask(f"{hub.endpoint}/api/models").headers["link"]
        path = first.removeprefix("<").removesuffix('>; rel="next"')
        assert ask(hub.endpoint + path).headers["link"] == first

    def test_a_page_breaks_off(self, hub: StandIn) -> None:
        hub.switches.faults.append(Fault("listing_breaks_off"))
        with pytest.raises(http.client.IncompleteRead):
            ask(f"{hub.endpoint}/api/models")

    @pytest.mark.parametrize("kind", ["stall", "stall_half_way", "listing_stalls", "listing_stalls_half_way"])
    def test_an_answer_never_comes(self, hub: StandIn, kind: str) -> None:
        url = cdn_url(hub) if kind.startswith("stall") else f"{hub.endpoint}/api/models"
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


class TestFaultsOfAllHeadersAtOnce:
    @pytest.fixture
    def llama(self, hub: StandIn) -> Iterator[str]:
        """The address of all headers of a repo of two shards."""
        made = sparse_llama("org/llama", layers=2, hidden_size=128, intermediate_size=64, vocabulary_size=9, shards=2)
        hub.repos["org/llama"] = made
        yield f"{hub.endpoint}/api/models/org/llama/safetensors-metadata/model.safetensors.index.json"
        del hub.repos["org/llama"]

    def test_a_tensor_or_a_shard_is_left_out_and_offsets_are_moved(self, hub: StandIn, llama: str) -> None:
        sound = ask(llama, Accept_Encoding="gzip")
        true = json.loads(gzip.decompress(sound.body))["headers"]
        first, last = sorted(true)
        for kind in ("metadata_lacks_a_shard", "metadata_lacks_a_tensor", "metadata_shifted"):
            hub.switches.faults.append(Fault(kind, times=1))
        told = ask(llama, Accept_Encoding="gzip").json()["headers"]
        assert told.keys() == {first}
        assert len(true[first]) - len(told[first]) == 1
        name = "model.embed_tokens.weight"
        assert told[first][name]["data_offsets"] == [offset + 2 for offset in true[first][name]["data_offsets"]]
        assert ask(llama).json()["headers"] == true
        assert last in true

    @pytest.mark.parametrize("kind", ["metadata_html", "metadata_cut"])
    def test_the_answer_is_no_json(self, hub: StandIn, llama: str, kind: str) -> None:
        hub.switches.faults.append(Fault(kind))
        answer = ask(llama)
        assert answer.status == 200
        with pytest.raises(ValueError, match=r"Expecting|Unterminated|delimiter"):
            answer.json()
