"""What the stand-in answers: a status, headers and a slice of a content, built first and sent afterwards.

A `Reply` is plain data until it is sent, so that a fault can change it (`faults`) and a limit can add its headers.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from deployments.demo.content import BytesContent, Content

CHUNK_BYTES = 1 << 18  # of a body sent in pieces: small enough that a client which hangs up ends it soon
COMPRESSED_FROM_BYTES = 500  # smaller JSON does not shrink
RANGE = re.compile(r"bytes=(\d*)-(\d*)")
DISABLED = "Access to this resource is disabled."  # there is no code for it, only these words


@dataclass
class Reply:
    """An answer to be sent: the bytes `[start, stop)` of a content behind a status and headers.

    Attributes:
        stop: the end of the content unless given.
        breaks_off: whether the connection is dropped half way through the body.
        hangs: whether nothing follows the first half of the body, though the connection stays.
        stalls: whether nothing is ever sent.
    """

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    content: Content = field(default_factory=lambda: BytesContent(b""))
    start: int = 0
    stop: int | None = None
    breaks_off: bool = False
    hangs: bool = False
    stalls: bool = False

    def __post_init__(self) -> None:
        self.stop = self.content.size if self.stop is None else self.stop

    @property
    def body_bytes(self) -> int:
        """Return the length of the body."""
        return (self.content.size if self.stop is None else self.stop) - self.start

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer; this is the ASGI interface."""
        if self.stalls:
            await _hung_up(receive)
        elif self._ends_early or scope["method"] == "HEAD" or self.body_bytes <= CHUNK_BYTES:
            await self._send_at_once(scope["method"], send)
            if self.hangs:
                await _hung_up(receive)
        else:
            await StreamingResponse(self._chunks(), self.status, self._all_headers())(scope, receive, send)

    async def _send_at_once(self, method: str, send: Send) -> None:
        stop = self.start + self.body_bytes // (2 if self._ends_early else 1)
        body = b"" if method == "HEAD" else self.content.read(self.start, stop)
        headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in self._all_headers().items()]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": self._ends_early})

    @property
    def _ends_early(self) -> bool:
        return self.breaks_off or self.hangs

    def _all_headers(self) -> dict[str, str]:
        return {**self.headers, "Content-Length": str(self.body_bytes)}

    async def _chunks(self) -> AsyncIterator[bytes]:
        for start in range(self.start, self.start + self.body_bytes, CHUNK_BYTES):
            yield self.content.read(start, min(start + CHUNK_BYTES, self.start + self.body_bytes))
            await asyncio.sleep(0)  # sending to a client that hung up does not wait: let its going be noticed


class Refusal(Exception):
    """A request ends here, with this reply."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


def refusal(status: int, message: str, code: str | None = None) -> Reply:
    """Return an error as the Hub words it: JSON, X-Error-Message and, for what it has a code for, X-Error-Code."""
    headers = {"Content-Type": "application/json; charset=utf-8", "X-Error-Message": message}
    if code:
        headers["X-Error-Code"] = code
    return Reply(status, headers, BytesContent(json.dumps({"error": message}).encode()))


def json_reply(request: Request, value: object) -> Reply:
    """Return a value as JSON, compressed if the client takes that and it pays."""
    data = json.dumps(value).encode()
    headers = {"Content-Type": "application/json; charset=utf-8", "Vary": "Accept-Encoding"}
    return Reply(200, *compressed(request, headers, BytesContent(data)))


def compressed(request: Request, headers: dict[str, str], content: Content) -> tuple[dict[str, str], Content]:
    """Return headers and content, gzipped where the client accepts that and there is enough to gain."""
    if "gzip" not in request.headers.get("accept-encoding", "") or content.size < COMPRESSED_FROM_BYTES:
        return headers, content
    data = gzip.compress(content.read(0, content.size), compresslevel=1, mtime=0)
    return headers | {"Content-Encoding": "gzip"}, BytesContent(data)


def data_reply(request: Request, content: Content, headers: dict[str, str]) -> Reply:
    """Return the bytes of a file that the request's Range names: 206, 416, or 200 and all of them without a Range."""
    headers = headers | {"Accept-Ranges": "bytes"}
    asked = RANGE.fullmatch(request.headers.get("range", ""))
    if asked is None or asked.group() == "bytes=-":
        return Reply(200, headers, content)
    start, stop = _resolved(asked.group(1), asked.group(2), content.size)
    if start >= stop:
        return Reply(416, headers | {"Content-Range": f"bytes */{content.size}"})
    return Reply(206, headers | {"Content-Range": content_range(start, stop, content.size)}, content, start, stop)


def content_range(start: int, stop: int, total: int) -> str:
    """Return the header that says which bytes of how many follow; its end is the last byte, as HTTP counts."""
    return f"bytes {start}-{stop - 1}/{total}"


def xml_refusal(status: int, code: str, message: str) -> Reply:
    """Return an error as object stores word it."""
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Reply(status, {"Content-Type": "application/xml"}, BytesContent(body.encode()))


def plain(status: int) -> Reply:
    """Return an error that says nothing but its name, as a proxy in between would."""
    return Reply(status, {"Content-Type": "text/plain"}, BytesContent(HTTPStatus(status).phrase.encode()))


def _resolved(first: str, last: str, size: int) -> tuple[int, int]:
    if not first:  # "bytes=-n": the last n bytes
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
