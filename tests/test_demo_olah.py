"""`olah`, a caching proxy for the Hub by other authors, between the stand-in and our client; skipped offline."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from deployments.demo.standin import StandIn
from tasks.batch import audit_repos
from tasks.core.reading import ReadOptions
from tasks.core.records import Reading
from tasks.hub import HubOptions
from tests.checkpoints import GPT2_CONFIG, gpt2
from tests.hub_tools import HEAD, Client, listed
from tests.nights import ROOT, repo

pytestmark = pytest.mark.slow

ENVIRONMENT = ROOT / ".cache" / "olah"  # of its own: it wants other versions of what we use
STARTS_WITHIN_S = 60
REPOS = [repo("org/model", gpt2(dim=64), GPT2_CONFIG)]


@pytest.fixture(scope="module")
def olah() -> Path:
    """The proxy's command, installed on the first run."""
    command = ENVIRONMENT / "bin" / "olah-cli"
    if not command.exists():
        for step in (["-m", "venv", str(ENVIRONMENT)], None):
            python = sys.executable if step else str(ENVIRONMENT / "bin" / "python")
            run = subprocess.run(
                [python, *(step or ["-m", "pip", "install", "--quiet", "olah"])], capture_output=True, check=False
            )
            if run.returncode:
                pytest.skip("olah cannot be installed here: " + run.stderr.decode().strip().splitlines()[-1])
    return command


@contextmanager
def proxied(olah: Path, hub: StandIn, folder: Path, *, offline: bool = False) -> Iterator[str]:
    """Run the proxy in front of a stand-in, its cache in a folder; yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = folder / "olah.toml"
    config.write_text(
        f"""
[basic]
host = "127.0.0.1"
port = {port}
repos-path = "{folder / "repos"}"
hf-scheme = "http"
hf-netloc = "{urlsplit(hub.endpoint).netloc}"
hf-lfs-netloc = "{urlsplit(hub.cdn_origin).netloc}"
mirror-scheme = "http"
mirror-netloc = "127.0.0.1:{port}"
mirror-lfs-netloc = "127.0.0.1:{port}"

[accessibility]
offline = {json.dumps(offline)}
"""
    )
    with (folder / "log.txt").open("ab") as log:
        running = subprocess.Popen([olah, "--config", config, "--log-path", folder], cwd=folder, stdout=log, stderr=log)
        try:
            _wait_for(f"http://127.0.0.1:{port}/", running)
            yield f"http://127.0.0.1:{port}"
        finally:
            running.kill()
            running.wait()


def _wait_for(url: str, running: subprocess.Popen[bytes]) -> None:
    gives_up_at = time.monotonic() + STARTS_WITHIN_S
    while running.poll() is None and time.monotonic() < gives_up_at:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except urllib.error.HTTPError as answer:
            answer.close()
            return
        except OSError:
            time.sleep(0.1)
    pytest.fail("olah did not start")


def reading(endpoint: str) -> Reading:
    """Return what our reader makes of the model at an address, with every norm."""
    options = HubOptions(endpoint, retries=1, first_wait_s=0.1)

    async def audited() -> list[Reading]:
        audits = audit_repos([("org/model", None)], options, ReadOptions(norms="all"))
        return [audit.reading async for audit in audits]

    [found] = asyncio.run(audited())
    return found


def test_through_the_proxy_everything_is_as_without_it_and_from_its_cache_too(
    olah: Path, hub: StandIn, tmp_path: Path
) -> None:
    direct = reading(hub.endpoint)
    hub.clear()
    with proxied(olah, hub, tmp_path) as mirror:
        first = reading(mirror)
        asked = [request for request in hub.requests if request.origin == "cdn"]
        again = reading(mirror)
        assert [request for request in hub.requests if request.origin == "cdn"] == asked
    assert asked
    assert not [request for request in hub.requests if request.status >= 500]
    for told in (first, again):
        assert (told.status, told.norm_kind, told.reason) == ("ok", "layernorm", None)
        assert told.tensors == direct.tensors
        for ours, theirs in zip(told.norms, direct.norms, strict=True):
            assert ours.norm == theirs.norm
            assert ours.scale == theirs.scale
            np.testing.assert_array_equal(ours.gamma, theirs.gamma)


def test_a_mirror_that_is_offline_serves_ranges_of_what_it_has(olah: Path, hub: StandIn, tmp_path: Path) -> None:
    listing, stored = listed(REPOS[0]), REPOS[0].files["model.safetensors"]
    with proxied(olah, hub, tmp_path) as mirror:
        Client(mirror).fetch(listing, HEAD)
    hub.clear()
    with proxied(olah, hub, tmp_path, offline=True) as mirror:
        chunk = Client(mirror).fetch(listing, HEAD)
    assert hub.requests == []
    assert (chunk.data, chunk.file_bytes) == (stored.read(HEAD.start, HEAD.stop), stored.size)
