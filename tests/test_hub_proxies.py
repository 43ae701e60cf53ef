"""Requests through a proxy, as the environment names one; with no secret that was not meant for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from yarl import URL

from tasks.core.errors import Failed
from tasks.core.records import Fetch, Listing
from tasks.hub.proxies import Proxies
from tests.hub_tools import Answer, Client, scripted

LISTING = Listing("acme/x", "a" * 40)
FILE = f"http://hub.example/acme/x/resolve/{'a' * 40}/x"


@pytest.mark.parametrize(
    ("url", "no_proxy", "found"),
    [
        ("http://hub.example/x", "", "http://proxy:1"),
        ("https://hub.example/x", "", "http://proxy:2"),
        ("https://cdn.example/x", "cdn.example", None),
        ("https://a.cdn.example/x", ".cdn.example", None),
        ("http://127.0.0.1:8000/x", "", None),
        ("http://localhost/x", "", None),
        ("http://[::1]/x", "", None),
    ],
)
def test_the_environment_says_which_proxy(
    url: str, no_proxy: str, found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"http_proxy": "http://proxy:1", "https_proxy": "proxy:2", "no_proxy": no_proxy}.items():
        monkeypatch.setenv(name, value)
    assert Proxies().of(URL(url)) == (URL(found) if found else None)


def test_a_proxy_of_another_kind_is_named_as_the_fault() -> None:
    with pytest.raises(Failed, match="proxy of kind socks5; only http and https work"):
        Proxies({"all": "socks5://proxy:1"}).of(URL("https://hub.example"))


def test_a_file_is_had_through_a_proxy_and_nothing_of_netrc_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine hub.example login somebody password secret\n")
    netrc.chmod(0o600)
    with scripted(answers={FILE: Answer(200, {"X-Repo-Commit": "a" * 40, "Content-Length": "2"}, b"hi")}) as proxy:
        monkeypatch.setenv("NETRC", str(netrc))
        monkeypatch.setenv("http_proxy", proxy.endpoint)
        monkeypatch.delenv("no_proxy", raising=False)
        assert Client("http://hub.example").fetch(LISTING, Fetch("x")).data == b"hi"
    [(path, headers)] = proxy.requests
    assert path == FILE
    assert not any("authorization" in name for name in headers)
