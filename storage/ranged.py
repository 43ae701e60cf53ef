"""A file in an object store to read from anywhere, as Arrow does: what is asked for is fetched, and little more."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from storage.errors import StoreError

BLOCK_BYTES = 262_144  # a request takes as long as the transfer of about so much: fetching less saves nothing

ByteRange = tuple[int, int] | dict[str, int]


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes of a file, with what its server says of the whole: where they start, the file's size and ETag."""

    start_byte: int
    content: bytes
    size_bytes: int
    etag: str | None


Fetch = Callable[[ByteRange, str | None], Piece]


class RangedFile(io.RawIOBase):
    """A readable file over ranged requests, the first of which takes its end, where a Parquet file says what it holds.

    All pieces are of one version: the server refuses a range of a file that has been replaced meanwhile. Nothing is
    asked of it before the first byte is wanted, nor for the size where that is given.
    """

    def __init__(self, fetch: Fetch, size_bytes: int | None = None) -> None:
        """Take the function that fetches (start, stop) or {"suffix": bytes}, if the ETag is still as given."""
        super().__init__()
        self._fetch = fetch
        self._size_bytes = size_bytes
        self._position = 0
        self._piece: Piece | None = None

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position, in bytes from the start."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move, and return the new position."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position}.get(whence)
        self._position = offset + (self._size() if base is None else base)
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        """Fill the buffer as far as the file goes; return how many bytes."""
        wanted = memoryview(buffer).cast("B")
        start = self._position
        stop = max(start, min(start + len(wanted), self._size()))
        piece = self._holding(start, stop)
        wanted[: stop - start] = piece.content[start - piece.start_byte : stop - piece.start_byte]
        self._position = stop
        return stop - start

    def _size(self) -> int:
        return self._held().size_bytes if self._size_bytes is None else self._size_bytes

    def _held(self) -> Piece:
        if self._piece is None:
            self._piece = self._fetch({"suffix": BLOCK_BYTES}, None)
            if self._size_bytes not in (None, self._piece.size_bytes):
                raise StoreError("a file was replaced since it was listed; run again")
        return self._piece

    def _holding(self, start: int, stop: int) -> Piece:
        """Return a piece with these bytes: the one at hand, or one fetched now."""
        piece = self._held()
        if start < piece.start_byte or stop > piece.start_byte + len(piece.content):
            piece = self._fetch((start, min(max(stop, start + BLOCK_BYTES), piece.size_bytes)), piece.etag)
            self._piece = piece
        return piece
