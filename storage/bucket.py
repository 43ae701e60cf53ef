"""A store in a bucket: a part is one PUT, the lease is swapped by ETag, the snapshot is copied here to be read."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, cast

import obstore
from obstore.exceptions import AlreadyExistsError, GenericError, PermissionDeniedError, PreconditionError

from storage.errors import StoreError
from storage.objects import bucket_location, client_at, endpoint, lacks_bucket, plainly
from storage.place import Clock, LocalPlace
from storage.ranged import ByteRange, Piece, RangedFile

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult, ObjectMeta, PutResult, UpdateVersion
    from obstore.store import ObjectStore

PIECE_BYTES = 16_777_216  # what is larger goes up in pieces of this size, and comes down in them
_PIECES_AT_ONCE = 4
_DOWNLOADS = 5  # of a file that is replaced while it is copied
_UNUSED_S = 86_400.0  # a copy that nobody has opened for a day is removed; who still reads it keeps it
_CLOCK = "lease.clock"
_NEW: Literal["create"] = "create"
_CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".md": "text/markdown; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
    ".json": "application/json",
}


class Replaced(StoreError):
    """A file is no longer what it was when its first bytes were read."""


@dataclass(frozen=True, slots=True)
class BucketPlace:
    """A folder of a bucket. An empty file stands for none: nothing can be removed on a condition, only emptied.

    Attributes:
        location: s3://bucket/folder or gs://bucket/folder.
        cache: a folder of this machine's user, for copies of whole files and what is on its way.
    """

    location: str
    cache: LocalPlace

    def is_there(self) -> bool:
        """Return whether there is any file."""
        with plainly(self.location, "list", "files"):
            return any(obstore.list(self._client, chunk_size=1))

    def names(self, folder: str) -> list[str]:
        """Return the names of all files anywhere under folder, sorted."""
        return list(self.sizes(folder))

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the bytes of all files anywhere under folder, by name and sorted so; a request for a thousand."""
        with plainly(self.location, "list", folder or "files"):
            found = obstore.list(self._client, prefix=folder or None)
            return dict(sorted((meta["path"], meta["size"]) for chunk in found for meta in chunk))

    def exists(self, name: str) -> bool:
        """Return whether there is a file of this name."""
        meta = self._meta(name)
        return meta is not None and meta["size"] > 0

    def read(self, name: str) -> bytes | None:
        """Return the file's bytes, or None where there is none."""
        with plainly(self.location, "read", name):
            found = self._found(name)
            return bytes(found.bytes()) or None if found else None

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """Write to memory, then to a file of this machine; one PUT follows when the block has ended without an error.

        More than PIECE_BYTES goes up in pieces, which nobody sees before the last one is there.

        Raises:
            StoreError: the bucket cannot be written.
        """
        with plainly(self.location, "write", name), tempfile.SpooledTemporaryFile(PIECE_BYTES) as file:
            yield cast(BinaryIO, file)
            size_bytes = file.seek(0, os.SEEK_END)
            file.seek(0)
            self._upload(name, cast(BinaryIO, file), size_bytes)

    def move(self, source: str, target: str) -> None:
        """Give a file another name, replacing what had it; killed in between, it has both."""
        with plainly(self.location, "move", source):
            obstore.copy(self._client, source, target)
            obstore.delete(self._client, source)

    def remove(self, name: str) -> None:
        """Remove a file; one that is gone already is no error."""
        with plainly(self.location, "remove", name), contextlib.suppress(FileNotFoundError):
            obstore.delete(self._client, name)

    def swap(self, name: str, expected: bytes | None, wanted: bytes | None) -> bool:
        """Replace the file's bytes if they are still the expected ones, on the condition that its ETag is."""
        with plainly(self.location, "write", name):
            found = self._found(name)
            if ((bytes(found.bytes()) if found else None) or None) != (expected or None):
                return False
            try:
                mode = _version(found.meta) if found else _NEW
                obstore.put(self._client, name, wanted or b"", mode=mode, use_multipart=False)
            except (AlreadyExistsError, PreconditionError, FileNotFoundError) as error:
                if lacks_bucket(error):
                    raise
                return bool(wanted) and self.read(name) == wanted  # an answer was lost, and the retry met its own work
            return True

    def put(self, path: Path, name: str) -> None:
        """Move a file of this machine's here; a copy of it stays, to be read."""
        with plainly(self.location, "write", name):
            with path.open("rb") as file:
                done = self._upload(name, file, path.stat().st_size)
            path.replace(self.cache.local_path(_copy_name(name, done["e_tag"])))

    def local_copy(self, name: str) -> Path | None:
        """Return a copy of the file as it is now, in the user's cache; one request where the copy is still the file.

        Any number of readers may do so at once. A copy has its name when it is whole, and the name says of which ETag.
        """
        for _ in range(_DOWNLOADS):
            meta = self._meta(name)
            if meta is None:
                return None
            copy = _copy_name(name, meta["e_tag"])
            path = self.cache.local_path(copy)
            if path.is_file() or self._downloaded(name, meta, copy):
                with contextlib.suppress(FileNotFoundError):  # it was old, and another reader has removed it just now
                    os.utime(path)
                    self._forget(keep=path)
                    return path
        raise StoreError(f"{self.location}: {name} was replaced {_DOWNLOADS} times while it was copied; run again")

    def arrow_source(self, name: str, size_bytes: int | None = None) -> BinaryIO:
        """Return the file for Arrow to read from, by ranges; where its size is given, nothing is asked before that."""
        return cast(BinaryIO, RangedFile(lambda wanted, etag: self._piece(name, wanted, etag), size_bytes))

    def temp_path(self) -> Path:
        """Return an unused path on this machine."""
        return self.cache.temp_path()

    def sweep(self, before_s: float) -> int:
        """Remove what killed processes left on this machine; in the bucket they leave nothing that can be seen."""
        return self.cache.sweep(before_s)

    def clock(self, own: Clock) -> Clock:
        """Return the bucket's clock, by which machines whose own ones differ agree to a second.

        It is read once, off a file written now; who may not write goes by his own.
        """
        with plainly(self.location, "write", _CLOCK):
            try:
                obstore.put(self._client, _CLOCK, b"", use_multipart=False)
            except PermissionDeniedError:
                return own
            ahead_s = obstore.head(self._client, _CLOCK)["last_modified"].timestamp() - own()
        return lambda: own() + ahead_s

    @property
    def _client(self) -> ObjectStore:
        return client_at(self.location)

    def _upload(self, name: str, file: BinaryIO, size_bytes: int) -> PutResult:
        return obstore.put(
            self._client,
            name,
            file,
            attributes={"Content-Type": _CONTENT_TYPES.get(Path(name).suffix, "application/octet-stream")},
            use_multipart=size_bytes > PIECE_BYTES,
            chunk_size=PIECE_BYTES,
            max_concurrency=_PIECES_AT_ONCE,
        )

    def _found(self, name: str) -> GetResult | None:
        try:
            return obstore.get(self._client, name)
        except FileNotFoundError as error:
            if lacks_bucket(error):
                raise
            return None

    def _meta(self, name: str) -> ObjectMeta | None:
        with plainly(self.location, "read", name):
            try:
                return obstore.head(self._client, name)
            except FileNotFoundError:
                return None

    def _piece(self, name: str, wanted: ByteRange, etag: str | None) -> Piece:
        options: GetOptions = {"range": wanted, "if_match": etag} if etag else {"range": wanted}  # type: ignore[typeddict-item]
        with plainly(self.location, "read", name):
            try:
                found = obstore.get(self._client, name, options=options)
            except PreconditionError:
                raise Replaced(f"{self.location}: {name} was replaced while it was read; run again") from None
            except GenericError:
                if isinstance(wanted, tuple):
                    raise
                found = obstore.get(self._client, name)  # an empty file has no last bytes
            return Piece(found.range[0], bytes(found.bytes()), found.meta["size"], found.meta["e_tag"])

    def _downloaded(self, name: str, meta: ObjectMeta, copy: str) -> bool:
        """Copy a file into the cache; return False where it was replaced meanwhile."""
        size_bytes = meta["size"]
        try:
            with self.cache.writing(copy) as file:
                for start in range(0, size_bytes, PIECE_BYTES):
                    wanted = (start, min(start + PIECE_BYTES, size_bytes))
                    file.write(self._piece(name, wanted, meta["e_tag"]).content)
        except Replaced:
            return False
        return True

    def _forget(self, keep: Path) -> None:
        """Remove copies that nobody has opened for long."""
        for path in keep.parent.glob(f"*-{keep.name.partition('-')[2]}"):
            with contextlib.suppress(FileNotFoundError):  # another reader was faster
                if path != keep and path.stat().st_mtime < time.time() - _UNUSED_S:
                    path.unlink()


def bucket_at(location: str) -> BucketPlace:
    """Return the place at a location such as s3://bucket/folder; nothing is asked of it yet.

    Raises:
        StoreError: it is no such location.
    """
    location = bucket_location(location)
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return BucketPlace(location, LocalPlace(caches / "normaudit" / _digest(f"{endpoint()} {location}")))


def _copy_name(name: str, etag: str | None) -> str:
    return f"{_digest(etag or '')}-{name.replace('/', '-')}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _version(meta: ObjectMeta) -> UpdateVersion:
    """Return what a later write can be bound to: S3 compares the ETag, Google's store the version."""
    found = {"e_tag": meta["e_tag"], "version": meta["version"]}
    return cast("UpdateVersion", {key: value for key, value in found.items() if value})
