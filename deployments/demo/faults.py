"""Faults that the stand-in can be told to show: each kind is one small function that changes a finished reply.

To add a kind, write a function from reply to reply under `@kind(stage)`; its name is the kind's.
"""

from __future__ import annotations

import gzip
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from deployments.demo.content import BytesContent
from deployments.demo.replies import Reply, content_range, plain, refusal, xml_refusal

# Where a fault shows: in a page of the listing; in any of the hub's answers about one repo; in those to resolve
# requests; in a file's bytes.
Stage = Literal["listing", "repo", "resolve", "data"]

HTML = b"<!DOCTYPE html><html><head><title>Maintenance</title></head><body>We will be back soon.</body></html>"
MOVED_COMMIT = "f" * 40
_counting = threading.Lock()


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request is about, as faults choose by it.

    Attributes:
        url_path: of the request.
        repo_id: "" for the listing.
        path: the file within the repo, None for the repo itself.
        large: whether that file lies in large-file storage.
        direct_url: where the hub itself would serve the file's bytes, "" if it was no resolve request.
    """

    url_path: str
    repo_id: str = ""
    path: str | None = None
    large: bool = False
    direct_url: str = ""


@dataclass
class Fault:
    """A fault to show, always or a number of times.

    Attributes:
        kind: one of `KINDS`.
        repo_id: the repo that shows it; every repo if None.
        path: the file that shows it; if None any file, or for faults of a file's bytes any large file.
        times: how often it is still to be shown, None for always; counted down.
    """

    kind: str
    repo_id: str | None = None
    path: str | None = None
    times: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no fault is called {self.kind!r}; there are {', '.join(KINDS)}")

    def strikes(self, stage: Stage, asked: Asked) -> bool:
        """Return whether this fault shows in the reply to a request, and if so count it."""
        chosen = stage == KINDS[self.kind].stage and self.repo_id in (None, asked.repo_id)
        wanted = self.path == asked.path if self.path else stage != "data" or asked.large
        if not (chosen and wanted):
            return False
        with _counting:
            if self.times is not None:
                self.times -= 1
            return self.times is None or self.times >= 0


Effect = Callable[[Reply, Asked], Reply]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: the stage that it shows at, and what it does to a reply."""

    stage: Stage
    effect: Effect


KINDS: dict[str, Kind] = {}


def kind(stage: Stage) -> Callable[[Effect], Effect]:
    """Register the decorated function as a kind of fault of that stage."""

    def registered(effect: Effect) -> Effect:
        KINDS[effect.__name__] = Kind(stage, effect)
        return effect

    return registered


def with_faults(reply: Reply, faults: list[Fault], stage: Stage, asked: Asked) -> Reply:
    """Return the reply as the faults that strike leave it."""
    for fault in list(faults):
        if fault.strikes(stage, asked):
            reply = KINDS[fault.kind].effect(reply, asked)
    return reply


@kind("listing")
def listing_stalls(reply: Reply, asked: Asked) -> Reply:
    """A page never comes."""
    return replace(reply, stalls=True)


@kind("listing")
def listing_503(reply: Reply, asked: Asked) -> Reply:
    """A page is refused."""
    return plain(503)


@kind("listing")
def no_link_header(reply: Reply, asked: Asked) -> Reply:
    """A page hides that others follow."""
    return replace(reply, headers=_without(reply, "Link"))


@kind("repo")
def hub_503(reply: Reply, asked: Asked) -> Reply:
    """The hub is out of order for this repo."""
    return plain(503)


@kind("repo")
def hub_429(reply: Reply, asked: Asked) -> Reply:
    """The hub asks for a pause of one second."""
    bucket = "api" if asked.url_path.startswith("/api/models/") else "resolvers"
    return _with_header(refusal(429, "We had to rate limit you."), "RateLimit", f'"{bucket}";r=0;t=1')


@kind("repo")
def deleted(reply: Reply, asked: Asked) -> Reply:
    """The repo is gone, though it was listed."""
    return refusal(404, "Repository not found", "RepoNotFound")


