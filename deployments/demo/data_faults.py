"""Faults of the answers that carry a file's bytes, from the CDN or from the hub itself."""

from __future__ import annotations

import gzip
import secrets
from dataclasses import replace

from deployments.demo.content import BytesContent
from deployments.demo.fault_kinds import Asked, kind, page_for_people, with_header, with_range, without
from deployments.demo.replies import Reply, plain, xml_refusal


@kind("data")
def range_ignored(reply: Reply, asked: Asked) -> Reply:
    """The whole file is on its way."""
    return replace(without(reply, "Content-Range"), status=200, start=0, stop=reply.content.size)


@kind("data")
def range_widened(reply: Reply, asked: Asked) -> Reply:
    """The whole file is on its way, as one part that says so."""
    size = reply.content.size
    return with_range(replace(reply, start=0, stop=size), 0, size, size)


@kind("data")
def short_206(reply: Reply, asked: Asked) -> Reply:
    """Fewer bytes come than Content-Range says."""
    return replace(reply, stop=reply.start + reply.body_bytes // 2)


@kind("data")
def short_honest(reply: Reply, asked: Asked) -> Reply:
    """Fewer bytes come than were asked for, and Content-Range says so."""
    stop = reply.start + max(1, reply.body_bytes // 2)
    return with_range(replace(reply, stop=stop), reply.start, stop, reply.content.size)


@kind("data")
def wrong_content_range(reply: Reply, asked: Asked) -> Reply:
    """Content-Range says that the bytes lie one further on than was asked."""
    return with_range(reply, reply.start + 1, reply.start + reply.body_bytes + 1, reply.content.size)


@kind("data")
def wrong_total(reply: Reply, asked: Asked) -> Reply:
    """Content-Range says that the file is one byte longer than it is."""
    return with_range(reply, reply.start, reply.start + reply.body_bytes, reply.content.size + 1)


@kind("data")
def missing_content_range(reply: Reply, asked: Asked) -> Reply:
    """A 206 does not say which bytes it holds."""
    return without(reply, "Content-Range")


@kind("data")
def etag_changes(reply: Reply, asked: Asked) -> Reply:
    """Each answer carries an ETag of its own."""
    return with_header(reply, "ETag", f'"{secrets.token_hex(16)}"')


@kind("data")
def http_429(reply: Reply, asked: Asked) -> Reply:
    """The CDN asks for a pause of two seconds."""
    return with_header(plain(429), "Retry-After", "2")


@kind("data")
def http_503(reply: Reply, asked: Asked) -> Reply:
    """The CDN is overloaded."""
    return plain(503)


@kind("data")
def http_500(reply: Reply, asked: Asked) -> Reply:
    """The CDN fails."""
    return plain(500)


@kind("data")
def reset(reply: Reply, asked: Asked) -> Reply:
    """The connection is dropped half way through the body."""
    return replace(reply, breaks_off=True)


@kind("data")
def stall(reply: Reply, asked: Asked) -> Reply:
    """No answer ever comes."""
    return replace(reply, stalls=True)


@kind("data")
def stall_half_way(reply: Reply, asked: Asked) -> Reply:
    """Half of the body comes, and then nothing."""
    return replace(reply, hangs=True)


@kind("data")
def url_expired(reply: Reply, asked: Asked) -> Reply:
    """The signed URL no longer holds."""
    return xml_refusal(403, "AccessDenied", "Request has expired")


@kind("data")
def object_gone(reply: Reply, asked: Asked) -> Reply:
    """The hub has signed a URL of an object that the CDN does not have."""
    return xml_refusal(404, "NoSuchKey", "The specified key does not exist.")


@kind("data")
def html_200(reply: Reply, asked: Asked) -> Reply:
    """A page for people comes instead of the file."""
    return page_for_people(reply)


@kind("data")
def gzip_body(reply: Reply, asked: Asked) -> Reply:
    """The range is compressed, though identity was asked for."""
    data = gzip.compress(reply.content.read(reply.start, reply.start + reply.body_bytes))
    return Reply(reply.status, reply.headers | {"Content-Encoding": "gzip"}, BytesContent(data))
