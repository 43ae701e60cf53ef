"""A small Hub on loopback, for tests, benchmarks and the demo: real sockets, real redirects, faults on request."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Self

import uvicorn
from starlette.types import ASGIApp

from deployments.demo.cdn_app import cdn_app
from deployments.demo.faults import Fault
from deployments.demo.hub_app import hub_app
from deployments.demo.recorder import Origin, Recorder, RequestRecord
from deployments.demo.repo import StandInRepo
from deployments.demo.world import Switches, World

__all__ = ["Fault", "RequestRecord", "StandIn", "Switches"]

KEEP_ALIVE_S = 60  # longer than a test pauses between two requests, so that no connection closes under a client's hands
BACKLOG = 2048  # connections that may wait for the servers' thread


class StandIn:
    """Two origins in a thread of this process, from `with` to its end.

    Args:
        repos: what the Hub holds.
        token: the one that opens gated and private repos where these allow it; without it every caller is a stranger.
        switches: limits, latency and faults; the defaults are a healthy Hub.
        port: of the hub; the CDN's is always a free one.

    Attributes:
        endpoint: origin of the hub, "http://127.0.0.1:PORT".
        cdn_origin: origin of the CDN.
        repos: repos by id; may be changed while it runs.
        switches: may be changed while it runs.
        requests: what was asked so far, in order of arrival.
    """

    def __init__(
        self,
        repos: Iterable[StandInRepo],
        *,
        token: str | None = None,
        switches: Switches | None = None,
        port: int = 0,
    ) -> None:
        self.repos = {repo.repo_id: repo for repo in repos}
        self.switches = switches or Switches()
        self.requests: list[RequestRecord] = []
        self.endpoint = self.cdn_origin = ""
        self._token, self._port = token, port
        self._failures: list[Exception] = []

    def __enter__(self) -> Self:
        sockets = _listener(self._port), _listener(0)
        self.endpoint, self.cdn_origin = (f"http://127.0.0.1:{listener.getsockname()[1]}" for listener in sockets)
        world = World(self.repos, self.switches, self._token, self.endpoint, self.cdn_origin)
        self._servers = self._server(hub_app(world), "hub"), self._server(cdn_app(world), "cdn")
        self._thread = threading.Thread(target=asyncio.run, args=(_serve(self._servers, sockets),), name="stand-in Hub")
        self._thread.start()  # the sockets listen already: requests wait until it serves them
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._servers:
            server.should_exit = True
        self._thread.join()
        if error is None and self._failures:
            raise ExceptionGroup("the stand-in Hub itself failed", self._failures)

    def clear(self) -> None:
        """Forget the requests so far."""
        self.requests.clear()

    def _server(self, app: ASGIApp, origin: Origin) -> uvicorn.Server:
        config = uvicorn.Config(
            Recorder(app, origin, self.switches, self.requests, self._failures),
            log_config=None,
            log_level="critical",  # an answer that breaks off is meant to
            lifespan="off",
            ws="none",
            http="h11",
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=0,  # a stalled answer would hold the end up for ever
        )
        return _Server(config)


class _Server(uvicorn.Server):
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            connection.transport.abort()  # a client that does not read would keep what was written for it alive


async def _serve(servers: Iterable[uvicorn.Server], sockets: Iterable[socket.socket]) -> None:
    await asyncio.gather(*(server.serve([listener]) for server, listener in zip(servers, sockets, strict=True)))


def _listener(port: int) -> socket.socket:
    listener = socket.socket(proto=socket.IPPROTO_TCP)  # told so, asyncio turns off the delay of small packets
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(BACKLOG)
    return listener
