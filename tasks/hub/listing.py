"""Repos as the Hub lists them, page by page, over huggingface_hub's own session.

`HfApi.list_models` asks the same questions, but a page that stalls hangs it for ever, one entry of a shape that it
does not expect ends it, and its retries know nothing of the process's pace. So its session is used, and the pages are
walked here.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import httpx2
import orjson
from huggingface_hub import get_session
from huggingface_hub.errors import OfflineModeIsEnabled
from yarl import URL

from tasks.core.errors import Failed, Transient, shown
from tasks.core.records import Listing
from tasks.hub.answers import REDIRECTS, asked_wait_s, described, is_passing, redirect_target
from tasks.hub.entries import FACTS, listing_of
from tasks.hub.options import HubOptions, Learned, origin_of
from tasks.hub.pace import Turn
from tasks.hub.retry import Patience

PAGE_ENTRIES = 1_000  # the Hub gives no more a page
MAX_PAGE_BYTES = 256_000_000  # 1,000 repos take about 3 MB; some repos list 10,000 files and more
Sort = Literal["downloads", "likes", "createdAt", "lastModified", "trendingScore"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ListingQuery:
    """Which repos to list.

    Attributes:
        top: how many at most, in the order of sort; None: all.
        sort: the figure to sort by, greatest first.
        filters: tags that a repo must all have: libraries ("safetensors"), tasks, languages, licences.
        author: user or organisation.
        search: text that the repo's id must contain.
    """

    top: int | None = None
    sort: Sort = "downloads"
    filters: tuple[str, ...] = ()
    author: str | None = None
    search: str | None = None

    def __post_init__(self) -> None:
        if self.top is not None and self.top < 1:
            raise ValueError(f"top is {self.top}; give at least 1, or None for all")

    @property
    def parameters(self) -> list[tuple[str, str]]:
        """The query of the first page; keys repeat."""
        limit = min(self.top or PAGE_ENTRIES, PAGE_ENTRIES)
        return [
            *(("filter", text) for text in self.filters),
            *(("author", text) for text in (self.author,) if text),
            *(("search", text) for text in (self.search,) if text),
            ("sort", self.sort),
            ("limit", str(limit)),
            *(("expand", fact) for fact in FACTS),
        ]


def list_models(
    options: HubOptions,
    query: ListingQuery,
    learned: Learned | None = None,
    *,
    sleep: Callable[[float], None] = time.sleep,
    rng: random.Random | None = None,
) -> Iterator[Listing]:
    """Yield the repos that a query finds, asking for a page when the one before is used up. It blocks: use a thread.

    Entries that name no repo are left out with a warning, and so is a page that is no JSON, if it says where the next
    one is. A repo may come twice, when the order changes between two pages.

    Raises:
        Failed: a page could not be had; what came before it stands.
    """
    pages = _Pages(options, learned or Learned(), Patience(options, rng or random.Random()), sleep)
    found = 0
    for entry in pages.entries(query):
        listing = listing_of(entry)
        if listing is None:
            log.warning("listing: left out an entry that names no repo: %s", shown(entry))
            continue
        yield listing
        found += 1
        if found == query.top:
            return


class _Illegible(Transient):
    """A page that is no JSON list; a next one may be known all the same."""

    def __init__(self, message: str, next_url: URL | None) -> None:
        super().__init__(message)
        self.next_url = next_url


@dataclass(frozen=True, slots=True)
class _Pages:
    options: HubOptions
    learned: Learned
    patience: Patience
    sleep: Callable[[float], None]

    def entries(self, query: ListingQuery) -> Iterator[object]:
        """Yield the entries of all pages, as they come."""
        url: URL | None = URL(self.options.url("api/models")).with_query(query.parameters)
        seen: set[URL] = set()
        while url is not None:
            if url in seen:
                raise Failed(f"listing: page {len(seen) + 1:,} is one that came before; the Hub's pages go in a circle")
            seen.add(url)
            entries, url = self._page(url)
            yield from entries

    def _page(self, url: URL) -> tuple[list[object], URL | None]:
        tries = 0
        while True:
            try:
                return self._try_page(url)
            except Transient as fault:
                tries += 1
                if isinstance(fault, _Illegible) and fault.next_url is not None and tries > self.options.retries:
                    log.error("%s; a page of up to %d repos is left out", fault, PAGE_ENTRIES)
                    return [], fault.next_url
                wait_s = self.patience.wait_s(fault, tries)
            self.sleep(wait_s)

    def _try_page(self, url: URL) -> tuple[list[object], URL | None]:
        at_hub = origin_of(url) == self.options.origin
        timeout = httpx2.Timeout(self.options.read_timeout_s, connect=self.options.connect_timeout_s)
        with self._let_through() if at_hub else nullcontext() as turn:
            try:
                with get_session().stream(
                    "GET",
                    str(url),
                    headers=self.options.headers(to_hub=at_hub),
                    timeout=timeout,
                    follow_redirects=False,
                ) as response:
                    if turn is not None:
                        turn.answered(response.headers, asked_wait_s(response.status_code, response.headers))
                    _check_status(response, url)
                    return self._parse(self._body(response), _next_page(response, url))
            except OfflineModeIsEnabled as error:
                raise Failed("listing: HF_HUB_OFFLINE is set; unset it to list the Hub's models") from error
            except (httpx2.RequestError, OSError) as error:
                raise Transient(f"listing: {shown(url.host)} gave no whole page: {type(error).__name__}") from error

    def _let_through(self) -> Turn:
        turn = self.learned.pace.turn("api")
        while (wait_s := turn.ask()) > 0:
            self.sleep(wait_s)
        return turn

    def _body(self, response: httpx2.Response) -> bytes:
        ends_at_s = time.monotonic() + self.options.total_timeout_s
        data = bytearray()
        for piece in response.iter_bytes():
            data += piece
            if len(data) > MAX_PAGE_BYTES:
                raise Failed(f"listing: a page goes on after {len(data):,} bytes; at most {MAX_PAGE_BYTES:,} are read")
            if time.monotonic() > ends_at_s:
                raise Transient(
                    f"listing: a page took more than {self.options.total_timeout_s:g} s; {len(data):,} bytes came"
                )
        return bytes(data)

    def _parse(self, body: bytes, next_url: URL | None) -> tuple[list[object], URL | None]:
        try:
            entries = _loaded(body)
        except (ValueError, RecursionError) as error:
            raise _Illegible(
                f"listing: a page of {len(body):,} bytes is no JSON ({type(error).__name__})", next_url
            ) from error
        if not isinstance(entries, list):
            raise _Illegible(f"listing: a page is no list of repos but {shown(entries)}", next_url)
        return entries, next_url


def _loaded(body: bytes) -> Any:
    """Return JSON; what the fast parser refuses and Python's does not (NaN, half a character) costs no whole page."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return json.loads(body)


def _check_status(response: httpx2.Response, url: URL) -> None:
    status, headers = response.status_code, response.headers
    answer = described(status, headers, "listing")
    if status in REDIRECTS:
        raise Failed(f"{answer}: {shown(url.host)} redirects elsewhere; set HF_ENDPOINT to the Hub's own address")
    if is_passing(status):
        raise Transient(answer, asked_wait_s(status, headers))
    if status != 200:
        raise Failed(f"{answer}; check the query and HF_TOKEN")


def _next_page(response: httpx2.Response, url: URL) -> URL | None:
    link = response.links.get("next", {}).get("url")
    return None if link is None else redirect_target(url, link, "listing")
