"""Reading an answer's body: no byte more than is needed, and none fewer than was promised."""

from __future__ import annotations

import asyncio
import zlib

from aiohttp import ClientResponse

from tasks.core.errors import TooLarge, Transient, shown
from tasks.hub.options import Meter

MAX_IDLE_BODY_BYTES = 65_536  # of a redirect or an error: reading it keeps the connection, leaving it closes it
_GZIP = 31  # zlib's number for "with gzip's header and trailer"


async def read_exactly(response: ClientResponse, count: int, where: str, meter: Meter) -> bytes:
    """Return the next count bytes of a body.

    Raises:
        Transient: it ends before.
    """
    try:
        data = await response.content.readexactly(count)
    except asyncio.IncompleteReadError as error:
        meter.bytes_read += len(error.partial)
        raise Transient(f"{where}: asked for {count:,} bytes, got {len(error.partial):,}") from None
    meter.bytes_read += count
    return data


async def expect_end(response: ClientResponse, count: int, where: str) -> None:
    """Raise Transient if a body goes on after count bytes; to reach its end also frees the connection."""
    if await response.content.read(1):
        raise Transient(f"{where}: asked for {count:,} bytes, got more")


async def read_whole(response: ClientResponse, limit: int, where: str, meter: Meter) -> bytes:
    """Return a whole body, decompressed.

    Raises:
        TooLarge: it has more than limit bytes, compressed or decompressed.
        Transient: it does not decompress.
    """
    promised = response.content_length
    if promised is not None and promised > limit:
        raise TooLarge(f"{where}: has {promised:,} bytes; a file that is read whole has at most {limit:,}")
    data = bytearray()
    async for piece in response.content.iter_any():
        meter.bytes_read += len(piece)
        data += piece
        if len(data) > limit:
            raise TooLarge(
                f"{where}: goes on after {len(data):,} bytes; a file that is read whole has at most {limit:,}"
            )
    return gunzip(bytes(data), limit, where) if encoding_of(response) == "gzip" else bytes(data)


def gunzip(data: bytes, limit: int, where: str) -> bytes:
    """Return decompressed bytes, or raise as `read_whole` does."""
    stream = zlib.decompressobj(_GZIP)
    try:
        plain = stream.decompress(data, limit + 1)
    except zlib.error as error:
        raise Transient(f"{where}: {len(data):,} bytes came as gzip and are not: {error}") from error
    if len(plain) > limit:
        raise TooLarge(f"{where}: {len(data):,} bytes of gzip hold more than {limit:,} bytes")
    if not stream.eof:
        raise Transient(f"{where}: {len(data):,} bytes of gzip end before their end mark")
    return plain


def encoding_of(response: ClientResponse) -> str:
    """Return a body's encoding, "identity" where none is named."""
    return response.headers.get("Content-Encoding", "identity").strip().lower()


def check_kind(response: ClientResponse, allowed: tuple[str, ...], where: str) -> None:
    """Raise Transient if a body is no file's: a page for people, or in an encoding that was not asked for."""
    if encoding_of(response) not in allowed:
        raise Transient(f"{where}: asked for encoding identity, got {shown(encoding_of(response))}")
    if response.content_type == "text/html":
        raise Transient(f"{where}: asked for a file, got an HTML page with status {response.status}")


async def drain(response: ClientResponse, meter: Meter) -> None:
    """Read the short body of an answer that is of no more use."""
    if 0 < (response.content_length or 0) <= MAX_IDLE_BODY_BYTES:
        meter.bytes_read += len(await response.content.read())
