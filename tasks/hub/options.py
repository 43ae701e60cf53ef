"""How to talk to the Hub, what talking cost, and what a process learns of it on the way."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Literal, TypeAlias
from urllib.parse import quote

from huggingface_hub import constants, get_token
from yarl import URL

from tasks.core.records import Cost
from tasks.hub.pace import Pace

CONNECTIONS_PER_HOST = 128  # all 65 scales of a 7B model at once; 600 models/s at 50 ms, far over any quota
Origin: TypeAlias = tuple[str, str | None, int | None]  # scheme, host, port


@dataclass(frozen=True, slots=True)
class HubOptions:
    """How to talk to the Hub.

    Attributes:
        endpoint: the Hub's address; the token goes to this origin alone.
        token: access token, or None to ask anonymously; never shown.
        contact: an address or URL at which the Hub's operators reach whoever runs this, sent with each request.
        connect_timeout_s: for one connection to be made.
        read_timeout_s: without a byte coming.
        total_timeout_s: for one request, its waiting for a connection and its body included.
        retries: further tries after a fault that may pass.
        first_wait_s: upper bound of the wait before the first retry; doubled for each further one.
        longest_wait_s: upper bound of any wait between tries, but for those the server asks for.
        connections_per_host: requests under way at once to one host.
        shard_headers: where to learn what the shards of a checkpoint hold: from its index (requests to resolve
            addresses), from the Hub's own digest of all headers (one request to its API), or from whichever leaves more
            of its quota.
        max_whole_file_bytes: largest file that is read whole, decompressed.
        max_skipped_bytes: how far into a file a server that ignores ranges may be read to get at a range.
    """

    endpoint: str = constants.ENDPOINT
    token: str | None = field(default=None, repr=False)
    contact: str = ""
    connect_timeout_s: float = 10.0  # a host that takes longer is as good as down
    read_timeout_s: float = 20.0  # the CDN answers in well under a second, cold files in a few
    total_timeout_s: float = 120.0  # a range of 4 MB on a slow line takes 30 s
    retries: int = 4  # with the waits below, faults of up to 7 s on average are waited out
    first_wait_s: float = 1.0
    longest_wait_s: float = 20.0
    connections_per_host: int = CONNECTIONS_PER_HOST
    shard_headers: Literal["auto", "api", "index"] = "auto"
    max_whole_file_bytes: int = 64_000_000  # an index takes about 100 bytes a tensor; the largest known are near 20 MB
    max_skipped_bytes: int = 1_000_000  # a model's final norm lies gigabytes in: one attempt would read all of that

    def __post_init__(self) -> None:
        address = URL(self.endpoint)
        if address.scheme not in ("http", "https") or not address.host or address.raw_query_string:
            raise ValueError("endpoint is no address of a Hub; give one such as https://huggingface.co")
        if not (self.contact.isascii() and self.contact.isprintable()):
            raise ValueError(f"contact {self.contact!r} cannot be sent in a header; use printable ASCII")
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and self.token.strip()):
            raise ValueError("the token holds characters that no token has; check HF_TOKEN for blanks and line breaks")

    @property
    def user_agent(self) -> str:
        """The User-Agent of every request: the project's name and version, and the contact."""
        return f"normaudit/{_version()}" + (f" (+{self.contact})" if self.contact else "")

    @property
    def origin(self) -> Origin:
        """Scheme, host and port of the endpoint."""
        return origin_of(URL(self.endpoint))

    def url(self, path: str) -> str:
        """Return the address of an encoded path at the endpoint."""
        return f"{self.endpoint.rstrip('/')}/{path}"

    def headers(self, *, to_hub: bool) -> dict[str, str]:
        """Return the headers of every request; the token only for those to the endpoint's own origin."""
        headers = {"User-Agent": self.user_agent}
        if self.token and to_hub:
            headers["Authorization"] = f"Bearer {self.token}"
        return headers


def options_from_environment(contact: str = "") -> HubOptions:
    """Return the options that HF_ENDPOINT, HF_TOKEN and a stored login ask for, as huggingface_hub reads them."""
    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    return HubOptions(os.environ.get("HF_ENDPOINT") or constants.ENDPOINT, token, contact)


@dataclass(slots=True)
class Meter:
    """What reading one model has cost so far.

    Attributes:
        hub_requests: to the endpoint's origin, redirects and retries included.
        cdn_requests: to all other hosts.
        bytes_read: of all bodies, those of redirects and errors included.
    """

    hub_requests: int = 0
    cdn_requests: int = 0
    bytes_read: int = 0

    def count(self, to_hub: bool) -> None:
        """Count one request."""
        self.hub_requests += to_hub
        self.cdn_requests += not to_hub

    def cost(self, seconds: float) -> Cost:
        """Return what was counted, as a record."""
        return Cost(self.hub_requests, self.cdn_requests, self.bytes_read, seconds)


@dataclass(slots=True)
class Learned:
    """What every client in a process should know: how fast to ask, and which hosts' signed URLs serve a second range.

    Attributes:
        pace: the limiter of all requests to the Hub.
        serves_more: for each CDN, whether a URL that was signed for one range served another; absent: not tried yet.
        lacks_claims: this Hub has no digest of all headers of a sharded checkpoint.
    """

    pace: Pace = field(default_factory=Pace)
    serves_more: dict[Origin, bool] = field(default_factory=dict)
    lacks_claims: bool = False

    @property
    def may_share(self) -> bool:
        """Whether an address may serve a further range, as far as is known: no host has refused one."""
        return False not in self.serves_more.values()


def origin_of(url: URL) -> Origin:
    """Return scheme, host and port of an address, as the client that connects to it understands them."""
    return url.scheme, url.host, url.port


def encoded(path: str) -> str:
    """Return a repo's id or a file's path as part of an address."""
    return quote(path, safe="/", errors="replace")


def _version() -> str:
    try:
        return version("normaudit")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "0"
