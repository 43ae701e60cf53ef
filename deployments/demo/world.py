"""What the stand-in's two origins share: the repos, the switches, the log of requests, and who may see what."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

from starlette.requests import Request

from deployments.demo.faults import Asked, Fault, with_faults
from deployments.demo.limits import FixedWindows
from deployments.demo.replies import DISABLED, Refusal, Reply, data_reply, refusal
from deployments.demo.repo import StandInRepo

MAX_PAGE = 1000  # models in a page of the real listing
GENEROUS = (1_000_000, 300)  # requests in seconds, the Hub's own window with a quota that no test uses up


@dataclass
class Switches:
    """What can be changed while the stand-in runs.

    Attributes:
        latency_s: waited before each answer, on both origins.
        range_bound_urls: whether a signed URL holds for no other range than the one it was asked with.
        url_lifetime_s: how long a signed URL holds.
        limits: (quota, seconds of the window) for each bucket.
        sharded_endpoint: whether one request can ask for all headers of a sharded checkpoint.
        xet: whether answers say how to have large files in chunks, which huggingface_hub prefers where hf_xet is
            installed; the chunks themselves are not served.
        page_size: models in a page of the listing, at most.
        faults: shown until their times are used up.
    """

    latency_s: float = 0.0
    range_bound_urls: bool = False
    url_lifetime_s: float = 3600
    limits: dict[str, tuple[int, float]] = field(default_factory=lambda: {"api": GENEROUS, "resolvers": GENEROUS})
    sharded_endpoint: bool = True
    xet: bool = False
    page_size: int = MAX_PAGE
    faults: list[Fault] = field(default_factory=list)


def asked_repo_id(request: Request) -> str:
    """Return the id of the repo that a request's path names; "" for the listing."""
    named = request.path_params
    return f"{named['owner']}/{named['name']}" if "owner" in named else ""


@dataclass
class World:
    """The state behind both origins."""

    repos: dict[str, StandInRepo]
    switches: Switches
    token: str | None
    endpoint: str
    cdn_origin: str
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    windows: FixedWindows = field(default_factory=FixedWindows)

    def is_trusted(self, request: Request) -> bool:
        """Return whether the request carries the token.

        Raises:
            Refusal: it carries another one.
        """
        sent = request.headers.get("authorization")
        if sent is None or self.token is None:
            return False
        if sent != f"Bearer {self.token}":
            raise Refusal(refusal(401, "Invalid credentials in Authorization header"))
        return True

    def seen_repo(self, request: Request) -> StandInRepo:
        """Return the repo that a request names, if the caller may know of it.

        Raises:
            Refusal: there is none, or it is private and the caller has no right to it.
        """
        repo = self.repos.get(asked_repo_id(request))
        trusted = self.is_trusted(request)
        if repo is None or (repo.private and not trusted):
            # to strangers the Hub does not say whether a repo is missing or private
            raise Refusal(refusal(404 if trusted else 401, "Repository not found", "RepoNotFound"))
        if repo.private and not repo.readable_by_token:
            raise Refusal(refusal(403, "Forbidden: your token does not open this repo"))
        return repo

    def open_repo(self, request: Request) -> StandInRepo:
        """Return the repo that a request names, if the caller may read its files.

        Raises:
            Refusal: as `seen_repo`; or it is disabled, or gated and the caller was not let in.
        """
        repo = self.seen_repo(request)
        if repo.disabled:
            raise Refusal(refusal(403, DISABLED))
        trusted = self.is_trusted(request)
        if repo.gated and not (trusted and repo.readable_by_token):
            message = f"Access to model {repo.repo_id} is restricted. You must have access to it and be authenticated."
            raise Refusal(refusal(403 if trusted else 401, message, "GatedRepo"))
        return repo

    def file_reply(self, request: Request, repo: StandInRepo, path: str, etag: str) -> Reply:
        """Return the bytes of a file that a request asks for, with the faults that strike them."""
        headers = {"Content-Type": "application/octet-stream", "ETag": f'"{etag}"'}
        asked = Asked(request.url.path, repo.repo_id, path, repo.is_large(path))
        return with_faults(data_reply(request, repo.files[path], headers), self.switches.faults, "data", asked)

    def signed_url(self, repo: StandInRepo, path: str, range_header: str | None) -> str:
        """Return the URL on the CDN that serves a file without a token for a while, perhaps for one range only.

        Its signature covers every character, so a client that spells an escape in another way is refused.
        """
        name = path.rpartition("/")[2]
        query = {
            "response-content-disposition": f"inline; filename*=UTF-8''{quote(name)}; filename=\"{name}\";",
            "Expires": f"{time.time() + self.switches.url_lifetime_s:.3f}",
        }
        if self.switches.range_bound_urls:
            query["Range"] = range_header or ""
        signed = f"/{repo.repo_id}/{repo.sha}/{quote(path)}?{urlencode(query)}"
        return f"{self.cdn_origin}{signed}&Signature={self._signature(signed)}"

    def url_holds(self, request: Request) -> bool:
        """Return whether a request for a signed URL bears our signature, came in time and asks for its range."""
        query, asked = request.query_params, request.headers.get("range", "")
        raw = f"{request.scope['raw_path'].decode()}?{request.scope['query_string'].decode()}"
        signed, _, signature = raw.rpartition("&Signature=")
        return (
            hmac.compare_digest(self._signature(signed), signature)
            and time.time() < float(query["Expires"])
            and query.get("Range", asked) == asked
        )

    def _signature(self, text: str) -> str:
        return hmac.new(self.secret, text.encode(), hashlib.sha256).hexdigest()