@kind("repo")
def gated_meanwhile(reply: Reply, asked: Asked) -> Reply:
    """The repo was gated after it was listed."""
    return refusal(403, f"Access to model {asked.repo_id} is restricted.", "GatedRepo")


@kind("resolve")
def commit_moved(reply: Reply, asked: Asked) -> Reply:
    """The answer is of another commit than was asked for."""
    return _with_header(reply, "X-Repo-Commit", MOVED_COMMIT)


@kind("resolve")
def linked_size_wrong(reply: Reply, asked: Asked) -> Reply:
    """The redirect names a size that is not the file's."""
    size = reply.headers.get("X-Linked-Size")
    return _with_header(reply, "X-Linked-Size", str(int(size) + 1)) if size else reply


@kind("resolve")
def redirect_loop(reply: Reply, asked: Asked) -> Reply:
    """The redirect leads back to itself."""
    return _with_header(replace(reply, status=302), "Location", asked.url_path)


@kind("resolve")
def redirect_relative(reply: Reply, asked: Asked) -> Reply:
    """The redirect names a path on the same host, which serves the file."""
    return _with_header(reply, "Location", asked.direct_url) if asked.direct_url else reply


@kind("data")
def range_ignored(reply: Reply, asked: Asked) -> Reply:
    """The whole file is on its way."""
    return replace(reply, status=200, headers=_without(reply, "Content-Range"), start=0, stop=reply.content.size)


@kind("data")
def short_206(reply: Reply, asked: Asked) -> Reply:
    """Fewer bytes come than Content-Range says."""
    return replace(reply, stop=reply.start + reply.body_bytes // 2)


@kind("data")
def short_honest(reply: Reply, asked: Asked) -> Reply:
    """Fewer bytes come than were asked for, and Content-Range says so."""
    stop = reply.start + max(1, reply.body_bytes // 2)
    return _with_range(replace(reply, stop=stop), reply.start, stop, reply.content.size)


@kind("data")
def wrong_content_range(reply: Reply, asked: Asked) -> Reply:
    """Content-Range says that the bytes lie one further on than was asked."""
    return _with_range(reply, reply.start + 1, reply.start + reply.body_bytes + 1, reply.content.size)


@kind("data")
def wrong_total(reply: Reply, asked: Asked) -> Reply:
    """Content-Range says that the file is one byte longer than it is."""
    return _with_range(reply, reply.start, reply.start + reply.body_bytes, reply.content.size + 1)


@kind("data")
def missing_content_range(reply: Reply, asked: Asked) -> Reply:
    """A 206 does not say which bytes it holds."""
    return replace(reply, headers=_without(reply, "Content-Range"))


@kind("data")
def etag_changes(reply: Reply, asked: Asked) -> Reply:
    """Each answer carries an ETag of its own."""
    return _with_header(reply, "ETag", f'"{secrets.token_hex(16)}"')


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
def url_expired(reply: Reply, asked: Asked) -> Reply:
    """The signed URL no longer holds."""
    return xml_refusal(403, "AccessDenied", "Request has expired")


@kind("data")
def html_200(reply: Reply, asked: Asked) -> Reply:
    """A page for people comes instead of the file."""
    return Reply(200, {"Content-Type": "text/html; charset=utf-8"}, BytesContent(HTML))


@kind("data")
def gzip_body(reply: Reply, asked: Asked) -> Reply:
    """The range is compressed, though identity was asked for."""
    data = gzip.compress(reply.content.read(reply.start, reply.start + reply.body_bytes))
    return Reply(reply.status, reply.headers | {"Content-Encoding": "gzip"}, BytesContent(data))


def _with_header(reply: Reply, name: str, value: str) -> Reply:
    return replace(reply, headers=reply.headers | {name: value})


def _with_range(reply: Reply, start: int, stop: int, total: int) -> Reply:
    return _with_header(reply, "Content-Range", content_range(start, stop, total))


def _without(reply: Reply, name: str) -> dict[str, str]:
    return {key: value for key, value in reply.headers.items() if key != name}
