"""The kinds of faults, by name: each is one small function that changes a finished reply.

To add a kind, write a function from reply to reply under `@kind(stage)`; its name is the kind's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from deployments.demo.content import BytesContent
from deployments.demo.replies import Reply, content_range

# Where a fault shows: in a page of the listing; in any of the hub's answers about one repo; in those to resolve
# requests; in the headers of all shards that one request asks for; in a file's bytes.
Stage = Literal["listing", "repo", "resolve", "metadata", "data"]

HTML = b"<!DOCTYPE html><html><head><title>Maintenance</title></head><body>We will be back soon.</body></html>"


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


def page_for_people(reply: Reply) -> Reply:
    """Return a page of HTML in a reply's place, with status 200 as busy servers give it."""
    return Reply(200, {"Content-Type": "text/html; charset=utf-8"}, BytesContent(HTML))


def with_header(reply: Reply, name: str, value: str) -> Reply:
    """Return a reply with one header set."""
    return replace(reply, headers=reply.headers | {name: value})


def with_range(reply: Reply, start: int, stop: int, total: int) -> Reply:
    """Return a reply whose Content-Range says this, true or not."""
    return with_header(reply, "Content-Range", content_range(start, stop, total))


def without(reply: Reply, *names: str) -> Reply:
    """Return a reply that lacks some headers."""
    return replace(reply, headers={key: value for key, value in reply.headers.items() if key not in names})
