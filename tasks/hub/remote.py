"""One file at one revision, and what the answers so far have said of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias
from urllib.parse import quote

from yarl import URL

from tasks.core.errors import BadFile, Failed, Transient, shown
from tasks.core.records import Chunk, Listing
from tasks.hub.options import HubOptions, Learned, encoded
from tasks.hub.retry import Contradiction

_SHA256 = re.compile(r"[0-9a-f]{64}")
HostEtag: TypeAlias = tuple[str | None, str]  # hosts name one file differently, but each always in the same way


@dataclass(slots=True, eq=False)
class Remote:
    """One file of a model, at the listing's revision.

    Attributes:
        listing: the model; with no sha any revision will do.
        where: repo and file, for messages.
        url: its address at the Hub.
        signed_url: its address at the host of files, once the Hub has named one.
        is_direct: whether the Hub itself has served its bytes.
        lock: held while the Hub is asked for the address, so that ranges wanted at once share it.
        linked_bytes: its size by the Hub's last redirect.
        sha256: of its content, likewise.
        file_bytes: its size by the first answer that was accepted.
        etags: the ETag that each host gave it in the first answer that was accepted.
    """

    listing: Listing
    where: str
    url: URL
    signed_url: URL | None = None
    is_direct: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    linked_bytes: int | None = None
    sha256: str | None = None
    file_bytes: int | None = None
    etags: dict[str | None, str] = field(default_factory=dict)

    def heed_hub(self, headers: Mapping[str, str]) -> bool:
        """Take over what the Hub says of the file; return whether it named the commit.

        Raises:
            Transient: it is not the commit that was asked for.
        """
        size, etag = headers.get("X-Linked-Size", ""), headers.get("X-Linked-Etag", "").strip('"')
        if size.isascii() and size.isdigit() and len(size) < 20:
            self.linked_bytes = int(size)
        if _SHA256.fullmatch(etag):
            self.sha256 = etag
        commit, sha = headers.get("X-Repo-Commit"), self.listing.sha
        if commit is not None and sha is not None and commit != sha:
            raise Transient(f"{self.where}: asked for revision {sha}, got {shown(commit)}")
        return commit is not None

    def check(self, file_bytes: int, etag: HostEtag | None) -> None:
        """Hold an answer's size and ETag against the answers before it.

        Raises:
            Contradiction: they differ.
        """
        now = f"this answer is of a file of {file_bytes:,} bytes"
        if self.linked_bytes not in (None, file_bytes):
            raise Contradiction(f"{self.where}: X-Linked-Size is {self.linked_bytes:,}, {now}")
        if self.file_bytes not in (None, file_bytes):
            raise Contradiction(f"{self.where}: an earlier answer was of a file of {self.file_bytes:,} bytes, {now}")
        if etag is not None and self.etags.get(etag[0], etag[1]) != etag[1]:
            raise Contradiction(f"{self.where}: its ETag was {shown(self.etags[etag[0]])}, now it is {shown(etag[1])}")

    def chunk(self, data: bytes, file_bytes: int, etag: HostEtag | None) -> Chunk:
        """Accept an answer: remember what it says of the file, and return its bytes."""
        self.file_bytes = file_bytes
        if etag is not None:
            self.etags.setdefault(*etag)
        return Chunk(data, file_bytes, self.sha256)

    def is_in(self, known: Container[str]) -> bool:
        """Return whether the Hub has told the file's hash and size, and the hash is among those known."""
        return self.sha256 is not None and self.linked_bytes is not None and self.sha256 in known

    def unread(self) -> Chunk:
        """Return the answer of a file that need not be read: its size and its hash."""
        return Chunk(b"", self.linked_bytes or 0, self.sha256)

    def forget(self, url: URL) -> None:
        """Stop using an address that failed, unless another has taken its place."""
        if self.signed_url is url:
            self.signed_url = None


def remote_file(listing: Listing, path: str, options: HubOptions) -> Remote:
    """Return a file of a model, of which nothing is known yet.

    Raises:
        Failed: the listing names no revision.
        BadFile: the path leads out of the repo.
    """
    where = f"{shown(listing.repo_id)}/{shown(path)}"
    if listing.sha is None:
        raise Failed(f"{where}: the listing names no revision; describe the repo first")
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise BadFile(f"{where}: this path does not lead to a file of the repo")
    address = f"{encoded(listing.repo_id)}/resolve/{quote(listing.sha, safe='')}/{encoded(path)}"
    return Remote(listing, where, URL(options.url(address), encoded=True))


def claims_of(listing: Listing, index: str, options: HubOptions) -> Remote:
    """Return the Hub's digest of all headers that an index leads to; it names no commit, being of the main branch."""
    where = f"{shown(listing.repo_id)}/{shown(index)}: its digest of headers"
    address = f"api/models/{encoded(listing.repo_id)}/safetensors-metadata/{encoded(index)}"
    return Remote(replace(listing, sha=None), where, URL(options.url(address), encoded=True))


def why_not_claims(listing: Listing, options: HubOptions, learned: Learned) -> str | None:
    """Return in words why the Hub is not asked for that digest; None: it is.

    One request to the API stands for two to resolve addresses; where the choice is left open, it is asked while the
    API's quota has no smaller part left than theirs.
    """
    if options.shard_headers == "index":
        return "the settings say to read indexes"
    if learned.lacks_claims:
        return "this Hub has no digest of headers"
    if not listing.is_head:
        return "a digest of headers is of the main branch alone"
    api, resolvers = learned.pace.quota("api"), learned.pace.quota("resolvers")
    if options.shard_headers == "api" or api is None or resolvers is None:
        return None
    is_scarcer = api.left * resolvers.limit < resolvers.left * api.limit
    return "the quota of the API is scarcer" if is_scarcer else None
