"""One try over the wire: send with the right headers, follow redirects by hand, take the bytes that were asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass

import aiohttp
from aiohttp import ClientResponse
from yarl import URL

from tasks.core.errors import Failed, Transient, shown
from tasks.core.records import Chunk, Fetch
from tasks.hub.answers import (
    REDIRECTS,
    asked_bytes,
    asked_wait_s,
    cdn_refusal,
    partial_size,
    redirect_target,
    refusal,
    size_past_end,
)
from tasks.hub.bodies import check_kind, drain, expect_end, read_exactly, read_whole
from tasks.hub.options import HubOptions, Meter, origin_of
from tasks.hub.pace import Pace, Turn
from tasks.hub.proxies import Proxies
from tasks.hub.remote import Remote

MAX_REDIRECTS = 5  # on either side; the Hub needs two: a renamed repo, then the host of files
_OF_A_FILE = REDIRECTS | {200, 206, 416}
_FAULTS = (aiohttp.ClientError, TimeoutError, OSError)


@dataclass(frozen=True, slots=True)
class Job:
    """One fetch under way: of which file, which bytes, at whose cost."""

    remote: Remote
    fetch: Fetch
    meter: Meter

    @property
    def where(self) -> str:
        """Repo and file, for messages."""
        return self.remote.where

    @property
    def range_header(self) -> dict[str, str]:
        """The Range header of the request; it goes to the Hub too, so that an address bound to its range matches."""
        fetch = self.fetch
        if fetch.is_whole:
            return {}
        return {"Range": f"bytes={fetch.start}" if fetch.stop is None else f"bytes={fetch.start}-{fetch.stop - 1}"}


class Wire:
    """One HTTP session, which knows the Hub's side from all others: only there it shows the token and keeps pace.

    Args:
        options: how to talk to the Hub.
        pace: the limiter that requests to the Hub pass.
        sleep: awaited for every wait.
    """

    def __init__(self, options: HubOptions, pace: Pace, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._options = options
        self._origin = options.origin
        self._headers = {to_hub: options.headers(to_hub=to_hub) for to_hub in (True, False)}
        self._pace = pace
        self._sleep = sleep
        self._proxies = Proxies()

    def open(self) -> None:
        """Make the session; needs a running event loop."""
        options = self._options
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=options.connections_per_host, ttl_dns_cache=300),
            timeout=aiohttp.ClientTimeout(
                total=options.total_timeout_s, sock_connect=options.connect_timeout_s, sock_read=options.read_timeout_s
            ),
            headers={"Accept-Encoding": "identity"},  # a range of a compressed body is no range of the file
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # bodies are decompressed under a limit
        )

    async def close(self) -> None:
        """Close the session and its connections."""
        await self._session.close()

    async def chase(self, url: URL, job: Job) -> Chunk | URL:
        """Follow redirects; return the bytes, or the first address that lies across the border of the Hub's origin.

        Raises:
            Transient: this try failed; another may not.
            AuditError: any other way to fail is final.
        """
        at_hub = self._is_hub(url)
        is_pinned = not at_hub or job.remote.listing.sha is None
        for _ in range(MAX_REDIRECTS + 1):
            async with self._get(url, job, at_hub) as response:
                if at_hub and response.status in _OF_A_FILE:
                    is_pinned |= job.remote.heed_hub(response.headers)
                if response.status not in REDIRECTS:
                    return await self._take(response, job, at_hub, is_pinned)
                url = redirect_target(url, response.headers.get("Location"), job.where)
                await drain(response, job.meter)
            if self._is_hub(url) != at_hub:
                _check_pinned(is_pinned, job)
                return url
        raise Failed(
            f"{job.where}: more than {MAX_REDIRECTS} redirects, the last to {shown(url.host)}{shown(url.path)}"
        )

    def _is_hub(self, url: URL) -> bool:
        return origin_of(url) == self._origin

    @asynccontextmanager
    async def _get(self, url: URL, job: Job, at_hub: bool) -> AsyncIterator[ClientResponse]:
        headers = self._headers[at_hub] | job.range_header
        with await self._let_through(url) if at_hub else nullcontext() as turn:
            job.meter.count(at_hub)
            try:
                proxy = self._proxies.of(url)
                async with self._session.get(url, headers=headers, allow_redirects=False, proxy=proxy) as response:
                    if turn is not None:
                        turn.answered(response.headers, asked_wait_s(response.status, response.headers))
                    yield response
            except _FAULTS as fault:  # "from None": aiohttp's own messages may quote the signed address
                raise Transient(f"{job.where}: {shown(url.host)} gave no whole answer: {_kind_of(fault)}") from None

    async def _let_through(self, url: URL) -> Turn:
        bucket = "resolvers" if "/resolve" in url.raw_path else "api"
        turn = self._pace.turn(bucket)
        while (wait_s := turn.ask()) > 0:
            await self._sleep(wait_s)
        return turn

    async def _take(self, response: ClientResponse, job: Job, at_hub: bool, is_pinned: bool) -> Chunk:
        is_whole = job.fetch.is_whole
        take = {
            (200, True): self._take_whole,
            (200, False): self._take_start,
            (206, False): self._take_part,
            (416, False): self._take_nothing,
        }.get((response.status, is_whole))
        if take is not None:
            _check_pinned(is_pinned or response.status == 416, job)
            return await take(response, job)
        await drain(response, job.meter)
        if at_hub:
            raise refusal(response.status, response.headers, job.where, job.remote.listing)
        raise cdn_refusal(response.status, response.headers, job.where, response.url.host)

    async def _take_part(self, response: ClientResponse, job: Job) -> Chunk:
        check_kind(response, ("identity",), job.where)
        count, file_bytes = partial_size(response.headers, job.fetch, job.where)
        job.remote.check(file_bytes, _etag(response))
        data = await read_exactly(response, count, job.where, job.meter)
        await expect_end(response, count, job.where)
        return job.remote.chunk(data, file_bytes, _etag(response))

    async def _take_start(self, response: ClientResponse, job: Job) -> Chunk:
        """Serve a range from the start of a whole file, and leave the rest: the server ignores ranges.

        Only a range near the file's start can be had so.
        """
        check_kind(response, ("identity",), job.where)
        fetch, limit = job.fetch, self._options.max_skipped_bytes
        file_bytes = response.content_length if response.content_length is not None else job.remote.linked_bytes
        asked = f"{job.where}: asked for {asked_bytes(fetch)}, got the whole file"
        if fetch.stop is None:
            raise Transient(asked)
        if file_bytes is None:
            raise Transient(f"{asked} and no word of its size")
        if fetch.start and fetch.stop > limit:
            raise Transient(f"{asked} of {file_bytes:,} bytes; at most {limit:,} are read to skip to a range")
        job.remote.check(file_bytes, _etag(response))
        stop = min(fetch.stop, file_bytes)
        data = await read_exactly(response, stop, job.where, job.meter)
        if stop == file_bytes:
            await expect_end(response, stop, job.where)
        return job.remote.chunk(data[fetch.start :], file_bytes, _etag(response))

    async def _take_whole(self, response: ClientResponse, job: Job) -> Chunk:
        check_kind(response, ("identity", "gzip"), job.where)
        limit = self._options.max_whole_file_bytes
        limit = min(limit, job.fetch.limit_bytes or limit)
        data = await read_whole(response, limit, job.where, job.meter)
        job.remote.check(len(data), _etag(response))
        return job.remote.chunk(data, len(data), _etag(response))

    async def _take_nothing(self, response: ClientResponse, job: Job) -> Chunk:
        file_bytes = size_past_end(response.headers, job.fetch, job.where)
        job.remote.check(file_bytes, None)
        await drain(response, job.meter)
        return job.remote.chunk(b"", file_bytes, None)


def _check_pinned(is_pinned: bool, job: Job) -> None:
    if not is_pinned:
        sha = job.remote.listing.sha
        raise Transient(
            f"{job.where}: asked for revision {sha}, the answer has no X-Repo-Commit to say that it is of that"
        )


def _etag(response: ClientResponse) -> tuple[str | None, str] | None:
    etag = response.headers.get("ETag")
    return None if etag is None else (response.url.authority, etag)


def _kind_of(fault: BaseException) -> str:
    """Return what went wrong without a word that an address could be in."""
    if isinstance(fault, TimeoutError):
        return "timed out"
    cause = fault.os_error if isinstance(fault, aiohttp.ClientConnectorError) else fault
    said = cause.strerror if isinstance(cause, OSError) and cause.strerror else ""
    return f"{type(fault).__name__}{': ' if said else ''}{shown(said)}"
