"""What one HTTP answer means, from its status and headers alone: which error, which bytes, which next address."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urljoin

from yarl import URL

from tasks.core.errors import AuditError, Disabled, Failed, Gated, NotFound, Private, Transient, shown
from tasks.core.records import Fetch, Listing
from tasks.hub.pace import quota_said

REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PASSING = frozenset({408, 425, 429})
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")
_UNSATISFIED_RANGE = re.compile(r"bytes \*/([0-9]{1,19})")
_DISABLED = "Access to this resource is disabled."  # the Hub has no code for it
_BAD_TOKEN = "Invalid credentials in Authorization header"


class Refused(Transient):
    """A host of files refused a signed address: it has expired, or was signed for another range."""


class UnknownAddress(NotFound):
    """A 404 that names nothing which is missing: this server has no such address at all."""


def refusal(status: int, headers: Mapping[str, str], where: str, listing: Listing) -> AuditError:
    """Return the error that an answer of the Hub amounts to, where it brings neither bytes nor a redirect."""
    code, said = headers.get("X-Error-Code", ""), headers.get("X-Error-Message", "")
    answer = described(status, headers, where)
    if is_passing(status):
        return Transient(answer, asked_wait_s(status, headers))
    if said == _DISABLED or status == 451:
        return Disabled(answer)
    if code == "GatedRepo":
        return Gated(f"{answer}; accept its terms on the Hub with the account of HF_TOKEN")
    if said == _BAD_TOKEN:
        return Failed(f"{answer}; correct HF_TOKEN, or unset it to ask anonymously")
    if code in ("RepoNotFound", "RevisionNotFound", "EntryNotFound"):
        return _private(answer) if code == "RepoNotFound" and listing.private else NotFound(answer)
    if status in (401, 403):
        return _closed(status, answer, listing)
    if status == 404 and not code:
        return UnknownAddress(answer)
    return NotFound(answer) if status in (404, 410) else Failed(answer)


def described(status: int, headers: Mapping[str, str], where: str) -> str:
    """Return what the Hub answered, in its own words where it gives any."""
    said = (headers.get(name) for name in ("X-Error-Code", "X-Error-Message"))
    return f"{where}: the Hub answered {status}" + "".join(f", {shown(text)}" for text in said if text)


def is_passing(status: int) -> bool:
    """Return whether the same request may be answered otherwise in a moment."""
    return status in _PASSING or status >= 500


def _closed(status: int, answer: str, listing: Listing) -> AuditError:
    """Return what a 401 or 403 without a code means; the listing is all there is to tell by."""
    if listing.gated:
        return Gated(
            f"{answer}; it is listed as gated ({listing.gated}): accept its terms with the account of HF_TOKEN"
        )
    if listing.private:
        return _private(answer)
    if status == 403:
        return Failed(f"{answer}; it is not listed as gated or private")
    if listing.private is False:
        return NotFound(f"{answer}; it was public when it was listed, and is now private or gone")
    return Private(f"{answer}; it is private, gated or missing: the Hub does not say which")


def _private(answer: str) -> Private:
    return Private(f"{answer}; it is private, and HF_TOKEN does not open it")


def asked_wait_s(status: int, headers: Mapping[str, str]) -> float | None:
    """Return the seconds that an answer asks to wait: to the end of a spent quota's window, or by Retry-After."""
    quota = quota_said(headers) if status == 429 else None
    if quota is not None and quota.remaining == 0:
        return float(quota.reset_in_seconds)
    seconds = headers.get("Retry-After", "").strip()
    return float(seconds) if seconds.isascii() and seconds.isdigit() and len(seconds) < 10 else None


def cdn_refusal(status: int, headers: Mapping[str, str], where: str, host: str | None) -> Transient:
    """Return the error that an answer of a host of files amounts to, where it brings no bytes."""
    answer = f"{where}: {shown(host)} answered {status}"
    return Refused(answer) if status in (401, 403) else Transient(answer, asked_wait_s(status, headers))


def redirect_target(here: URL, location: str | None, where: str) -> URL:
    """Return the address that a redirect leads to, just as the server wrote it: a signature covers each character.

    Raises:
        Failed: there is none, it is no HTTP address, or it leads from https to http.
    """
    if not location or not re.fullmatch(r"[!-\[\]-~]+", location):  # printable ASCII, but for blanks and backslashes
        raise Failed(f"{where}: {here.host} redirects to no address")
    try:
        target = URL(urljoin(str(here), location), encoded=True)
        scheme, host, _ = target.scheme, target.host, target.port
    except ValueError:
        raise Failed(f"{where}: {here.host} redirects to something that is no address") from None
    if scheme not in ("http", "https") or not host:
        raise Failed(f"{where}: {here.host} redirects to {shown(scheme)}:, which is not HTTP")
    if here.scheme == "https" and scheme == "http":
        raise Failed(f"{where}: {here.host} redirects from https to http at {shown(host)}; not followed")
    return target


def partial_size(headers: Mapping[str, str], fetch: Fetch, where: str) -> tuple[int, int]:
    """Return (bytes to come, size of the file) of a 206 answer, which must bring exactly the range that was asked for.

    Raises:
        Transient: Content-Range is missing or tells of another range.
    """
    value = headers.get("Content-Range", "")
    match = _CONTENT_RANGE.fullmatch(value)
    asked = f"{where}: asked for {asked_bytes(fetch)},"
    if match is None:
        raise Transient(f"{asked} got a part with Content-Range {shown(value)!r}; expected bytes first-last/total")
    first, last, total = map(int, match.groups())
    start = fetch.start if fetch.start >= 0 else max(0, total + fetch.start)
    stop = total if fetch.stop is None else min(fetch.stop, total)
    if (first, last + 1) != (start, stop):
        raise Transient(f"{asked} got [{first:,}, {last + 1:,}) of {total:,}")
    return stop - first, total


def asked_bytes(fetch: Fetch) -> str:
    """Return in words which bytes of a file a fetch asks for."""
    return f"the last {-fetch.start:,} bytes" if fetch.stop is None else f"bytes [{fetch.start:,}, {fetch.stop:,})"


def size_past_end(headers: Mapping[str, str], fetch: Fetch, where: str) -> int:
    """Return the file's size from a 416 answer: the range starts at or after the file's end.

    Raises:
        Transient: no size is given, or one by which the range does exist.
    """
    value = headers.get("Content-Range", "")
    match = _UNSATISFIED_RANGE.fullmatch(value)
    if match is None or int(match[1]) > max(fetch.start, 0):
        raise Transient(
            f"{where}: {asked_bytes(fetch)} were refused as past the end, yet Content-Range is {shown(value)!r}"
        )
    return int(match[1])
