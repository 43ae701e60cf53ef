"""What tests of the Hub client share: a clock that jumps, plans that read ranges, a server that says what it must."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

from deployments.demo.catalogue import BytesContent, SparseContent, StandInRepo
from deployments.demo.standin import StandIn, Switches
from tasks.core.errors import AuditError
from tasks.core.records import Chunk, Fetch, Listing
from tasks.hub import Hub, HubOptions, Learned, Meter, Pace

T = TypeVar("T")
TOKEN = "hf_secret_of_the_tests"
WEIGHTS = "model.safetensors"
DATA = random.Random(0).randbytes(300_000)
CONFIG = b'{"model_type": "tiny"}'
HEAD, MIDDLE, TAIL = Fetch(WEIGHTS, 0, 1_000), Fetch(WEIGHTS, 100_000, 100_512), Fetch(WEIGHTS, 299_000, 300_000)
ODD, ODD_PATH, COMMIT = Listing("acme/odd", "a" * 40), f"/acme/odd/resolve/{'a' * 40}/x", {"X-Repo-Commit": "a" * 40}


class Clock:
    """Seconds that pass when somebody sleeps, and then at once."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    async def sleep(self, seconds: float) -> None:
        self.wait(seconds)
        await asyncio.sleep(0)


def tiny(repo_id: str = "acme/tiny", **facts: Any) -> StandInRepo:
    """Return a repo with 300 kB of weights and a config."""
    return StandInRepo(repo_id, {WEIGHTS: BytesContent(DATA), "config.json": BytesContent(CONFIG)}, **facts)


def huge(repo_id: str = "acme/huge") -> StandInRepo:
    """Return a repo with 20 GB of weights that are zero but for their first and last bytes."""
    size = 20_000_000_000
    return StandInRepo(repo_id, {WEIGHTS: SparseContent(size, {0: b"first", size - 4: b"last"})})


def healthy(hub: StandIn) -> StandIn:
    """Return a stand-in that many tests share, as it was before the first of them."""
    for name, value in vars(Switches()).items():
        setattr(hub.switches, name, value)
    hub.clear()
    return hub


def asked(hub: StandIn) -> list[tuple[str, int]]:
    """Return (origin, status) of each request so far."""
    return [(request.origin, request.status) for request in hub.requests]


def listed(repo: StandInRepo, **facts: Any) -> Listing:
    """Return a repo's listing, with the facts that matter to a reader."""
    return Listing(repo.repo_id, repo.sha, gated=repo.gated or None, private=repo.private, **facts)


def read(*fetches: Fetch) -> Generator[tuple[Fetch, ...], tuple[Chunk | AuditError, ...], list[Chunk]]:
    """Return a plan that does fetches one after the other."""
    chunks = []
    for fetch in fetches:
        [answer] = yield (fetch,)
        if isinstance(answer, AuditError):
            raise answer
        chunks.append(answer)
    return chunks


def at_once(
    *fetches: Fetch,
) -> Generator[tuple[Fetch, ...], tuple[Chunk | AuditError, ...], tuple[Chunk | AuditError, ...]]:
    """Return a plan that does fetches side by side, and returns what came, errors included."""
    return (yield fetches)


@dataclass
class Client:
    """A Hub client whose waits take no time, for one test."""

    endpoint: str
    token: str | None = None
    clock: Clock = field(default_factory=Clock)
    meter: Meter = field(default_factory=Meter)
    options: Mapping[str, Any] = field(default_factory=dict)
    learned: Learned | None = None

    def run(self, use: Callable[[Hub], Coroutine[Any, Any, T]]) -> T:
        """Return what `use` makes of an open client."""

        async def main() -> T:
            options = HubOptions(self.endpoint, self.token, **self.options)
            self.learned = self.learned or Learned(Pace(clock=self.clock))
            async with Hub(options, self.learned, sleep=self.clock.sleep, rng=random.Random(0)) as hub:
                return await use(hub)

        return asyncio.run(main())

    def fetch(self, listing: Listing, fetch: Fetch) -> Chunk:
        return self.run(lambda hub: hub.fetch(listing, fetch, self.meter))

    def follow(self, listing: Listing, plan: Generator[tuple[Fetch, ...], tuple[Chunk | AuditError, ...], T]) -> T:
        return self.run(lambda hub: hub.follow(listing, plan, self.meter))


@dataclass
class Answer:
    """An answer to be given word for word."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass
class Scripted:
    """A server on loopback that gives canned answers by path, and keeps the headers it was sent.

    It closes the connection after an answer that does not name its length.
    """

    answers: dict[str, Answer | Callable[[], Answer]] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    connections: int = 0
    endpoint: str = ""

    def answer(self, path: str) -> Answer:
        found = self.answers.get(path.partition("?")[0], Answer(404))
        return found() if callable(found) else found


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # a client that keeps its connection does not hold the end up


@contextmanager
def scripted(**options: Any) -> Iterator[Scripted]:
    """Run a scripted server."""
    script = Scripted(**options)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            script.connections += 1

        def do_GET(self) -> None:
            script.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            answer = script.answer(self.path)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if "Content-Length" not in answer.headers:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with _Server(("127.0.0.1", 0), Handler) as server:
        script.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield script
        finally:
            server.shutdown()
            thread.join()
