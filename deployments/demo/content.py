"""A file's bytes, held in memory, on disk, or (for files of many gigabytes) as a few pieces among zeros."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol


class Content(Protocol):
    """The bytes of one file."""

    @property
    def size(self) -> int:
        """Return the number of bytes."""
        ...

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes `[start, stop)`, or those of them that exist."""
        ...


@dataclass(frozen=True, eq=False)
class BytesContent:
    """A file held in memory."""

    data: bytes

    @property
    def size(self) -> int:
        """Return the number of bytes."""
        return len(self.data)

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes `[start, stop)`, or those of them that exist."""
        return self.data[start:stop]

    @cached_property
    def sha256(self) -> str:
        """Return the hash of the whole file, in hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True, eq=False)
class FileContent:
    """A file on disk, read when it is asked for."""

    path: Path

    @property
    def size(self) -> int:
        """Return the number of bytes."""
        return self.path.stat().st_size

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes `[start, stop)`, or those of them that exist."""
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(max(0, stop - start))

    @cached_property
    def sha256(self) -> str:
        """Return the hash of the whole file, in hexadecimal; computed once."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, eq=False)
class SparseContent:
    """A file of `size` bytes that is zero except for some pieces, so that 140 GB take a few hundred kilobytes.

    Attributes:
        size: bytes of the whole file.
        pieces: bytes by the offset at which they start; they do not overlap.
    """

    size: int
    pieces: Mapping[int, bytes]

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes `[start, stop)`, or those of them that exist."""
        stop = min(stop, self.size)
        window = bytearray(max(0, stop - start))
        for offset, piece in self.pieces.items():
            first, last = max(start, offset), min(stop, offset + len(piece))
            if first < last:
                window[first - start : last - start] = piece[first - offset : last - offset]
        return bytes(window)
