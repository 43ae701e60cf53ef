"""The log of what the stand-in was asked and how much it sent, kept around both applications."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field
from typing import Literal

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.demo.world import Switches

Origin = Literal["hub", "cdn"]
REPO_IN_PATH = re.compile(r"/(?:api/(?:resolve-cache/)?models/)?(?!api/)([^/]+/[^/]+)(?:/|$)")


@dataclass
class RequestRecord:
    """One request, noted when it arrived; status (0 until then) and bytes_sent are filled in as the answer goes out.

    Attributes:
        range: the Range header, None without one.
        authorized: whether it carried an Authorization header, right or wrong.
        bytes_sent: of the body, as handed to the socket.
        repo_id: the repo it named, None for the listing.
        received_at: Unix time.
    """

    origin: Origin
    method: str
    path: str
    query: str
    range: str | None
    authorized: bool
    user_agent: str
    repo_id: str | None
    status: int = 0
    bytes_sent: int = 0
    received_at: float = field(default_factory=time.time)


class Recorder:
    """Wraps an application: notes each request, waits the configured latency, keeps what went wrong inside.

    Args:
        app: the application.
        origin: which of the two it is.
        switches: where the latency stands.
        requests: the log; appended to, from the server's thread.
        failures: exceptions that the application raised; appended to.
    """

    def __init__(
        self, app: ASGIApp, origin: Origin, switches: Switches, requests: list[RequestRecord], failures: list[Exception]
    ) -> None:
        self.app, self.origin, self.switches, self.requests, self.failures = app, origin, switches, requests, failures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; this is the ASGI interface."""
        record = self._noted(scope)
        body_is_sent = scope["method"] != "HEAD"

        async def counted(message: Message) -> None:
            # counted before it is sent: whoever has received an answer finds it in the log
            record.status = message.get("status", record.status)
            record.bytes_sent += len(message.get("body", b"")) * body_is_sent
            await send(message)

        if self.switches.latency_s:
            await asyncio.sleep(self.switches.latency_s)
        try:
            await self.app(scope, receive, counted)
        except Exception as error:
            self.failures.append(error)
            raise

    def _noted(self, scope: Scope) -> RequestRecord:
        headers, repo = Headers(scope=scope), REPO_IN_PATH.match(scope["path"])
        record = RequestRecord(
            origin=self.origin,
            method=scope["method"],
            path=scope["path"],
            query=scope["query_string"].decode(),
            range=headers.get("range"),
            authorized="authorization" in headers,
            user_agent=headers.get("user-agent", ""),
            repo_id=repo.group(1) if repo else None,
        )
        self.requests.append(record)
        return record
