"""Faults of the hub's own answers: pages of the listing, refusals, redirects, the headers of all shards at once."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from deployments.demo.content import BytesContent
from deployments.demo.fault_kinds import Asked, kind, page_for_people, with_header, without
from deployments.demo.replies import DISABLED, Reply, plain, refusal

MOVED_COMMIT = "f" * 40


@kind("listing")
def listing_stalls(reply: Reply, asked: Asked) -> Reply:
    """A page never comes."""
    return replace(reply, stalls=True)


@kind("listing")
def listing_stalls_half_way(reply: Reply, asked: Asked) -> Reply:
    """Half of a page comes, and then nothing."""
    return replace(reply, hangs=True)


@kind("listing")
def listing_breaks_off(reply: Reply, asked: Asked) -> Reply:
    """The connection is dropped half way through a page."""
    return replace(reply, breaks_off=True)


@kind("listing")
def listing_503(reply: Reply, asked: Asked) -> Reply:
    """A page is refused."""
    return plain(503)


@kind("listing")
def listing_429(reply: Reply, asked: Asked) -> Reply:
    """A page is refused for a second."""
    return _limited("api")


@kind("listing")
def listing_html(reply: Reply, asked: Asked) -> Reply:
    """A page for people comes instead of one of the listing."""
    return page_for_people(reply)


@kind("listing")
def no_link_header(reply: Reply, asked: Asked) -> Reply:
    """A page hides that others follow."""
    return without(reply, "Link")


@kind("listing")
def link_in_a_circle(reply: Reply, asked: Asked) -> Reply:
    """A page names one and the same page as the next, always."""
    return with_header(reply, "Link", '</api/models?cursor=MA%3D%3D>; rel="next"')


@kind("repo")
def hub_503(reply: Reply, asked: Asked) -> Reply:
    """The hub is out of order for this repo."""
    return plain(503)


@kind("repo")
def hub_429(reply: Reply, asked: Asked) -> Reply:
    """The hub asks for a pause of one second."""
    return _limited("api" if asked.url_path.startswith("/api/models/") else "resolvers")


@kind("repo")
def deleted(reply: Reply, asked: Asked) -> Reply:
    """The repo is gone, though it was listed."""
    return refusal(404, "Repository not found", "RepoNotFound")


@kind("repo")
def revision_gone(reply: Reply, asked: Asked) -> Reply:
    """The commit that was listed is gone: its history was rewritten."""
    return refusal(404, "Invalid rev id", "RevisionNotFound")


@kind("repo")
def gated_meanwhile(reply: Reply, asked: Asked) -> Reply:
    """The repo was gated after it was listed."""
    return refusal(403, f"Access to model {asked.repo_id} is restricted.", "GatedRepo")


@kind("repo")
def disabled_meanwhile(reply: Reply, asked: Asked) -> Reply:
    """The repo was disabled after it was listed."""
    return refusal(403, DISABLED)


@kind("repo")
def bare_401(reply: Reply, asked: Asked) -> Reply:
    """The answer does not say whether the repo is private, gated or missing."""
    return Reply(401)


@kind("resolve")
def commit_moved(reply: Reply, asked: Asked) -> Reply:
    """The answer is of another commit than was asked for."""
    return with_header(reply, "X-Repo-Commit", MOVED_COMMIT)


@kind("resolve")
def commit_unsaid(reply: Reply, asked: Asked) -> Reply:
    """The answer does not say of which commit it is."""
    return without(reply, "X-Repo-Commit")


@kind("resolve")
def linked_size_wrong(reply: Reply, asked: Asked) -> Reply:
    """The redirect names a size that is not the file's."""
    size = reply.headers.get("X-Linked-Size")
    return with_header(reply, "X-Linked-Size", str(int(size) + 1)) if size else reply


@kind("resolve")
def redirect_loop(reply: Reply, asked: Asked) -> Reply:
    """The redirect leads back to itself."""
    return with_header(replace(reply, status=302), "Location", asked.url_path)


@kind("resolve")
def redirect_relative(reply: Reply, asked: Asked) -> Reply:
    """The redirect names a path on the same host, which serves the file."""
    return with_header(reply, "Location", asked.direct_url) if asked.direct_url else reply


@kind("resolve")
def redirect_nowhere(reply: Reply, asked: Asked) -> Reply:
    """The redirect does not say where to."""
    return without(replace(reply, status=302), "Location")


@kind("resolve")
def resolve_html(reply: Reply, asked: Asked) -> Reply:
    """A page for people comes instead of a redirect."""
    return page_for_people(reply)


@kind("metadata")
def metadata_html(reply: Reply, asked: Asked) -> Reply:
    """A page for people comes instead of the shards' headers."""
    return page_for_people(reply)


@kind("metadata")
def metadata_cut(reply: Reply, asked: Asked) -> Reply:
    """The JSON of the shards' headers ends half way."""
    return replace(reply, stop=reply.body_bytes // 2) if reply.status == 200 else reply


@kind("metadata")
def metadata_shifted(reply: Reply, asked: Asked) -> Reply:
    """Every tensor is said to lie two bytes further on than it does."""
    return _with_shards(reply, lambda header: [_shift(about) for about in header.values() if "data_offsets" in about])


@kind("metadata")
def metadata_lacks_a_shard(reply: Reply, asked: Asked) -> Reply:
    """The header of the last shard is left out."""
    return _changed(reply, lambda value: value["headers"].popitem())


@kind("metadata")
def metadata_lacks_a_tensor(reply: Reply, asked: Asked) -> Reply:
    """The last tensor of each shard is left out."""
    return _with_shards(reply, lambda header: header.popitem())


def _limited(bucket: str) -> Reply:
    return with_header(refusal(429, "We had to rate limit you."), "RateLimit", f'"{bucket}";r=0;t=1')


def _shift(about: dict[str, Any]) -> None:
    about["data_offsets"] = [offset + 2 for offset in about["data_offsets"]]


def _with_shards(reply: Reply, change: Callable[[dict[str, Any]], object]) -> Reply:
    return _changed(reply, lambda value: [change(header) for header in value["headers"].values()])


def _changed(reply: Reply, change: Callable[[dict[str, Any]], object]) -> Reply:
    """Return a reply whose JSON, if it is not a refusal, went through a function that changes it in place."""
    if reply.status != 200:
        return reply
    data = reply.content.read(0, reply.content.size)
    value = json.loads(gzip.decompress(data) if "Content-Encoding" in reply.headers else data)
    change(value)
    return Reply(200, without(reply, "Content-Encoding").headers, BytesContent(json.dumps(value).encode()))
