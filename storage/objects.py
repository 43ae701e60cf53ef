"""The client of an object store, and its errors in words that hold no credential.

The library is obstore, Python's door to Rust's object_store. Of the three candidates it alone replaces a file on
condition that it is still the same (If-Match, on Google's store generations), which the lease rests on: pyarrow's file
systems know no condition, fsspec only that a file be new. It also uploads in pieces that nobody sees before the last,
retries, and comes as one wheel.

Credentials come from the usual environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (with AWS_SESSION_TOKEN), a web
identity or the machine's role; AWS_REGION; AWS_ENDPOINT_URL for a server of one's own. GOOGLE_APPLICATION_CREDENTIALS
or the machine's account for gs://.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import from_url

from storage.errors import StoreError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_SENT = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION")
_PRINTABLE = re.compile(r"[!-~]*")
_ADDRESS = re.compile(r"https?://[\w.-]+(?::\d{1,5})?(?:/[\w./-]*)?|https?://\[[0-9a-fA-F:]+\](?::\d{1,5})?/?")
_LOCATION = re.compile(r"(?:s3|gs)://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](?:/[^/?#\\\x00-\x1f]+)*")
# Five tries take about 3 s: long enough for a server that restarts, short enough for a person who waits
_RETRIES: RetryConfig = {"max_retries": 5, "retry_timeout": timedelta(minutes=3)}
_WAITS: ClientConfig = {
    "connect_timeout": timedelta(seconds=5),
    "read_timeout": timedelta(seconds=60),
    "timeout": timedelta(minutes=10),  # of a whole request; none carries more than a piece of 16 MB
}
_CODE = re.compile(r"<Code>(\w+)</Code>")
_STATUS = re.compile(r"status code: (\d{3})")
_REFUSALS = frozenset({"AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"})
_METADATA_HOSTS = ("169.254.169.254", "169.254.170.2", "metadata.google.internal", "MissingAccessKeyId")


def bucket_location(text: str) -> str:
    """Return a location such as s3://bucket/prefix in its one spelling, without a slash at its end.

    Raises:
        StoreError: it names no bucket that can be, or holds a credential, which the message does not repeat.
    """
    try:
        held = urlsplit(text).netloc.rpartition("@")[0]
    except ValueError:
        held = ""
    if held:
        raise StoreError("a store's address holds no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    location = text.rstrip("/")
    if not _LOCATION.fullmatch(location) or {".", ".."} & set(location.split("/")):
        raise StoreError(f"{text!r} names no bucket; s3://bucket/folder and gs://bucket/folder do")
    return location


def client_at(location: str) -> ObjectStore:
    """Return the client of a bucket's folder; a process has one for each, since it keeps connections.

    Raises:
        StoreError: the environment's credentials are incomplete, or can be none.
    """
    for name in _SENT:
        if not _PRINTABLE.fullmatch(os.environ.get(name, "")):  # the client would take all of Python down with it
            raise StoreError(f"{name} holds a space, a line's end or a sign that no header can carry; set it anew")
    return _client(location, endpoint())


def endpoint() -> str | None:
    """Return the address of the S3 server that the environment names, or None: Amazon's.

    Raises:
        StoreError: what it names is no address.
    """
    given = {name: os.environ[name] for name in _ENDPOINTS if name in os.environ}
    for name, address in given.items():
        if not _ADDRESS.fullmatch(address):
            raise StoreError(f"{name} holds no address of a server; give http://… or https://…, or unset it")
    return next(iter(given.values()), None)


@cache
def _client(location: str, server: str | None) -> ObjectStore:
    options: ClientConfig = {**_WAITS, "allow_http": (server or "").startswith("http://")}  # only where that is named
    with plainly(location, "open", "the store"):
        if location.startswith("s3://") and server:
            return from_url(location, endpoint=server, client_options=options, retry_config=_RETRIES)
        return from_url(location, client_options=options, retry_config=_RETRIES)


@contextlib.contextmanager
def plainly(location: str, verb: str, name: str) -> Iterator[None]:
    """Turn an object store's errors into a line; its own hold headers, keys and pages of debugging.

    Raises:
        StoreError: as said; without the error it came from, which a log would print with what was signed.
    """
    try:
        yield
    except (BaseError, OSError) as error:
        raise StoreError(f"{location}: cannot {verb} {name}: {_in_words(error, location)}") from None


def lacks_bucket(error: Exception) -> bool:
    """Return whether what is missing is the whole bucket, and not one file."""
    return _code(error) == "NoSuchBucket"


def _in_words(error: Exception, location: str) -> str:
    text, code = str(error), _code(error)
    bucket = "/".join(location.split("/")[:3])
    if code == "NoSuchBucket":
        return f"there is no bucket {bucket}; create it, or name another store"
    if any(host in text for host in _METADATA_HOSTS) or "Missing" in text.partition("\n")[0]:
        return f"no credentials for {bucket} were found; {_CREDENTIALS}"
    if isinstance(error, PermissionDeniedError | UnauthenticatedError) or code in _REFUSALS:
        return f"access was refused ({code or 'no reason given'}); {_CREDENTIALS}"
    if code in ("PermanentRedirect", "AuthorizationHeaderMalformed"):
        return f"{bucket} lies in another region; name it in AWS_REGION"
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if "HTTP error" in text:
        return "its server cannot be reached; see that the network is up, and AWS_ENDPOINT_URL if that is set"
    if status := _STATUS.search(text):
        answer = " ".join(filter(None, (status[1], code)))
        return f"its server answered {answer}; run again, and see to the server if it stays so"
    if isinstance(error, BaseError):
        return f"what the environment says of {bucket} cannot be used; {_CREDENTIALS}"
    return getattr(error, "strerror", None) or type(error).__name__


_CREDENTIALS = (
    "see AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN (gs://: GOOGLE_APPLICATION_CREDENTIALS),"
    " and what their owner may do"
)


def _code(error: Exception) -> str | None:
    found = _CODE.search(str(error))
    return found[1] if found else None
