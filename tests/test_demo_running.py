"""The stand-in as a server: its end, its log, changes while it runs."""

from __future__ import annotations

import http.client
from contextlib import ExitStack, closing
from urllib.parse import urlsplit

import pytest

from deployments.demo.catalogue import (
    sparse_7b,
)
from deployments.demo.standin import Fault, StandIn, Switches
from tests.asking import ask
from tests.demo_tools import TOKEN, cdn_url, repo, resolve, stock

REPOS = stock()


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

    @pytest.mark.parametrize("path", ["/api/models", "/org/plain/resolve/main/config.json"])
    def test_a_client_that_waits_less_than_the_latency_has_no_answer(self, hub: StandIn, path: str) -> None:
        hub.switches.latency_s = 5.0
        with pytest.raises(TimeoutError):
            ask(hub.endpoint + path, timeout_s=0.1)

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
